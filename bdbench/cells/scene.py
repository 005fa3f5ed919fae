"""What the defenses of a cell share before any model is trained: data, crafted state, poisoned set, challenge."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bdbench.cells import returned
from bdbench.cells.bench import Bench, Spread
from bdbench.cells.stealth import visibility
from bdbench.cells.tools import HarnessTools, HarnessWorkshop
from bdbench.components import guard, params, sources
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense
from bdbench.components.interfaces import Architecture, Component, Dataset, Source
from bdbench.components.workshop import Oracle, State
from bdbench.errors import BdbenchError
from bdbench.host.machine import Precision
from bdbench.images import data
from bdbench.images.data import ANY_OTHER, Challenge, ImageData, PoisonedData, Role, Split, TrainingView
from bdbench.images.decoding import check_plain, is_image
from bdbench.images.preparation import check_classes, prepare
from bdbench.networks.training import Trainer, Victim
from bdbench.progress import Progress, Silent
from bdbench.seeds import Streams
from bdbench.storage.files import check_regular, digest_of, reading
from bdbench.storage.record import Stealth
from bdbench.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a cell is of, its defense apart, and where it is computed.

    budget: the share to remove, or "auto" for what a detector itself flags; reserve: the share of the training part
    that is set apart as clean examples; floor: try a model of the clean set with the challenge, too; out: the folder of
    runs; source: where data sets may read from.
    """

    dataset: Dataset
    model: Architecture
    attack: Attack
    seed: int
    budget: float | Literal["auto"] = 0.1
    reserve: float = 0.05
    floor: bool = False
    device: str = "cpu"
    precision: Precision = "float32"
    out: Path
    source: Source
    store: Store
    progress: Progress = field(default_factory=Silent)
    spread: Spread | None = None


def read_images(
    dataset: Dataset, source: Source, seed: int, reserve: float, progress: Progress, reserve_from: str = "train"
) -> ImageData:
    """A data set made ready for a seed: see ``prepare``. Raises BdbenchError if it is not there or not fit."""
    # All of it: images may be decoded only when they are picked.
    with guard.call(dataset):
        read = dataset.read(source)
        check_classes(read)
        prepared = prepare(
            read,
            subset=dataset.subset,
            reserve=reserve,
            reserve_from=reserve_from,
            streams=Streams(seed),
            track=progress.track,
        )
        check_classes(prepared)
        return prepared


