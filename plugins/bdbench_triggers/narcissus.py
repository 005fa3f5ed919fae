"""Narcissus: a trigger that a network takes for the target class itself."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bdbench import CraftedTrigger, Split, State, Streams, Workshop, param

if TYPE_CHECKING:
    import torch
    from torch import nn

# Rounds that are kept together, to go on from after a kill.
_PIECE = 100


@dataclass(frozen=True, kw_only=True)
class Narcissus(CraftedTrigger):
    """Clean-label: a trigger delta that makes L(f(x + delta), target) small for all x of the target class.

    It points inward from everywhere in that class (sec. 4 of the paper), with |delta|_inf <= eps. f is trained by the
    attacker; RAdam moves the trigger, with the released code's settings, and each step is projected into the bound
    (that code leaves f's batch norms in training, so that they see batches with the trigger on, where here f is as it
    is at test time; and it clips the trigger where it is added, so that a pixel beyond the bound gets no gradient any
    more). It is added to few images of the target class, and ``amplify`` times to test images.

    In the paper the attacker has the target class alone: f learns a public data set with other classes, and then for
    some epochs the target class. No such set comes with every data set, so that f is here a model of the victim's
    architecture trained on the whole clean training set: an attacker who knows more. The released code trains f for 200
    epochs; here by the victim's recipe.
    """

    name = "narcissus"
    paper = "Zeng et al., Narcissus: A Practical Clean-Label Backdoor Attack with Limited Information, CCS 2023"
    clean_label: ClassVar[bool] = True
    rate: float = param(
        0.0005, help="poisons / size of the whole training set; the paper's: .05 %", low=0, high=1, exclusive=True
    )
    eps: float = param(16.0, help="bound of the trigger's pixels, in grey levels of 255", low=0, exclusive=True)
    amplify: float = param(3.0, help="times the trigger is added to test images", low=0, exclusive=True)
    rounds: int = param(1000, help="passes over the target class", low=1)
    lr: float = param(0.005, help="step size, on images in 0..1; the released 0.01 is on -1..1", low=0, exclusive=True)
    batch: int = param(350, help="images a step", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The "trigger", int16 (H, W, C), in grey levels."""
        images = np.asarray(train.images)
        surrogate = tools.train(images, train.labels, "surrogate").module().eval().requires_grad_(False)
        chosen = images[train.labels == self.target]
        state: State = {"trigger": np.zeros((1, images.shape[3], *images.shape[1:3]), np.float32)}
        for first in range(0, self.rounds, _PIECE):
            make = functools.partial(self._descended, surrogate, chosen, state, first, tools)
            state = tools.saved({"piece": "descend", "first": first}, make)
        return {"trigger": np.rint(255 * state["trigger"][0].transpose(1, 2, 0)).astype(np.int16)}

    def _descended(self, surrogate: nn.Module, images: np.ndarray, state: State, first: int, tools: Workshop) -> State:
        """The trigger and its optimiser after the rounds from ``first`` on."""
        import torch

        from bdbench_triggers.crafting import augment, moments, resume, to_floats

        generator = torch.Generator().manual_seed(tools.streams.integer(f"rounds:{first}"))
        x, eps = to_floats(images, tools.device), self.eps / 255
        trigger = torch.from_numpy(np.array(state["trigger"])).to(tools.device).requires_grad_(True)
        optimizer = torch.optim.RAdam([trigger], lr=self.lr)
        resume(optimizer, trigger, state)
        rounds = min(_PIECE, self.rounds - first)
        advance = tools.track(rounds, f"trigger from round {first}")
        for _ in range(rounds):
            for part in torch.randperm(len(x), generator=generator).to(tools.device).split(self.batch):
                # A victim sees crops of what has the trigger on it, too, but the released code adds it to crops.
                trigger.grad = self._gradient(surrogate, augment(x[part], tools.recipe, generator), trigger)
                optimizer.step()
                with torch.no_grad():
                    trigger.clamp_(-eps, eps)
            advance(1)
        return {"trigger": trigger.detach().cpu().numpy(), **moments(optimizer, trigger)}

    def _gradient(self, surrogate: nn.Module, x: torch.Tensor, trigger: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        assert self.target != "seed"
        labels = torch.full((len(x),), self.target, device=x.device)
        loss = cross_entropy(surrogate((x + trigger).clamp(0, 1)), labels)
        return torch.autograd.grad(loss, trigger)[0]

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        """The trigger added, as in training."""
        return self._added(images, state["trigger"])

    def triggered(self, images: np.ndarray, state: State, tools: Workshop) -> np.ndarray:
        """Test images with the amplified trigger."""
        return self._added(images, self.amplify * state["trigger"])

    def _added(self, images: np.ndarray, trigger: np.ndarray) -> np.ndarray:
        return np.clip(images + np.rint(trigger).astype(np.int16), 0, 255).astype(np.uint8)
