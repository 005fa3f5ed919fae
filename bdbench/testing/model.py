"""Checks of architectures, for grey and colour images of 8 to 32 pixels a side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bdbench.interfaces import Architecture
from bdbench.progress import quiet
from bdbench.recipe import Recipe
from bdbench.testing.checks import check, expect, fitting, global_seed
from bdbench.testing.samples import split
from bdbench.training import Trainer

Shape = tuple[int, int, int]
_SHAPES: tuple[Shape, ...] = ((8, 8, 1), (28, 28, 1), (32, 32, 3))
_CLASSES, _BATCH = 7, 4


def _each(model: Architecture, attempt: Callable[[Shape, nn.Module, torch.Tensor], None]) -> None:
    """``attempt`` with a network for each sample shape the model takes, and a batch of inputs."""

    def build(shape: Shape) -> None:
        with global_seed(0):
            network = model.build(shape, _CLASSES)
            attempt(shape, network, torch.randn(_BATCH, shape[2], *shape[:2]))

    fitting(_SHAPES, build)


def _state(model: Architecture, shape: Shape, seed: int) -> dict[str, torch.Tensor]:
    with global_seed(seed):
        return model.build(shape, _CLASSES).state_dict()


@check("model")
def forward_gives_logits(model: Architecture) -> None:
    """``forward`` maps float (b, C, H, W) to finite logits (b, num_classes), in training and in evaluation.

    The loss takes logits, and the number of classes is the data set's to say.
    """

    def attempt(shape: Shape, network: nn.Module, x: torch.Tensor) -> None:
        for mode in (True, False):
            logits = network.train(mode)(x)
            expect(tuple(logits.shape) == (_BATCH, _CLASSES), f"{tuple(logits.shape)} for {_BATCH} images of {shape}")
            expect(torch.isfinite(logits).all(), "NaN or infinite values")

    _each(model, attempt)


@check("model")
def features_are_one_vector_an_image(model: Architecture) -> None:
    """``features`` maps the same to the penultimate representation, float (b, d).

    Spectral signatures, activation clustering and others look for the backdoor in these vectors.
    """

    def attempt(shape: Shape, network: nn.Module, x: torch.Tensor) -> None:
        expect(callable(getattr(network, "features", None)), "the network has no method ``features``")
        features = network.eval().features(x)  # type: ignore[operator]
        found = tuple(features.shape)
        expect(
            len(found) == 2 and found[0] == _BATCH and torch.isfinite(features).all(), f"{found} for {_BATCH} images"
        )

    _each(model, attempt)


@check("model")
def torchs_seed_gives_the_weights(model: Architecture) -> None:
    """The same seed of torch's global generator gives the same weights, and another seed gives others.

    The harness seeds it, so that a run can be repeated and seeds are independent.
    """

    def attempt(shape: Shape, network: nn.Module, x: torch.Tensor) -> None:
        one, same, other = (_state(model, shape, seed) for seed in (1, 1, 2))
        expect(all(torch.equal(one[k], same[k]) for k in one), "other weights under the same seed")
        expect(any(not torch.equal(one[k], other[k]) for k in one), "the same weights under another seed")

    _each(model, attempt)


@check("model")
def gradients_reach_every_parameter(model: Architecture) -> None:
    """Every parameter gets a finite gradient from the loss.

    One that is cut off never learns, and nothing says so.
    """

    def attempt(shape: Shape, network: nn.Module, x: torch.Tensor) -> None:
        network.train()
        nn.functional.cross_entropy(network(x), torch.arange(_BATCH)).backward()
        for name, parameter in network.named_parameters():
            expect(parameter.grad is not None, f"{name} gets no gradient")
            assert parameter.grad is not None
            expect(torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite")

    _each(model, attempt)


@check("model")
def an_image_is_judged_by_itself(model: Architecture) -> None:
    """In evaluation the logits of an image do not depend on the others of its batch, nor on chance.

    Detectors compare examples; accuracies are counted in batches whose size is nobody's business.
    """

    def attempt(shape: Shape, network: nn.Module, x: torch.Tensor) -> None:
        network.eval()
        whole, alone = network(x), network(x[:1])
        expect(torch.allclose(whole[:1], alone, rtol=1e-3, atol=1e-5), "other logits without the rest of the batch")

    _each(model, attempt)


@check("model")
def trains_and_is_restored(model: Architecture) -> None:
    """Its recipe is a Recipe, with which a few steps train; the network's state dict is all there is to keep.

    Victims are kept as weights and built again from the architecture.
    """

    def attempt(shape: Shape, network: nn.Module, x: torch.Tensor) -> None:
        recipe = model.recipe("a set that it was not made for", shape)
        expect(isinstance(recipe, Recipe), f"{type(recipe).__name__} instead of a Recipe")
        sample = split(shape, _CLASSES, 21)
        images = np.asarray(sample.images)
        trainer = Trainer(lambda: model.build(shape, _CLASSES), replace(recipe, epochs=1), "cpu", quiet)
        victim = trainer.train(images, sample.labels, seed=0)
        again = trainer.restore(victim.arrays())
        expect(np.allclose(victim.logits(images), again.logits(images)), "other logits after it was kept and restored")

    _each(model, attempt)
