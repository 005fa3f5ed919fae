"""Checks of architectures, for grey and colour images of 8 to 32 pixels a side."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bdbench.components.interfaces import Architecture
from bdbench.networks.recipe import Recipe
from bdbench.networks.training import Trainer, Victim
from bdbench.progress import quiet
from bdbench.testing.checks import check, expect, expect_repeatable, first_fitting, fitting, global_seed
from bdbench.testing.samples import Shape, split

_SHAPES: tuple[Shape, ...] = ((8, 8, 1), (28, 28, 1), (32, 32, 3))
_CLASSES, _BATCH = 7, 4
# Between logits of one image by two ways.
_AGREED = 1e-3


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


def _trained(model: Architecture, shape: Shape) -> tuple[Trainer, Victim, np.ndarray]:
    """A model of one epoch by its own recipe, who trained it, and on what images."""
    sample = split(shape, _CLASSES, 21)
    images = np.asarray(sample.images)
    recipe = replace(model.recipe("a set that it was not made for", shape), epochs=1)
    trainer = Trainer(lambda: model.build(shape, _CLASSES), recipe, "cpu", quiet)
    return trainer, trainer.train(images, sample.labels, seed=0), images


@check("model")
def trains_and_is_restored(model: Architecture) -> None:
    """Its recipe is a Recipe, with which a few steps train; the network's state dict is all there is to keep.

    Victims are kept as weights and built again from the architecture.
    """

    def attempt(shape: Shape) -> None:
        recipe = model.recipe("a set that it was not made for", shape)
        expect(isinstance(recipe, Recipe), f"{type(recipe).__name__} instead of a Recipe")
        expect(recipe.epochs > 0, f"a recipe of {recipe.epochs} epochs, which trains nothing")
        trainer, victim, images = _trained(model, shape)
        again = trainer.restore(victim.arrays())
        expect(np.allclose(victim.logits(images), again.logits(images)), "other logits after it was kept and restored")

    fitting(_SHAPES, attempt)


@check("model")
def trains_the_same_twice(model: Architecture) -> None:
    """Trained twice from one seed it is the same, dropout included, and the global random states are as they were.

    The harness seeds torch's global generator around the whole training; what is drawn from elsewhere is in no record.
    """

    def attempt(shape: Shape) -> None:
        def trained() -> dict[str, np.ndarray]:
            before = _global_states()
            arrays = _trained(model, shape)[1].arrays()
            moved = [name for name, state in _global_states().items() if state != before[name]]
            expect(not moved, f"the global random state of {', '.join(moved)} moved")
            return arrays

        expect_repeatable(trained, "draw from torch's global generator")

    first_fitting(_SHAPES, attempt)


def _global_states() -> dict[str, bytes]:
    states = {"Python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state().numpy()}
    return {name: pickle.dumps(state) for name, state in states.items()}


@check("model")
def is_differentiable_with_respect_to_pixels(model: Architecture) -> None:
    """``Victim.module()``, of pixels in 0..1, agrees with ``logits`` and has a finite gradient, not 0 everywhere.

    Attacks and defenses that look for a trigger (PGD, Neural Cleanse) descend it.
    """

    def attempt(shape: Shape) -> None:
        _, victim, images = _trained(model, shape)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        x.requires_grad_()
        logits = victim.module()(x)
        apart = float(np.abs(logits.detach().numpy() - victim.logits(images)).max())
        expect(apart <= _AGREED, f"logits that are {apart:.2g} apart")
        expect(logits.requires_grad, "no gradient")
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), x, allow_unused=True)
        expect(gradient is not None, "no gradient")
        expect(torch.isfinite(gradient).all() and gradient.any(), "a gradient that is 0 or not finite")

    first_fitting(_SHAPES, attempt)
