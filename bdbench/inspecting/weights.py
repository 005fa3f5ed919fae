"""Weights from elsewhere under the names of a network here, or one line on why they are not its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from bdbench import configs
from bdbench.checkpoint import Checkpoint
from bdbench.errors import BdbenchError
from bdbench.interfaces import Architecture

Tensors = Mapping[str, torch.Tensor]
# Counted by batch norm and used by nothing that predicts; old checkpoints have none.
_COUNTER = "num_batches_tracked"
_SHOWN = 3


def fitted(
    checkpoint: Checkpoint, network: torch.nn.Module, architecture: Architecture, shape: tuple[int, ...], classes: int
) -> dict[str, torch.Tensor]:
    """The checkpoint's weights as ``network``'s state dict, in its types.

    Names may differ by what stands before all of them (``module.``), and in one layer apart, such as the head.
    shape: of an image, (H, W, C). Raises BdbenchError for weights of another network, or that are not finite.
    """
    known = network.state_dict()
    given = named(checkpoint.tensors, known)
    _check_names(checkpoint, given, known, architecture)
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


def _check_names(checkpoint: Checkpoint, given: Tensors, known: Tensors, architecture: Architecture) -> None:
    missing = [name for name in known if name not in given and not name.endswith(_COUNTER)]
    extra = [name for name in given if name not in known]
    if missing or extra:
        told = [f"it lacks {_some(missing)}"] if missing else []
        told += [f"it has {_some(extra)}, which the model has not"] if extra else []
        raise BdbenchError(
            f"{checkpoint.path} is not of model {_spec(architecture)!r}: {' and '.join(told)}: "
            f"expected the architecture that it was trained as{_parameters(architecture)}"
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
            f"{checkpoint.path} takes images of {theirs[1]} channels ({name} is {_sizes(theirs)}) and they have "
            f"{shape[2]}: expected channels={theirs[1]}"
        )
    raise BdbenchError(
        f"{checkpoint.path} is not of model {_spec(architecture)!r} for images of {_sizes(shape)}: {name} is "
        f"{_sizes(theirs)}, expected {_sizes(ours)}; the image size and the model are to be those that it was "
        f"trained with{_parameters(architecture)}"
    )


def _parameters(architecture: Architecture) -> str:
    """The parameters that only this kind of model has."""
    shared = {field.name for field in dataclasses.fields(Architecture)}
    own = [field.name for field in dataclasses.fields(architecture) if field.name not in shared]
    return f" (model {architecture.name!r} has the parameters {', '.join(own)})" if own else ""


def _spec(architecture: Architecture) -> str:
    return configs.spec(architecture.config())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "one number"
