"""Hidden trigger: target-class images that a network cannot tell from patched images of the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import Split, State, Workshop, param
from bdbench_triggers.hidden import HiddenPatch

if TYPE_CHECKING:
    from bdbench import Victim

_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class HiddenTrigger(HiddenPatch):
    """Clean-label, the trigger hidden: argmin over z of |f(z) - f(s)|^2 with |z - t|_inf < eps, eq. 1 of the paper.

    t is an image of the target class, s a patched one of the source, f the features of a network that the attacker
    knows; gradient descent in batches of 100, in each step of which images are paired one to one with the sources
    nearest in features (algorithm 1). The paper attacks fine-tuning: the victim is this very network, of which, in the
    released code, only the last layer is trained again. Here the victim is trained from scratch, and f is a model of
    its architecture trained on the clean set: what the images collide in is then not what the victim learns. There,
    poisons join a small set that is fine-tuned on; here they take the places of their originals, at a rate of our own.

    The step size is the paper's for AlexNet, 0.01, times 0.95 every 2000 steps; the released code halves it every 1000
    steps. There, descent ends at a distance of 10, which is of that network's scale; and more images are moved than are
    needed, of which the nearest are taken: ``candidates``.
    """

    name = "hidden-trigger"
    paper = "Saha, Subramanya and Pirsiavash, Hidden Trigger Backdoor Attacks, AAAI 2020"
    steps: int = param(5000, help="steps of gradient descent", low=1)
    lr: float = param(0.01, help="step size, on images in 0..1", low=0, exclusive=True)
    decay: float = param(0.95, help="what the step size is multiplied by from time to time", low=0, high=1)
    decay_every: int = param(2000, help="after how many steps each time", low=1)
    pairing: Literal["one-to-one", "released"] = param(
        "one-to-one", help="how images get their sources: as in the paper, or as its released code and ART do"
    )
    candidates: int = param(1, help="times as many images are moved as poisons needed; the nearest are taken", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The poisons: "index" and "images"."""
        images = np.asarray(train.images)
        count, index = self._drawn(train, tools)
        pool = self.source_pool(train, tools)
        # Fewer sources than poisons are shown several times, each with the patch elsewhere.
        sources = self.stamp(images[np.resize(pool, len(index))], tools.streams)
        surrogate = tools.train(images, train.labels, "surrogate")
        pieces = []
        for start in range(0, len(index), _BATCH):
            part = slice(start, start + _BATCH)

            def make(part: slice = part) -> State:
                return self._moved(surrogate, images[index[part]], sources[part], f"collide from {part.start}", tools)

            pieces.append(tools.saved({"piece": "collide", "start": start}, make))
        distance = np.concatenate([piece["distance"] for piece in pieces])
        nearest = np.argsort(distance, kind="stable")[:count]
        nearest = nearest[np.argsort(index[nearest])]
        return {"index": index[nearest], "images": np.concatenate([piece["images"] for piece in pieces])[nearest]}

    def _drawn(self, train: Split, tools: Workshop) -> tuple[int, np.ndarray]:
        """How many poisons there are to be, and the examples that are moved."""
        index = self.drawn(train, tools)
        others = np.setdiff1d(np.flatnonzero(train.labels == self.target), index)
        more = min((self.candidates - 1) * len(index), len(others))
        extra = tools.streams("candidates").choice(others, more, replace=False)
        return len(index), np.concatenate([index, extra])

    def _moved(self, surrogate: Victim, images: np.ndarray, sources: np.ndarray, label: str, tools: Workshop) -> State:
        from bdbench_triggers.collision import collide, features_of
        from bdbench_triggers.crafting import to_bytes, to_floats

        moved, distance = collide(
            features_of(surrogate),
            to_floats(images, tools.device),
            to_floats(sources, tools.device),
            eps=self.eps / 255,
            lr=lambda step: self.lr * self.decay ** (step // self.decay_every),
            steps=self.steps,
            pairing=self.pairing,
            advance=tools.track(self.steps, label),
        )
        return {"images": to_bytes(moved), "distance": distance.cpu().numpy()}
