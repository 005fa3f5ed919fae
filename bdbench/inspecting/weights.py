"""Weights from elsewhere under the names of a network here, or one line on why they are not its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from bdbench.components import configs
from bdbench.components.interfaces import Architecture
from bdbench.display.words import counted
from bdbench.errors import BdbenchError
from bdbench.networks.checkpoint import Checkpoint

Tensors = Mapping[str, torch.Tensor]
# Counted by batch norm and used by nothing that predicts; old checkpoints have none.
_COUNTER = "num_batches_tracked"
_SHOWN = 3
# By which a number of a network, such as its width, is often another one.
_FACTORS = (1 / 8, 1 / 4, 1 / 2, 2, 4, 8)


def fitted(
    checkpoint: Checkpoint, network: torch.nn.Module, architecture: Architecture, shape: tuple[int, ...], classes: int
) -> dict[str, torch.Tensor]:
    """The checkpoint's weights as ``network``'s state dict, in its types.

    Names may differ by what stands before all of them (``module.``), and in one layer apart, such as the head.
    shape: of an image, (H, W, C). Raises BdbenchError for weights of another network, or that are not finite.
    """
    known = network.state_dict()
    given = named(checkpoint.tensors, known)
    _check_names(checkpoint, given, known, architecture, shape, classes)
    _check_shapes(checkpoint, given, known, architecture, shape, classes)
    made = {name: given.get(name, like).to("cpu", like.dtype) for name, like in known.items()}
    broken = [name for name, tensor in made.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise BdbenchError(f"{checkpoint.path}: {broken[0]} holds NaN or infinite values: expected finite weights")
    return made


def named(given: Tensors, known: Tensors) -> dict[str, torch.Tensor]:
    """What is given under the names that are known, as far as these can be told; the rest under its own."""
    given = dict(given)
    while not given.keys() & known.keys():
        bare = _bare(given)
        if bare is None or given.keys() <= _inner(known).keys():
            break
        given = bare
    inner = _inner(known)
    # As far as they go: a network here may have its layers in a part of their own, and its head in another.
    renamed = {name if name in known else inner.get(name, name): tensor for name, tensor in given.items()}
    return _with_one_layer_renamed(renamed, known) if len(renamed) == len(given) else given


def _bare(given: Tensors) -> dict[str, torch.Tensor] | None:
    """The same without the word that all names begin with; None if there is none."""
    first = {name.partition(".")[0] for name in given}
    if len(first) != 1 or not all("." in name for name in given):
        return None
    return {name.partition(".")[2]: tensor for name, tensor in given.items()}


def _inner(known: Tensors) -> dict[str, str]:
    """Each known name by what follows its first word."""
    return {name.partition(".")[2]: name for name in known if "." in name}


def _with_one_layer_renamed(given: dict[str, torch.Tensor], known: Tensors) -> dict[str, torch.Tensor]:
    extra, missing = (
        {name: tensors[name] for name in sorted(tensors.keys() - others.keys())}
        for tensors, others in ((given, known), (known, given))
    )
    for names in (extra, missing):
        if len({name.rpartition(".")[0] for name in names}) != 1:
            return given
    last = {name.rpartition(".")[2]: name for name in missing}
    if last.keys() != {name.rpartition(".")[2] for name in extra}:
        return given
    return {last[name.rpartition(".")[2]] if name in extra else name: tensor for name, tensor in given.items()}


def _check_names(
    checkpoint: Checkpoint,
    given: Tensors,
    known: Tensors,
    architecture: Architecture,
    shape: tuple[int, ...],
    classes: int,
) -> None:
    missing = [name for name in known if name not in given and not name.endswith(_COUNTER)]
    extra = [name for name in given if name not in known]
    if missing or extra:
        told = [f"it lacks {_some(missing)}"] if missing else []
        told += [f"it has {_some(extra)}, which the model has not"] if extra else []
        raise BdbenchError(
            f"{checkpoint.path} is not of model {_spec(architecture)!r}: {' and '.join(told)}: "
            f"expected the architecture that it was trained as{_hint(checkpoint, architecture, shape, classes)}"
        )


def _check_shapes(
    checkpoint: Checkpoint,
    given: Tensors,
    known: Tensors,
    architecture: Architecture,
    shape: tuple[int, ...],
    classes: int,
) -> None:
    odd = {n: (tuple(given[n].shape), tuple(known[n].shape)) for n in known if n in given}
    odd = {name: (theirs, ours) for name, (theirs, ours) in odd.items() if theirs != ours}
    if not odd:
        return
    name, (theirs, ours) = next(iter(odd.items()))
    if all(their[1:] == our[1:] and our[:1] == (classes,) for their, our in odd.values()):
        raise BdbenchError(
            f"{checkpoint.path} is of {theirs[0]} classes ({name} is {_sizes(theirs)}) and {classes} are named: "
            f"expected {theirs[0]} classes"
        )
    if all(len(our) == 4 and (their[0], *their[2:]) == (our[0], *our[2:]) for their, our in odd.values()):
        raise BdbenchError(
            f"{checkpoint.path} takes images of {counted(theirs[1], 'channel')} ({name} is {_sizes(theirs)}) and they "
            f"have {shape[2]}: expected channels={theirs[1]}"
        )
    raise BdbenchError(
        f"{checkpoint.path} is not of model {_spec(architecture)!r} for images of {_sizes(shape)}: {name} is "
        f"{_sizes(theirs)}, expected {_sizes(ours)}; the image size and the model are to be those that it was "
        f"trained with{_hint(checkpoint, architecture, shape, classes)}"
    )


def _hint(checkpoint: Checkpoint, architecture: Architecture, shape: tuple[int, ...], classes: int) -> str:
    """With which value of one of its parameters the weights would fit, or which parameters there are."""
    for other, devices in _others(architecture):
        if any(_fits(checkpoint, other, shape, classes, device) for device in devices):
            return f": they fit model {_spec(other)!r}"
    own = [field.name for field in _own(architecture)]
    return f" (model {architecture.name!r} has the parameters {', '.join(own)})" if own else ""


def _own(architecture: Architecture) -> list[dataclasses.Field[Any]]:
    """The parameters that only this kind of model has."""
    shared = {field.name for field in dataclasses.fields(Architecture)}
    return [field for field in dataclasses.fields(architecture) if field.name not in shared]


def _others(architecture: Architecture) -> Iterator[tuple[Architecture, tuple[str, ...]]]:
    """The same with another value of one parameter, switched or some times as large; and where it may be laid out."""
    for field in _own(architecture):
        value = getattr(architecture, field.name)
        # Not every network can be laid out without being made; one that is far larger is not made for a hint.
        tried: list[Any] = [True, False] if "bool" in str(field.type) else []
        devices: tuple[str, ...] = ("meta", "cpu")
        if isinstance(value, int) and not isinstance(value, bool):
            tried, devices = [int(value * factor) for factor in _FACTORS], ("meta",)
        for other in tried:
            with contextlib.suppress(BdbenchError):
                yield dataclasses.replace(architecture, **{field.name: other}), devices


def _fits(
    checkpoint: Checkpoint, architecture: Architecture, shape: tuple[int, ...], classes: int, device: str
) -> bool:
    """Whether the weights are those of a network of this architecture, laid out on ``device``."""
    height, width, channels = shape
    try:
        with torch.device(device):
            known = architecture.build((height, width, channels), classes).state_dict()
    except Exception:  # it is only a hint
        return False
    given = named(checkpoint.tensors, known)
    missing = [name for name in known if name not in given and not name.endswith(_COUNTER)]
    return not missing and all(name in known and given[name].shape == known[name].shape for name in given)


def _spec(architecture: Architecture) -> str:
    return configs.spec(architecture.config())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "one number"
