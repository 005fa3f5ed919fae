"""Records from elsewhere and of other versions, on a board."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bdbench.cli import cli
from bdbench.storage import schemas
from tests.boards import add, build, of_version_1
from tests.records import defense, dumped, keep, made


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [made(s, parts=defense(name)) for name in ("random", "spectral") for s in range(3)]
    for name, order in (("one", 1), ("two", -1)):
        build(keep(tmp_path / name / "board", *records[::order]))
    for file in ("table.csv", "README.md", "index.html", "cost.svg"):
        first, second = ((tmp_path / n / "board" / file).read_bytes() for n in ("one", "two"))
        assert first == second


def test_check_writes_nothing_and_fails_on_a_difference(tmp_path: Path) -> None:
    keep(tmp_path, *[made(s, auroc=a) for s, a in enumerate([0.7, 0.8])])
    missing = build(tmp_path, "--check")
    assert missing.exit_code == 1 and not (tmp_path / "table.csv").exists()
    build(tmp_path)
    assert build(tmp_path, "--check").exit_code == 0
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(text.replace("0.75", "0.99"))
    changed = build(tmp_path, "--check")
    assert changed.exit_code == 1
    assert "table.csv differs from the records" in changed.stderr
    assert "0.99" in (tmp_path / "table.csv").read_text()


def test_an_invalid_record_and_an_empty_board_are_named(tmp_path: Path) -> None:
    empty = build(tmp_path)
    assert empty.exit_code == 2 and "no records in" in empty.stderr
    keep(tmp_path, made())
    file = next((tmp_path / "records").glob("*.json"))
    file.write_text(file.read_text().replace('"seed": 0', '"seed": "zero"'))
    invalid = build(tmp_path)
    assert invalid.exit_code == 2 and file.name in invalid.stderr and "at seed" in invalid.stderr


def test_two_records_of_one_cell_and_seed_are_refused(tmp_path: Path) -> None:
    assert "two records" in build(keep(tmp_path, made(), made())).stderr


def test_records_from_elsewhere_are_taken_in_all_or_none(tmp_path: Path) -> None:
    theirs = sorted((keep(tmp_path / "theirs", made(0), made(1)) / "records").iterdir())
    assert add(tmp_path / "ours", theirs[0]).exit_code == 0
    copy = tmp_path / "ours" / "records" / theirs[0].name
    assert copy.read_bytes() == theirs[0].read_bytes()
    data = {key: value for key, value in json.loads(theirs[1].read_text()).items() if key != "digest"}
    mistakes = {
        "old": (of_version_1(data), "version 1 of the definitions .* expected version 2"),
        "schema": ({**data, "schema": "bdbench.record/3"}, "schema 'bdbench.record/3' is not supported"),
        "invalid": ({**data, "seed": -1}, "not a valid record at seed"),
        "twice": ({**data, "seed": 0, "id": "other"}, "random-s0-.*json is of the same cell and seed"),
    }
    for name, (bad, message) in mistakes.items():
        file = tmp_path / f"{name}.json"
        file.write_text(schemas.dumps(bad))
        result = add(tmp_path / "ours", theirs[1], file)
        assert result.exit_code == 2 and re.search(message, result.stderr), result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert list((tmp_path / "ours" / "records").iterdir()) == [copy]
    # Of the same cell and seed, but of other data: another experiment.
    other = tmp_path / "other.json"
    other.write_text(schemas.dumps(made(0, facts={"source": "b" * 32})))
    result = add(tmp_path / "ours", *theirs, other)
    assert result.exit_code == 0 and "1 record is of a cell and seed that another one is of, too" in result.stderr
    assert build(tmp_path / "ours").exit_code == 0


def test_newer_records_take_the_places_of_those_of_their_cells_and_seeds(tmp_path: Path) -> None:
    old = sorted((keep(tmp_path / "ours", made(0), made(1)) / "records").iterdir())
    new = [schemas.dumps(made(seed, facts={"source": "b" * 32})) for seed in (0, 0)]
    for name, text in zip("ab", new, strict=True):
        (tmp_path / f"{name}.json").write_text(text)
    both = add(tmp_path / "ours", tmp_path / "a.json", tmp_path / "b.json", "--replace")
    assert both.exit_code == 2 and "is of the same cell and seed" in both.stderr
    assert sorted((tmp_path / "ours" / "records").iterdir()) == old
    result = add(tmp_path / "ours", tmp_path / "a.json", "--replace")
    assert result.exit_code == 0 and not result.stderr
    (copy,) = (Path(line) for line in result.stdout.splitlines())
    assert sorted((tmp_path / "ours" / "records").iterdir()) == sorted([old[1], copy])


@pytest.mark.parametrize("command", [["build"], ["build", "--check"], ["show"]])
def test_a_board_of_the_first_version_is_refused_with_the_reason(tmp_path: Path, command: list[str]) -> None:
    keep(tmp_path, made(0))
    (tmp_path / "records" / "old.json").write_text(schemas.dumps(of_version_1(made(1))))
    result = CliRunner().invoke(cli, ["leaderboard", *command[:1], str(tmp_path), *command[1:]])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert re.search(r"old\.json: .*version 1 of the definitions.*: expected version 2", result.stderr)


def test_the_page_tells_a_seed_as_its_table_does(tmp_path: Path) -> None:
    """In percent, under the same headings."""
    build(keep(tmp_path, made(0), made(1)))
    detail = re.search(r'class="detail".*?</table>', (tmp_path / "index.html").read_text(), re.S)
    assert detail is not None
    headings = re.findall("<th>([^<]+)</th>", detail[0])
    (first, _) = [
        re.findall("<td>([^<]*)</td>", line) for line in detail[0].splitlines() if line.startswith("<tr><td>")
    ]
    told = dict(zip(headings, first, strict=True))
    assert told["CA before"] == "96.0" and told["ASR before"] == "99.0" and told["ASR after"] == "2.0"
    assert told["AUROC"] == "0.900"


def test_a_record_of_the_same_cell_and_seed_overwrites_none_unless_it_is_to(tmp_path: Path) -> None:
    board = keep(tmp_path / "board", made(0, asr=0.02))
    (own,) = (board / "records").iterdir()
    before = own.read_bytes()
    same, other = (dumped(made(0, asr=asr), tmp_path / name / "record.json") for asr, name in ((0.02, "a"), (0.9, "b")))
    assert add(board, same).exit_code == 0 and own.read_bytes() == before
    refused = add(board, other)
    assert refused.exit_code == 2 and f"{own.name} is of the same cell and seed" in refused.stderr
    assert own.read_bytes() == before
    assert add(board, other, "--replace").exit_code == 0 and own.read_bytes() != before


def test_what_is_replaced_goes_whatever_its_file_is_called(tmp_path: Path) -> None:
    board = keep(tmp_path / "board", made(0), made(1))
    for file in sorted((board / "records").iterdir()):
        file.rename(file.with_name(f"theirs-{file.name}"))
    new = made(0, facts={"source": "b" * 32})
    result = add(board, dumped(new, tmp_path / "new" / "record.json"), "--replace")
    assert result.exit_code == 0 and not result.stderr
    assert {file.name for file in (board / "records").iterdir()} == {
        f"{new['id']}.json",
        f"theirs-{made(1)['id']}.json",
    }
