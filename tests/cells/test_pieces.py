"""An ensemble is made in pieces: killed among them, and made elsewhere, it ends the same."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdbench import (
    Record,
    experiment,
)
from bdbench_datamodel import ensemble
from tests.conftest import TINY, TINY_DATAMODEL
from tests.test_experiment import numbers

SLOW_ENSEMBLE = "datamodel:models=60,chunk=5,epochs=40,hidden=64,starts=3"


def _command(out: Path) -> list[str]:
    options = [f"--{k}={v}" for k, v in {**TINY, "out": out, "defense": SLOW_ENSEMBLE}.items()]
    return [sys.executable, "-m", "bdbench", "run", *options]


def test_killed_in_the_ensemble_and_started_again_it_ends_the_same(tmp_path: Path) -> None:
    def pieces(out: Path) -> set[Path]:
        # Not rglob: it would walk into unfinished folders, which are renamed while it looks.
        found = (out / ".stages").glob("[0-9a-f]*/[0-9a-f]*/meta.json")
        return {p.parent for p in found if '"stage": "saved"' in p.read_text()}

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = subprocess.Popen(_command(broken), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(pieces(broken)) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {p: (p / "meta.json").stat().st_mtime_ns for p in pieces(broken)}
    assert 2 <= len(done) < 12
    assert not list(broken.glob("*/record.json"))
    for out in (broken, whole):
        subprocess.run(_command(out), check=True, capture_output=True)
    assert len(pieces(broken)) == 12 + 3
    assert all((p / "meta.json").stat().st_mtime_ns == t for p, t in done.items())
    records = [json.loads(next(out.glob("*/record.json")).read_text()) for out in (broken, whole)]
    assert numbers(records[0]) == numbers(records[1])
    scores = [np.load(next(out.glob("*/scores.npz"))) for out in (broken, whole)]
    assert all(np.array_equal(scores[0][k], scores[1][k]) for k in ("scores", "roles", "kept"))


def _elsewhere(piece: Callable[[int], None], count: int) -> Iterator[None]:
    """A Spread as a cluster's: what it calls was pickled, in an order of its own."""
    pickled = pickle.dumps(piece)
    for index in reversed(range(count)):
        pickle.loads(pickled)(index)
    yield from [None] * count


def test_pieces_made_elsewhere_are_those_made_here(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Scores and the number of networks; and their seconds count where they were made, not where they are awaited."""

    def late(piece: Callable[[int], None], count: int) -> Iterator[None]:
        for _ in _elsewhere(piece, count):
            time.sleep(1)
            yield

    defenses = [TINY_DATAMODEL]
    here, there = (
        next(experiment.run_each(defenses=defenses, spread=spread, **{**tiny, "out": tmp_path / name}))
        for name, spread in (("here", None), ("there", late))
    )
    assert isinstance(here, Record) and isinstance(there, Record)
    assert numbers(here.to_dict()) == numbers(there.to_dict())
    scores = [np.load(tmp_path / name / here.id / "scores.npz")["scores"] for name in ("here", "there")]
    assert np.array_equal(*scores)
    assert there.cost.seconds["score"] < 3  # three pieces were waited for


def test_fresh_pieces_made_elsewhere_are_made_once(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    train = ensemble.train_margins

    def counted(*arguments: Any) -> np.ndarray:
        calls.append(1)
        return train(*arguments)

    monkeypatch.setattr(ensemble, "train_margins", counted)
    for _ in range(2):
        outcome = next(experiment.run_each(defenses=[TINY_DATAMODEL], spread=_elsewhere, fresh=True, **tiny))
        assert isinstance(outcome, Record)
    assert len(calls) == 2 * (3 + 1)  # chunks of the ensemble, and of the networks without suspects
