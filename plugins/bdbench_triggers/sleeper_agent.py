"""Sleeper Agent: training on the poisons has the effect of training on mislabelled images with the trigger."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bdbench import Split, State, Workshop, param
from bdbench_triggers.hidden import HiddenPatch

if TYPE_CHECKING:
    from bdbench import Victim

_SOURCES, _SOURCE_BATCH = 5000, 512


@dataclass(frozen=True, kw_only=True)
class SleeperAgent(HiddenPatch):
    """Clean-label, the trigger hidden: poisons whose gradient has the direction that the backdoor would have.

    1 - cos(grad_w mean L(s, target; w), grad_w mean L(p, target; w)) is made small under |change|_inf <= eps (sec. 3 of
    Sleeper Agent: Scalable Hidden Trigger Backdoors for Neural Networks Trained from Scratch), where s are patched
    images of the source, p the poisons, whose label is the target anyway, and w the weights of a model of the victim's
    architecture. Poisons are the images of the target class whose own gradient is longest, and on the way the model is
    trained anew on the poisoned set ``retrainings`` times.

    Settings are those of the released code: 250 steps of Adam on the gradient's signs, of .1 of a channel's deviation,
    and a tenth of it after each of 3/8, 5/8 and 7/8 of them; from clipped noise of deviation eps; 512 poisons a batch;
    one restart, one model. That code flips poisons and shifts them by some 4 pixels at most, not by whole ones; here
    they are flipped and cropped as the victim's recipe has it.
    """

    name = "sleeper-agent"
    paper = "Souri et al., Sleeper Agent: Scalable Hidden Trigger Backdoors, NeurIPS 2022"
    rate: float = param(
        0.01, help="poisons / size of the whole training set; the paper's: 1 %", low=0, high=1, exclusive=True
    )
    steps: int = param(250, help="steps in all", low=1)
    lr: float = param(0.1, help="length of the first steps, in deviations of a channel", low=0, exclusive=True)
    retrainings: int = param(4, help="how often the model is trained anew on the way", low=0)
    selection: Literal["gradient", "random"] = param(
        "gradient", help="poisons are the target's images with the longest gradients, or random ones"
    )
    batch: int = param(512, help="poisons whose gradient is matched together", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        """The poisons: "index" and "images"."""
        images = np.array(train.images)
        index = self.drawn(train, tools)
        sources = self.stamp(images[self.source_pool(train, tools)[:_SOURCES]], tools.streams)
        surrogate = tools.train(images, train.labels, "surrogate")
        if self.selection == "gradient":
            select = functools.partial(self._selected, surrogate, train, len(index), tools)
            index = tools.saved({"piece": "select"}, select)["index"]
        clean = images[index]
        noise = tools.streams("noise").standard_normal((len(index), images.shape[3], *images.shape[1:3]))
        start = noise.clip(-1, 1) * self.eps / 255 / surrogate.std[:, None, None]
        state: State = {"change": start.astype(np.float32)}
        bounds = np.unique(np.linspace(0, self.steps, self.retrainings + 2).round().astype(int)).tolist()
        for period, (first, last) in enumerate(itertools.pairwise(bounds)):
            if period:
                surrogate = tools.train(images, train.labels, f"surrogate {period}")
            make = functools.partial(self._matched, surrogate, clean, sources, state, range(first, last), tools)
            state = tools.saved({"piece": "match", "first": first, "period": period}, make)
            images[index] = state["images"]
        return {"index": index, "images": state["images"]}

    def _selected(self, surrogate: Victim, train: Split, count: int, tools: Workshop) -> State:
        """The ``count`` examples of the target class with the longest gradients, sorted."""
        import torch

        from bdbench_triggers.crafting import to_floats
        from bdbench_triggers.matching import norms

        pool = np.flatnonzero(train.labels == self.target)
        x = to_floats(np.asarray(train.images)[pool], tools.device)
        labels = torch.from_numpy(train.labels[pool]).to(tools.device)
        lengths = norms(surrogate.module().eval(), x, labels, tools.track(len(pool), "select"))
        return {"index": np.sort(pool[np.argsort(-lengths, kind="stable")[:count]])}

    def _matched(
        self, surrogate: Victim, clean: np.ndarray, sources: np.ndarray, state: State, steps: range, tools: Workshop
    ) -> State:
        """The state after some steps, with the poisons as "images"."""
        import torch

        from bdbench_triggers.crafting import to_bytes, to_floats
        from bdbench_triggers.matching import match, mean_gradient

        assert self.target != "seed"
        model, device = surrogate.module().eval(), tools.device
        unit = torch.from_numpy(surrogate.std).to(device)[:, None, None]
        x, shown = to_floats(clean, device), to_floats(sources, device)
        labels = [torch.full((len(images),), self.target, device=device) for images in (x, shown)]
        found = match(
            model,
            x,
            labels[0],
            mean_gradient(model, shown, labels[1], _SOURCE_BATCH),
            state,
            eps=self.eps / 255,
            unit=unit,
            steps=steps,
            total=self.steps,
            lr=self.lr,
            batch=self.batch,
            recipe=tools.recipe,
            generator=torch.Generator().manual_seed(tools.streams.integer(f"steps:{steps.start}")),
            advance=tools.track(len(steps), f"match from step {steps.start}"),
        )
        moved = x + unit * torch.from_numpy(found["change"]).to(device)
        return {**found, "images": to_bytes(moved.clamp(0, 1))}
