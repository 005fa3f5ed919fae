"""How the networks of an ensemble are chosen, cut into pieces that are kept, and trained."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from bdbench import BdbenchError, Tools, TrainingView
from bdbench_datamodel import ensemble
from bdbench_datamodel.ensemble import BatchedTrainer, SurrogateRecipe, Trainer
from bdbench_datamodel.options import PATCHED, Options
from bdbench_datamodel.resnet import ResNetTrainer
from bdbench_datamodel.surrogates import BatchedMLP, BatchedNetwork, BatchedPatchNet, Parameters

# Fewer give a matrix that is all noise; so many are trained however slow the machine.
_FEWEST = 50


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
        return cls(options, trainer, options.ensemble_size((shape[0], shape[1], shape[2])))

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
            parts = [np.array(list(itertools.islice(subsets, min(chunk, until - first)))) for first in firsts]
            seeds = [self._seeds(seed, first, len(masks)) for first, masks in zip(firsts, parts, strict=True)]
            configs = [self._config(first, len(masks)) for first, masks in zip(firsts, parts, strict=True)]
            make = functools.partial(self._piece, parts, seeds, tensors)
            pieces.extend(zip(parts, _kept(tools, parts, configs, make, label, shared=True), strict=True))

        if self.options.seconds is None:
            extend(self.models, "networks")
        else:
            extend(min(chunk, self.models), "the first networks, for their pace")
            pace = float(pieces[0][1]["seconds"]) / len(pieces[0][0])
            extend(max(_FEWEST, math.floor(self.options.seconds * self.options.share_of_ensemble / pace)), "networks")
        masks = np.concatenate([held for held, _ in pieces])
        margins = np.concatenate([piece["margins"] for _, piece in pieces])
        tools.count_models(len(masks))
        return masks, _finite(margins)

    def withhold(self, masks: np.ndarray, view: TrainingView, tools: Tools) -> tuple[np.ndarray, np.ndarray]:
        """Margins, float32 (M, n), of networks more on given subsets, bool (M, n), and which of the other labels each
        finds most probable, int16 (M, n); kept likewise.
        """
        # Of one start with the ensemble; where each network has its own, these have others.
        shared = self.options.shared_start
        seed = tools.shared_streams.child("ensemble").integer("networks" if shared else "networks without suspects")
        tensors, chunk = _Tensors(self.trainer, view, tools.device), self.chunk(tools.device)
        firsts = range(0, len(masks), chunk)
        parts = [masks[first : first + chunk] for first in firsts]
        seeds = [self._seeds(seed, first, len(part)) for first, part in zip(firsts, parts, strict=True)]
        configs = [
            {
                "withheld": {
                    **self.trainer.config(),
                    "subsets": hashlib.sha256(part.tobytes()).hexdigest(),
                    "first": None if shared else first,
                }
            }
            for first, part in zip(firsts, parts, strict=True)
        ]
        make = functools.partial(self._without, parts, seeds, tensors)
        pieces = list(_kept(tools, parts, configs, make, "networks without suspects", shared=False))
        tools.count_models(len(masks))
        margins, rivals = (np.concatenate([piece[name] for piece in pieces]) for name in ("margins", "rivals"))
        return _finite(margins), rivals

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

    def _seeds(self, seed: int, first: int, count: int) -> int | list[int]:
        """One for all networks of a piece, or one for each."""
        return seed if self.options.shared_start else [(seed + first + i) % 2**63 for i in range(count)]

    def _piece(
        self, parts: Sequence[np.ndarray], seeds: Sequence[int | list[int]], tensors: _Tensors, index: int
    ) -> dict[str, np.ndarray]:
        # Made once for all pieces, and so no part of the pace of the first.
        inputs, labels = tensors()
        start = time.perf_counter()
        margins = self.trainer.margins(inputs, labels, parts[index], seeds[index])
        # Kept beside the margins, so that an ensemble that is resumed comes to the same number of networks.
        return {"margins": margins, "seconds": np.array(time.perf_counter() - start)}

    def _without(
        self, parts: Sequence[np.ndarray], seeds: Sequence[int | list[int]], tensors: _Tensors, index: int
    ) -> dict[str, np.ndarray]:
        inputs, labels = tensors()
        rivals = np.empty(parts[index].shape, np.int16)
        return {"margins": self.trainer.margins(inputs, labels, parts[index], seeds[index], rivals), "rivals": rivals}

    def _config(self, first: int, count: int) -> dict[str, Any]:
        what: dict[str, Any] = {
            **self.trainer.config(),
            "alpha": self.options.alpha,
            "antithetic": self.options.antithetic,
            "shared_start": self.options.shared_start,
            "part": [first, first + count],
        }
        return {"ensemble": what}


def _kept(
    tools: Tools,
    parts: Sequence[np.ndarray],
    configs: Sequence[dict[str, Any]],
    make: Callable[[int], dict[str, np.ndarray]],
    label: str,
    shared: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """What ``make`` gives for each part, subsets (M, n), computed once and shown as it comes."""
    advance = tools.track(sum(map(len, parts)), label)
    for part, piece in zip(parts, tools.saved_each(configs, make, shared=shared), strict=True):
        advance(len(part))
        yield piece


def _finite(margins: np.ndarray) -> np.ndarray:
    """Margins (M, n). Raises BdbenchError if some are not finite."""
    broken = int((~np.isfinite(margins)).any(1).sum())
    if broken:
        raise BdbenchError(f"{broken} of {len(margins)} networks of the ensemble diverged: expected finite margins")
    return margins


def _trainer(
    options: Options,
    shape: tuple[int, ...],
    classes: int,
    held: int,
    precision: Literal["float32", "bfloat16"],
) -> Trainer:
    """The networks for images (H, W, C) and subsets of ``held``. Raises BdbenchError where the images are too small."""
    size = (shape[0], shape[1], shape[2])
    net = options.net_for(size)
    if net != "mlp" and min(shape[:2]) < PATCHED:
        raise BdbenchError(f"net={net} needs images of at least 16 x 16, not {shape[0]} x {shape[1]}: use mlp")
    if net == "resnet9":
        return ResNetTrainer.of(size, classes, held, options.hidden, options.epochs, precision)
    if net == "mlp":
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
