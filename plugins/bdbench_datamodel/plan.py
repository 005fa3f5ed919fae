"""How the networks of an ensemble are chosen, cut into pieces that are kept, and trained."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from bdbench import BdbenchError, Tools, TrainingView
from bdbench_datamodel import ensemble
from bdbench_datamodel.ensemble import BatchedTrainer, SurrogateRecipe, Trainer
from bdbench_datamodel.resnet import ResNetTrainer
from bdbench_datamodel.surrogates import BatchedMLP, BatchedNetwork, BatchedPatchNet, Parameters

# Fewer give a matrix that is all noise; so many are trained however slow the machine.
_FEWEST = 50
# TRAK's own default is a handful; its matrix hardly gets better with more.
_CHECKPOINTS = 10


class Options(Protocol):
    """What of the detector's parameters an ensemble is planned by; they are explained there."""

    @property
    def models(self) -> Literal["auto"] | int:
        """How many networks."""

    @property
    def seconds(self) -> float | None:
        """As many as this time allows."""

    @property
    def alpha(self) -> float:
        """The share of the training set in each subset."""

    @property
    def antithetic(self) -> bool:
        """Subsets in pairs."""

    @property
    def shared_start(self) -> bool:
        """One initialisation for all."""

    @property
    def estimator(self) -> str:
        """What is made of the networks."""

    @property
    def net(self) -> str:
        """Which networks."""

    @property
    def hidden(self) -> int | None:
        """Their hidden units."""

    @property
    def epochs(self) -> int | None:
        """Passes over a subset."""

    @property
    def chunk(self) -> int | None:
        """How many are trained at once."""


