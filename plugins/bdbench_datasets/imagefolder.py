"""Image files in class folders."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench import (
    IMAGE_SUFFIXES,
    BdbenchError,
    Dataset,
    ImageData,
    Listing,
    Source,
    Split,
    check_regular,
    decoded,
    notice,
    param,
    reading,
)
from bdbench_datasets.decoding import gathered

_ENDINGS = ", ".join(sorted(IMAGE_SUFFIXES))
# What the folder of images that are not trained on may be called.
_TEST = ("test", "val", "valid", "validation")
# Folders that other programs leave behind and do not hide.
_TOOLS = {"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


class Files:
    """Images that are decoded when they are picked: uint8 (m, size, size, 3) or their own size."""

    def __init__(self, paths: list[Path], size: int | None) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        """The number of files."""
        return len(self.paths)

    def fingerprint(self) -> str:
        """What the files are known by before they are decoded: classes, names and sizes."""
        told = [f"{p.parent.name}/{p.name} {p.stat().st_size}" for p in self.paths]
        # Names need not be text: what is none comes back as the bytes that it was.
        return hashlib.sha256("\n".join([str(self.size), *told]).encode(errors="surrogateescape")).hexdigest()

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Decode the files at ``index``. Raises BdbenchError for a broken file, or one of another size."""
        return gathered(
            ((i, str(self.paths[j]), self._decode(self.paths[j])) for i, j in enumerate(index)),
            len(index),
            "imagefolder",
        )

    def _decode(self, path: Path) -> np.ndarray:
        return _opened(path, self.size)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """``--data-root DIR`` with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (or png, ...), read as RGB."""

    name = "imagefolder"
    holds = "a folder with a folder of images for each class, or with such folders in train/"
    size: int | None = param(None, help="resize to size x size pixels (none: all files have one size)", low=4)

    def read(self, source: Source) -> ImageData:
        """The files below the root; classes in order of their names. Raises BdbenchError for what is missing.

        Class folders are those with an image directly in them, but for hidden ones. What is passed over is told.
        """
        if source.root is None:
            raise BdbenchError("dataset 'imagefolder' needs --data-root: expected a folder with train/ and test/")
        for part in ("train", "test"):
            if not (source.root / part).is_dir():
                raise BdbenchError(f"{source.root / part} is not there: expected class folders of images in it")
        train, test = _Part(source.root / "train", whole=True), _Part(source.root / "test")
        classes = tuple(sorted(train.files))
        extra = set(test.files) - set(classes)
        if extra:
            raise BdbenchError(f"test class {min(extra)!r} has no training folder: expected {', '.join(classes)}")
        if len(classes) < 2:
            raise BdbenchError(f"{train.root} has {len(classes)} class folders: expected at least 2")
        return ImageData(self._split(train, classes), self._split(test, classes), classes)

    @classmethod
    def takes(cls, paths: Sequence[Path]) -> bool:
        """One folder, below which there is a folder with a file that is an image by its name."""
        if len(paths) != 1 or not paths[0].is_dir():
            return False
        root, _ = _roots(paths[0])
        with reading(root, "a folder of class folders"):
            return any(map(_has_images, root.iterdir()))

    def browse(self, paths: Sequence[Path]) -> Listing:
        """The images of the class folders in the folder, or in its folder train; those of test beside them."""
        root = paths[0]
        train, test = _roots(root)
        part = _Part(train)
        classes = tuple(sorted(part.files))
        if train == root:
            return _listed(part, root, classes)
        held, aside = None, [path for path in sorted(root.iterdir()) if path not in (train, test)]
        beside = [(path.name, f"things beside {train.name}") for path in aside]
        if test is not None:
            found = _Part(test)
            held = _listed(found, root, classes)
            strange = sorted(set(found.files) - set(classes))
            beside += [(f"{test.name}/{name}", f"classes that {train.name} does not have") for name in strange]
        return _listed(part, root, classes, held, beside)

    def _split(self, part: _Part, classes: tuple[str, ...]) -> Split:
        paths = [path for name in classes for path in part.files.get(name, [])]
        labels = [label for label, name in enumerate(classes) for _ in part.files.get(name, [])]
        if not paths:
            raise BdbenchError(f"{part.root} holds no images: expected files ending in {_ENDINGS}{part.told()}")
        if part.skipped:
            notice(f"{part.root}: read {len(paths)} images of {len(part.files)} classes{part.told()}")
        return Split(Files(paths, self.size), np.array(labels, np.int64))