@dataclass(frozen=True)
class Scene:
    """A poisoned training set and a challenge, with all that led to them.

    attack: with what its parameters leave to the seed drawn; state: what it crafted; view: the poisoned set as defenses
    see it; shown: a hash of that; bench: where defenses work on it; clean: the same on the set before it was poisoned;
    workshop: the attacker's; seconds: of each stage.
    """

    setting: Setting
    attack: Attack
    images: ImageData
    state: State
    poisoned: PoisonedData
    challenge: Challenge | None
    view: TrainingView
    shown: str
    streams: Streams
    bench: Bench
    clean: Bench
    workshop: HarnessWorkshop
    seconds: dict[str, float]

    @property
    def targets(self) -> tuple[int, ...]:
        """The goals of the attacked test images, sorted; none where nothing is attacked, or any other label will do."""
        if self.challenge is None:
            return ()
        goals = np.unique(self.challenge.goal[self.attacked])
        return tuple(goals[goals != ANY_OTHER].tolist())

    @property
    def attacked(self) -> np.ndarray:
        """Which rows of the challenge are attacked, bool (m,): their goal is not the image's own label."""
        if self.challenge is None:
            return np.zeros(0, bool)
        return self.challenge.goal != self.images.test.labels[self.challenge.index]

    @functools.cached_property
    def stealth(self) -> Stealth | None:
        """How much the attack shows in the attacked test images; None where nothing is attacked."""
        if self.challenge is None:
            return None
        rows = self.attacked
        return visibility(np.asarray(self.images.test.images)[self.challenge.index[rows]], self.challenge.images[rows])

    @functools.cached_property
    def asked(self) -> str:
        """A hash of what models are tried with: test set, challenge and reserve. A defense is never handed it."""
        images, challenge = self.images, self.challenge
        arrays = [images.test.images, images.test.labels]
        arrays += [] if challenge is None else [challenge.images, challenge.index, challenge.goal]
        arrays += [] if images.reserve is None else [images.reserve.images]
        return data.fingerprint(*map(np.asarray, arrays))

    @property
    def places(self) -> np.ndarray:
        """The place of each poisoned example in the whole clean training part, int64 (n,)."""
        places, index = self.images.train.places, self.poisoned.index
        return places if index is None else places[index]

    def tools(self, defense: Defense, victim: Victim) -> HarnessTools:
        """What the harness hands to ``defense``: a copy of the victim, and the oracles that it declares."""
        known = {name: self._oracle(name) for name in defense.told}
        with guard.call(self.setting.model):
            # A copy of its own: a defense may prune or fine-tune it in place.
            own = self.bench.restore(victim.arrays(), "the victim")
        # One that comes from elsewhere may be computed otherwise than those that are trained here.
        own.precision = victim.precision
        return HarnessTools(
            defense.name,
            self.bench,
            self.streams,
            victim=own,
            oracles=known,
            examples=len(self.view.labels),
        )

    def _target_names(self) -> dict[str, list[str]]:
        names = [self.images.classes[target] for target in self.targets]
        return {"target_names": names} if names != [str(target) for target in self.targets] else {}

    def _oracle(self, name: Oracle) -> Any:
        if name == "poison_rate":
            return float((self.poisoned.roles == Role.POISON).mean())
        if name == "target_labels":
            return self.targets
        if name == "poisons":
            return self.poisoned.roles == Role.POISON
        return self._trusted()

    def _trusted(self) -> Split | None:
        """Clean examples for one defense, its own: it may write into them round their being read-only."""
        reserve = self.images.reserve
        if reserve is None:
            return None
        own = Split(*(np.array(part) for part in (reserve.images, reserve.labels, reserve.places)))
        guard.freeze(own)
        return own

    def check_untouched(self, defense: Defense) -> None:
        """Raise BdbenchError if a defense has changed the training set, round its being read-only; it is put back."""
        try:
            returned.untouched(f"defense {defense.name!r}", [self.view], [self.shown])
        except BdbenchError:
            for name in ("images", "labels"):
                array = getattr(self.view, name)
                array.flags.writeable = True
                array[:] = getattr(self.poisoned, name)
                array.flags.writeable = False
            raise

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What a record says of the data; it takes a hash of all of them, and is the same for every defense."""
        images, roles, attacked = self.images, self.poisoned.roles, self.attacked
        arrays = [images.train.images, images.train.labels, images.test.images, images.test.labels]
        return {
            "train": len(roles),
            "test": len(images.test.labels),
            "reserve": 0 if images.reserve is None else len(images.reserve.labels),
            "classes": images.num_classes,
            "shape": list(images.shape),
            "source": images.source,
            "fingerprint": data.fingerprint(*map(np.asarray, arrays)),
            "poisons": int((roles == Role.POISON).sum()),
            "covers": int((roles == Role.COVER).sum()),
            "attacked": int(attacked.sum()),
            "bystanders": int((~attacked).sum()),
            "targets": list(self.targets),
            **self._target_names(),
            "poisoned": data.fingerprint(self.poisoned.images, self.poisoned.labels, roles),
            "challenge": ""
            if self.challenge is None
            else data.fingerprint(self.challenge.images, self.challenge.index, self.challenge.goal),
        }


def trainer_for(setting: Setting, images: ImageData) -> Trainer:
    """What would train a victim on a set, before any attack is at it."""
    return _bench(setting, images, "").trainer


def made(setting: Setting) -> Scene:
    """Read, craft, poison and challenge. Raises BdbenchError for what does not fit, or breaks an attack's contract."""
    seconds: dict[str, float] = {}
    streams = Streams(setting.seed)
    with _timed(seconds, "data"):
        where = "test" if setting.attack.foreign else "train"
        images = read_images(setting.dataset, setting.source, setting.seed, setting.reserve, setting.progress, where)
    given = [images.train, images.test]
    guard.freeze(*given)
    train, test = map(data.fingerprint_of, given)
    with guard.call(setting.attack):
        attack = params.with_labels(setting.attack, images.classes)
        attack = returned.settled(attack, attack.settled(images.num_classes, streams.child("attack")))
    bench = _bench(setting, images, train)
    own = {"attack": attack.config(), "code": sources.code_of(attack), "files": contents(attack)}
    workshop = HarnessWorkshop(attack.name, bench, streams.child("attack"), streams.child("crafting"), own)
    state = _crafted(attack, images, bench, workshop, seconds)
    with _timed(seconds, "poison"), guard.call(attack):
        poisoned = returned.poisoned(attack, images, attack.poison(images.train, state, workshop))
        challenge = returned.challenge(attack, images, attack.challenge(images.test, state, workshop))
    with guard.call(attack):
        returned.untouched(f"attack {attack.name!r}", given, [train, test])
    # Defenses, their models, metrics and reporters are shown them.
    guard.freeze(poisoned, challenge)
    view = poisoned.view(images.num_classes)
    shown = data.fingerprint_of(view)
    inspected = _bench(setting, images, shown)
    return Scene(
        setting, attack, images, state, poisoned, challenge, view, shown, streams, inspected, bench, workshop, seconds
    )


def contents(component: Component) -> dict[str, str]:
    """A hash of what each file holds that a component reads, or one that it is made of.

    Raises BdbenchError for one that does not read.
    """
    found = {}
    with guard.call(component):
        # One made of others may name theirs as well, and large files take long.
        files = dict.fromkeys(path for part in params.whole(component) for path in part.files())
    for path in files:
        with reading(path, f"what {component.kind} {component.name!r} is made of"):
            if not path.exists():
                raise BdbenchError(
                    f"{component.kind} {component.name!r} reads {str(path)!r}, which is not there: expected a file"
                )
            check_regular(path)
            if is_image(path):
                check_plain(path)
            found[str(path)] = digest_of(path)
    return found


def _bench(setting: Setting, images: ImageData, contents: str) -> Bench:
    with guard.call(setting.model):
        return Bench.of(
            setting.model,
            setting.dataset.recipes_of or setting.dataset.name,
            images.shape,
            images.num_classes,
            contents=contents,
            seed=setting.seed,
            device=setting.device,
            precision=setting.precision,
            store=setting.store,
            progress=setting.progress,
            spread=setting.spread,
        )


def _crafted(
    attack: Attack, images: ImageData, bench: Bench, workshop: HarnessWorkshop, seconds: dict[str, float]
) -> State:
    """What the attack crafts, from the store if it is there; most attacks craft nothing."""
    if type(attack).craft is Attack.craft:
        return {}
    config = {"stage": "craft", **bench.made_from, **workshop.made_from}

    def make() -> tuple[State, float]:
        start = time.perf_counter()
        with guard.call(attack):
            state = returned.arrays(f"attack {attack.name!r}", attack.craft(images.train, workshop))
        return state, time.perf_counter() - start + workshop.reused_seconds

    stage = bench.store.stage(config, make)
    guard.freeze(stage.arrays)
    seconds["craft"] = stage.seconds
    return stage.arrays


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
