"""Image files in class folders."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Source, Split, param
from bdbench_datasets.decoding import decoded, gathered

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


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
        return hashlib.sha256("\n".join([str(self.size), *told]).encode()).hexdigest()

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Decode the files at ``index``. Raises BdbenchError for a broken file, or one of another size."""
        return gathered(
            ((i, str(self.paths[j]), self._decode(self.paths[j])) for i, j in enumerate(index)),
            len(index),
            "imagefolder",
        )

    def _decode(self, path: Path) -> np.ndarray:
        return decoded(path, str(path), self.size)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """``--data-root DIR`` with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (or png, ...), read as RGB."""

    name = "imagefolder"
    size: int | None = param(None, help="resize to size x size pixels (none: all files have one size)", low=4)

    def read(self, source: Source) -> ImageData:
        """The files below the root; classes in order of their names. Raises BdbenchError for what is missing."""
        if source.root is None:
            raise BdbenchError("dataset 'imagefolder' needs --data-root: expected a folder with train/ and test/")
        for part in ("train", "test"):
            if not (source.root / part).is_dir():
                raise BdbenchError(f"{source.root / part} is not there: expected class folders of images in it")
        classes = _classes(source.root / "train")
        extra = set(_classes(source.root / "test")) - set(classes)
        if extra:
            raise BdbenchError(f"test class {min(extra)!r} has no training folder: expected {', '.join(classes)}")
        if len(classes) < 2:
            raise BdbenchError(f"{source.root / 'train'} has {len(classes)} class folders: expected at least 2")
        train, test = (self._split(source.root / part, classes) for part in ("train", "test"))
        return ImageData(train, test, classes)

    def _split(self, root: Path, classes: tuple[str, ...]) -> Split:
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            if (root / name).is_dir():
                found = sorted(p for p in (root / name).iterdir() if p.suffix.lower() in _SUFFIXES)
                paths += found
                labels += [label] * len(found)
        if not paths:
            raise BdbenchError(f"{root} holds no images: expected files ending in {', '.join(sorted(_SUFFIXES))}")
        return Split(Files(paths, self.size), np.array(labels, np.int64))


def _classes(folder: Path) -> tuple[str, ...]:
    """The class folders, in order of their names; hidden ones are a tool's, not a class."""
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
