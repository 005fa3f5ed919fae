"""What people hand to the Python functions and the command line: odd, but legal, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bdbench
from bdbench import BdbenchError
from bdbench.cli import cli
from bdbench.components import configs, params
from bdbench.display import pictures
from bdbench.host import machine
from bdbench.networks import training
from bdbench.registry.plugins import installed
from bdbench.storage import record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in a folder with a comma, whose classes have names."""
    root = tmp_path_factory.mktemp("entry") / "a,b"
    root.mkdir()
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 99, (60, 8, 8, 3)).astype(np.uint8)
    images[np.arange(60), labels] += 100
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:24], "y_test": labels[:24]}
    np.savez(root / "d.npz", **arrays, classes=["ant", "10", "seed"])
    return root


@pytest.fixture(scope="module")
def ran(folder: Path) -> tuple[Any, dict[str, Any]]:
    """One run by the command line, of a class by its name."""
    options = [
        "--defense",
        "random",
        "--model",
        "convnet:epochs=1,width=4",
        "--device",
        "cpu",
        "--out",
        f"{folder}/runs",
    ]
    spec = f"npz:path='{folder}/d.npz'"
    result = CliRunner().invoke(cli, ["run", "--dataset", spec, "--attack", "badnets:rate=0.1,target=ant", *options])
    assert result.exit_code == 0, result.output
    (file,) = (folder / "runs").glob("npz-*/record.json")
    return result, record.load(file)


def test_a_target_is_given_and_shown_by_its_class(ran: Any, folder: Path) -> None:
    result, made = ran
    assert made["config"]["attack"]["target"] == "ant"
    assert (made["config"]["data"]["targets"], made["config"]["data"]["target_names"]) == ([0], ["ant"])
    assert "target 0 (ant)" in result.stdout
    assert installed().component("attack", made["config"]["attack"]).target == "ant"
    wrong = ["run", "--dataset", f"npz:path='{folder}/d.npz'", "--attack", "badnets:target=aunt", "--out", str(folder)]
    refused = CliRunner().invoke(cli, wrong)
    assert refused.exit_code == 2 and "did you mean 'ant'? known: 10, ant, seed" in refused.stderr


def test_a_class_is_found_in_an_attack_that_is_made_of_others() -> None:
    attack = installed().component("attack", ["badnets:target=b", "blend:target=1"])
    first, second = params.parts(params.with_labels(attack, ["a", "b"]))
    assert (first.target, second.target) == (1, 1)
    with pytest.raises(BdbenchError, match="target=-1 is not allowed"):
        installed().component("attack", "badnets:target=-1")


def test_what_a_record_says_of_its_command_is_read_back(ran: Any, folder: Path) -> None:
    spec = configs.spec(ran[1]["config"]["dataset"])
    assert spec == f"npz:path='{folder}/d.npz'"
    assert installed().component("dataset", spec).path == f"{folder}/d.npz"


@given(st.text(st.sampled_from("a,b[]='\" +:/"), min_size=1).map(str.strip).filter(bool))
def test_values_are_quoted_so_that_they_are_read_back(text: str) -> None:
    if "'" in text and '"' in text:
        return
    assert params.parse_spec(f"npz:path={params.quoted(text)},subset=5") == ("npz", {"path": text, "subset": "5"})


@pytest.mark.parametrize("seed", ["1", None, 1.0, True, -1, np.int64(-1), np.bool_(True)])
def test_what_is_no_seed_is_named(seed: Any, tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match=r"seed=.* is not allowed: expected an integer >= 0"):
        bdbench.load("digits", seed=seed)
    with pytest.raises(BdbenchError, match=r"seed=.* is not allowed: expected an integer >= 0"):
        bdbench.run("none", "random", seed=seed, out=tmp_path)


def test_numbers_of_numpy_are_numbers(folder: Path) -> None:
    cell: dict[str, Any] = {"dataset": {"name": "npz", "path": str(folder / "d.npz")}}
    cell["model"] = {"name": "convnet", "epochs": np.int32(1)}
    attack = {"name": "badnets", "size": np.int64(2), "rate": np.float64(0.1)}
    made = bdbench.run(attack, "random", **cell, seed=np.int64(3), budget=np.float32(0.5), reserve=np.float32(0.25),
                       device="cpu", out=folder / "numpy")  # fmt: skip
    assert (made.seed, made.config["attack"]["size"], made.config["budget"]) == (3, 2, 0.5)
    json.dumps(made.to_dict())
    with pytest.raises(BdbenchError, match=r"size=2 \(int64 of numpy\) is not allowed"):
        type(installed().component("attack", "badnets"))(size=np.int64(2))


