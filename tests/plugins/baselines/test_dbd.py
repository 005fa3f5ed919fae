from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Batch, Record, Streams, TrainingView
from bdbench_baselines.mixmatch import MixMatch, guessed, mixed_up, symmetric
from bdbench_baselines.views import Views


def test_symmetric_cross_entropy_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]))
    expected = [-0.1 * np.log(p) - np.log(1e-4) * (1 - p) for p in (0.8, 0.1)]
    assert symmetric(logits, torch.tensor([0, 2])).tolist() == pytest.approx(expected, rel=1e-5)


def test_guesses_are_sharpened_means() -> None:
    p, q = torch.tensor([[0.6, 0.4]]), torch.tensor([[1.0, 1e-9]])
    assert guessed([p.log(), q.log()])[0].tolist() == pytest.approx([0.64 / 0.68, 0.04 / 0.68], rel=1e-4)


def test_mixing_keeps_the_larger_part_and_does_to_targets_what_it_does_to_images() -> None:
    torch.manual_seed(0)
    targets = torch.eye(6)
    for _ in range(20):
        x, mixed = mixed_up(targets.view(6, 6, 1, 1), targets)
        assert torch.equal(x[:, :, 0, 0], mixed) and (mixed.diagonal() >= 0.5).all()
        assert mixed.sum(1).tolist() == pytest.approx([1] * 6)


def batch_and_loss(labelled: float, epoch: int) -> tuple[Batch, MixMatch]:
    """Ten images of one grey, which a network tells by; the last label of each class is wrong."""
    images = np.repeat(np.arange(0, 200, 20, dtype=np.uint8), 64).reshape(10, 8, 8, 1)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    torch.manual_seed(0)
    linear = nn.Linear(64, 2)
    with torch.no_grad():
        linear.weight[:] = torch.tensor([[-0.2], [0.2]])
        linear.bias[:] = torch.tensor([4.5, -4.5])
    network = nn.Sequential(nn.Flatten(), linear)
    views = Views(np.zeros(1, np.float32), np.ones(1, np.float32), False)
    loss = MixMatch(TrainingView(images, labels, 2), views, labelled, 15.0, 10, Streams(0))
    x = views.normalised(torch.from_numpy(images))
    index = torch.arange(10)
    return Batch(network, x, torch.from_numpy(labels), index, epoch, lambda images: images), loss


def test_labels_that_do_not_fit_are_not_used() -> None:
    batch, loss = batch_and_loss(0.8, 0)
    loss(batch)
    assert (~loss._labelled).nonzero()[:, 0].tolist() == [4, 9]


@pytest.mark.parametrize("labelled", [0.01, 0.5, 0.99])
def test_it_is_a_finite_scalar_for_batches_of_one_kind_and_rises_with_the_weight(labelled: float) -> None:
    for members in ([0, 1, 2, 3], [9], list(range(10))):
        batch, loss = batch_and_loss(labelled, 0)
        index = torch.tensor(members)
        part = Batch(batch.network, batch.x[index], batch.labels[index], index, 0, batch.prepare)
        value = loss(part)
        assert value.ndim == 0 and torch.isfinite(value) and value.requires_grad
    torch.manual_seed(1)
    early = loss(batch)
    batch, loss = batch_and_loss(labelled, 9)
    torch.manual_seed(1)
    assert loss(batch) >= early


def test_the_weight_rises_with_every_batch() -> None:
    """As the authors' does, and not from epoch to epoch: in the second half of the only epoch it is half of all."""
    found = []
    for earlier in (0, 5):
        batch, loss = batch_and_loss(0.3, 0)
        loss._epochs = 1
        for members in (range(earlier), range(5, 10)):
            index = torch.tensor(members, dtype=torch.int64)
            torch.manual_seed(1)
            value = loss(Batch(batch.network, batch.x[index], batch.labels[index], index, 0, batch.prepare))
        found.append(value.item())
    assert found[1] > found[0]


@pytest.mark.slow
def test_it_learns_digits_and_not_the_backdoor(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "dbd")
    assert record.after is not None and record.after.clean_accuracy > 0.9
    assert record.after.attack_success_rate is not None and record.after.attack_success_rate < 0.1
    assert record.cost.models_trained == 3 and record.access == ["training_set"]
