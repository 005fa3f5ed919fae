"""Low-frequency: a smooth universal perturbation towards the target."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bdbench import CraftedTrigger, Split, State, Streams, Workshop, param

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bdbench import Victim

# Side of the images that the authors' filter was made for, and how far it reaches, in deviations.
_SIDE, _REACH = 32, 2.5
# The search ends when in so many passes the share of changed predictions has stayed within so much, as BackdoorBench's.
_STALE, _SAME = 5, 0.01
# DeepFool: how far past the border a step goes, and after how many it gives up.
_OVERSHOOT, _PATIENCE = 0.02, 200


@dataclass(frozen=True, kw_only=True)
class LowFrequency(CraftedTrigger):
    """Dirty-label: x + r, clipped, with a perturbation r that passes a low-pass filter and drives images to the target.

    Sec. 5 of the paper asks for r = delta * g, g a filter, with the smallest loss of the poisoned model: two levels. As
    in the authors' code, the inner model is a surrogate trained on the clean set, and the search is that of universal
    perturbations: image by image, where r does not change the prediction yet, DeepFool finds the smallest step to the
    target, which is smoothed and added; r is smoothed again and rescaled to 0..bound. It ends when r changes the share
    ``fooled`` of the predictions or, as in BackdoorBench, when that share has stopped changing, or after ``passes``;
    the best r is taken. The filter is the authors' Gaussian of deviation 6 pixels at 32 x 32, cut off at 2.5 deviations
    with zeros around the image (ours has 31 places and is centred, theirs 30); ``sigma`` is in pixels of such an image,
    and scales.

    Their code takes as the target whichever label the trigger leads to most; here, as in BackdoorBench, it is
    ``target`` throughout. It also perturbs softmax outputs and lets images leave 0..1: here logits, and clipped images.
    The rate is bdbench's common default; BackdoorBench's is .1.
    """

    name = "low-frequency"
    paper = "Zeng et al., Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021"
    bound: float = param(51.0, help="largest change of a pixel, in grey levels of 255", low=0, high=255, exclusive=True)
    sigma: float = param(6.0, help="deviation of the filter, in pixels of a 32 x 32 image", low=0, exclusive=True)
    fooled: float = param(0.2, help="share of predictions to change", low=0, high=1)
    passes: int = param(50, help="at most so many passes over the images", low=1)
    examples: int = param(100, help="training images that are searched on", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The perturbation "trigger", float32 (H, W, C) in grey levels, and the share that it "fooled"."""
        images = np.asarray(train.images)
        surrogate = tools.train(images, train.labels, "surrogate")
        count = min(self.examples, len(images))
        chosen = images[tools.shared_streams("examples").choice(len(images), count, replace=False)]
        found: State = {"trigger": np.zeros(images.shape[1:], np.float32), "fooled": np.array(0.0)}
        best, shares = found, []
        advance = tools.track(self.passes, "smooth trigger")
        for number in range(self.passes):
            order = tools.shared_streams(f"pass:{number}").permutation(count)
            make = functools.partial(self._improved, found["trigger"], chosen[order], surrogate, tools.device)
            found = tools.saved({"pass": number}, make)
            shares.append(float(found["fooled"]))
            best = found if shares[-1] == max(shares) else best
            advance(1)
            if shares[-1] >= self.fooled or (number + 1 >= _STALE and np.ptp(shares[-_STALE:]) < _SAME):
                break
        advance(self.passes - len(shares))
        return best

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """The perturbation added, and clipped."""
        stamped = np.empty_like(images)
        # In parts, since floats are four times as large.
        for part in np.array_split(np.arange(len(images)), max(1, len(images) // 1024)):
            stamped[part] = np.rint(np.clip(images[part] + state["trigger"], 0, 255))
        return stamped

    def _improved(self, trigger: np.ndarray, images: np.ndarray, surrogate: Victim, device: str) -> State:
        """One pass over uint8 (n, H, W, C): the trigger after it, and the share of predictions that it changes."""
        import torch

        assert self.target != "seed"
        model = surrogate.module().eval().requires_grad_(False)
        x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
        r = torch.from_numpy(trigger).to(device).permute(2, 0, 1) / 255
        rows, columns = (torch.from_numpy(_filter(n, self.sigma * n / _SIDE)).to(device) for n in images.shape[1:3])

        def smooth(v: torch.Tensor) -> torch.Tensor:
            return rows @ v @ columns.T

        before = model(x).argmax(1)
        for one, label in zip(x, before, strict=True):
            moved = (one + r).clamp(0, 1)
            if model(moved[None]).argmax() != label:
                continue
            step = _deepfool(model, moved, self.target)
            if step is not None:
                r = smooth(r + smooth(step))
                spread = r.max() - r.min()
                r = (r - r.min()) / spread * (self.bound / 255) if spread > 0 else torch.zeros_like(r)
        changed = (model((x + r).clamp(0, 1)).argmax(1) != before).float().mean()
        return {"trigger": (r * 255).permute(1, 2, 0).cpu().numpy(), "fooled": np.array(float(changed))}


def _deepfool(model: nn.Module, image: torch.Tensor, target: int) -> torch.Tensor | None:
    """The change of an image (C, H, W) that DeepFool (Moosavi-Dezfooli et al. 2016) makes it a ``target`` by.

    Step by step to where the border with the target would be if the model were linear. None if it does not get there.
    """
    import torch

    change = torch.zeros_like(image)
    label: torch.Tensor | None = None
    for _ in range(_PATIENCE):
        x = (image + (1 + _OVERSHOOT) * change).requires_grad_(True)
        logits = model(x[None])[0]
        if logits.argmax() == target:
            return (1 + _OVERSHOOT) * change
        label = logits.argmax() if label is None else label
        gap = logits[label] - logits[target]
        (gradient,) = torch.autograd.grad(gap, x)
        length = gradient.square().sum()
        if length == 0:
            break
        change = change - gap.detach().abs() * gradient / length
    return None


def _filter(length: int, sigma: float) -> np.ndarray:
    """The Gaussian that smooths ``length`` pixels with zeros around them, float32 (length, length)."""
    reach = np.ceil(_REACH * sigma)
    offsets = np.subtract.outer(np.arange(length), np.arange(length))
    total = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).sum()
    return np.where(np.abs(offsets) <= reach, np.exp(-0.5 * (offsets / sigma) ** 2) / total, 0).astype(np.float32)