@dataclass(frozen=True)
class Plan:
    """Networks, recipe and number of an ensemble for one training set."""

    options: Options
    trainer: Trainer
    models: int

    @classmethod
    def of(cls, options: Options, view: TrainingView, precision: Literal["float32", "bfloat16"]) -> Plan:
        """precision: in which large products are made. Raises BdbenchError if the options do not fit the set or each
        other.
        """
        n, shape = len(view.labels), view.images.shape[1:]
        held = round(options.alpha * n)
        if not 2 <= held <= n - 2:
            raise BdbenchError(
                f"alpha={options.alpha:g} leaves subsets of {held} of {n} examples: expected between 2 and {n - 2}"
            )
        if options.antithetic and 2 * held != n:
            raise BdbenchError(
                f"alpha={options.alpha:g} is not allowed with antithetic=true: expected 0.5 and an even set"
            )
        trainer = _trainer(options, shape, view.num_classes, held, precision)
        models = 1000 if isinstance(trainer, BatchedTrainer) and isinstance(trainer.network, BatchedMLP) else 300
        if options.estimator == "trak":
            models = _CHECKPOINTS
        return cls(options, trainer, models if options.models == "auto" else options.models)

    def chunk(self, device: str) -> int:
        """Networks trained at once."""
        chunk = self.options.chunk or self.trainer.chunk(device)
        # A pair stays together.
        return chunk + chunk % 2 if self.options.antithetic else chunk

    def train(self, view: TrainingView, tools: Tools) -> tuple[np.ndarray, np.ndarray]:
        """Subsets, bool (models, n), and margins, float32 (models, n); computed and kept chunk by chunk.

        With ``seconds``, the number of networks is what the pace of the first chunk lets into that time.
        """
        streams = tools.shared_streams.child("ensemble")
        subsets, seed = self._subsets(len(view.labels), streams("subsets")), streams.integer("networks")
        tensors, chunk = _Tensors(self.trainer, view, tools.device), self.chunk(tools.device)
        pieces: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

        def extend(until: int, label: str) -> None:
            firsts = range(sum(len(masks) for masks, _ in pieces), until, chunk)
            new = [np.array(list(itertools.islice(subsets, min(chunk, until - first)))) for first in firsts]
            make = functools.partial(self._piece, firsts, new, seed, tensors)
            configs = [self._config(first, len(masks)) for first, masks in zip(firsts, new, strict=True)]
            advance = tools.track(sum(map(len, new)), label)
            for masks, piece in zip(new, tools.saved_each(configs, make, shared=True), strict=True):
                pieces.append((masks, piece))
                advance(len(masks))

        if self.options.seconds is None:
            extend(self.models, "networks")
        else:
            extend(min(chunk, self.models), "the first networks, for their pace")
            pace = float(pieces[0][1]["seconds"]) / len(pieces[0][0])
            extend(max(_FEWEST, math.floor(self.options.seconds / pace)), "networks")
        masks = np.concatenate([held for held, _ in pieces])
        margins = np.concatenate([piece["margins"] for _, piece in pieces])
        tools.count_models(len(masks))
        broken = int((~np.isfinite(margins)).any(1).sum())
        if broken:
            raise BdbenchError(f"{broken} of {len(masks)} networks of the ensemble diverged: expected finite margins")
        return masks, margins

    def train_few(
        self, view: TrainingView, tools: Tools
    ) -> tuple[BatchedNetwork, list[Parameters], torch.Tensor, torch.Tensor]:
        """The parameters of ``models`` networks, one after another, with the inputs and labels they were trained on."""
        if not isinstance(self.trainer, BatchedTrainer):
            raise BdbenchError(f"net={self.options.net} is not allowed here: expected one of auto, mlp, patches")
        network = self.trainer.network
        streams = tools.shared_streams.child("checkpoints")
        rng, seed = streams("subsets"), streams.integer("networks")
        inputs, labels = _Tensors(self.trainer, view, tools.device)()
        advance = tools.track(self.models, "networks")
        checkpoints: list[Parameters] = []
        for index in range(self.models):
            masks = ensemble.draw_subsets(len(view.labels), 1, self.options.alpha, rng)
            trained = ensemble.train_parameters(
                network, inputs, labels, masks, self.trainer.recipe, (seed + index) % 2**63
            )
            checkpoints.append([p[0] for p in trained])
            advance(1)
        tools.count_models(self.models)
        return network, checkpoints, inputs, labels

    def _subsets(self, examples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Subsets, bool (examples,), without end: those of a short ensemble are the first of a longer one."""
        draw = ensemble.antithetic_subsets if self.options.antithetic else ensemble.draw_subsets
        while True:
            yield from draw(examples, 2, self.options.alpha, rng)

    def _piece(
        self, firsts: Sequence[int], masks: Sequence[np.ndarray], seed: int, tensors: _Tensors, index: int
    ) -> dict[str, np.ndarray]:
        own = masks[index]
        seeds = seed if self.options.shared_start else [(seed + firsts[index] + i) % 2**63 for i in range(len(own))]
        # Made once for all pieces, and so no part of the pace of the first.
        inputs, labels = tensors()
        start = time.perf_counter()
        margins = self.trainer.margins(inputs, labels, own, seeds)
        # Kept beside the margins, so that an ensemble that is resumed comes to the same number of networks.
        return {"margins": margins, "seconds": np.array(time.perf_counter() - start)}

    def _config(self, first: int, count: int) -> dict[str, Any]:
        what: dict[str, Any] = {
            **self.trainer.config(),
            "alpha": self.options.alpha,
            "antithetic": self.options.antithetic,
            "shared_start": self.options.shared_start,
            "part": [first, first + count],
        }
        return {"ensemble": what}


def _trainer(
    options: Options,
    shape: tuple[int, ...],
    classes: int,
    held: int,
    precision: Literal["float32", "bfloat16"],
) -> Trainer:
    """The networks for images (H, W, C) and subsets of ``held``. Raises BdbenchError where the images are too small."""
    small = min(shape[:2]) < 16
    if small and options.net in ("patches", "resnet9"):
        raise BdbenchError(f"net={options.net} needs images of at least 16 x 16, not {shape[0]} x {shape[1]}: use mlp")
    size = (shape[0], shape[1], shape[2])
    if options.net == "resnet9":
        return ResNetTrainer.of(size, classes, held, options.hidden, options.epochs, precision)
    if options.net == "mlp" or small:
        mlp = BatchedMLP(size, classes, options.hidden or 128)
        return BatchedTrainer(mlp, SurrogateRecipe(epochs=options.epochs or 15, batch_size=16, lr=0.05))
    patches = BatchedPatchNet(size, classes, options.hidden or 64)
    recipe = SurrogateRecipe(epochs=options.epochs or 20, batch_size=25, lr=0.1, precision=precision)
    return BatchedTrainer(patches, recipe)


@dataclass
class _Tensors:
    """Inputs and labels of a training set on a device; made where they are first asked for, and not pickled."""

    trainer: Trainer
    view: TrainingView
    device: str

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._made

    @functools.cached_property
    def _made(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self.trainer.prepare(np.array(self.view.images), self.device)
        return inputs, torch.from_numpy(self.view.labels.copy()).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_made"}
