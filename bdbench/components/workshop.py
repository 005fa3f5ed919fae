"""What attacks and defenses may use beside the data: streams, training, stage results, progress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bdbench.components.interfaces import Architecture
from bdbench.images.data import Split
from bdbench.networks.recipe import Loss, Recipe
from bdbench.seeds import Streams

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench.networks.resuming import Part
    from bdbench.networks.training import Victim

State = Mapping[str, np.ndarray]
"""What was crafted, fitted or computed, as plain arrays: a trigger, a generator's weights, indices."""

Oracle = Literal["poison_rate", "target_labels", "clean_set", "poisons"]
"""What a defense may be told. poison_rate: float, poisons / n; target_labels: tuple of int, the goals of the attacked
test images, sorted (none where any other label will do); clean_set: Split, examples that nobody poisoned, of which
every prefix is stratified; poisons: bool (n,), the truth itself, for ceilings."""


class Workshop(ABC):
    """What an attacker may use; a defense has ``Tools``.

    streams: the component's own random streams; device: where torch work should run, such as "cpu"; precision: in
    what this machine multiplies fastest, "float32" or "bfloat16"; num_classes, and shape (H, W, C) of images: of the
    data set; architecture and recipe: of the victim.
    """

    streams: Streams
    device: str
    precision: Literal["float32", "bfloat16"]
    num_classes: int
    shape: tuple[int, int, int]
    architecture: Architecture
    recipe: Recipe

    @abstractmethod
    def part(self, name: str) -> Workshop:
        """A workshop for one of several that work as one: its streams, and what it keeps, are its own by ``name``."""

    @abstractmethod
    def network(self, name: str) -> nn.Module:
        """An untrained network of the victim's architecture; ``name`` draws its weights."""

    @abstractmethod
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
        """Train a model of the victim's architecture; ``name`` draws its random stream.

        images: uint8 (n, H, W, C); labels: int64 (n,); start: weights and normalisation to go on from (none: new ones);
        recipe: in place of the victim's; loss: in place of cross-entropy; each_epoch: called with the epoch, from 0,
        and the model so far. Without the last two, a result is kept as ``saved`` keeps it.

        kept: what a loss is known by, as ``saved`` knows a piece by its config. With it the training is kept in pieces
        of some epochs, and goes on after an interruption: the loss must then depend on nothing but that, the batch and
        the streams, and there is no each_epoch (ValueError).
        """

    @abstractmethod
    def loop(
        self,
        name: str,
        parts: Mapping[str, Part],
        epochs: int,
        epoch: Callable[[int, torch.Generator], None],
        *,
        kept: Mapping[str, Any] | None = None,
    ) -> None:
        """Call ``epoch(number, generator)`` for each of ``epochs``, from 0: a training of one's own, with a bar.

        parts: networks and optimizers, by name: all that the epochs change. They are kept in pieces of some epochs, so
        that an interrupted loop goes on, and are at the end as the last epoch left them. An epoch draws from its
        generator, of the CPU, and from torch's global ones alone, which depend on ``name`` and its number. A loop is
        known by its name, its parts at the start, the code of ``epoch``, and ``kept``, as a piece that is ``saved`` is
        by its config.
        """

    @abstractmethod
    def restore(self, arrays: State) -> Victim:
        """The model that ``Victim.arrays`` described, of the victim's architecture. Raises BdbenchError for another."""

    @abstractmethod
    def saved(self, config: Mapping[str, Any], make: Callable[[], State], *, shared: bool = False) -> dict[str, Any]:
        """The arrays ``make`` gives, computed once for this data set, seed, victim, oracles and ``config``.

        Work cut into such pieces goes on where it was after an interruption, and components that name the same config
        share it: ``make`` must depend on nothing else, so seed it from ``shared_streams``. shared=True says that it
        uses neither the victim, nor its architecture or recipe, nor an oracle, so that it serves under all of them. It
        is computed anew when the code of ``make``'s module, or of what that imports from its own package, has changed:
        a detector that is being worked on keeps its networks if they are trained in a module apart.
        """

    @abstractmethod
    def saved_each(
        self, configs: Sequence[Mapping[str, Any]], make: Callable[[int], State], *, shared: bool = False
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
        """Say how many models were trained otherwise than by ``train``, for the record's cost."""


class Tools(Workshop):
    """What a defense may use. Nothing here leads to the truth."""

    @property
    @abstractmethod
    def victim(self) -> Victim:
        """The model under suspicion, a copy of its own."""

    @abstractmethod
    def oracle(self, name: Oracle) -> Any:
        """Something that a defender does not know by himself. Raises LookupError unless the defense declares it."""

    @abstractmethod
    def clean_examples(self, count: int | None = None) -> Split:
        """The first ``count`` of the examples that nobody poisoned (none: all), stratified: the oracle ``clean_set``.

        Raises BdbenchError if not as many are set apart, and LookupError as ``oracle`` does.
        """

    @abstractmethod
    def conclude(
        self,
        p_value: float | None = None,
        flagged: np.ndarray | None = None,
        evidence: Mapping[int, float] | None = None,
    ) -> None:
        """Say what the defense itself makes of what it saw, at once or one after the other.

        Raises ValueError for anything but the below.

        p_value: how likely a clean set, or model, would look at least as suspicious; None: that cannot be told.
        flagged: bool (n,), the training examples that it would remove; all False: nothing was found; None: it has no
        rule of its own.
        evidence: what speaks against each class that it judged, by label, on a scale of its own, higher = more.
        """
