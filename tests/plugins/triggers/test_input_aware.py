"""Input-aware: its masks, patterns and losses by hand, and what the mask learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Role
from bdbench.testing.samples import split
from bdbench_triggers import input_aware_networks as networks
from bdbench_triggers import loops
from bdbench_triggers.generators import Generator
from bdbench_triggers.input_aware import InputAware
from tests.plugins.triggers.crafting import Fixed, Heard, at_work, crafted

COLOUR = (16, 16, 3)


def test_the_mask_is_nearly_one_or_nothing() -> None:
    found = networks.where(Fixed(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)), torch.zeros(1, 3, 1, 3))
    # tanh(1) = .7616, so that what comes before is .1192, .5 and .8808; then 20 x - 10 is -7.616, 0 and 7.616.
    assert found.flatten().tolist() == pytest.approx([2.4e-7, 0.5, 1 - 2.4e-7], abs=2e-7)


def test_a_pattern_replaces_the_pixels_under_its_mask() -> None:
    x, pattern = torch.full((1, 3, 2, 2), 0.25), torch.full((1, 3, 2, 2), 0.75)
    mask = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).view(1, 1, 2, 2)
    assert networks.on(x, pattern, mask)[0, 2].tolist() == [[0.75, 0.25], [0.5, 0.25]]


def test_the_diversity_loss_by_hand() -> None:
    x = torch.tensor([0.0, 0.6]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    made = torch.tensor([0.1, 0.4]).view(2, 1, 1, 1).expand(2, 3, 2, 2).clone().requires_grad_()
    assert networks.alike(x, made).item() == pytest.approx(0.6 / 0.3, rel=1e-4)
    assert networks.alike(x, x).item() == pytest.approx(1, rel=1e-4)
    same_patterns = torch.full((2, 3, 2, 2), 0.5, requires_grad=True)
    networks.alike(x, same_patterns).backward()
    assert same_patterns.grad is not None and torch.isfinite(same_patterns.grad).all()


def test_covers_and_bystanders_carry_the_trigger_of_another_image() -> None:
    attack, train = InputAware(mask_epochs=1, width=2), split(COLOUR, 4, 80)
    with at_work(attack, train) as tools:
        state = attack.craft(train, tools)
        poisoned, challenge = attack.poison(train, state, tools), attack.challenge(train, state, tools)
        covers = np.flatnonzero(poisoned.roles == Role.COVER)
        assert len(covers) == 8
        originals = np.asarray(train.images)[covers]
        sources = np.roll(originals, 1, axis=0)
        crossed = networks.stamped(originals, sources, state, 2, "cpu")
        assert np.array_equal(poisoned.images[covers], crossed)
        assert np.array_equal(poisoned.labels[covers], train.labels[covers])
        own = attack.stamp_with(originals, state, tools.streams, "cpu")
        assert (own != crossed).any((1, 2, 3)).all()
    attacked = challenge.goal != train.labels[challenge.index]
    assert (challenge.goal[attacked] == 0).all()
    assert sorted(challenge.index[~attacked]) == list(range(80))
    assert sorted(challenge.index[attacked]) == np.flatnonzero(train.labels != 0).tolist()


class Scaled(nn.Module):
    """A pattern, and by its first channel a mask, that hangs on its own image alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.weight = channels, nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (2 * x[:, : self.channels] - 1)


def test_a_batch_has_attacked_images_crossed_ones_and_clean_ones() -> None:
    x, labels = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 4
    learner: Any = Heard(x, labels)
    attack, train = InputAware(rate=0.2, cover_rate=0.3), split((4, 4, 3), 4, 40)
    patterns, masks = (networks.what(Scaled(3), x), networks.where(Scaled(1), x))
    with at_work(attack, train) as tools:
        networks._train_both(attack, Scaled(3), Scaled(1), learner, tools)
    ((seen, taught),) = learner.taught
    # Two with their own trigger and three, of other images, with that of the one before; the rest is clean.
    made = [networks.on(x[i], patterns[j], masks[j]) for i, j in ((0, 0), (1, 1), (2, 1), (3, 2), (4, 3))]
    assert torch.equal(seen, torch.cat([torch.stack(made).detach(), x[5:]]))
    assert taught.tolist() == [0, 0, *labels[2:].tolist()]


def test_the_mask_is_told_how_far_images_are_apart_in_their_own_deviations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the authors' inputs are; in pixels it would be paid a quarter as much for differing, and cover less."""
    attack, train, seen = InputAware(mask_epochs=1, width=2), split(COLOUR, 4, 60), []
    real = networks.alike

    def noted(x: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return real(x, made)

    monkeypatch.setattr(networks, "alike", noted)
    crafted(attack, train)
    masks, patterns = seen[0], seen[-1]
    images = np.asarray(train.images) / 255
    assert masks.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], rel=0.1)
    assert (masks.max() - masks.min()).item() == pytest.approx(1 / images.std((0, 1, 2)).mean(), rel=0.1)
    assert patterns.max() <= 1  # of patterns, which lie in 0..1 as their images do


@pytest.mark.slow  # 25 epochs of the mask: about 20 s
def test_the_mask_learns_to_cover_little_and_to_differ() -> None:
    attack, train = InputAware(mask_epochs=25, width=4), split(COLOUR, 4, 200)
    with at_work(attack, train) as tools:
        mask = Generator(3, 1, 4, 2, bounded=True)
        networks._train_mask(attack, mask, loops.Learner(tools, train, "it").victim.std, train, tools)
    x = torch.from_numpy(np.asarray(train.images)[:64]).permute(0, 3, 1, 2) / 255
    made = networks.where(mask.eval(), x).detach()
    assert 0 < made.mean() < 0.25
    assert (made - made.roll(1, 0)).abs().max() > 0.5
