"""Data sets in the folders that BackdoorBench reads, in its order; where torchvision's are, those serve."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Source, Split, check_regular, decoded, param, reading

_IMAGES = (".JPEG", ".jpg", ".png")


class _Files:
    """Images that are decoded when they are picked: uint8 (m, size, size, 3), resized as torchvision's Resize does."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        """The number of files."""
        return len(self.paths)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Decode the files at ``index``. Raises BdbenchError for one that does not read."""
        paths = [self.paths[i] for i in index]
        return np.stack([decoded(p, str(p), self.size, resampling="bilinear") for p in paths])


def _below(source: Source, dataset: str, marker: str, *folders: str) -> Path:
    """The first of the data root and ``folders`` below it that holds ``marker``. Raises BdbenchError."""
    root = source.root or Path()
    for folder in (root, *(root / f for f in folders)):
        if (folder / marker).exists():
            return folder
    raise BdbenchError(f"{dataset} was not found in {root}: expected {marker} there; --data-root names another folder")


@dataclass(frozen=True, kw_only=True)
class GTSRBFull(Dataset):
    """39,209 + 12,630 colour images of 43 German traffic signs, resized: the official folders Train and Test."""

    name = "gtsrb-full"
    paper = "Stallkamp et al., Man vs. computer, Neural Networks 2012"
    size: int = param(32, help="resize to size x size pixels", low=4)

    def read(self, source: Source) -> ImageData:
        """Files in the order of the official tables. Raises BdbenchError for what is missing."""
        root = _below(source, self.name, "Test/GT-final_test.csv", "gtsrb")
        tables = [root / "Train" / f"{c:05d}" / f"GT-{c:05d}.csv" for c in range(43)]
        train, test = self._split(tables), self._split([root / "Test" / "GT-final_test.csv"])
        return ImageData(train, test, tuple(str(c) for c in range(43)))

    def _split(self, tables: list[Path]) -> Split:
        paths: list[Path] = []
        labels: list[int] = []
        for table in tables:
            try:
                check_regular(table)
                with table.open(newline="") as file:
                    for row in csv.DictReader(file, delimiter=";"):
                        name = row["Filename"]
                        # Whoever made the table is not to say which other files of this machine are read.
                        if not name or name != Path(name).name:
                            raise ValueError(f"{name!r} is no name of a file beside it")
                        paths.append(table.parent / name)
                        labels.append(int(row["ClassId"]))
            except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
                raise BdbenchError(f"cannot read {table}: {error}: expected GTSRB's table of files") from None
        return Split(_Files(paths, self.size), np.array(labels, np.int64))


@dataclass(frozen=True, kw_only=True)
class TinyImageNet(Dataset):
    """100,000 + 10,000 colour images of 64 x 64, 200 classes: the folder tiny-imagenet-200; tests on its val."""

    name = "tiny-imagenet"
    paper = "Le and Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N, 2015"
    size: int = param(64, help="resize to size x size pixels", low=4)

    def read(self, source: Source) -> ImageData:
        """Files sorted by class and name. Raises BdbenchError for what is missing."""
        inside = "tiny-imagenet-200"
        root = _below(source, self.name, "wnids.txt", inside, f"tiny/{inside}")
        with reading(root, "Tiny ImageNet"):
            classes = tuple(sorted((root / "wnids.txt").read_text().split()))
            train, test = _tiny_files(root / "train", classes), _tiny_tests(root / "val", classes)
        return ImageData(self._split(train), self._split(test), classes)

    def _split(self, files: list[tuple[Path, int]]) -> Split:
        return Split(_Files([p for p, _ in files], self.size), np.array([y for _, y in files], np.int64))


def _tiny_files(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of each class, in its folder or in ``images`` there, by their names. Raises BdbenchError if none."""
    found = []
    for label, name in enumerate(classes):
        inside = folder / name / "images"
        own = sorted(p for p in (inside if inside.is_dir() else folder / name).iterdir() if p.suffix in _IMAGES)
        if not own:
            raise BdbenchError(f"{folder / name} holds no images: expected files ending in .JPEG")
        found += [(path, label) for path in own]
    return found


def _tiny_tests(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of val, by class and name: as it is in the archive, or as BackdoorBench moves it into class folders."""
    table = folder / "val_annotations.txt"
    if not table.is_file():
        return _tiny_files(folder, classes)
    label = {name: i for i, name in enumerate(classes)}
    rows = [line.split("\t")[:2] for line in table.read_text().splitlines() if line]
    found = sorted((label[name], file) for file, name in rows)
    return [(folder / "images" / file, y) for y, file in found]
