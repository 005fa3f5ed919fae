"""Files that are no records, or odd ones: a line each, and the others count all the same."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import bdbench
from bdbench import BdbenchError
from bdbench import leaderboard as boards
from bdbench.cli import cli
from bdbench.grids.board import Board
from bdbench.leaderboard.frame import frame_of
from bdbench.storage import record, schemas
from bdbench.storage.files import read_arrays, read_json, unpacked
from tests.conftest import TINY
from tests.records import made

UNREADABLE = {
    "empty": "",
    "not a number": schemas.dumps(made(1)).replace('"clean_accuracy": 0.9', '"clean_accuracy": NaN'),
    "infinite": schemas.dumps(made(1)).replace('"seed": 1', '"seed": 1e999'),
    "huge": schemas.dumps(made(1)).replace('"seed": 1', f'"seed": {10**400}'),
    "nested": "[" * 1000 + "]" * 1000,
    "deep": schemas.dumps(made(1)).replace('"recipe": {', '"recipe": {"x": ' + "[" * 400 + "]" * 400 + ","),
    "a list": "[1]",
    "no text": "\ud800".encode("utf-16", "surrogatepass").decode("latin1"),
}


@pytest.mark.parametrize("kind", [*UNREADABLE, "pipe", "device", "folder"])
def test_what_is_no_record_gives_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        (file / "record.json").mkdir(parents=True)
    else:
        assert "NaN" in UNREADABLE[kind] or kind != "not a number"
        file.write_text(UNREADABLE[kind])
    for command in (["show", str(file)], ["leaderboard", "add", str(tmp_path / "board"), str(file)]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "board" / "records").exists()


def test_one_unreadable_file_stops_no_board(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "failed").mkdir()
    (tmp_path / "records" / "good.json").write_text(schemas.dumps(made(0)))
    alone = boards.render(tmp_path)
    for name, text in UNREADABLE.items():
        (tmp_path / "records" / f"{name}.json").write_text(text)
    for name, text in {"x": "{", "y": "[]", "z": '{"cell": 1}'}.items():
        (tmp_path / "failed" / f"{name}.json").write_text(text)
    assert boards.render(tmp_path) == alone
    assert Board.read(tmp_path).unreadable.keys() == {f"{n}.json" for n in [*UNREADABLE, "x", "y", "z"]}
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == len(UNREADABLE) + 3 and all(line.startswith("left out: ") for line in told)
    assert CliRunner().invoke(cli, ["leaderboard", "build", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(cli, ["leaderboard", "build", "--check", str(tmp_path)]).exit_code == 1
    new = made(2)
    Board(tmp_path).add(new)
    assert set(Board.read(tmp_path).records) == {"good.json", f"{new['id']}.json"}


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [*([path] if path else []), *(p for key, value in items for p in places(value, (*path, key)))]


PLACES = places(json.loads(schemas.dumps(made(0))))
ODD = st.sampled_from([None, True, "", "x", "<b>", -1, 0, 2**70, 1e308, -0.5, [], {}, [[]], {"name": "x"}])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(place=("environment", "versions"), value={})
@given(place=st.sampled_from(PLACES), value=ODD)
def test_a_record_that_is_odd_anywhere_is_refused_or_shown(place: Any, value: Any, tmp_path: Path) -> None:
    data = json.loads(schemas.dumps(made(0)))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "records").mkdir(exist_ok=True)
    (tmp_path / "records" / "odd.json").write_text(json.dumps(data))
    (tmp_path / "records" / "good.json").write_text(schemas.dumps(made(1)))
    try:
        frame_of(Board.read(tmp_path))
        record.read(tmp_path / "records" / "odd.json")
    except BdbenchError as error:
        assert "\n" not in str(error)
    result = CliRunner().invoke(cli, ["show", str(tmp_path / "records" / "odd.json")])
    assert result.exit_code in (0, 2), f"{place} {value!r}: {result.exception!r}"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_bit_hides_an_array(tmp_path: Path, save: Any) -> None:
    """Each bit of the directory of a run's scores, in which lengths are that no sum is made of."""
    arrays = {"roles": np.arange(5, dtype=np.int8), "scores": np.arange(4.0), "kept": np.array([True, False])}
    file = tmp_path / "scores.npz"
    save(file, **arrays)
    whole = file.read_bytes()
    assert read_arrays(file).keys() == arrays.keys()
    start = whole.index(b"PK\x01\x02")
    for bit in range(8 * start, 8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        try:
            found = unpacked(io.BytesIO(content))
        except Exception:
            continue
        assert found.keys() == arrays.keys(), bit - 8 * start
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays), bit - 8 * start


def test_a_key_that_is_there_twice_is_no_choice(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [{"seed": 1, "id": 2, "seed": 3}]}')
    with pytest.raises(BdbenchError, match=r"^cannot read .*a\.json: the key 'seed' is there twice$"):
        read_json(tmp_path / "a.json")


def test_a_place_that_no_system_has_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match=r"^cannot write to '.*a\\x00b.*: expected a writable folder$"):
        bdbench.run(defense="random", **TINY, out=tmp_path / "a\0b")


def test_names_with_control_characters_are_places_and_no_commands(tmp_path: Path) -> None:
    words = [word for name in ("dataset", "model", "attack", "device") for word in (f"--{name}", TINY[name])]
    out = tmp_path / "a\x1b[31m\nb"
    ended = CliRunner().invoke(cli, ["run", *words, "--defense", "random", "--budget", "0", "--out", str(out)])
    assert ended.exit_code == 0 and "\x1b" not in ended.stderr and "\\x1b[31m b" in ended.stderr
    assert len(list(out.glob("*/record.json"))) == 1
