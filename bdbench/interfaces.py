"""The contracts: what a plugin implements, and what it is handed.

A component is a frozen, keyword-only dataclass. Its fields are its parameters (``params.param``), its
docstring is its help, ``name`` is what users type, ``paper`` is where it comes from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from bdbench import params
from bdbench.data import ImageData, PoisonedData, Role, Split, TrainingView
from bdbench.errors import BdbenchError
from bdbench.params import param
from bdbench.recipe import Recipe
from bdbench.seeds import Streams

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from bdbench.training import Victim

Oracle = Literal["poison_rate", "target_label"]


@dataclass(frozen=True, kw_only=True)
class Component:
    """What datasets, models, attacks and defenses have in common."""

    kind: ClassVar[str] = "component"
    name: ClassVar[str]
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check every parameter; raises BdbenchError."""
        params.check(self)

    def config(self) -> dict[str, Any]:
        """Name and parameters as JSON values: with them the component can be built again."""
        return {"name": self.name, **params.config(self)}


@dataclass(frozen=True)
class Source:
    """Where a data set may read from. root: the user's data folder, if given; download: whether it may fetch."""

    root: Path | None = None
    download: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset(Component, ABC):
    """Labelled images with a training and a test part."""

    kind: ClassVar[str] = "dataset"
    subset: int | None = param(None, help="training examples to keep: stratified by class, seeded", low=1)

    @abstractmethod
    def read(self, source: Source) -> ImageData:
        """The whole set; the harness picks the subset and decodes only that.

        Raises BdbenchError, saying where it looked, if the files are not there.
        """


