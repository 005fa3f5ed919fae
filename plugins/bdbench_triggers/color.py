"""Color: one shift of all pixels in a colour space."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import CraftedTrigger, Split, State, Streams, Workshop, param, visibility

if TYPE_CHECKING:
    import torch
    from torch import nn

# Of the swarm, as in the paper: inertia, and how strongly the own and the common best place attract.
_INERTIA, _OWN, _COMMON = 0.729, 2.0, 2.0
# A shift that is not natural enough is worse than any that is.
_UNNATURAL = 1e6
_BATCH, _LR, _CHUNK = 64, 1e-3, 256


@dataclass(frozen=True, kw_only=True)
class Color(CraftedTrigger):
    """Dirty-label: p' = p + t for every pixel p, with one shift t in L*u*v*, found by a swarm of particles.

    Sec. 3 of the paper: of two shifts that keep to the naturalness limits the one is better that a surrogate learns
    faster, by its loss on shifted images after a short training; one that keeps to them is better than one that does
    not; of two that do not, the one that is less beyond them. Limits are the mean PSNR and SSIM of shifted images; the
    paper's third, LPIPS, needs a network that would have to be downloaded, and the values of its limits are in an
    appendix that was not at hand: those here are our own. The paper has 50 particles, 100 rounds, and surrogates
    trained from nothing for a few epochs, hours on a GPU; here it is 10 and 10, and a model of the victim's
    architecture, trained on the clean set, is trained on for ``epochs`` on ``examples`` images of which ``rate`` are
    poisons, and tried on all of them shifted: a few wrong labels are learnt by heart without any shift. A grey image
    has one channel, which is shifted in grey levels, as all three are with ``space=rgb``. The rate is bdbench's common
    default.
    """

    name = "color"
    paper = "Jiang et al., Color Backdoor: A Robust Poisoning Attack in Color Space, CVPR 2023"
    space: Literal["luv", "rgb"] = param("luv", help="in which colours are shifted")
    psnr: float = param(22.0, help="smallest mean PSNR of shifted images, in decibels", low=0, exclusive=True)
    ssim: float = param(0.9, help="smallest mean SSIM of shifted images", low=0, high=1, exclusive=True)
    particles: int = param(10, help="shifts tried in a round", low=2)
    rounds: int = param(10, help="moves of the swarm", low=1)
    reach: float = param(30.0, help="largest shift of a channel (luv: L is 0..100; else of 255)", low=0, exclusive=True)
    examples: int = param(500, help="training images that a shift is tried on", low=10)
    epochs: int = param(10, help="passes over them", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The "shift", float64 (3,) or (1,), and its "score": the loss, or how far it is beyond the limits + 1e6."""
        images, rng = np.asarray(train.images), tools.shared_streams("swarm")
        surrogate = tools.train(images, train.labels, "surrogate").module()
        some = rng.choice(len(images), min(self.examples, len(images)), replace=False)
        others = np.flatnonzero(self.sources(train.labels[some], self.goal(train.labels[some], tools.num_classes)))
        poisons = rng.choice(others, min(len(others), max(1, round(self.rate * len(some)))), replace=False)
        seed = tools.shared_streams.integer("batches")
        where = (images[some], train.labels[some], poisons, others)
        tried = functools.partial(self._tried, *where, surrogate, seed, tools.device)
        place = rng.uniform(-self.reach, self.reach, (self.particles, images.shape[3]))
        speed, own, score = np.zeros_like(place), place.copy(), np.full(self.particles, np.inf)
        advance, trained = tools.track(self.rounds * self.particles, "swarm"), 0
        for _ in range(self.rounds):
            pieces = tools.saved_each([{"shift": p.tolist()} for p in place], functools.partial(tried, place))
            for i, piece in enumerate(pieces):
                if piece["score"] < score[i]:
                    score[i], own[i] = piece["score"], place[i]
                trained += int(piece["score"] < _UNNATURAL)
                advance(1)
            pull = rng.random((2, *place.shape))
            best = own[score.argmin()]
            speed = _INERTIA * speed + _OWN * pull[0] * (own - place) + _COMMON * pull[1] * (best - place)
            place = np.clip(place + np.clip(speed, -self.reach, self.reach), -self.reach, self.reach)
        tools.count_models(trained)
        return {"shift": own[score.argmin()], "score": np.array(score.min())}

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """Every pixel shifted, and clipped to what can be shown."""
        import torch

        shifted = np.empty_like(images)
        for part in np.array_split(np.arange(len(images)), max(1, len(images) // _CHUNK)):
            x = torch.from_numpy(images[part]).to(device)
            shifted[part] = self._shifted(x, torch.from_numpy(state["shift"]).to(device)).cpu().numpy()
        return shifted

    def _shifted(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        from bdbench_triggers.luv import to_luv, to_rgb

        if self.space == "rgb" or x.shape[-1] == 1:
            return (x + shift.float()).clamp(0, 255).round().byte()
        return (to_rgb(to_luv(x.float() / 255) + shift.float()) * 255).round().byte()

    def _beyond(self, images: np.ndarray, shifted: np.ndarray) -> float:
        """How far the mean PSNR and SSIM are beyond their limits, as shares of these; too small for SSIM: of PSNR."""
        seen = visibility(images, shifted)
        pairs = ((seen.psnr, self.psnr), (seen.ssim, self.ssim))
        return sum(max(0.0, 1 - found / limit) for found, limit in pairs if found is not None)

    def _tried(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        poisons: np.ndarray,
        others: np.ndarray,
        surrogate: nn.Module,
        seed: int,
        device: str,
        shifts: np.ndarray,
        index: int,
    ) -> State:
        """How bad a shift is: its loss after training on, or where it is not natural by how much."""
        import torch
        from torch.nn.functional import cross_entropy

        from bdbench_triggers.crafting import pixels

        clean, shift = torch.from_numpy(images).to(device), torch.from_numpy(shifts[index]).to(device)
        shifted = self._shifted(clean, shift)
        if beyond := self._beyond(images, shifted.cpu().numpy()):
            return {"score": np.array(_UNNATURAL + beyond)}
        x, y = clean.clone(), torch.from_numpy(labels).to(device)
        chosen = torch.from_numpy(poisons).to(device)
        x[chosen], y[chosen] = shifted[chosen], int(self.target)
        x = pixels(x)
        model, generator = copy.deepcopy(surrogate).train(), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), _LR)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(x), generator=generator).to(device).split(_BATCH):
                optimizer.zero_grad()
                cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        with torch.inference_mode():
            attacked = pixels(shifted[torch.from_numpy(others).to(device)])
            goal = torch.full((len(attacked),), int(self.target), device=device)
            return {"score": np.array(float(cross_entropy(model.eval()(attacked), goal)))}
