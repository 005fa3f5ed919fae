"""Folders of image files as they are in the world, read for a model: what does not read is listed, and skipped."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.host.memory import check_memory
from bdbench.images.decoding import decoded, is_image
from bdbench.images.preparation import in_turn
from bdbench.progress import Track
from bdbench.seeds import Streams
from bdbench.storage.files import reading

_AT_ONCE, _AT_ONCE_BYTES = 512, 2**26
_EXPECTED = "expected image files, or folders of classes with image files in them"


@dataclass(frozen=True)
class Form:
    """How files become images: channels: 3 or 1; size: their side in pixels, resized to (None: their own)."""

    channels: int = 3
    size: int | None = None

    def read(self, path: Path) -> np.ndarray:
        """Uint8 (H, W, C). Raises BdbenchError for a file that does not read."""
        mode: Literal["RGB", "L"] = "RGB" if self.channels == 3 else "L"
        return decoded(path, str(path), self.size, mode)


@dataclass(frozen=True)
class Clean:
    """Clean examples. images: uint8 (n, H, W, C); labels: int64 (n,), None where the files are in no folders of
    classes; skipped: files that do not read, with the reason; found: how many files there are, some of which may have
    been left out.
    """

    root: Path
    images: np.ndarray
    labels: np.ndarray | None
    found: int
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def class_folders(root: Path) -> tuple[str, ...]:
    """The names of the folders in ``root`` that hold images, sorted. Raises BdbenchError if it is no folder."""
    return tuple(map(_name, _class_folders(root)))


def read_clean(root: Path, classes: Sequence[str], form: Form, most: int, seed: int, track: Track) -> Clean:
    """At most ``most`` images of a folder, of all classes alike, in such an order that prefixes are, too.

    classes: what the folders in it may be called; their places are the labels. Raises BdbenchError for folders of
    another name, for a folder without images, and for images of several sizes where the form names none.
    """
    folders = _class_folders(root)
    names, flat = [_name(folder) for folder in folders], _images(root)
    if names and flat:
        raise BdbenchError(f"{root} has images beside folders of classes ({flat[0].name}): expected either")
    odd = sorted(set(names) - set(classes))
    if odd:
        shown = f"one of {', '.join(classes)}" if len(classes) <= 20 else f"one of {len(classes)} names of classes"
        raise BdbenchError(f"{root / odd[0]} is no folder of a class: expected {shown}")
    paths = [path for folder in folders for path in _images(folder)] or flat
    if not paths:
        raise BdbenchError(f"{root} holds no images: {_EXPECTED}")
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[_name(path.parent)] if names else 0 for path in paths], np.int64)
    rng = Streams(seed)("clean")
    order = in_turn(labels, min(most, len(paths)), rng)
    chosen = [paths[i] for i in order]
    images, read, skipped = _decoded(chosen, form, track)
    if not len(images):
        raise BdbenchError(f"{root} holds no images that read: {skipped[0][1]}")
    return Clean(root, images, labels[order][read] if names else None, len(paths), skipped)


def below(root: Path) -> list[Path]:
    """All images below a folder, at any depth, sorted. Raises BdbenchError for a folder without any."""
    _check_folder(root)
    with reading(root, "a folder"):
        paths = sorted(path for path in root.rglob("*") if is_image(path) and not _hidden(path.relative_to(root)))
    if not paths:
        raise BdbenchError(f"{root} holds no images: {_EXPECTED}")
    return paths


def batches(
    paths: Sequence[Path], form: Form, shape: tuple[int, int, int], skipped: list[tuple[Path, str]], track: Track
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Images, some hundred at a time: paths, and uint8 (m, H, W, C) of ``shape``.

    What does not read, or is of another shape, is added to ``skipped``.
    """
    advance = track(len(paths), "score inputs")
    at_once = max(1, min(_AT_ONCE, _AT_ONCE_BYTES // math.prod(shape)))
    for start in range(0, len(paths), at_once):
        part = paths[start : start + at_once]
        found = [(path, image) for path in part if (image := _fitting(path, form, shape, skipped)) is not None]
        if found:
            yield [path for path, _ in found], np.stack([image for _, image in found])
        advance(len(part))


def _fitting(path: Path, form: Form, shape: tuple[int, int, int], skipped: list[tuple[Path, str]]) -> np.ndarray | None:
    try:
        image = form.read(path)
    except BdbenchError as error:
        skipped.append((path, str(error)))
        return None
    if image.shape != shape:
        size = " x ".join(map(str, image.shape[:2]))
        skipped.append((path, f"it is {size}: the model takes {shape[0]} x {shape[1]}"))
        return None
    return image


def _decoded(paths: Sequence[Path], form: Form, track: Track) -> tuple[np.ndarray, np.ndarray, list[tuple[Path, str]]]:
    """The images that read, the places of these, and those that do not."""
    images: list[np.ndarray] = []
    places: list[int] = []
    skipped: list[tuple[Path, str]] = []
    advance = track(len(paths), "read clean images")
    for place, path in enumerate(paths):
        try:
            image = form.read(path)
        except BdbenchError as error:
            skipped.append((path, str(error)))
        else:
            if images and image.shape != images[0].shape:
                one, other = (" x ".join(map(str, i.shape[:2])) for i in (images[0], image))
                raise BdbenchError(
                    f"images differ in size: {paths[places[0]]} is {one}, {path} is {other}: expected --size N, the "
                    "side in pixels that the model was trained with"
                )
            if not images:
                check_memory(2 * len(paths) * image.nbytes, f"{len(paths)} clean images of {path.parent}")
            images.append(image)
            places.append(place)
        advance(1)
    return np.stack(images) if images else np.empty((0, 1, 1, 1), np.uint8), np.array(places, np.int64), skipped


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise BdbenchError(f"{root} is {'no folder' if root.exists() else 'not there'}: {_EXPECTED}")


def _class_folders(root: Path) -> list[Path]:
    _check_folder(root)
    with reading(root, "a folder"):
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder for folder in folders if _images(folder)]


def _name(folder: Path) -> str:
    """What a folder calls its class: two systems may write the accents of one name in two ways."""
    return unicodedata.normalize("NFC", folder.name)


def _images(folder: Path) -> list[Path]:
    with reading(folder, "a folder of images"):
        return sorted(path for path in folder.iterdir() if is_image(path))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
