"""What the harness hands to a defense. It holds no reference that leads to the truth."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bdbench import sources
from bdbench.interfaces import Oracle, Tools
from bdbench.progress import Progress
from bdbench.seeds import Streams
from bdbench.store import Store
from bdbench.training import Trainer, Victim

# Calls a function with 0, 1, ... on other workers, and yields in that order as calls end.
Spread = Callable[[Callable[[int], None], int], Iterator[None]]


class HarnessTools(Tools):
    """Tools for one defense on one training set.

    made_from: a hash of what identifies the set, the seed and the harness, for the keys of saved pieces; trainer:
    trains the victim's architecture; oracles: the declared ones alone; spread: how pieces are made side by side, if
    they are.
    """

    def __init__(
        self,
        *,
        defense: str,
        victim: Victim,
        streams: Streams,
        store: Store,
        made_from: str,
        trainer: Trainer,
        oracles: Mapping[Oracle, Any],
        progress: Progress,
        spread: Spread | None = None,
    ) -> None:
        self.victim = victim
        self.device = victim.device
        # A new root: from the run's own seed a defense could draw the attack's choices again.
        root = Streams(streams.integer("defenses"))
        self.streams = root.child(f"defense:{defense}")
        self.models_trained = 0
        self.reused_seconds = 0.0
        self.p_value: float | None = None
        self._defense = defense
        self._shared = root.child("shared")
        self._store = store
        self._made_from = made_from
        self._trainer = trainer
        self._oracles = dict(oracles)
        self._progress = progress
        self._spread = spread

    def train(self, images: np.ndarray, labels: np.ndarray, name: str) -> Victim:
        """Train a model of the victim's architecture and recipe; ``name`` draws its random stream."""
        self.models_trained += 1
        seed = self.streams.integer(f"train:{name}")
        return self._trainer.train(images, labels, seed, f"{self._defense}: {name}")

    def oracle(self, name: Oracle) -> Any:
        """Something only the attacker knows. Raises LookupError unless the defense declares it."""
        if name not in self._oracles:
            declared = ", ".join(self._oracles) or "none"
            raise LookupError(f"defense {self._defense!r} asks for the oracle {name!r} but declares {declared}")
        return self._oracles[name]

    def saved(self, config: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays ``make`` gives, computed once for this training set, seed and ``config``."""

        stage = self._store.stage(self._stage(config, make), functools.partial(_timed, make))
        if stage.reused:
            self.reused_seconds += stage.seconds
        return stage.arrays

    def saved_each(
        self, configs: Sequence[Mapping[str, Any]], make: Callable[[int], Mapping[str, np.ndarray]]
    ) -> Iterator[dict[str, np.ndarray]]:
        """As ``saved`` for pieces that do not need each other, in order: ``make(i)`` gives the arrays of configs[i]."""
        if self._spread is None:
            yield from (self.saved(config, functools.partial(make, i)) for i, config in enumerate(configs))
            return
        stages = [self._stage(config, make) for config in configs]
        elsewhere = self._spread(functools.partial(_piece, self._store, stages, make), len(stages))
        for i, config in enumerate(configs):
            start = time.perf_counter()
            next(elsewhere)
            # What counts is what the pieces took where they were made, not the wait for them.
            self.reused_seconds -= time.perf_counter() - start
            self._store.made_elsewhere(stages[i])
            yield self.saved(config, functools.partial(make, i))

    def _stage(self, config: Mapping[str, Any], make: Callable[..., Any]) -> dict[str, Any]:
        code = sources.code_behind(make)
        return {"stage": "saved", "made_from": self._made_from, "code": code, "piece": dict(config)}

    @property
    def shared_streams(self) -> Streams:
        """Random streams that are the same for every defense of the run; for work under ``saved``."""
        return self._shared

    def track(self, total: int, label: str) -> Callable[[int], None]:
        """Start a progress bar; call the result with the number of steps done since the last call."""
        return self._progress.track(total, f"{self._defense}: {label}")

    def count_models(self, number: int) -> None:
        """Say how many models the defense has had trained, for the record's cost."""
        self.models_trained += number

    def conclude(self, p_value: float | None) -> None:
        """Say how likely a clean set would look at least as suspicious; None if that cannot be told."""
        if p_value is not None and not 0 <= p_value <= 1:
            raise ValueError(f"p_value={p_value} is not allowed: expected a probability in [0, 1]")
        self.p_value = p_value


def _timed(make: Callable[[], Mapping[str, np.ndarray]]) -> tuple[Mapping[str, np.ndarray], float]:
    start = time.perf_counter()
    return make(), time.perf_counter() - start


def _piece(
    store: Store, stages: Sequence[Mapping[str, Any]], make: Callable[[int], Mapping[str, np.ndarray]], index: int
) -> None:
    store.stage(stages[index], functools.partial(_timed, functools.partial(make, index)))
