"""Images in parquet files, as Hugging Face's data sets have them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bdbench import (
    BdbenchError,
    Dataset,
    ImageData,
    Listing,
    Source,
    Split,
    check_regular,
    decoded,
    listing_of,
    param,
    reading,
)
from bdbench_datasets.decoding import gathered
from bdbench_datasets.labels import numbered

# Encoded images of a part whose files take no more are read once and kept; of larger ones, one row group at a time.
_KEPT_BYTES = 2**30
# What Hugging Face's data sets call a part that is neither trained on nor the test part.
_VALIDATION = ("validation", "valid", "val", "dev")


@dataclass(frozen=True)
class _File:
    """One file. image: the column of images; names: of the labels, if the schema has them; groups: their lengths."""

    path: Path
    image: str
    labels: np.ndarray
    names: tuple[str, ...]
    groups: tuple[int, ...]


class Rows:
    """Images of some files, decoded when they are picked: uint8 (m, H, W, 3), or (m, H, W, 1) where ``grey``."""

    def __init__(self, files: list[_File], size: int | None, grey: bool) -> None:
        self.files, self.size, self.grey = files, size, grey
        self._groups = [(file, group) for file in files for group in range(len(file.groups))]
        self._starts = np.cumsum([0, *(length for file in files for length in file.groups)])
        kept = sum(file.path.stat().st_size for file in files) <= _KEPT_BYTES
        self._encoded = functools.lru_cache(maxsize=None if kept else 1)(self._read)
        self._opened = functools.lru_cache(maxsize=1)(_opened)

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._starts[-1])

    def fingerprint(self) -> str:
        """What the images are known by before they are decoded: names, sizes and row groups of the files."""
        told = [f"{f.path.name} {f.path.stat().st_size} {f.image} {f.groups}" for f in self.files]
        return hashlib.sha256("\n".join([f"{self.size} {self.grey}", *told]).encode()).hexdigest()

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Decode the rows at ``index``. Raises BdbenchError for one that is no image, or one of another size."""
        return gathered(self._picked(index), len(index), "parquet")

    def _picked(self, index: np.ndarray) -> Iterator[tuple[int, str, np.ndarray]]:
        # In the order of the files, so that no row group is read twice.
        for place in np.argsort(index, kind="stable"):
            group = int(np.searchsorted(self._starts, index[place], side="right")) - 1
            row = int(index[place] - self._starts[group])
            file, within = self._groups[group]
            where = f"in row {row} of row group {within} of {file.path}"
            image = self._encoded(group)[row].as_py()
            if image is None:
                raise BdbenchError(f"there are no bytes {where}: expected the images themselves, not paths of files")
            yield int(place), where, decoded(io.BytesIO(image), where, self.size, "L" if self.grey else "RGB")

    def _read(self, group: int) -> Any:
        """The encoded images of a row group."""
        import pyarrow
        import pyarrow.compute

        file, within = self._groups[group]
        with reading(file.path, "parquet"):
            # Threads cost more than they save: Hugging Face's row groups of images have 100 rows.
            column = self._opened(file.path).read_row_group(within, [file.image], use_threads=False).column(file.image)
            if len(column) != file.groups[within]:
                raise ValueError(
                    f"row group {within} has {len(column)} rows, of {file.groups[within]} that it tells of"
                )
            return pyarrow.compute.struct_field(column, "bytes") if pyarrow.types.is_struct(column.type) else column


