from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bdbench
from bdbench import BdbenchError
from tests.conftest import TINY_DATAMODEL


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_run_is_rebuilt_from_its_record(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    record = bdbench.run(defense=TINY_DATAMODEL, threads=1, **tiny)
    torch.set_num_threads(2)
    folder = tiny["out"] / record.id
    with np.load(folder / "scores.npz") as arrays:
        scores, roles = arrays["scores"], arrays["roles"]

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a stage that is still there was computed again")

    monkeypatch.setattr("bdbench.networks.training.Trainer.train", refuse)
    monkeypatch.setattr("bdbench_datamodel.ensemble.train_margins", refuse)
    run = bdbench.reopen(folder, device="cpu")
    assert run.record == record
    assert np.array_equal(run.poisoned.roles, roles)
    assert np.array_equal(run.defense.score(run.view, run.tools()), scores)  # type: ignore[attr-defined]
    test = run.clean.test
    clean_accuracy = (run.victim().predict(np.asarray(test.images)) == test.labels).mean()
    assert clean_accuracy == record.before.clean_accuracy
    assert run.challenge is not None and run.attacked.all()
    triggered = run.victim().predict(run.challenge.images)
    assert (triggered == run.challenge.goal).mean() == record.before.attack_success_rate
    assert np.array_equal(np.flatnonzero(test.labels != 0), run.challenge.index)


def test_other_data_than_the_runs_are_refused(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense="random", **tiny)
    file = tiny["out"] / record.id / "record.json"
    changed = json.loads(file.read_text())
    changed["config"]["data"]["fingerprint"] = "0" * 32
    del changed["digest"]
    file.write_text(json.dumps(changed))
    with pytest.raises(BdbenchError, match="what is made here is not the data of .*: fingerprint .* expected 0000"):
        bdbench.reopen(file.parent)


def test_another_trigger_than_the_runs_is_refused(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_triggers.badnets import BadNets

    record = bdbench.run(defense="random", **tiny)
    monkeypatch.setattr(BadNets, "trigger", lambda self, images, streams: 255 - images)
    with pytest.raises(BdbenchError, match="what is made here is not the triggered test images of"):
        bdbench.reopen(tiny["out"] / record.id)


def test_other_poisons_than_the_runs_are_refused(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_triggers.badnets import BadNets

    record = bdbench.run(defense="random", **tiny)
    plant = BadNets.poison

    def one_more(self: BadNets, train: Any, state: Any, tools: Any) -> Any:
        made = plant(self, train, state, tools)
        images = made.images.copy()
        images[np.flatnonzero(made.roles == bdbench.Role.POISON)[0]] ^= 1
        return dataclasses.replace(made, images=images)

    # The clean data and the triggered test images are the run's.
    monkeypatch.setattr(BadNets, "poison", one_more)
    with pytest.raises(BdbenchError, match="what is made here is not the poisoned set of"):
        bdbench.reopen(tiny["out"] / record.id)


def test_a_record_alone_is_enough_for_the_data(tiny: dict[str, Any], tmp_path: Path) -> None:
    record = bdbench.run(defense="random", **tiny)
    alone = tmp_path / "elsewhere.json"
    alone.write_text((tiny["out"] / record.id / "record.json").read_text())
    run = bdbench.reopen(alone)
    assert run.scores is None
    assert len(run.view.labels) == 300