def _opened(path: Path, size: int | None = None) -> np.ndarray:
    """A file decoded. Raises BdbenchError for one that does not read; a pipe would be waited for."""
    try:
        check_regular(path)
    except FileNotFoundError:
        raise BdbenchError(f"cannot read the image {path}: it is not there any more") from None
    return decoded(path, str(path), size)


def _roots(folder: Path) -> tuple[Path, Path | None]:
    """Where the class folders are that are trained on, and those that are not, if there are any.

    A folder ``train`` of images is a class, of trains: that of a training part has folders of images.
    """
    train = folder / "train"
    if not train.is_dir() or (_has_images(train) and not any(map(_has_images, train.iterdir()))):
        return folder, None
    return folder / "train", next((folder / name for name in _TEST if (folder / name).is_dir()), None)


def _listed(
    part: _Part,
    root: Path,
    classes: tuple[str, ...],
    test: Listing | None = None,
    beside: Sequence[tuple[str, str]] = (),
) -> Listing:
    """The images of a part that are of ``classes``, with names below ``root``."""
    paths = [path for name in classes for path in part.files.get(name, [])]
    labels = [label for label, name in enumerate(classes) for _ in part.files.get(name, [])]
    left = [(str(path.relative_to(root)), kind) for kind, found in part.skipped.items() for path in found]
    return Listing(
        names=[str(path.relative_to(root)) for path in paths],
        labels=np.array(labels, np.int64),
        classes=classes,
        open=lambda place: _opened(paths[place]),
        passed_over=tuple(left),
        beside=tuple(beside),
        root=root,
        test=test,
        parallel=True,
    )


def _has_images(folder: Path) -> bool:
    """Whether files that are images by their names lie in a folder itself; not for what is none."""
    return folder.is_dir() and any(map(_is_image, folder.iterdir()))


def _is_image(path: Path) -> bool:
    """Whether a file is an image by its name, and no hidden one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


class _Part:
    """What is in ``root``: the images of each class folder, sorted, by its name, and what was passed over, by kind.

    whole: a class folder without images is an error.
    """

    def __init__(self, root: Path, whole: bool = False) -> None:
        self.root, self._whole = root, whole
        self.files: dict[str, list[Path]] = {}
        self.skipped: dict[str, list[Path]] = {}
        with reading(root, "a folder of class folders"):
            for folder in sorted(root.iterdir()):
                if not folder.is_dir():
                    self._skip("files beside the class folders", folder)
                elif folder.name.startswith(".") or folder.name in _TOOLS:
                    self._skip("hidden folders", folder)
                else:
                    self._read(folder)

    def told(self) -> str:
        """What was passed over: how many of each kind, and one of them; nothing if that is nothing."""
        kinds = [f"{len(paths)} {kind} ({paths[0].relative_to(self.root)})" for kind, paths in self.skipped.items()]
        return f"; left out: {', '.join(kinds)}" if kinds else ""

    def _read(self, folder: Path) -> None:
        with reading(folder, "a folder of images"):
            found = sorted(folder.iterdir())
        images = []
        for path in found:
            if path.is_dir():
                self._skip("nested folders", path)
            elif not path.exists():
                self._skip("links to nothing", path)
            elif _is_image(path):
                images.append(path)
            else:
                self._skip("files that are no images by their names", path)
        if not images:
            if not self._whole:
                self._skip("folders without images", folder)
                return
            raise BdbenchError(f"{folder} holds no images: expected files ending in {_ENDINGS}{self.told()}")
        # Two systems may write the accents of one name in two ways.
        name = unicodedata.normalize("NFC", folder.name)
        if name in self.files:
            raise BdbenchError(f"{self.root} has two folders {name!r}, in two Unicode forms: expected one for a class")
        self.files[name] = images

    def _skip(self, kind: str, path: Path) -> None:
        self.skipped.setdefault(kind, []).append(path)
