"""A training that is left between two epochs and taken up again, with the numbers that it would have had."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

Keep = Callable[[int, Callable[[], dict[str, np.ndarray]]], Mapping[str, np.ndarray]]
"""Called with how many epochs are done after a piece, and what makes it: the arrays of that, made now or found."""

# A training is kept so many times: for a ResNet-18, weights and momenta are 90 MB.
_PIECES = 4


def pieces(epochs: int) -> list[range]:
    """The epochs of each piece, in order; none is empty."""
    ends = sorted({-(-epochs * piece // _PIECES) for piece in range(_PIECES + 1)})
    return [range(first, last) for first, last in itertools.pairwise(ends)]


@dataclass
class Progressing:
    """All that changes while a network is trained; torch's global generators, from which dropout draws, are of it.

    generator: of batch order and augmentation.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def reach(self, end: int, run: Callable[[], None], keep: Keep) -> bool:
        """Run the piece that ends after ``end`` epochs, or take up where it ended before; says whether it ran."""
        ran = False

        def make() -> dict[str, np.ndarray]:
            nonlocal ran
            run()
            ran = True
            return self._arrays()

        arrays = keep(end, make)
        if not ran:
            self._load(arrays)
        return ran

    def _arrays(self) -> dict[str, np.ndarray]:
        found = {f"state.{name}": value for name, value in self.network.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            # Without momentum SGD keeps None.
            found |= {f"optimizer.{index}.{n}": torch.as_tensor(v) for n, v in slots.items() if v is not None}
        found |= {"generator": self.generator.get_state(), "global": torch.get_rng_state()}
        if self._device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self._device)
        return {name: value.detach().cpu().numpy().copy() for name, value in found.items()}

    def _load(self, arrays: Mapping[str, np.ndarray]) -> None:
        found = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        prefix = "state."
        self.network.load_state_dict({n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix)})
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name in found:
            if name.startswith("optimizer."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = found[name]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.generator.set_state(found["generator"])
        torch.set_rng_state(found["global"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(found["cuda"], self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device
