"""Label-consistent: target-class images that are hard to classify without the trigger on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from bdbench import BdbenchError, Split, State, Streams, TriggerAttack, Workshop, param

if TYPE_CHECKING:
    from bdbench import Victim

# The authors' trigger at the right-hand border: 1 is added and -1 subtracted; on the left it is mirrored.
_PATTERN = np.array([[-1, -1, 1], [-1, 1, -1], [1, -1, 1]])
_EPS = {"l2": 300.0, "linf": 8.0}
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(TriggerAttack):
    """Clean-label: images of the target class are perturbed away from their label, then a trigger is added.

    The attack of sec. 4 of Label-Consistent Backdoor Attacks. A model of the victim's architecture is trained on the
    clean set; projected gradient descent raises its loss on the chosen images, so that the victim has to rely on the
    trigger to get them right. The perturbations that the authors publish are bounded by 300, 600 or 1200 in l2, or 8,
    16 or 32 in linf, in grey levels of a CIFAR-10 image, and their default is l2 with 300. Steps are 2.5 eps / steps
    long, as is common since Madry et al. 2018.

    The paper perturbs against a model that was trained adversarially (sec. 4.3), whose perturbations look more like
    another class, and so do common implementations: the default, ``surrogate=adversarial``, with the radius of 8 grey
    levels in linf and the 7 steps that Madry et al. train CIFAR-10 with. ``surrogate=plain`` is trained as the victim
    is, in an eighth of the time. The trigger is the default of the authors' code; the paper goes on to a fainter one in
    all corners (sec. 4.4): ``amplitude`` and ``corners``. That code poisons the whole target class; the rate here is
    our own. Test images get the trigger alone.
    """

    name = "label-consistent"
    paper = "Turner, Tsipras and Madry, Label-Consistent Backdoor Attacks, arXiv:1912.02771"
    clean_label: ClassVar[bool] = True
    surrogate: Literal["adversarial", "plain"] = param(
        "adversarial", help="the training of the model that images are perturbed against"
    )
    radius: float = param(8.0, help="of adversarial training, in linf and grey levels", low=0)
    inner_steps: int = param(7, help="steps of gradient descent for a batch of adversarial training", low=1)
    norm: Literal["l2", "linf"] = param("l2", help="in which the perturbation is bounded")
    eps: float | None = param(None, help="its bound, in grey levels of 255 (none: 300 for l2, 8 for linf)", low=0)
    steps: int = param(100, help="steps of gradient descent", low=1)
    step_size: float | None = param(None, help="length of a step, in grey levels (none: 2.5 eps / steps)", low=0)
    amplitude: float = param(
        255.0, help="grey levels that the trigger adds or subtracts; the paper's: 16 to 255", low=0, high=255
    )
    corners: Literal["one", "four"] = param("one", help="where the trigger is: the bottom right corner, or all four")

    def craft(self, train: Split, tools: Workshop) -> State:
        """Which examples become poisons, "index" int64 (m,), and their perturbed "images", uint8 (m, H, W, C)."""
        from bdbench_triggers.pgd import perturb

        images = np.asarray(train.images)
        goal = self.goal(train.labels, tools.num_classes)
        index = super().chosen(train, goal, {}, tools)
        eps = _EPS[self.norm] if self.eps is None else self.eps
        step = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        surrogate = self._surrogate(train, tools).module().eval()
        import torch

        advance = tools.track(self.steps * -(-len(index) // _BATCH), "perturb")
        made = []
        for start in range(0, len(index), _BATCH):
            chosen = index[start : start + _BATCH]
            x = torch.from_numpy(images[chosen]).to(tools.device).permute(0, 3, 1, 2).float() / 255
            labels = torch.from_numpy(train.labels[chosen]).to(tools.device)
            moved = perturb(surrogate, x, labels, self.norm, eps / 255, self.steps, step / 255, advance)
            made.append((moved * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return {"index": index, "images": np.concatenate(made)}

    def _surrogate(self, train: Split, tools: Workshop) -> Victim:
        if self.surrogate == "plain":
            return tools.train(np.asarray(train.images), train.labels, "surrogate")
        from bdbench_triggers.adversarial import trained_adversarially

        return trained_adversarially(train, tools, "adversarial surrogate", self.radius / 255, self.inner_steps)

    def chosen(self, train: Split, goal: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The examples that were perturbed."""
        return state["index"]

    def poisoned(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """The perturbed images with the trigger."""
        return self.stamp(state["images"], tools.streams)

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        """Add the trigger. Raises BdbenchError for images that it does not fit."""
        height, width = images.shape[1:3]
        side, needed = len(_PATTERN), len(_PATTERN) * (2 if self.corners == "four" else 1)
        if min(height, width) < needed:
            raise BdbenchError(
                f"attack 'label-consistent': the trigger does not fit images of {height} x {width}: expected at least "
                f"{needed} pixels a side for corners={self.corners}"
            )
        signs = np.zeros((height, width))
        signs[-side:, -side:] = _PATTERN
        if self.corners == "four":
            signs[:side, -side:] = _PATTERN
            signs[:side, :side] = signs[-side:, :side] = _PATTERN[:, ::-1]
        return np.rint(np.clip(images + self.amplitude * signs[..., None], 0, 255)).astype(np.uint8)