@dataclass(frozen=True, kw_only=True)
class Parquet(Dataset):
    """``--data-root DIR`` with train-*.parquet and test-*.parquet in it or in DIR/data: pip install 'bdbench[parquet]'.

    The layout of Hugging Face's image data sets: encoded images in a column of structs of bytes and path, integers as
    labels in another, and the names of the classes in the schema's metadata (without those they are numbers).
    """

    name = "parquet"
    holds = ".parquet files in the layout of Hugging Face, or a folder with them in it or in data/"
    size: int | None = param(None, help="resize to size x size pixels (none: all images have one size)", low=4)
    grey: bool = param(False, help="read one grey channel, not RGB")
    image: str | None = param(None, help="column of images (none: image or img)")
    label: str | None = param(None, help="column of labels (none: label or labels)")
    train: str = param("train", help="what the names of the training files begin with")
    test: str = param("test", help="what the names of the test files begin with, such as validation")

    def read(self, source: Source) -> ImageData:
        """The rows in the order of the files' names. Raises BdbenchError for what is missing or of another layout."""
        _check_installed()
        if source.root is None:
            raise BdbenchError("dataset 'parquet' needs --data-root: expected a folder with train-*.parquet in it")
        train, test = (self._files(_paths(source.root, part)) for part in (self.train, self.test))
        return ImageData(self._part(train), self._part(test), _classes(train + test, source.root))

    @classmethod
    def takes(cls, paths: Sequence[Path]) -> bool:
        """Files whose names end in .parquet, or one folder with such files in it or in its folder data."""
        return bool(_files_at(paths))

    def browse(self, paths: Sequence[Path]) -> Listing:
        """The rows of all files but those of the test part, and those of the test part beside them. Of a folder that
        has training files, as ``read`` knows them, these alone; its validation part is the test part if there is none.
        """
        _check_installed()
        found = _files_at(paths)
        twice = [path for path, times in Counter(path.resolve() for path in found).items() if times > 1]
        if twice:
            raise BdbenchError(f"{twice[0]} is given twice: expected each file once")
        held = _of_part(found, self.test)
        chosen = [path for path in found if path not in held] or held
        beside: list[tuple[str, str]] = []
        if len(paths) == 1 and paths[0].is_dir() and (training := _of_part(found, self.train)):
            _check_whole(training, self.train)
            held = held or [path for part in _VALIDATION for path in _of_part(found, part)]
            chosen = training
            beside = [(path.name, "files of other parts") for path in found if path not in {*training, *held}]
        train, test = self._files(chosen), []
        if held and held != chosen:
            try:
                test = self._files(held)
            except BdbenchError:  # as where the labels are not published; it is not what is scanned
                beside += [(path.name, "files of a test part that cannot be used") for path in held]
        parts = [self._part(part) for part in (train, test) if part]
        listing = listing_of(parts, _named(train + test, found[0].parent), _row_names(train))
        return replace(listing, beside=tuple(beside))

    def _part(self, files: list[_File]) -> Split:
        return Split(Rows(files, self.size, self.grey), np.concatenate([file.labels for file in files]))

    def _files(self, paths: Sequence[Path]) -> list[_File]:
        files = [self._file(path) for path in paths]
        if not sum(len(file.labels) for file in files):
            raise BdbenchError(f"{files[0].path} has no rows: expected images")
        return files

    def _file(self, path: Path) -> _File:
        """What there is to know of a file without its images."""
        import pyarrow

        with reading(path, "parquet"):
            file = _opened(path)
            image = _column(path, file.schema_arrow, "image", self.image, ("image", "img"))
            label = _column(path, file.schema_arrow, "label", self.label, ("label", "labels"))
            labels = file.read([label]).column(label)
        kind = file.schema_arrow.field(image).type
        if not _is_binary(kind.field("bytes").type if _has_bytes(kind) else kind):
            raise BdbenchError(f"{path}: column {image!r} is {kind}: expected encoded images, struct<bytes, path>")
        if not pyarrow.types.is_integer(labels.type) or labels.null_count:
            found = "has no value in some rows" if labels.null_count else f"is {labels.type}"
            raise BdbenchError(f"{path}: column {label!r} {found}: expected integers")
        numbers = labels.to_numpy().astype(np.int64)
        if len(numbers) and numbers.min() < 0:
            raise BdbenchError(
                f"{path}: label {numbers.min()}: expected 0 or more; {self.name}:test=NAME reads other files if these "
                "have no labels"
            )
        groups = tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        return _File(path, image, numbers, _class_names(path, file.schema_arrow, label), groups)


