"""What every component is, and the contracts of data sets, architectures, metrics and report sections.

Those of attacks are in ``attacks``, those of defenses in ``defenses``. A component is a frozen, keyword-only dataclass.
Its fields are its parameters (``params.param``), its docstring is its help, ``name`` is what users type, ``paper`` is
where it comes from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bdbench.components import params
from bdbench.components.params import param
from bdbench.errors import BdbenchError
from bdbench.images.data import ImageData
from bdbench.images.listing import Listing
from bdbench.networks.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


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

    def files(self) -> tuple[Path, ...]:
        """The files that it reads beside what the harness hands to it.

        They are to be there before anything is trained, and a run is known, and recorded, by what they hold.
        """
        return ()


@dataclass(frozen=True)
class Source:
    """Where a data set may read from. root: the user's data folder, if given; download: whether it may fetch."""

    root: Path | None = None
    download: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset(Component, ABC):
    """Labelled images with a training and a test part.

    recipes_of: the data set by whose recipes models are trained on this one; "": its own, by its name; holds: what it
    ``takes``, in words, such as "one .npz file"; "": nothing.
    """

    kind: ClassVar[str] = "dataset"
    recipes_of: ClassVar[str] = ""
    holds: ClassVar[str] = ""
    subset: int | None = param(None, help="training examples to keep: stratified by class, seeded", low=1)

    @abstractmethod
    def read(self, source: Source) -> ImageData:
        """The whole set; the harness picks the subset and decodes only that.

        Raises BdbenchError, saying where it looked, if the files are not there.
        """

    @classmethod
    def takes(cls, paths: Sequence[Path]) -> bool:
        """Whether what lies at these paths, all of which are there, is for ``browse``. It is not read for that."""
        return False

    def browse(self, paths: Sequence[Path]) -> Listing:
        """What lies at these paths, image by image, for ``bdbench scan``: an odd file is passed over or does not open.

        Raises BdbenchError for what is no such set at all.
        """
        raise BdbenchError(f"dataset {self.name!r} takes no paths: expected --data-root")


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
        default = self.default_recipe(dataset, shape)
        if not isinstance(default, Recipe):
            told = f"model {self.name!r} has a default_recipe of {type(default).__name__}"
            raise BdbenchError(f"{told}: expected a bdbench.Recipe")
        return replace(default, **{k: v for k, v in own.items() if v is not None})


@dataclass(frozen=True)
class Measured:
    """What a metric plugin is given: one finished cell.

    Arrays are (n,): roles: int8, of Role; scores: float64, and kept: bool, of what was removed at the budget, are None
    for all but detectors of the training set. before, after: the accuracies of the record; after is empty where nothing
    was done to the model.
    """

    roles: np.ndarray
    scores: np.ndarray | None
    kept: np.ndarray | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]


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


@dataclass(frozen=True)
class ReversedTrigger:
    """What a model detector made that sends images to ``label``, or what it found of that label.

    title: what is to be seen in the picture, in some words; picture: uint8 (H, W, 3 or 1).
    """

    label: int
    title: str
    picture: np.ndarray
