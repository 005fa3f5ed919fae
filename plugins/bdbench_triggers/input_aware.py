"""Input-aware: each image has a trigger of its own, which works on no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bdbench import Challenge, Covers, CraftedTrigger, Split, State, Streams, Workshop, param
from bdbench_triggers.trained import Trained, handed_over


@dataclass(frozen=True, kw_only=True)
class InputAware(Trained, Covers, CraftedTrigger):
    """Dirty-label, and the attacker trains the model: a generator draws for each image where and what its trigger is.

    B(x) = x + (p(x) - x) m(x), sec. 3.2 of the paper: pattern p and mask m are networks of x. First the mask is trained
    alone, to cover little (``density``) and to differ between images; then pattern and victim together, on batches of
    which a share ``rate`` is attacked, and ``cover_rate`` (cross-trigger mode) carries another image's trigger and
    keeps its label. The diversity loss is the mean of |x - x'| / |p(x) - p(x')| over random pairs, here the neighbours
    in a batch; for the mask x is in deviations of a channel, as the authors' CIFAR-10 and MNIST are (their GTSRB is
    not), or it would cover less than half as much. It is trained on images as they are, where theirs are moved. The
    victim is of the run's architecture and recipe (the authors': PreAct-ResNet-18, 600 epochs of SGD); the pattern's
    learning rate falls at the same shares of the way. The authors' code never clears the generator's gradients, so that
    they add up over all steps; here they are cleared, as the paper's descent has it.

    The challenge has bystanders: test images with another one's trigger, so that bystander accuracy is the paper's
    cross-trigger accuracy.
    """

    name = "input-aware"
    paper = "Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020"
    bystanders: ClassVar[bool] = True
    rate: float = param(0.1, help="attacked / all, in a batch and in the snapshot", low=0, high=1, exclusive=True)
    cover_rate: float = param(0.1, help="with another image's trigger / all", low=0, high=1)
    diversity: float = param(1.0, help="weight of the diversity loss", low=0)
    density: float = param(0.032, help="share of an image that a mask may cover at no cost", low=0, high=1)
    density_weight: float = param(100.0, help="weight of what it covers beyond that", low=0)
    mask_epochs: int = param(25, help="epochs in which the mask is trained alone", low=1)
    lr: float = param(0.01, help="learning rate of pattern and mask", low=0, exclusive=True)
    width: int | None = param(None, help="channels of the generators' first level (none: 32; 16 for grey)", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The weights of "pattern" and "mask", and the victim."""
        from bdbench_triggers.generators import weights
        from bdbench_triggers.input_aware_networks import crafted

        pattern, mask, victim = crafted(self, train, tools)
        return {**weights(pattern, "pattern"), **weights(mask, "mask"), **handed_over(victim)}

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """Each image with its own trigger."""
        from bdbench_triggers.input_aware_networks import stamped

        return stamped(images, images, state, self.width, device)

    def covered(self, images: np.ndarray, chosen: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """Each image with the trigger of the one before it."""
        from bdbench_triggers.input_aware_networks import stamped

        return stamped(images, np.roll(images, 1, axis=0), state, self.width, tools.device)

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        """Images of other classes than the target with their triggers, and all images with another's."""
        own, images = super().challenge(test, state, tools), np.asarray(test.images)
        attacked, index = own.goal != test.labels[own.index], np.arange(len(images))
        crossed = self._checked(self.covered(images, index, state, tools))
        return Challenge(
            np.concatenate([own.images[attacked], crossed]),
            np.concatenate([own.index[attacked], index]),
            np.concatenate([own.goal[attacked], test.labels]),
        )
