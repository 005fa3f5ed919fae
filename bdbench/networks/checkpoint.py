"""Files of weights, as safetensors or as torch's state dicts: whoever wrote one, nothing in it can run."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from bdbench.errors import BdbenchError
from bdbench.host import memory
from bdbench.storage.files import check_regular, digest_of, reading
from bdbench.storage.store import write_file

if TYPE_CHECKING:
    import torch

    from bdbench.networks.training import Victim

# Where a safetensors file of ours says what its model is.
_OWN = "bdbench"
# Before it, weights_only could be made to run code (CVE-2025-32434) or to write over memory (CVE-2026-24747).
_SAFE_TORCH = (2, 10)
_EXPECTED = "expected a safetensors file, or what torch.save(model.state_dict(), FILE) wrote"
# As many pixels a side as an image may have that a file speaks of.
_SIDE = 4096
_INSTALL = "pip install 'bdbench[safetensors]'"


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, by their names there, in the types they have there.

    told: what a file of ours says of its model: model, classes, shape, mean and std; {} of others. digest: of the file.
    """

    path: Path
    format: Literal["safetensors", "torch"]
    tensors: Mapping[str, torch.Tensor]
    told: Mapping[str, Any]
    digest: str


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path``.

    Raises BdbenchError for one that is not there, does not read, could run code, or needs more memory than there is.
    """
    try:
        check_regular(path)
    except FileNotFoundError:
        raise BdbenchError(f"no file at {path}: {_EXPECTED}") from None
    with reading(path, "a checkpoint"), path.open("rb") as file:
        head = file.read(9)
        memory.check_memory(_unpacked(file), f"reading {path}", "a smaller checkpoint")
    if path.suffix == ".safetensors" or head[8:] == b"{":
        tensors, told = _safetensors(path)
        return Checkpoint(path, "safetensors", _checked(path, tensors), told, digest_of(path))
    if head[:4] != b"PK\x03\x04" and head[:1] != b"\x80":
        raise BdbenchError(f"{path} is no checkpoint by its first bytes: {_EXPECTED}")
    return Checkpoint(path, "torch", _checked(path, _state(path, _unpickled(path))), {}, digest_of(path))


def _unpacked(file: BinaryIO) -> int:
    """Bytes of what is in an open file: torch's own are zip archives, which others may have packed tightly."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return sum(member.file_size for member in archive.infolist())
    return file.seek(0, 2)


def write(path: Path, victim: Victim, told: Mapping[str, Any]) -> None:
    """Write a model's weights as safetensors, with what ``bdbench inspect`` has to know of it (see ``Checkpoint``).

    Raises BdbenchError without safetensors, or if the place cannot be written.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise BdbenchError(f"writing {path} needs safetensors: expected {_INSTALL}") from None
    told = {**told, "mean": victim.mean.tolist(), "std": victim.std.tolist()}
    # Copies: two names of one tensor are not written.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in victim.network.state_dict().items()}
    write_file(path, save(state, {"format": "pt", _OWN: json.dumps(told)}))


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise BdbenchError(f"reading {path} needs safetensors: expected {_INSTALL}") from None
    with reading(path, "safetensors"), safe_open(path, framework="pt") as file:
        told = json.loads((file.metadata() or {}).get(_OWN, "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, _told(path, told)  # noqa: SIM118


def _told(path: Path, told: Any) -> dict[str, Any]:
    """What the file says of its model, if it is of the types that it should be."""
    known: dict[str, tuple[type, type]] = {
        "model": (str, str),
        "classes": (list, str),
        "shape": (list, int),
        "mean": (list, float),
        "std": (list, float),
    }
    fits = isinstance(told, dict) and all(
        isinstance(told[k], outer) and all(isinstance(v, inner) for v in told[k])
        for k, (outer, inner) in known.items()
        if k in told
    )
    if not fits or ("shape" in told and (len(told["shape"]) != 3 or not all(1 <= n <= _SIDE for n in told["shape"]))):
        raise BdbenchError(f"{path}: what it says of its model is damaged: expected what bdbench export victim writes")
    return {k: told[k] for k in known if k in told}


def _unpickled(path: Path) -> Any:
    """What torch.save wrote, if that is nothing but tensors and plain values."""
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_TORCH:
        safe = ".".join(map(str, _SAFE_TORCH))
        raise BdbenchError(
            f"{path} is a pickle, and torch {torch.__version__} can be made to run what is in one: expected "
            f"safetensors, or torch >= {safe}"
        )
    with reading(path, "a state dict"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.\w+)", str(error))
            asks = f"asks for {named[1]}" if named else "holds more than tensors"
            raise BdbenchError(
                f"{path} is refused: it is a pickle that {asks}, and reading that could run anything: {_EXPECTED}"
            ) from None


def _state(path: Path, loaded: Any) -> dict[str, Any]:
    """The one mapping of names to tensors in what a training script saved: that itself, or a value of it."""
    import torch

    def is_state(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
        )

    if is_state(loaded):
        return dict(loaded)
    inner = {k: v for k, v in loaded.items() if is_state(v)} if isinstance(loaded, Mapping) else {}
    if len(inner) > 1:
        names = ", ".join(map(repr, inner))
        raise BdbenchError(f"{path} holds {len(inner)} state dicts, {names}: expected one; save one by itself")
    if not inner:
        raise BdbenchError(f"{path} holds a {type(loaded).__name__} and no state dict: {_EXPECTED}")
    return dict(next(iter(inner.values())))


def _checked(path: Path, tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors, all of them plain ones in memory. None is converted before its shape is known to fit."""
    import torch

    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        if not plain or tensor.is_complex():
            found = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
            raise BdbenchError(f"{path}: {name} is {found}: expected plain floating-point weights")
    if not tensors:
        raise BdbenchError(f"{path} holds no weights: {_EXPECTED}")
    return dict(tensors)