def test_scores_that_are_damaged_or_of_another_run_are_one_line(ran: Any, folder: Path) -> None:
    run = folder / "runs" / ran[1]["id"]
    with np.load(run / "scores.npz") as file:
        arrays = dict(file)
    scores = arrays["scores"]

    def report() -> Any:
        return CliRunner().invoke(cli, ["report", str(run), "--device", "cpu"])

    for change in (scores[:-1], np.full_like(scores, np.nan), scores.astype(str)):
        np.savez(run / "scores.npz", **{**arrays, "scores": change})
        result = report()
        assert result.exit_code == 2 and "scores.npz: scores" in result.stderr and len(result.stderr.splitlines()) == 1
    for content in (b"", b"x", b"PK\x03\x04"):
        (run / "scores.npz").write_bytes(content)
        result = report()
        assert result.exit_code == 2 and "cannot read" in result.stderr and len(result.stderr.splitlines()) == 1
    np.savez(run / "scores.npz", **arrays)
    assert report().exit_code == 0
    assert "0 (ant)" in (run / "report.html").read_text()


def test_scores_a_rounding_apart_have_a_picture() -> None:
    # No histogram has bins for them.
    close = np.where(np.arange(40) % 2, 1.0, np.nextafter(1.0, 2))
    assert pictures.histogram(close, np.zeros(40, np.int8), None).axes


def test_large_images_are_predicted_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting(training.torch.nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(len(x))
            return x.mean((2, 3))

    victim = training.Victim(Counting(), np.zeros(3, np.float32), np.ones(3, np.float32), "cpu")
    for shape, batches in (((1025, 8, 8, 3), [1024, 1]), ((130, 128, 128, 3), [130]), ((0, 8, 8, 3), [0])):
        seen.clear()
        assert victim.logits(np.zeros(shape, np.uint8)).shape == (shape[0], 3)
        assert seen == batches
    monkeypatch.setattr(training, "_BATCH_BYTES", 1024 * 8 * 8 * 3)
    seen.clear()
    images = np.random.default_rng(0).integers(0, 255, (130, 32, 32, 3)).astype(np.uint8)
    few = victim.logits(images)
    assert seen == [64, 64, 2]
    monkeypatch.undo()
    assert np.array_equal(victim.logits(images), few)


def test_batches_of_one_image_are_refused_where_they_have_no_statistics(folder: Path) -> None:
    cell = {"dataset": f"npz:path='{folder}/d.npz'", "model": "preact-resnet18:epochs=1,batch_size=1"}
    with pytest.raises(BdbenchError, match=r"batches of 1 image have no statistics.*expected batch_size >= 2"):
        bdbench.run("none", "random", **cell, device="cpu", out=folder / "one")


def test_an_empty_list_in_a_grid_is_named(tmp_path: Path) -> None:
    lists = {"datasets": '["digits"]', "models": '["convnet"]', "defenses": '["random"]'}
    lists["attacks"] = '["none", {name = "blend", rate = []}]'
    (tmp_path / "grid.toml").write_text("".join(f"{k} = {v}\n" for k, v in lists.items()))
    result = CliRunner().invoke(cli, ["grid", str(tmp_path / "grid.toml"), "--dry-run"])
    assert result.exit_code == 2 and "rate=[] is not allowed for attack 'blend'" in result.stderr


def test_numba_keeps_its_code_below_out_where_home_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    machine.keep_compiled(tmp_path)
    before = machine.os.environ.get("NUMBA_CACHE_DIR")
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "mine")
    machine.keep_compiled(tmp_path)
    assert machine.os.environ["NUMBA_CACHE_DIR"] == "mine"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    machine.keep_compiled(tmp_path)
    assert (before, machine.os.environ["NUMBA_CACHE_DIR"]) == (None, str(tmp_path / ".numba"))
    monkeypatch.delenv("NUMBA_CACHE_DIR")
