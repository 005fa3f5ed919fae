"""Ground truth cannot be reached from what a detector is given."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import bdbench
from bdbench import Detector, PoisonedData, Role, Tools, TrainingView
from bdbench.interfaces import Oracle

# A walk that enters modules and functions' globals reaches everything; a detector that goes there could
# as well read the disk. What is walked: attributes, containers, closures, bound methods.
_STOP = (types.ModuleType, type, types.FrameType)


def reachable(*roots: object) -> Iterator[object]:
    """Every object that the roots refer to, without entering modules, classes and frames."""
    seen: set[int] = set()
    todo: list[object] = list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, _STOP):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, types.FunctionType):
            todo += [cell.cell_contents for cell in thing.__closure__ or ()]
            todo += list(thing.__defaults__ or ())
        elif isinstance(thing, np.ndarray):
            todo.append(thing.base)
        else:
            todo += gc.get_referents(thing)


SEEN: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Spy(Detector):
    name = "spy"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        SEEN["objects"] = list(reachable(view, tools))
        return np.zeros(len(view.labels))


@dataclass(frozen=True, kw_only=True)
class Asker(Detector):
    name = "asker"
    oracles: ClassVar[tuple[Oracle, ...]] = ("poison_rate",)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        SEEN["rate"] = tools.oracle("poison_rate")
        with pytest.raises(LookupError, match="asks for the oracle 'target_label' but declares poison_rate"):
            tools.oracle("target_label")
        return np.zeros(len(view.labels))


def _tells_the_poisons(array: np.ndarray, poisons: np.ndarray) -> bool:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        return array.dtype == bool and array.shape == poisons.shape and np.array_equal(array, poisons)
    same_length = array.shape == poisons.shape and np.array_equal(array == Role.POISON, poisons)
    return same_length or np.array_equal(np.sort(array), np.flatnonzero(poisons))


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> list[PoisonedData]:
    """The poisoned sets that attacks made during a test."""
    from bdbench.interfaces import TriggerAttack

    made: list[PoisonedData] = []
    original = TriggerAttack.poison

    def poison(self: TriggerAttack, *arguments: Any) -> PoisonedData:
        made.append(original(self, *arguments))
        return made[-1]

    monkeypatch.setattr(TriggerAttack, "poison", poison)
    return made


def test_neither_roles_nor_clean_labels_can_be_reached(tiny: dict[str, Any], truth: list[PoisonedData]) -> None:
    bdbench.run(defense=Spy(), **tiny)
    poisons = truth[0].roles == Role.POISON
    assert poisons.sum() == 15
    objects = SEEN.pop("objects")
    arrays = [o for o in objects if isinstance(o, np.ndarray)]
    # The walk does see what it should: the view's own arrays.
    assert any(a.shape == truth[0].images.shape for a in arrays)
    assert not any(isinstance(o, PoisonedData | bdbench.ImageData | bdbench.Attack) for o in objects)
    assert not any(_tells_the_poisons(a, poisons) for a in arrays)
    assert not any(np.array_equal(a, truth[0].original_labels) for a in arrays)


def test_the_walk_would_find_a_leak(truth: list[PoisonedData], tiny: dict[str, Any]) -> None:
    bdbench.run(defense="random", **tiny)
    poisons = truth[0].roles == Role.POISON

    class Leaky:
        def __init__(self) -> None:
            self.helper = lambda: truth[0]

    objects = list(reachable(Leaky()))
    assert any(isinstance(o, PoisonedData) for o in objects)
    assert any(isinstance(o, np.ndarray) and _tells_the_poisons(o, poisons) for o in objects)


def test_an_oracle_is_given_if_declared_and_recorded(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense=Asker(), **tiny)
    assert SEEN["rate"] == pytest.approx(15 / 300)
    assert record.oracles == ["poison_rate"]
