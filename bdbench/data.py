"""Images and labels at the boundaries: with the truth, and without it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.progress import Track, quiet

_READ_AT_ONCE = 500


class Role(IntEnum):
    """What an attack made of a training example. COVER: triggered, but correctly labelled."""

    CLEAN = 0
    POISON = 1
    COVER = 2


class Images(Protocol):
    """What a data set may hand over in place of an array: images that are decoded when they are picked."""

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        """The images at ``index`` (m,) as uint8 (m, H, W, C)."""
        ...


@dataclass(frozen=True)
class Split:
    """Labelled images. images: uint8 (n, H, W, C), or Images until they are picked; labels: int64 (n,)."""

    images: np.ndarray | Images
    labels: np.ndarray


@dataclass(frozen=True)
class ImageData:
    """A data set. classes: the name of each label, in order.

    chosen: bool (N,), which examples of the whole training set these are; None: all of them.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    chosen: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image; known once the images are decoded."""
        height, width, channels = np.asarray(self.test.images).shape[1:]
        return height, width, channels


@dataclass(frozen=True)
class TrainingView:
    """What a defense sees of a training set: never which examples are poisoned.

    images: uint8 (n, H, W, C); labels: int64 (n,), as they are in the set; both read-only.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int


@dataclass(frozen=True)
class PoisonedData:
    """A training set after an attack, with the truth.

    images: uint8 (n, H, W, C); labels: int64 (n,), the ones trained on; roles: int8 (n,), of Role;
    original_labels: int64 (n,), before the attack; index: int64 (n,), which example of the clean training set each
    was; None: the same.
    """

    images: np.ndarray
    labels: np.ndarray
    roles: np.ndarray
    original_labels: np.ndarray
    index: np.ndarray | None = None

    def view(self, num_classes: int) -> TrainingView:
        """The set without the truth. The arrays are copies, so that nothing leads back here."""
        return view_of(self.images, self.labels, num_classes)


def view_of(images: np.ndarray, labels: np.ndarray, num_classes: int) -> TrainingView:
    """A read-only copy of a training set: uint8 (n, H, W, C) and integers (n,). Raises BdbenchError for others."""
    checked = _checked("training", np.array(images), np.array(labels), [""] * num_classes)
    assert isinstance(checked.images, np.ndarray)
    if len(checked.images) != len(checked.labels):
        raise BdbenchError(f"{len(checked.images)} images but {len(checked.labels)} labels: expected as many")
    checked.images.flags.writeable = checked.labels.flags.writeable = False
    return TrainingView(checked.images, checked.labels, num_classes)


def stratified(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of ``size`` examples that keep the shares of the classes, by largest remainders.

    Raises BdbenchError if there are fewer than ``size`` examples.
    """
    if size > len(labels):
        raise BdbenchError(f"subset={size} is not allowed: the data set has {len(labels)} training examples")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * size / len(labels)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: size - take.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(chosen))


def pick(data: ImageData, subset: int | None, rng: np.random.Generator, track: Track = quiet) -> ImageData:
    """Decode and check a data set, keeping ``subset`` of its training examples if that is not None.

    Raises BdbenchError for anything but finite images of one shape with a label each.
    """
    for name, split in (("training", data.train), ("test", data.test)):
        if np.ndim(split.labels) != 1 or (isinstance(split.images, np.ndarray) and not split.images.ndim):
            shapes = f"{name} images of shape {np.shape(np.asarray(split.images))}, labels of {np.shape(split.labels)}"
            raise BdbenchError(f"{shapes}: expected (n, H, W, C) and (n,)")
        if len(split.labels) != len(split.images):
            raise BdbenchError(f"{len(split.images)} {name} images but {len(split.labels)} labels: expected as many")
    if data.num_classes < 2:
        raise BdbenchError(f"the data set has {data.num_classes} classes: expected at least 2")
    labels = data.train.labels
    index = np.arange(len(labels)) if subset is None else stratified(labels, subset, rng)
    train = _checked("training", _decoded(data.train.images, index, track), labels[index], data.classes)
    everything = np.arange(len(data.test.labels))
    test = _checked("test", _decoded(data.test.images, everything, track), data.test.labels, data.classes)
    if np.asarray(train.images).shape[1:] != np.asarray(test.images).shape[1:]:
        raise BdbenchError("training and test images differ in shape: expected one (H, W, C) for both")
    chosen = None if subset is None else np.isin(np.arange(len(labels)), index)
    return ImageData(train, test, data.classes, chosen)


def _decoded(images: np.ndarray | Images, index: np.ndarray, track: Track) -> np.ndarray:
    if isinstance(images, np.ndarray):
        return images[index]
    advance = track(len(index), "read images")
    parts = []
    for start in range(0, len(index), _READ_AT_ONCE):
        parts.append(images[index[start : start + _READ_AT_ONCE]])
        advance(len(parts[-1]))
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            sizes = f"{parts[0].shape[1:3]} and {parts[-1].shape[1:3]}"
            raise BdbenchError(f"images differ in size: {sizes}: expected one size; the data set's size=N resizes")
    return np.concatenate(parts) if parts else np.empty((0, 1, 1, 1), np.uint8)


def _checked(name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Split:
    images, labels = np.asarray(images), np.asarray(labels)
    if np.issubdtype(images.dtype, np.floating):
        if not np.isfinite(images).all():
            raise BdbenchError(f"the {name} images hold NaN or infinite values: expected finite ones")
        if images.size and (images.min() < 0 or images.max() > 1):
            span = f"{images.min():g}..{images.max():g}"
            raise BdbenchError(f"the {name} images are {images.dtype} in {span}: expected uint8, or floats in 0..1")
        images = np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise BdbenchError(f"the {name} images are {images.dtype}: expected uint8, or floats in 0..1")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise BdbenchError(f"the {name} images have shape {images.shape}: expected (n, H, W) or (n, H, W, 1 or 3)")
    if not len(images):
        raise BdbenchError(f"there are no {name} images: expected at least 1")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(classes):
        found = f"{labels.dtype} in {labels.min()}..{labels.max()}"
        raise BdbenchError(f"{name} labels are {found}: expected integers in 0..{len(classes) - 1}")
    return Split(np.ascontiguousarray(images), labels.astype(np.int64))


def fingerprint(*arrays: np.ndarray) -> str:
    """A hash of the contents, types and shapes of arrays: what a stage was made from."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
