"""What a user has, image by image, any of which may be unreadable: what ``bdbench scan`` reads from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.images.data import Images, Split, checked_split


@dataclass(frozen=True)
class Listing:
    """Labelled images before any of them is decoded.

    names: what the user knows each by, a path below ``root`` where they are files; labels: int64 (n,); classes: the
    name of each label, in order; open: decodes the image at a place, uint8 (H, W, 1 or 3) in its own size, and raises
    BdbenchError for one that does not read; passed_over: what else lay there, by name, and why it is no image of these;
    beside: what lies outside of the part that is listed, likewise, and is no fault of the set; root: the folder that
    names are paths below, None where an image is no file of its own; test: what the set has beside its training part,
    None if it has no such part; parallel: whether several threads may open images at once.
    """

    names: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    open: Callable[[int], np.ndarray]
    passed_over: tuple[tuple[str, str], ...] = ()
    beside: tuple[tuple[str, str], ...] = ()
    root: Path | None = None
    test: Listing | None = None
    parallel: bool = False

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)


def listing_of(parts: Sequence[Split], classes: tuple[str, ...], names: Sequence[str] | None = None) -> Listing:
    """The training part of a set, with its test part, if there is one, beside it.

    parts: arrays, uint8 or floats in 0..1, or Images that give one image of its own size when they are asked for one;
    names: of the training images (None: "train/0", ...). Raises BdbenchError for arrays of another kind.
    """
    listed: Listing | None = None
    for part, title in reversed(list(zip(parts, ("train", "test"), strict=False))):
        known = names if title == "train" and names is not None else _Numbered(title, len(part.labels))
        images, labels = part.images, np.asarray(part.labels)
        if isinstance(images, np.ndarray):
            checked = checked_split("training" if title == "train" else title, images, labels, classes)
            images, labels = checked.images, checked.labels
        listed = Listing(known, labels.astype(np.int64), classes, _one_by_one(images), test=listed)
    assert listed is not None
    return listed


def _one_by_one(images: np.ndarray | Images) -> Callable[[int], np.ndarray]:
    if isinstance(images, np.ndarray):
        return lambda place: images[place]
    return lambda place: images[np.array([place])][0]


class _Numbered(Sequence[str]):
    """The names of images that have none."""

    def __init__(self, title: str, count: int) -> None:
        self._title, self._count = title, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [f"{self._title}/{i}" for i in range(self._count)[place]]
        return f"{self._title}/{range(self._count)[place]}"
