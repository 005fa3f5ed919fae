"""A data set made ready for a cell: the reserve set apart, the subset taken, decoded, and put into random order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.host import memory
from bdbench.images.data import ImageData, Images, Split, check_labels, checked_split, fingerprint, in_bytes
from bdbench.progress import Track, quiet
from bdbench.seeds import Streams

_READ_AT_ONCE, _BYTES_AT_ONCE = 500, 2**27


def prepare(
    data: ImageData,
    *,
    subset: int | None = None,
    reserve: float = 0.0,
    reserve_from: str = "train",
    streams: Streams,
    track: Track = quiet,
) -> ImageData:
    """Decode and check a data set as a cell of one seed sees it.

    First ``reserve``, a share of the training part, is set apart, then ``subset`` examples of the rest are taken (None:
    all of it), both stratified by class; then the training set is shuffled, so that its order, in which poisons will
    lie, says nothing of the classes that the images are of. The reserve shares no image with the training or the test
    set. reserve_from="test": the share is of the test part, and leaves it; for training sets that come from elsewhere.

    Raises BdbenchError for anything but finite images of one shape with a label each, or shares that leave nothing.
    """
    _check_lengths(data)
    apart, train, test = _divided(data, subset, reserve, reserve_from, streams)
    pool = data.train if reserve_from == "train" else data.test
    prepared = ImageData(
        train=_part("training", data.train, train, data.classes, track),
        test=_part("test", data.test, test, data.classes, track),
        classes=data.classes,
        reserve=_part("reserve", pool, apart, data.classes, track) if len(apart) else None,
        whole=len(data.train.labels),
        whole_test=len(data.test.labels),
    )
    shapes = {np.asarray(s.images).shape[1:] for s in (prepared.train, prepared.test, prepared.reserve) if s}
    if len(shapes) > 1:
        raise BdbenchError("training and test images differ in shape: expected one (H, W, C) for both")
    parts = [prepared.test, *([prepared.reserve] if prepared.reserve and reserve_from == "test" else [])]
    return replace(prepared, reserve=_without_copies(prepared), source=_source(data, parts))


def source_of(data: ImageData, track: Track = quiet) -> str:
    """The ``source`` of a data set that was read and nothing else: ``prepare`` gives it the same.

    Raises BdbenchError for images that do not read.
    """
    _check_lengths(data)
    if isinstance(data.test.images, np.ndarray):
        return _source(data, [])
    whole = np.arange(len(data.test.labels))
    return _source(data, [_part("test", data.test, whole, data.classes, track)])


def stratified(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of ``size`` of the examples that keep the shares of the classes, by largest remainders."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * size / len(labels)
    take = np.floor(exact).astype(int)
    # Among equal remainders chance decides: else the first labels would always be the larger classes.
    take[np.lexsort((rng.permutation(len(take)), take - exact))[: size - take.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(chosen))


def in_turn(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` random indices in such an order that every prefix keeps the shares of the classes."""
    due = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # Its i-th member is due when that share of the class has been reached in the whole.
        due[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(due, kind="stable")[:size]


def _divided(
    data: ImageData, subset: int | None, reserve: float, reserve_from: str, streams: Streams
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the reserve, in order; of the training set, shuffled; and of the test set."""
    train, test = np.arange(len(data.train.labels)), np.arange(len(data.test.labels))
    pool = data.train.labels if reserve_from == "train" else data.test.labels
    size = round(reserve * len(pool))
    if size and size >= len(pool):
        raise BdbenchError(f"reserve={reserve:g} sets apart all {len(pool)} {reserve_from} examples: expected a share")
    apart = in_turn(pool, size, streams("reserve"))
    if reserve_from == "train":
        train = np.setdiff1d(train, apart)
    else:
        test = np.setdiff1d(test, apart)
    if subset is not None:
        if subset > len(train):
            beside = f", beside a reserve of {size}" if size and reserve_from == "train" else ""
            raise BdbenchError(
                f"subset={subset} is not allowed: the data set has {len(train)} training examples{beside}"
            )
        train = train[stratified(data.train.labels[train], subset, streams("subset"))]
    return apart, streams("order").permutation(train), test


def _check_lengths(data: ImageData) -> None:
    for name, split in (("training", data.train), ("test", data.test)):
        if np.ndim(split.labels) != 1 or (isinstance(split.images, np.ndarray) and not split.images.ndim):
            shapes = f"{name} images of shape {np.shape(np.asarray(split.images))}, labels of {np.shape(split.labels)}"
            raise BdbenchError(f"{shapes}: expected (n, H, W, C) and (n,)")
        if len(split.labels) != len(split.images):
            raise BdbenchError(f"{len(split.images)} {name} images but {len(split.labels)} labels: expected as many")
    if data.num_classes < 2:
        raise BdbenchError(f"the data set has {data.num_classes} classes: expected at least 2")


def check_classes(data: ImageData) -> None:
    """Raise BdbenchError unless each class has a name of its own, a str, and a training image.

    An attack on an empty class would make poisons the whole of it, and detectors look perfect.
    """
    check_names(data)
    labels = np.asarray(data.train.labels)
    for part, own in (("training", labels), ("test", np.asarray(data.test.labels))):
        check_labels(part, own, data.num_classes)
    if (empty := np.setdiff1d(np.arange(data.num_classes), labels)).size:
        first = f"{empty[0]} ({data.classes[empty[0]]!r})"
        others = f" and {len(empty) - 1} others have" if len(empty) > 1 else " has"
        raise BdbenchError(f"class {first}{others} no training images: expected some of each of {data.num_classes}")


def check_names(data: ImageData) -> None:
    """Raise BdbenchError unless what was read is a data set whose classes have names of their own."""
    if not isinstance(data, ImageData):
        raise BdbenchError(f"what was read is of {type(data).__name__}: expected bdbench.ImageData")
    if not isinstance(data.classes, tuple | list):
        raise BdbenchError(f"the classes are {data.classes!r:.60}: expected a tuple of names")
    named: dict[str, int] = {}
    for label, name in enumerate(data.classes):
        if not isinstance(name, str):
            raise BdbenchError(
                f"class {label} is called {name!r}, of {type(name).__name__}: expected names that are str"
            )
        if named.setdefault(name, label) != label:
            raise BdbenchError(f"classes {named[name]} and {label} are both called {name!r}: expected different names")


def _part(name: str, split: Split, index: np.ndarray, classes: tuple[str, ...], track: Track) -> Split:
    made = checked_split(name, _decoded(name, split.images, index, track), split.labels[index], classes)
    return Split(made.images, made.labels, split.places[index].astype(np.int64))


def _decoded(name: str, images: np.ndarray | Images, index: np.ndarray, track: Track) -> np.ndarray:
    if isinstance(images, np.ndarray):
        return images[index]
    if not len(index):
        return np.empty((0, 1, 1, 1), np.uint8)
    advance = track(len(index), "read images")

    def read(places: np.ndarray) -> np.ndarray:
        made = in_bytes(f"the {name} images", images[places])
        if made.ndim not in (3, 4) or len(made) != len(places):
            raise BdbenchError(
                f"{len(places)} of the {name} images have shape {made.shape}: expected (n, H, W) or (n, H, W, 1 or 3)"
            )
        return made[..., None] if made.ndim == 3 else made

    # By the first of them it is known what all take, before the others are read.
    first = read(index[:1])
    height, width = first.shape[1:3]
    what = f"reading {len(index)} images of {height} x {width}"
    memory.check_memory(len(index) * first.nbytes, what, "fewer (subset=N), or smaller ones (the data set's size=N)")
    made = np.empty((len(index), *first.shape[1:]), np.uint8)
    made[0] = first[0]
    advance(1)
    step = max(1, min(_READ_AT_ONCE, _BYTES_AT_ONCE // max(1, first.nbytes)))
    for start in range(1, len(index), step):
        piece = read(index[start : start + step])
        if piece.shape[1:] != first.shape[1:]:
            sizes = f"{first.shape[1:3]} and {piece.shape[1:3]}"
            raise BdbenchError(f"images differ in size: {sizes}: expected one size; the data set's size=N resizes")
        made[start : start + len(piece)] = piece
        advance(len(piece))
    return made


def _without_copies(data: ImageData) -> Split | None:
    """The reserve, less the images that are in the training or the test set as well."""
    if data.reserve is None:
        return None
    # Their hashes: the images themselves would be a second copy of the set.
    known = {_hash(image) for split in (data.train, data.test) for image in np.asarray(split.images)}
    images = np.asarray(data.reserve.images)
    own = np.array([_hash(image) not in known for image in images])
    if not own.any():
        return None
    arrays = images[own], data.reserve.labels[own], data.reserve.places[own]
    for array in arrays:
        array.flags.writeable = False  # all defenses of a cell are handed the same
    return Split(*arrays)


def _hash(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _source(data: ImageData, test: list[Split]) -> str:
    """A hash of the data set as it was read, cheap where images are decoded only when they are picked.

    Such images count by what they say of themselves (``fingerprint``, of files their names and sizes), and those of
    the test part, all of which are in ``test``, by their pixels.
    """
    names = np.frombuffer(json.dumps(data.classes).encode(), np.uint8)
    parts = [names, np.asarray(data.train.labels), np.asarray(data.test.labels)]
    for split in (data.train, data.test):
        if isinstance(split.images, np.ndarray):
            parts.append(split.images)
        elif hasattr(split.images, "fingerprint"):
            parts.append(np.frombuffer(split.images.fingerprint().encode(), np.uint8))
    if not isinstance(data.test.images, np.ndarray):
        order = np.argsort(np.concatenate([part.places for part in test]))
        parts.append(np.concatenate([np.asarray(part.images) for part in test])[order])
    return fingerprint(*parts)
