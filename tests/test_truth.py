"""Ground truth cannot be reached from what a detector is given."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import bdbench
from bdbench import Detector, Mitigation, PoisonedData, Role, Streams, Tools, TrainingView, Victim
from bdbench.components.workshop import Oracle

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
        with pytest.raises(LookupError, match="asks for the oracle 'target_labels' but declares poison_rate"):
            tools.oracle("target_labels")
        return np.zeros(len(view.labels))


def _array(thing: object) -> np.ndarray | None:
    """Arrays, tensors, and lists or tuples of numbers, as arrays."""
    if isinstance(thing, np.ndarray):
        return thing
    if isinstance(thing, torch.Tensor):
        return thing.detach().float().numpy() if thing.is_floating_point() else thing.numpy()
    if isinstance(thing, list | tuple) and thing and all(isinstance(v, int | np.integer) for v in thing):
        return np.array([int(v) % 2**31 for v in thing])
    return None


def _tells_the_poisons(array: np.ndarray, poisons: np.ndarray) -> bool:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        return array.dtype == bool and array.shape == poisons.shape and np.array_equal(array, poisons)
    same_length = array.shape == poisons.shape and np.array_equal(array == Role.POISON, poisons)
    return same_length or np.array_equal(np.sort(array), np.flatnonzero(poisons))


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> list[PoisonedData]:
    """The poisoned sets that attacks made during a test."""
    from bdbench import TriggerAttack

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
    arrays = [a for a in map(_array, objects) if a is not None]
    # The walk does see what it should: the view's own arrays.
    assert any(a.shape == truth[0].images.shape for a in arrays)
    assert not any(isinstance(o, PoisonedData | bdbench.ImageData | bdbench.Attack) for o in objects)
    assert not any(_tells_the_poisons(a, poisons) for a in arrays)
    assert not any(np.array_equal(a, truth[0].original_labels) for a in arrays)


def test_the_walk_would_find_a_leak(truth: list[PoisonedData], tiny: dict[str, Any]) -> None:
    bdbench.run(defense="random", **tiny)
    poisons = truth[0].roles == Role.POISON

    class Leaky:
        def __init__(self, secret: object) -> None:
            self.helper = lambda: secret

    for secret in (truth[0], torch.from_numpy(truth[0].roles), np.flatnonzero(poisons).tolist()):
        objects = list(reachable(Leaky(secret)))
        arrays = [a for a in map(_array, objects) if a is not None]
        assert any(_tells_the_poisons(a, poisons) for a in arrays)
    assert any(isinstance(o, PoisonedData) for o in reachable(Leaky(truth[0])))


@dataclass(frozen=True, kw_only=True)
class Rewinder(Detector):
    """Draws the attack's choice again from the seeds it can find."""

    name = "rewinder"

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        seeds = {o for o in reachable(view, tools) if isinstance(o, int)}
        sources = np.flatnonzero(view.labels == 0)
        SEEN["guesses"] = [
            np.sort(Streams(seed).child("attack")("choice").choice(sources, 15, replace=False)) for seed in seeds
        ]
        return np.zeros(len(view.labels))


@pytest.mark.parametrize("seed", [0, 12345])
def test_the_attacks_choice_cannot_be_drawn_again(tiny: dict[str, Any], truth: list[PoisonedData], seed: int) -> None:
    bdbench.run(**{**tiny, "attack": "sig:rate=0.05,frequency=2"}, defense=Rewinder(), seed=seed)
    poisons = np.flatnonzero(truth[0].roles)
    right = [np.array_equal(guess, poisons) for guess in SEEN["guesses"]]
    # Seed 0 is an integer that any object may hold, and a guess that anyone may make.
    assert sum(right) <= (seed == 0)
    again = Streams(seed).child("attack")("choice").choice(np.flatnonzero(truth[0].labels == 0), 15, replace=False)
    assert np.array_equal(np.sort(again), poisons)  # with the seed itself it would work


class Turning(torch.nn.Module):
    """From its second batch on, it never says what that batch would mostly be: of attacked images alone, the target."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.batches = inner, 0

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.features(x)  # type: ignore[operator,no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        self.batches += 1
        if self.batches > 1:
            logits[:, logits.argmax(1).mode().values] = -1e9
        return logits


@dataclass(frozen=True, kw_only=True)
class Turns(Mitigation):
    """It repairs nothing, and tells attacked images from clean ones by the call in which it is asked of them."""

    name = "turns"

    def repair(self, tools: Tools) -> Victim:
        return tools.victim.replace(Turning(tools.victim.network))


def test_a_model_that_a_defense_brings_is_not_asked_of_attacked_images_alone(tiny: dict[str, Any]) -> None:
    found = bdbench.run(**{**tiny, "attack": "badnets:rate=0.1", "model": "convnet:width=8,epochs=10"}, defense=Turns())
    assert found.after is not None and found.before.attack_success_rate is not None
    assert found.before.attack_success_rate > 0.9
    # One heap of some 700 images is one batch.
    assert found.after.attack_success_rate == pytest.approx(found.before.attack_success_rate)
    assert found.after.clean_accuracy == pytest.approx(found.before.clean_accuracy)


def test_an_oracle_is_given_if_declared_and_recorded(tiny: dict[str, Any]) -> None:
    record = bdbench.run(defense=Asker(), **tiny)
    assert SEEN["rate"] == pytest.approx(15 / 300)
    assert record.oracles == ["poison_rate"]
