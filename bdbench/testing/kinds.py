"""The five kinds of defense, and what one of a kind does with what the harness hands to it."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import numpy as np

from bdbench.components.defenses import (
    Defense,
    Detector,
    InputDetector,
    Mitigation,
    Model,
    ModelDetector,
    RobustTraining,
)
from bdbench.errors import BdbenchError
from bdbench.images.data import PoisonedData
from bdbench.networks.training import Victim
from bdbench.testing.checks import expect, fitting, kept
from bdbench.testing.samples import COLOUR, GREY, Handed, Shape, handed_over, poisoned

COUNT = 60
# The module with the checks of a kind is called as the kind is.
KINDS: dict[str, type[Defense]] = {
    "detector": Detector,
    "robust_training": RobustTraining,
    "mitigation": Mitigation,
    "input_detector": InputDetector,
    "model_detector": ModelDetector,
}


class Kind(Protocol):
    """What the module of a kind says of it, for the checks that all kinds share."""

    def work(self, defense: Any, handed: Handed) -> dict[str, Any]:
        """What the defense gives, as arrays by what messages call them."""
        ...

    def sound(self, made: dict[str, Any], handed: Handed) -> None:
        """Fail the check unless what ``work`` gave is what the contract says."""
        ...


def kind_of(defense: Defense) -> str | None:
    """The name of its kind; None if it is of none."""
    return next((name for name, base in KINDS.items() if isinstance(defense, base)), None)


def _module(defense: Defense) -> Kind:
    name = kind_of(defense)
    expect(name, f"{type(defense).__name__} is none of {', '.join(base.__name__ for base in KINDS.values())}")
    return cast(Kind, importlib.import_module(f"bdbench.testing.{name}"))


def worked(defense: Defense, handed: Handed) -> dict[str, Any]:
    """What a defense gives, and what it concludes."""
    made, tools = _module(defense).work(defense, handed), handed.tools
    p_value = np.nan if tools.p_value is None else tools.p_value
    flagged = np.zeros(0, bool) if tools.flagged is None else tools.flagged
    return {**made, "p-value": np.array(p_value), "flags": flagged}


def result(defense: Defense, data: PoisonedData, **options: Any) -> dict[str, Any]:
    """What a defense gives for ``data``, and what it concludes; options: of ``handed_over``."""
    with handed_over(defense, data, **options) as handed:
        return worked(defense, handed)


@kept
def usual(defense: Defense, shape: Shape) -> dict[str, Any]:
    """What it gives for the sample set of that shape and the usual size."""
    return result(defense, poisoned(shape, COUNT))


def expect_sound_result(defense: Defense, data: PoisonedData, **options: Any) -> None:
    """Fail the check unless what a defense gives for ``data`` is what the contract says.

    options: of ``handed_over``.
    """
    with handed_over(defense, data, **options) as handed:
        _module(defense).sound(worked(defense, handed), handed)


def expect_sound_results(defense: Defense) -> None:
    """The same for the sample sets that fit the defense, of the usual size."""
    fitting((GREY, COLOUR), lambda shape: expect_sound_result(defense, poisoned(shape, COUNT)))


def predicted(model: Model, handed: Handed) -> dict[str, Any]:
    """What a model that a defense handed over says of the inputs: its labels and, of a Victim, its logits."""
    try:
        logits = {"logits": model.logits(handed.images)} if isinstance(model, Victim) else {}
    except BdbenchError as error:  # of NaN
        expect(False, str(error))
    return {"predictions": model.predict(handed.images), **logits}


def expect_labels(made: dict[str, Any], handed: Handed) -> None:
    """Fail the check unless ``predicted`` gave labels or refusals, and finite logits if any."""
    found, count, classes = made["predictions"], len(handed.images), handed.view.num_classes
    expect(isinstance(found, np.ndarray), f"predictions are {type(found).__name__} instead of an array")
    expect(found.dtype == np.int64 and found.shape == (count,), f"{found.dtype} {found.shape} for {count} images")
    expect(-1 <= found.min() <= found.max() < classes, f"labels in {found.min()}..{found.max()} where K = {classes}")
    broken = int((~np.isfinite(made.get("logits", np.zeros(0)))).sum())
    expect(not broken, f"{broken} logits are NaN or infinite")


def expect_scores(scores: Any, count: int) -> None:
    """Fail the check unless ``scores`` are float64 (count,), all finite."""
    expect(isinstance(scores, np.ndarray), f"{type(scores).__name__} instead of an array")
    expect(scores.dtype == np.float64 and scores.shape == (count,), f"{scores.dtype} {scores.shape} for n = {count}")
    broken = int((~np.isfinite(scores)).sum())
    expect(not broken, f"{broken} of {count} scores are NaN or infinite")
