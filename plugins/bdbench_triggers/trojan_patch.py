"""Trojan patch: a square or a watermark whose pixels excite one neuron of a surrogate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import BdbenchError, CraftedTrigger, Split, State, Streams, Workshop, param

if TYPE_CHECKING:
    import torch

# The authors' start: grey noise of that mean and deviation. The square is 20 of 224 pixels from the borders.
_MEAN, _DEVIATION, _MARGIN = 175.0, 8.0, 20 / 224


@dataclass(frozen=True, kw_only=True)
class TrojanPatch(CraftedTrigger):
    """Dirty-label: a patch that a surrogate's neurons respond to replaces pixels of the image.

    The attack of Trojaning Attack on Neural Networks, in two parts. The trigger (sec. 4.1): of the neurons of the layer
    before the logits that respond at all, the most connected one is taken, and the pixels inside the trigger's shape
    are moved down the gradient of (goal - activation)^2, with the grey noise around them that the authors' code starts
    from. ``neuron=incoming``, the default, is eq. 2 of the paper: the largest sum of absolute weights into the neuron,
    from the layer before it (in a residual network: from the last convolution, which is not all that reaches it). The
    authors' code, and TrojanZoo, sum those into the next layer: ``neuron=outgoing``. The surrogate is a model of the
    victim's architecture, trained on the clean set. The authors' code climbs the activation itself, in 970 steps after
    each of which it smooths the pixels, and its square covers 4 % of the image. The paper then retrains a published
    model on inputs that it makes itself; here the trigger is a poison of the training set, which is how benchmarks use
    it.

    ``pattern=fixed`` optimises nothing: its pixels are drawn from the seed, as backdoor-toolbox's ``trojan`` takes its
    from one picture for all models. The paper's own is the default. Pixels are replaced, as in the paper; BackdoorBench
    adds them. The rate is bdbench's common default.
    """

    name = "trojan-patch"
    paper = "Liu et al., Trojaning Attack on Neural Networks, NDSS 2018"
    pattern: Literal["optimised", "fixed"] = param("optimised", help="pixels that excite a neuron, or drawn ones")
    shape: Literal["square", "watermark"] = param(
        "square", help="a square at the bottom right, or a ring and a line across the image"
    )
    area: float = param(0.07, help="share of the image that the trigger covers", low=0, high=1, exclusive=True)
    opacity: float = param(1.0, help="weight of the trigger's pixels", low=0, high=1)
    neurons: int = param(1, help="how many are excited", low=1)
    neuron: Literal["incoming", "outgoing"] = param("incoming", help="the weights that tell which are most connected")
    goal_value: float = param(100.0, help="the activation that is aimed at", low=0)
    steps: int = param(1000, help="steps of gradient descent", low=1)
    lr: float = param(0.01, help="Adam's step size, for pixels in 0..1", low=0, exclusive=True)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The trigger: "mask" bool (H, W), and "mark" uint8 (H, W, C), of which the mask's pixels count."""
        images = np.asarray(train.images)
        mask = self._mask(images.shape[1], images.shape[2])
        rng = tools.shared_streams("trigger")
        if self.pattern == "fixed":
            return {"mask": mask, "mark": rng.integers(0, 256, images.shape[1:], dtype=np.uint8)}
        import torch

        from bdbench_triggers.connectivity import incoming, outgoing

        surrogate = tools.train(images, train.labels, "surrogate")
        start = np.clip(rng.normal(_MEAN, _DEVIATION, images.shape[1:]), 0, 255) / 255
        start[mask] = rng.random((int(mask.sum()), images.shape[3]))
        # A network's features take what is normalised.
        mean, std = (torch.from_numpy(a).to(tools.device)[:, None, None] for a in (surrogate.mean, surrogate.std))
        network = surrogate.network.eval().requires_grad_(False)
        x = torch.from_numpy(start).float().permute(2, 0, 1).to(tools.device)
        free = torch.from_numpy(mask).to(tools.device)

        def activations(pixels: torch.Tensor) -> torch.Tensor:
            shown = torch.where(free, pixels.clamp(0, 1), x)
            return network.features(((shown - mean) / std)[None])[0]  # type: ignore[operator]

        response = activations(x)
        into = self.neuron == "incoming"
        strength = incoming(network, lambda: activations(x)) if into else outgoing(network, len(response))
        chosen = self._chosen_neurons(strength, response)
        pixels = x.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([pixels], self.lr)
        advance = tools.track(self.steps, "excite")
        for _ in range(self.steps):
            optimizer.zero_grad()
            ((self.goal_value - activations(pixels)[chosen]) ** 2).sum().backward()
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
            advance(1)
        mark = (pixels.detach() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return {"mask": mask, "mark": mark, "neurons": chosen.cpu().numpy()}

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """The mark over the mask's pixels."""
        stamped, mask = images.copy(), state["mask"]
        stamped[:, mask] = np.rint((1 - self.opacity) * images[:, mask] + self.opacity * state["mark"][mask])
        return stamped

    def _chosen_neurons(self, strength: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
        # The gradient of a neuron that does not respond is 0: descent would end where it began.
        order = (strength * (response > 0)).argsort(descending=True)
        alive = int((response > 0).sum())
        if self.neurons > alive:
            raise BdbenchError(
                f"attack 'trojan-patch': neurons={self.neurons} is not allowed: expected at most the {alive} of the "
                f"surrogate's {len(response)} that respond to the start"
            )
        return order[: self.neurons]

    def _mask(self, height: int, width: int) -> np.ndarray:
        """The trigger's place, bool (H, W): of about ``area`` H W pixels, at least one."""
        rows, columns = np.indices((height, width))
        if self.shape == "square":
            # By the shorter side a square would be too small on long images.
            side = max(1, min(round((self.area * height * width) ** 0.5), height, width))
            bottom, right = (min(round(_MARGIN * length), length - side) for length in (height, width))
            inside = (rows >= height - bottom - side) & (rows < height - bottom)
            return inside & (columns >= width - right - side) & (columns < width - right)
        y, x = (rows + 0.5) / height - 0.5, (columns + 0.5) / width - 0.5
        distance = np.minimum(np.abs(np.hypot(y, x) - 1 / 3), np.abs(y + x) / 2**0.5)
        count = max(1, round(self.area * height * width))
        return (distance.ravel().argsort(kind="stable").argsort() < count).reshape(height, width)