@dataclass(frozen=True, kw_only=True)
class Architecture(Component, ABC):
    """A family of networks and the recipes that train them."""

    kind: ClassVar[str] = "model"
    epochs: int | None = param(None, help="passes over the training set (none: the recipe's)", low=1)
    batch_size: int | None = param(None, help="examples per step (none: the recipe's)", low=1)
    lr: float | None = param(None, help="peak learning rate (none: the recipe's)", low=0, exclusive=True)

    @abstractmethod
    def build(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """An untrained network for images of ``shape`` (H, W, C).

        ``forward`` maps float (b, C, H, W) to logits (b, num_classes); ``features`` maps the same to the
        penultimate representation (b, d). Weights are drawn from torch's global generator, which the
        harness seeds. Raises BdbenchError if the shape does not fit.
        """

    @abstractmethod
    def default_recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        """The recipe for the data set called ``dataset``, with images of ``shape`` (H, W, C)."""

    def recipe(self, dataset: str, shape: tuple[int, int, int]) -> Recipe:
        """The recipe with this component's own epochs, batch_size and lr where they are set."""
        own: dict[str, Any] = {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr}
        return replace(self.default_recipe(dataset, shape), **{k: v for k, v in own.items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class Attack(Component, ABC):
    """Poisons a training set, and triggers test images.

    ``poison`` and ``trigger`` get the same streams: what both draw from ``streams("trigger")`` is the same.
    """

    kind: ClassVar[str] = "attack"

    @abstractmethod
    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        """Poison the training set. Raises BdbenchError if the parameters do not fit it."""

    @abstractmethod
    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The test-time trigger on uint8 (n, H, W, C); returns new uint8 images of that shape."""

    @abstractmethod
    def goal(self, labels: np.ndarray) -> np.ndarray | None:
        """The label the attacker wants for triggered images whose true labels are int64 (n,).

        Success counts only where the goal differs from the true label. None: nothing is attacked.
        """

    def victim(self, model: Architecture) -> Mapping[str, np.ndarray] | None:
        """The victim, where the attacker has trained it: what ``Victim.arrays`` gives, for a network of ``model``.

        None, the default: the harness trains it on the poisoned set.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class TriggerAttack(Attack, ABC):
    """An attack that stamps one trigger on chosen examples of one target class or of all the others.

    A subclass says what the trigger does to images, and whether it is clean-label.
    """

    clean_label: ClassVar[bool] = False
    target: int = param(0, help="the label that the trigger is to give", low=0)
    rate: float = param(0.05, help="poisons / size of the whole training set", low=0, high=1, exclusive=True)

    @abstractmethod
    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The trigger on uint8 (n, H, W, C), at training time; returns new uint8 images."""

    def trigger(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """The same stamp at test time, unless a subclass says otherwise."""
        return self.stamp(images, streams)

    def goal(self, labels: np.ndarray) -> np.ndarray:
        """Always the target."""
        return np.full_like(labels, self.target)

    def poison(self, train: Split, num_classes: int, streams: Streams) -> PoisonedData:
        """Stamp ``round(rate * n)`` examples: of the target class if clean-label, else of the other classes."""
        images, labels = np.array(train.images), train.labels.copy()
        if self.target >= num_classes:
            raise BdbenchError(f"target={self.target} is not there: expected a label in 0..{num_classes - 1}")
        sources = np.flatnonzero((labels == self.target) == self.clean_label)
        count = round(self.rate * len(labels))
        if not 1 <= count <= len(sources):
            pool = f"{len(sources)} {'in the target class' if self.clean_label else 'outside the target class'}"
            raise BdbenchError(
                f"rate={self.rate:g} asks for {count} poisons of {len(labels)} training examples: "
                f"expected between 1 and the {pool}"
            )
        chosen = np.sort(streams("choice").choice(sources, count, replace=False))
        stamped = self.stamp(images[chosen], streams)
        if stamped.dtype != np.uint8:
            raise BdbenchError(f"attack {self.name!r} stamps images as {stamped.dtype}: expected uint8")
        images[chosen] = stamped
        labels[chosen] = self.target
        roles = np.full(len(labels), Role.CLEAN, np.int8)
        roles[chosen] = Role.POISON
        return PoisonedData(images, labels, roles, train.labels.copy())


class Tools(ABC):
    """What a defense may use beside the training set. Nothing here leads to the truth.

    streams: the defense's own random streams; device: where torch work should run, such as "cpu";
    victim: the model trained on the set under inspection.
    """

    streams: Streams
    device: str
    victim: Victim

    @abstractmethod
    def train(self, images: np.ndarray, labels: np.ndarray, name: str) -> Victim:
        """Train a model of the victim's architecture and recipe; ``name`` draws its random stream."""

    @abstractmethod
    def oracle(self, name: Oracle) -> Any:
        """Something only the attacker knows. Raises LookupError unless the defense declares it."""

    @abstractmethod
    def saved(self, config: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays ``make`` gives, computed once for this training set, seed and ``config``.

        Work cut into such pieces goes on where it was after an interruption, and defenses that name the
        same config share it: ``make`` must depend on nothing else, so seed it from ``shared_streams``. It is
        computed anew when the code of ``make``'s module, or of what that imports from its own package, has changed:
        a detector that is being worked on keeps its networks if they are trained in a module apart.
        """

    @abstractmethod
    def saved_each(
        self, configs: Sequence[Mapping[str, Any]], make: Callable[[int], Mapping[str, np.ndarray]]
    ) -> Iterator[dict[str, np.ndarray]]:
        """As ``saved`` for pieces that do not need each other, in order: ``make(i)`` gives the arrays of configs[i].

        On a cluster with workers to spare they are made side by side, for which ``make`` must pickle.
        """

    @property
    @abstractmethod
    def shared_streams(self) -> Streams:
        """Random streams that are the same for every defense of the run; for work under ``saved``."""

    @abstractmethod
    def track(self, total: int, label: str) -> Callable[[int], None]:
        """Start a progress bar; call the result with the number of steps done since the last call."""

    @abstractmethod
    def count_models(self, number: int) -> None:
        """Say how many models the defense has had trained, for the record's cost."""

    @abstractmethod
    def conclude(self, p_value: float | None) -> None:
        """Say how likely a clean set would look at least as suspicious; None if that cannot be told."""


@dataclass(frozen=True, kw_only=True)
class Defense(Component, ABC):
    """What detectors and mitigations share. ``oracles`` names what they need of the attacker's knowledge."""

    kind: ClassVar[str] = "defense"
    oracles: ClassVar[tuple[Oracle, ...]] = ()

    def files(self) -> tuple[Path, ...]:
        """The files that it reads beside what the harness hands to it.

        They are to be there before anything is trained, and a run is known, and recorded, by what they hold.
        """
        return ()


@dataclass(frozen=True, kw_only=True)
class Detector(Defense, ABC):
    """Scores training examples; the harness removes a budget of them and trains again, or at a budget of 0 neither."""

    @abstractmethod
    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        """Suspicion of each training example, float64 (n,), finite, higher = more suspicious."""


@dataclass(frozen=True, kw_only=True)
class Mitigation(Defense, ABC):
    """Returns a model that is to be free of the backdoor."""

    @abstractmethod
    def repair(self, view: TrainingView, tools: Tools) -> Victim:
        """The repaired model: a Victim, by ``tools.train`` or ``tools.victim.replace``."""


@dataclass(frozen=True)
class Measured:
    """What a metric plugin is given: one finished cell. Arrays are (n,); scores and kept None for mitigations.

    roles: int8, of Role; scores: float64; kept: bool; before, after: the accuracies of the record.
    """

    roles: np.ndarray
    scores: np.ndarray | None
    kept: np.ndarray | None
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]


@dataclass(frozen=True)
class Metric:
    """An extra number for the record, under ``extra``: ``compute`` maps a Measured to a float or None."""

    name: str
    compute: Callable[[Measured], float | None]
    help: str = ""


@dataclass(frozen=True)
class ReportSection:
    """A picture for ``bdbench report``: a title, a matplotlib Figure, and what there is to see in it."""

    title: str
    figure: Figure
    caption: str = ""
