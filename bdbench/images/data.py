"""Images and labels at the boundaries: with the truth, and without it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np

from bdbench.errors import BdbenchError

# Resizing and half precision leave values that much outside of 0..1.
_ROUNDING = 1e-3
ANY_OTHER = -1
"""The goal of a row whose attacker wants any label but the image's own: an untargeted attack."""


class Role(IntEnum):
    """What an attack made of a training example.

    POISON: it teaches the attacker's goal, by its label or, where the attack is clean-label, by its image alone.
    COVER: changed and correctly labelled, and of no use to the goal: it teaches where the trigger is to do nothing.
    """

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
    """Labelled images. images: uint8 (n, H, W, C), or Images until they are decoded; labels: int64 (n,).

    index: int64 (n,), the place of each in the part of the data set that it came from; None: the same.
    """

    images: np.ndarray | Images
    labels: np.ndarray
    index: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """``index``, int64 (n,), whether it was given or not."""
        return np.arange(len(self.labels)) if self.index is None else self.index


@dataclass(frozen=True)
class ImageData:
    """A data set. classes: the name of each label, in order.

    What ``bdbench.load`` adds: reserve, the clean examples set apart, of which every prefix keeps the shares of the
    classes; whole, whole_test: how many examples the two parts had; source: a hash of the data set as it was read,
    which no seed, subset or reserve changes.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    reserve: Split | None = None
    whole: int = 0
    whole_test: int = 0
    source: str = ""

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
class Challenge:
    """What the attacker shows the model at test time, and what he wants of it.

    images: uint8 (m, H, W, C); index: int64 (m,), the row of the test set that each was made of, any number of times
    or never; goal: int64 (m,), the label wanted: another than the image's own, its own (a bystander, on which the
    trigger is to do nothing), or ANY_OTHER.
    """

    images: np.ndarray
    index: np.ndarray
    goal: np.ndarray

    def obeyed(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Where a model does what is wanted, bool (m,): it gives the goal, or, for ANY_OTHER, a label but the own one.

        predictions: int64 (m,), on the images, negative where the model refuses, which nobody wants; labels: int64
        (n,), of the test set.
        """
        strayed = (predictions >= 0) & (predictions != labels[self.index])
        return np.where(self.goal == ANY_OTHER, strayed, predictions == self.goal)

    def unchanged(self, test: Split) -> np.ndarray:
        """Which of the images are those of the test set as they are, bool (m,)."""
        return (self.images == np.asarray(test.images)[self.index]).all((1, 2, 3))

    def shown(self, test: Split) -> np.ndarray:
        """Which of the test images a row shows as they are, bool (n,)."""
        found = np.zeros(len(test.labels), bool)
        found[self.index[self.unchanged(test)]] = True
        return found


@dataclass(frozen=True)
class PoisonedData:
    """A training set after an attack, with the truth.

    images: uint8 (n, H, W, C); labels: int64 (n,), the ones trained on; roles: int8 (n,), of Role;
    original_labels: int64 (n,), before the attack; index: int64 (n,), the row of the clean training set that each
    was made of; None: the same, all of it.
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
    checked = checked_split("training", np.array(images), np.array(labels), [""] * num_classes)
    assert isinstance(checked.images, np.ndarray)
    checked.images.flags.writeable = checked.labels.flags.writeable = False
    return TrainingView(checked.images, checked.labels, num_classes)


def in_bytes(what: str, images: np.ndarray) -> np.ndarray:
    """Images as uint8, of the same shape; what: of what an error is to speak.

    Raises BdbenchError for anything but uint8 and finite floats in 0..1, or a rounding outside.
    """
    images = np.asarray(images)
    if np.issubdtype(images.dtype, np.floating):
        if not np.isfinite(images).all():
            raise BdbenchError(f"{what} hold NaN or infinite values: expected finite ones")
        if images.size and (images.min() < -_ROUNDING or images.max() > 1 + _ROUNDING):
            span = f"{images.min():g}..{images.max():g}"
            raise BdbenchError(f"{what} are {images.dtype} in {span}: expected uint8, or floats in 0..1")
        images = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise BdbenchError(f"{what} are {images.dtype}: expected uint8, or floats in 0..1")
    return images


def checked_split(name: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Split:
    """The part of a data set called ``name`` as the harness wants it: uint8 (n, H, W, C) and int64 (n,).

    Raises BdbenchError for anything but finite images of one shape, and labels of ``classes``.
    """
    images, labels = in_bytes(f"the {name} images", images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        turned = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = "; .transpose(0, 2, 3, 1) turns them" if turned else ""
        raise BdbenchError(
            f"the {name} images have shape {images.shape}: expected (n, H, W) or (n, H, W, 1 or 3){hint}"
        )
    if not len(images):
        raise BdbenchError(f"there are no {name} images: expected at least 1")
    if not images.size:
        raise BdbenchError(f"the {name} images have no pixels, in shape {images.shape}: expected at least 1")
    if labels.shape != (len(images),):
        asked = f"one for each of {len(images)} images"
        raise BdbenchError(f"the {name} labels have shape {labels.shape}: expected {asked}")
    check_labels(name, labels, len(classes))
    return Split(np.ascontiguousarray(images), labels.astype(np.int64))


def check_labels(name: str, labels: np.ndarray, classes: int) -> None:
    """Raise BdbenchError for labels of the part called ``name`` that are no integers in 0..classes - 1."""
    if labels.dtype.kind not in "iu":
        raise BdbenchError(f"the {name} labels are {labels.dtype}: expected integers in 0..{classes - 1}")
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        found = f"{labels.dtype} in {labels.min()}..{labels.max()}"
        raise BdbenchError(f"{name} labels are {found}: expected integers in 0..{classes - 1}")


def fingerprint_of(part: Split | TrainingView) -> str:
    """The ``fingerprint`` of images, which are decoded, with their labels."""
    return fingerprint(np.asarray(part.images), part.labels)


def fingerprint(*arrays: np.ndarray) -> str:
    """A hash of the contents, types and shapes of arrays: what a stage was made from."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
