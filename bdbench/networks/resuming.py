"""A training that is left between two epochs and taken up again, with the numbers that it would have had."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bdbench.images.data import fingerprint

Keep = Callable[[int, Callable[[], dict[str, np.ndarray]]], Mapping[str, np.ndarray]]
"""Called with how many epochs are done after a piece, and what makes it: the arrays of that, made now or found."""

Part = torch.nn.Module | torch.optim.Optimizer | torch.Generator

# A training is kept so many times: for a ResNet-18, weights and momenta are 90 MB.
_PIECES = 4


def pieces(epochs: int) -> list[range]:
    """The epochs of each piece, in order; none is empty."""
    ends = sorted({-(-epochs * piece // _PIECES) for piece in range(_PIECES + 1)})
    return [range(first, last) for first, last in itertools.pairwise(ends)]


@dataclass
class Progressing:
    """All that changes while networks are trained; torch's global generators, from which dropout draws, are of it.

    parts: networks, optimizers and generators, by names without a slash; device: where they are.
    """

    parts: Mapping[str, Part]
    device: torch.device

    def reach(self, end: int, run: Callable[[], None], keep: Keep) -> bool:
        """Run the piece that ends after ``end`` epochs, or take up where it ended before; says whether it ran."""
        ran = False

        def make() -> dict[str, np.ndarray]:
            nonlocal ran
            run()
            ran = True
            return self._kept()

        arrays = keep(end, make)
        if not ran:
            self._load(arrays)
        return ran

    def fingerprint(self) -> str:
        """A hash of what the parts are now, and of how optimizers are set."""
        settings = repr([_settings(part) for part in self.parts.values()])
        return fingerprint(*_arrays(self._tensors()).values(), np.frombuffer(settings.encode(), np.uint8))

    def _kept(self) -> dict[str, np.ndarray]:
        found = {**self._tensors(), "/global": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["/cuda"] = torch.cuda.get_rng_state(self.device)
        return _arrays(found)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {f"{name}/{key}": value for name, part in self.parts.items() for key, value in _tensors(part).items()}

    def _load(self, arrays: Mapping[str, np.ndarray]) -> None:
        found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ("", *self.parts)}
        for whole, value in arrays.items():
            name, _, key = whole.partition("/")
            found[name][key] = torch.from_numpy(np.array(value))
        for name, part in self.parts.items():
            _bring_back(part, found[name])
        torch.set_rng_state(found[""]["global"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(found[""]["cuda"], self.device)


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}


def _tensors(part: Part) -> dict[str, torch.Tensor]:
    if isinstance(part, torch.Generator):
        return {"state": part.get_state()}
    if isinstance(part, torch.nn.Module):
        return dict(part.state_dict())
    slots = part.state_dict()["state"].items()
    # Without momentum SGD keeps None.
    return {f"{i}.{name}": torch.as_tensor(v) for i, slot in slots for name, v in slot.items() if v is not None}


def _settings(part: Part) -> list[list[tuple[str, str]]]:
    """Of each group of an optimizer's parameters its learning rate and the like; of another part nothing."""
    if not isinstance(part, torch.optim.Optimizer):
        return []
    groups = part.state_dict()["param_groups"]
    return [sorted((name, repr(value)) for name, value in group.items()) for group in groups]


def _bring_back(part: Part, tensors: dict[str, torch.Tensor]) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(tensors["state"])
    elif isinstance(part, torch.nn.Module):
        part.load_state_dict(tensors)
    else:
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        part.load_state_dict({**part.state_dict(), "state": slots})