def _check_installed() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise BdbenchError("dataset 'parquet' needs pyarrow: expected pip install 'bdbench[parquet]'") from None


def _classes(files: Sequence[_File], root: Path) -> tuple[str, ...]:
    names = {file.names for file in files if file.names}
    if len(names) > 1:
        raise BdbenchError(f"the files in {root} name their classes differently: expected the same in all")
    return names.pop() if names else numbered([file.labels for file in files], str(root))


def _named(files: Sequence[_File], root: Path) -> tuple[str, ...]:
    """The classes. Raises BdbenchError for a label that has no name among them."""
    classes = _classes(files, root)
    for file in files:
        highest = file.labels.max(initial=0)
        if highest >= len(classes):
            raise BdbenchError(
                f"{file.path}: label {highest}: expected at most {len(classes) - 1}, since its metadata name "
                f"{len(classes)} of the classes"
            )
    return classes


def _row_names(files: Sequence[_File]) -> list[str]:
    """What each row is known by: its file, by as much of its path as tells it from others, and its place there."""
    names = [file.path.name for file in files]
    if len(set(names)) < len(names):
        root = os.path.commonpath([file.path.absolute().parent for file in files])
        names = [os.path.relpath(file.path.absolute(), root) for file in files]
    return [f"{name}#{row}" for name, file in zip(names, files, strict=True) for row in range(len(file.labels))]


def _files_at(paths: Sequence[Path]) -> list[Path]:
    """The parquet files that are meant; none if something else is."""
    if len(paths) == 1 and paths[0].is_dir():
        for folder in (paths[0], paths[0] / "data"):
            if folder.is_dir() and (found := sorted(filter(_is_parquet, folder.iterdir()))):
                return found
        return []
    return sorted(paths) if all(map(_is_parquet, paths)) else []


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet" and not path.name.startswith(".")


def _of_part(paths: Sequence[Path], part: str) -> list[Path]:
    """The files of a part by their names: PART-*.parquet, or PART.parquet."""
    return [path for path in paths if re.match(rf"{re.escape(part)}[-.]", path.name)]


def _check_whole(files: Sequence[Path], part: str) -> None:
    """Raise BdbenchError if files of a part are missing: Hugging Face's names say how many there are."""
    of = re.search(r"-of-(\d+)", files[0].name)
    if of and int(of[1]) != len(files):
        raise BdbenchError(f"files {part}-* in {files[0].parent}: {len(files)}; expected {int(of[1])}, by their names")


def _opened(path: Path) -> Any:
    from pyarrow import parquet

    try:
        check_regular(path)
        return parquet.ParquetFile(path)
    except FileNotFoundError:
        raise BdbenchError(f"cannot read {path} as parquet: it is not there any more") from None


def _paths(root: Path, part: str) -> list[Path]:
    """The files of a part, all of them, in order of their names."""
    for folder in (root, root / "data"):
        found = sorted([*folder.glob(f"{part}-*.parquet"), *folder.glob(f"{part}.parquet")])
        if found:
            break
    else:
        raise BdbenchError(f"no {part}-*.parquet in {root} or in its folder data: expected --data-root to be theirs")
    _check_whole(found, part)
    return found


def _column(path: Path, schema: Any, what: str, asked: str | None, usual: tuple[str, ...]) -> str:
    for name in usual if asked is None else (asked,):
        if name in schema.names:
            return name
    expected = f"{' or '.join(usual)}, or parquet:{what}=NAME" if asked is None else "one of these"
    raise BdbenchError(f"{path} has the columns {', '.join(schema.names)}: no {asked or what!r}; expected {expected}")


def _class_names(path: Path, schema: Any, label: str) -> tuple[str, ...]:
    """What Hugging Face's metadata call the labels; nothing if there are none."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(str(name) for name in told.get("info", {}).get("features", {}).get(label, {}).get("names") or ())
    except (AttributeError, TypeError, ValueError):
        raise BdbenchError(f"{path}: its metadata 'huggingface' are not readable: expected JSON of features") from None


def _has_bytes(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
