"""A restricted reader for files that torch.save wrote: nothing in them can run.

A pickle may name any function of any module and have it called. This reader knows the few names that
BackdoorBench's results need and refuses every other before it is imported. It reads the zip format of torch
1.6 and later by itself: ``torch.load`` would refuse the whole file or trust it. Tensors come out as numpy arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bdbench import BdbenchError, check_memory

_ADVICE = "a machine with more; the files that BackdoorBench writes hold no more than their images"
_STORAGES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}


def load(path: Path) -> Any:
    """The object in a file of torch.save, its tensors as arrays.

    Raises BdbenchError for a name that the format does not need, and for a file that does not read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (root,) = (n[: -len("data.pkl")] for n in archive.namelist() if n.endswith("/data.pkl"))
            if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
                raise BdbenchError(f"{path} was written on a big-endian machine: expected a little-endian file")
            held = sum(member.file_size for member in archive.infolist() if member.filename.startswith(root))
            # In pieces that are put together at their end.
            check_memory(2 * held, f"reading {path}", _ADVICE)
            return _Unpickler(archive.read(root + "data.pkl"), lambda key: archive.read(f"{root}data/{key}")).load()
    except BdbenchError as error:
        raise BdbenchError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise BdbenchError(f"no file at {path}: expected one that torch.save wrote") from None
    except Exception as error:
        # A damaged pickle can fail anywhere, in the unpickler and in whatever it builds.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BdbenchError(f"cannot read {path}: {reason}; expected a zip file that torch.save wrote") from None


class _Storage:
    """What a tensor lies in, 1-dimensional and whole. No file can make one of its own."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What the format's names stand for. Raises BdbenchError for any other."""
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in _ALLOWED:
            raise BdbenchError(
                f"it asks for {module}.{name}, which is refused: expected arrays, tensors, images and plain values only"
            )
        return _ALLOWED[module, name]()

    def persistent_load(self, pid: Any) -> _Storage:
        """A tensor's storage."""
        kind, storage_type, key, _location, _size = pid
        if kind != "storage" or storage_type not in _STORAGES.values():
            raise BdbenchError(f"it holds a {kind!r} of type {storage_type!r}: expected a torch storage")
        return _Storage(np.frombuffer(self._storage(key), storage_type))


def _tensor(held: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    """What torch._utils._rebuild_tensor_v2 does: a copy of a strided view, which must lie in its storage."""
    if not isinstance(held, _Storage):
        raise ValueError(f"a tensor lies in a {type(held).__name__}: expected a storage of the file's")
    storage = held.values
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if min((offset, *shape, *strides)) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {len(storage)}")
    # A stride of 0 makes a tensor of any size of one number.
    check_memory(math.prod(shape) * storage.itemsize, f"a tensor of shape {shape}", _ADVICE)
    steps = tuple(s * storage.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _array(kind: object, _shape: Any, _type: Any) -> np.ndarray:
    """What numpy's own builder does: an empty array, which takes its contents from the state that follows."""
    if kind is not _NDARRAY:
        raise ValueError("an array of another kind than numpy's")
    return _ARRAY(np.ndarray, (0,), b"b")  # type: ignore[operator]


def _encode(text: str, encoding: str) -> bytes:
    """_codecs.encode for the one encoding by which pickle's protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _image() -> Any:
    from PIL import Image

    class Whole(Image.Image):
        """An image that is not larger than its pixels, for which there would be room before they are looked at."""

        def __setstate__(self, state: list[Any]) -> None:
            (width, height), data = state[2], state[4]
            if not 0 < width * height <= 8 * len(data):
                raise ValueError(f"an image of {width} x {height} in {len(data)} bytes")
            super().__setstate__(state)

    return Whole


# numpy's own private builders, as its public __reduce__ names them: they moved between numpy 1 and 2.
_ARRAY, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]  # type: ignore[index]

# Named by arrays and never called: ``numpy.ndarray`` itself would make views of any size of a few bytes.
_NDARRAY = object()

# (module, name) -> what gives its stand-in; looked up only when a file asks for it.
_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("_codecs", "encode"): lambda: _encode,
    ("torch._utils", "_rebuild_tensor_v2"): lambda: _tensor,
    ("numpy", "dtype"): lambda: np.dtype,
    ("numpy", "ndarray"): lambda: _NDARRAY,
    ("numpy.core.multiarray", "_reconstruct"): lambda: _array,
    ("numpy.core.multiarray", "scalar"): lambda: _SCALAR,
    ("numpy._core.multiarray", "_reconstruct"): lambda: _array,
    ("numpy._core.multiarray", "scalar"): lambda: _SCALAR,
    ("PIL.Image", "Image"): _image,
    # An image that was opened and not converted names its format; its pixels are pickled all the same.
    ("PIL.BmpImagePlugin", "BmpImageFile"): _image,
    ("PIL.JpegImagePlugin", "JpegImageFile"): _image,
    ("PIL.PngImagePlugin", "PngImageFile"): _image,
    ("PIL.PpmImagePlugin", "PpmImageFile"): _image,
}
