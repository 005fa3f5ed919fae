"""What the harness hands to attacks and defenses. A defense's holds no reference that leads to the truth."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from bdbench.cells import returned
from bdbench.cells.bench import Bench
from bdbench.components import sources
from bdbench.components.workshop import Oracle, State, Tools, Workshop
from bdbench.errors import BdbenchError
from bdbench.images.data import Split, fingerprint
from bdbench.networks.recipe import Loss, Recipe
from bdbench.networks.resuming import Part, Progressing, pieces
from bdbench.networks.training import Victim, seeded
from bdbench.seeds import Streams
from bdbench.storage.store import Store, key_of

if TYPE_CHECKING:
    from torch import nn

# How many models were trained for a piece is kept with it under this name.
_MODELS = "models trained"


@dataclass
class _Spent:
    """pieces: the keys of those that were made or found here, each of which counts once."""

    models: int = 0
    reused_seconds: float = 0.0
    pieces: set[str] = field(default_factory=set)


class HarnessWorkshop(Workshop):
    """The workshop of one component, which messages call ``title``.

    streams, shared: its random streams, and those that it has in common with others; own: what its pieces depend on
    beside the bench, unless they say that they do not.
    """

    def __init__(
        self, title: str, bench: Bench, streams: Streams, shared: Streams, own: Mapping[str, Any] | None = None
    ) -> None:
        self.streams = streams
        self.device = bench.trainer.device
        self.precision = bench.trainer.precision
        self.num_classes = bench.num_classes
        self.shape = bench.shape
        self.architecture = bench.architecture
        self.recipe = bench.trainer.recipe
        self._spent = _Spent()
        self._title = title
        self._bench = bench
        self._shared = shared
        self._own = {
            "model": bench.architecture.config(),
            "model_code": sources.code_of(bench.architecture),
            "recipe": asdict(self.recipe),
            **(own or {}),
        }

    @property
    def made_from(self) -> dict[str, Any]:
        """What results hang on beside the bench: the model and its recipe, and for a defense its victim and oracles."""
        return dict(self._own)

    @property
    def models_trained(self) -> int:
        """How many models were trained here, and in its parts."""
        return self._spent.models

    @property
    def reused_seconds(self) -> float:
        """What reused pieces took when they were made."""
        return self._spent.reused_seconds

    def part(self, name: str) -> Self:
        """A workshop for one of several that work as one; what is spent there is spent here."""
        inner = copy.copy(self)
        inner.streams, inner._shared, inner._title = self.streams.child(name), self._shared.child(name), name
        inner._own = {**self._own, "part": [*self._own.get("part", []), name]}
        return inner

    def network(self, name: str) -> nn.Module:
        """An untrained network of the victim's architecture; ``name`` draws its weights."""
        return self._bench.trainer.untrained(self.streams.integer(f"network:{name}"))

    def train(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        name: str,
        *,
        start: Victim | None = None,
        recipe: Recipe | None = None,
        loss: Loss | None = None,
        each_epoch: Callable[[int, Victim], None] | None = None,
        kept: Mapping[str, Any] | None = None,
    ) -> Victim:
        """Train a model of the victim's architecture; ``name`` draws its random stream. See ``Workshop.train``."""
        if kept is not None and (loss is None or each_epoch is not None):
            raise ValueError("kept says by what a loss is known: expected a loss, and no each_epoch")
        self._check_set(images, labels)
        labels = np.asarray(labels).astype(np.int64, copy=False)
        seed = self.streams.integer(f"train:{name}")
        recipe = recipe or self.recipe
        train = functools.partial(
            self._bench.trainer.train, images, labels, seed, f"{self._title}: {name}", start=start, recipe=recipe
        )
        if kept is None and (loss is not None or each_epoch is not None):
            self._spent.models += 1
            return train(loss=loss, each_epoch=each_epoch)
        config = {
            "stage": "trained",
            **self._bench.made_from,
            "set": fingerprint(images, labels),
            "seed": seed,
            "start": fingerprint(*start.arrays().values()) if start else "",
            # What is not trained is of no other value, and the model that comes of it is another.
            "fixed": sorted(n for n, p in start.network.named_parameters() if not p.requires_grad) if start else [],
            **{name: self._own[name] for name in ("model", "model_code")},
            "recipe": asdict(recipe),
        }
        if loss is None:
            self._spent.models += key_of(config) not in self._spent.pieces
            return self.restore(self._kept(config, lambda: train().arrays()))
        known = {"kept": dict(kept or {}), "training": config}
        self._spent.models += key_of(known) not in self._spent.pieces
        self._spent.pieces.add(key_of(known))

        def keep(end: int, make: Callable[[], State]) -> State:
            return self._kept(self._stage({**known, "epochs": end}, loss, shared=False), make)

        return train(loss=loss, keep=keep)

    def _check_set(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Raise BdbenchError for what is no training set of this model: a label too few would train on a part."""
        images, labels = np.asarray(images), np.asarray(labels)
        wanted = (len(labels), *self.shape) if labels.ndim == 1 else ("n", *self.shape)
        if labels.ndim != 1 or not len(labels) or images.shape != wanted:
            raise BdbenchError(
                f"{self._title} trains on images of {images.shape} with labels of {labels.shape}: expected "
                f"(n, {', '.join(map(str, self.shape))}) and (n,), n at least 1"
            )
        if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < self.num_classes:
            found = f"{labels.dtype} in {labels.min()}..{labels.max()}"
            raise BdbenchError(
                f"{self._title} trains on labels of {found}: expected integers in 0..{self.num_classes - 1}"
            )

    def loop(
        self,
        name: str,
        parts: Mapping[str, Part],
        epochs: int,
        epoch: Callable[[int, torch.Generator], None],
        *,
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        """A training of the component's own, kept in pieces. See ``Workshop.loop``."""
        progressing = Progressing(parts, torch.device(self.device))
        drawn = self.streams.integer(name)
        config = {"loop": name, "epochs": epochs, "start": progressing.fingerprint(), "seed": drawn, **(kept or {})}
        advance = self.track(epochs, name)

        def run(piece: range) -> None:
            for number in piece:
                seed = self.streams.integer(f"{name}:{number}")
                torch.manual_seed(seed)
                epoch(number, torch.Generator().manual_seed(seed))
                advance(1)

        def keep(end: int, make: Callable[[], State]) -> State:
            return self._kept(self._stage({**config, "end": end}, epoch, shared=False), make)

        with seeded(0):
            for piece in pieces(epochs):
                if not progressing.reach(piece.stop, functools.partial(run, piece), keep):
                    advance(len(piece))

    def restore(self, arrays: State) -> Victim:
        """The model that ``Victim.arrays`` described. Raises BdbenchError for one of another architecture."""
        return self._bench.restore(arrays, self._title)

    def saved(self, config: Mapping[str, Any], make: Callable[[], State], *, shared: bool = False) -> dict[str, Any]:
        """The arrays ``make`` gives, computed once. See ``Workshop.saved``."""
        return self._kept(self._stage(config, make, shared), make)

    def saved_each(
        self, configs: Sequence[Mapping[str, Any]], make: Callable[[int], State], *, shared: bool = False
    ) -> Iterator[dict[str, np.ndarray]]:
        """As ``saved`` for pieces that do not need each other, in order: ``make(i)`` gives the arrays of configs[i]."""
        spread, store = self._bench.spread, self._bench.store
        if spread is None:
            for i, config in enumerate(configs):
                yield self.saved(config, functools.partial(make, i), shared=shared)
            return
        stages = [self._stage(config, make, shared) for config in configs]
        elsewhere = spread(functools.partial(_piece, store, stages, make), len(stages))
        for i, stage in enumerate(stages):
            start = time.perf_counter()
            next(elsewhere)
            # What counts is what the pieces took where they were made, not the wait for them.
            self._spent.reused_seconds -= time.perf_counter() - start
            store.made_elsewhere(stage)
            yield self._kept(stage, functools.partial(make, i))

    def _stage(self, config: Mapping[str, Any], make: Callable[..., Any], shared: bool) -> dict[str, Any]:
        own = {} if shared else self._own
        made_from = key_of({"made_from": self._bench.made_from, "own": own})
        return {"stage": "saved", "made_from": made_from, "code": sources.code_behind(make), "piece": dict(config)}

    def _kept(self, config: Mapping[str, Any], make: Callable[[], State]) -> dict[str, np.ndarray]:
        def counted() -> tuple[State, float]:
            models, reused, start = self.models_trained, self.reused_seconds, time.perf_counter()
            arrays = returned.arrays(self._title, make())
            # A piece cost what it took when all of it was made, whichever of the pieces in it are found today.
            seconds = time.perf_counter() - start + self.reused_seconds - reused
            return {**arrays, _MODELS: np.array(self.models_trained - models)}, seconds

        start, key = time.perf_counter(), key_of(config)
        stage = self._bench.store.stage(config, counted)
        models = int(stage.arrays.pop(_MODELS, 0))
        if stage.reused:
            # What counts is what it took where it was made, once, and not the wait for another process that made it.
            again = key in self._spent.pieces
            self._spent.reused_seconds += (0.0 if again else stage.seconds) - (time.perf_counter() - start)
            self._spent.models += 0 if again else models
        self._spent.pieces.add(key)
        return stage.arrays

    @property
    def shared_streams(self) -> Streams:
        """Random streams that are the same for every defense of the run; for work under ``saved``."""
        return self._shared

    def track(self, total: int, label: str) -> Callable[[int], None]:
        """Start a progress bar; call the result with the number of steps done since the last call."""
        return self._bench.progress.track(total, f"{self._title}: {label}")

    def count_models(self, number: int) -> None:
        """Say how many models were trained otherwise than by ``train``. Raises BdbenchError for no count."""
        self._spent.models += returned.count(self._title, number)


@dataclass(frozen=True)
class Awaited:
    """A model that is made when it is first asked for. known_by: what it is known by among those on one data set."""

    known_by: str
    make: Callable[[], Victim]


class HarnessTools(HarnessWorkshop, Tools):
    """Tools for one defense on one data set.

    victim: a copy that the defense may change, made now or when it is asked for; streams: the run's root; oracles: the
    declared ones alone; examples: how many there are to be flagged.
    """

    def __init__(
        self,
        defense: str,
        bench: Bench,
        streams: Streams,
        *,
        victim: Victim | Awaited,
        oracles: Mapping[Oracle, Any],
        examples: int,
    ) -> None:
        # A new root: from the run's own seed a defense could draw the attack's choices again.
        root = Streams(streams.integer("defenses"))
        known = victim.known_by if isinstance(victim, Awaited) else fingerprint(*victim.arrays().values())
        own = {"victim": known, "oracles": {n: _told(o) for n, o in oracles.items()}}
        super().__init__(defense, bench, root.child(f"defense:{defense}"), root.child("shared"), own)
        self._victim = victim
        self.p_value: float | None = None
        self.flagged: np.ndarray | None = None
        self.evidence: dict[int, float] | None = None
        # Of the clean examples, as many of the first as were asked for.
        self.handed = 0
        self._oracles = dict(oracles)
        self._examples = examples

    @property
    def victim(self) -> Victim:
        """The model under suspicion, a copy of its own."""
        if isinstance(self._victim, Awaited):
            self._victim = self._victim.make()
        return self._victim

    @property
    def looked_into(self) -> bool:
        """Whether the model was asked for, or was there anyway."""
        return not isinstance(self._victim, Awaited)

    def oracle(self, name: Oracle) -> Any:
        """Something that a defender does not know by himself. Raises LookupError unless the defense declares it."""
        told = self._declared(name)
        if name == "clean_set" and told is not None:
            self.handed = len(told.labels)
        return told

    def _declared(self, name: Oracle) -> Any:
        if name not in self._oracles:
            declared = ", ".join(self._oracles) or "none"
            raise LookupError(f"defense {self._title!r} asks for the oracle {name!r} but declares {declared}")
        return self._oracles[name]

    def clean_examples(self, count: int | None = None) -> Split:
        """The first ``count`` clean examples. See ``Tools.clean_examples``."""
        reserve: Split = self._declared("clean_set")
        if count is not None and count > len(reserve.labels):
            raise BdbenchError(
                f"defense {self._title!r}: clean={count} is not allowed: expected at most the {len(reserve.labels)} "
                "examples that are set apart"
            )
        chosen = Split(np.asarray(reserve.images)[:count], reserve.labels[:count])
        self.handed = max(self.handed, len(chosen.labels))
        return chosen

    def conclude(
        self,
        p_value: float | None = None,
        flagged: np.ndarray | None = None,
        evidence: Mapping[int, float] | None = None,
    ) -> None:
        """Say what the defense itself makes of what it saw. Raises ValueError; see ``Tools.conclude``."""
        if p_value is not None and not (np.ndim(p_value) == 0 and 0 <= p_value <= 1):
            raise ValueError(f"p_value={p_value} is not allowed: expected a probability in [0, 1]")
        if p_value is not None:
            self.p_value = float(p_value)
        if flagged is not None:
            chosen = np.array(flagged)
            if chosen.shape != (self._examples,) or chosen.dtype != bool:
                raise ValueError(f"flagged is {chosen.dtype} {chosen.shape}: expected bool ({self._examples},)")
            self.flagged = chosen
        if evidence is not None:
            told = {int(label): float(value) for label, value in evidence.items()}
            if not set(told) <= set(range(self.num_classes)) or not np.isfinite(list(told.values())).all():
                raise ValueError(f"evidence is {told}: expected finite numbers by labels in 0..{self.num_classes - 1}")
            self.evidence = told


def _told(value: Any) -> Any:
    """An oracle's answer as a JSON value, for keys."""
    if isinstance(value, np.ndarray):
        return fingerprint(value)
    if isinstance(value, Split):
        return fingerprint(np.asarray(value.images), value.labels)
    return list(value) if isinstance(value, tuple) else value


def _timed(make: Callable[[], State]) -> tuple[State, float]:
    start = time.perf_counter()
    return make(), time.perf_counter() - start


def _piece(store: Store, stages: Sequence[Mapping[str, Any]], make: Callable[[int], State], index: int) -> None:
    store.stage(stages[index], functools.partial(_timed, functools.partial(make, index)))
