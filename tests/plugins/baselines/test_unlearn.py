from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, Detector, Record, Reopened, Tools, TrainingView
from bdbench.cells.forecast import needs
from bdbench.cells.scene import contents
from bdbench.grids.grid import Job
from bdbench_baselines.activation_clustering import ActivationClustering
from bdbench_baselines.perfect import PerfectFilter
from bdbench_baselines.spectral import SpectralSignatures
from bdbench_baselines.unlearn import Unlearning
from bdbench_datamodel.detector import Datamodel
from bdbench_datasets.digits import Digits
from bdbench_models.architectures import ConvNet
from bdbench_triggers.badnets import BadNets


@dataclass(frozen=True, kw_only=True)
class Outspoken(Detector):
    """Concludes with all that there is to say."""

    name = "outspoken"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        first = np.arange(len(view.labels)) < 3
        tools.conclude(0.01, first, {0: 1.0})
        return first.astype(float)


def test_what_is_flagged_is_forgotten_and_the_oracles_are_the_detectors(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "unlearn:detector=perfect-filter")
    before, after = record.before, record.after
    assert after is not None and record.oracles == ["poisons"] and record.access == ["training_set", "poisons"]
    assert before.attack_success_rate is not None and after.attack_success_rate is not None
    assert before.attack_success_rate > 0.95 and after.attack_success_rate < 0.1


def test_it_takes_the_detectors_decision_or_a_share_of_its_scores(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    run = again(on_digits("badnets:rate=.1", "unlearn:detector=perfect-filter"))
    tools, view, poisons = run.tools(), run.view, run.poisoned.roles == 1
    perfect = Unlearning(detector=(PerfectFilter(),))
    assert (perfect._flagged(view, tools) == poisons).all()
    few = Unlearning(detector=(PerfectFilter(),), share=0.05)._flagged(view, tools)
    assert few.sum() == round(0.05 * len(poisons)) and poisons[few].all()
    isolated = Unlearning()._flagged(view, tools)
    assert isolated.dtype == bool and isolated.sum() == round(0.01 * len(poisons))
    assert Unlearning(detector=(Outspoken(),))._flagged(view, tools).sum() == 3
    # The decision is the part's own, and none of the whole's.
    assert tools.flagged is None  # type: ignore[attr-defined]
    with pytest.raises(BdbenchError, match="detector=spectral has no decision of its own: expected one that has, or"):
        Unlearning(detector=(SpectralSignatures(),)).train(view, tools)
    nothing = Unlearning(detector=(ActivationClustering(size=0.0),)).train(view, tools)
    found, was = nothing.arrays(), run.victim().arrays()  # type: ignore[attr-defined]
    assert all(np.array_equal(found[name], was[name]) for name in was)


def test_it_reads_and_needs_what_its_detector_does(tmp_path: Path) -> None:
    matrix = tmp_path / "matrix.npy"
    np.save(matrix, np.zeros((4, 4)))
    detector = Datamodel(matrix=str(matrix))
    defense = Unlearning(detector=(detector,))
    held = contents(defense)
    assert list(held) == [str(matrix)] and held == contents(detector)
    cell = Job(Digits(), ConvNet(), BadNets(), (defense,), 0, 0.1, 0.05)
    assert cell.files(defense) == held
    np.save(matrix, np.ones((4, 4)))
    assert cell.files(defense) != held
    shape = (32, 32, 3)
    needed = needs(defense, 50_000, shape, 10)
    assert needed.memory and needed == needs(detector, 50_000, shape, 10)


def test_the_detector_is_a_parameter_that_is_a_component() -> None:
    made = bdbench.registry.plugins.installed().component(
        "defense", "unlearn:detector=[spectral:oracle=true,across=rank]"
    )  # type: ignore[attr-defined]
    assert made.detector == (SpectralSignatures(oracle=True, across="rank"),) and made.told == ("poison_rate",)
    assert made.config()["detector"][0]["name"] == "spectral"
    with pytest.raises(BdbenchError, match="detector=2 of them is not allowed: expected one"):
        Unlearning(detector=(PerfectFilter(), PerfectFilter()))
