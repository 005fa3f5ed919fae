from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import BdbenchError, Victim
from bdbench_inspection import decoupling
from bdbench_inspection.bti_dbf import sent
from bdbench_inspection.decoupling import invert
from bdbench_inspection.generating import Generator, parts


def test_the_share_of_other_labels_images_by_hand() -> None:
    hits, labels = np.array([0, 2, 2, 2, 2]), np.array([0, 0, 1, 1, 2])
    # Of those not of label 0 none goes to 0; of those not of 2, three of four go to 2.
    assert sent(hits, labels, 4) == pytest.approx([0, 0, 0.75, 0])
    assert sent(np.array([0]), np.array([0]), 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(2, 2), (8, 8), (9, 13), (32, 32)])
def test_the_generator_changes_little_before_it_is_trained(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 3, *shape)
    made = Generator(3, 8)(x)
    assert made.shape == x.shape and 0 < float((made - x).detach().abs().mean()) < 0.2
    assert made.min() >= 0 and made.max() <= 1


class Planted(nn.Module):
    """Labels 0 and 1 by which half is brighter; what is bright in the middle, as no clean image is, is label 2."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]))
            self.linear.bias.copy_(torch.tensor([0.0, 0.0, -1.0]))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0, rows].mean((1, 2)) for rows in (slice(3), slice(5, 8), slice(3, 5))], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.features(x))


def test_a_planted_backdoor_is_found() -> None:
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    images = rng.integers(0, 40, (40, 8, 8, 1))
    for label, rows in enumerate((slice(0, 3), slice(5, 8))):
        images[labels == label, rows] += 150
    images = images.astype(np.uint8)
    victim = Victim(Planted(), np.zeros(1, np.float32), np.full(1, 0.3, np.float32), "cpu")
    victim.network.features = lambda x: Planted.features(victim.network, 0.3 * x)  # type: ignore[assignment, arg-type]
    assert np.array_equal(victim.predict(images), labels)
    # From some seeds the generator darkens the middle, and stays there.
    settings = {"mask_steps": 400, "steps": 60, "batch": 20, "bound": 3.0, "width": 8}
    model = parts(victim, 3, "bti-dbf")
    found = invert(model, images, labels, 1, "cpu", **settings)  # type: ignore[arg-type]
    assert found["mask"][:2].min() > 0.9 > found["mask"][2]
    assert sent(found["hits"], labels, 3)[2] > 0.9
    assert found["made"].shape == (8, 8, 8, 1) and found["made"].dtype == np.uint8
    assert found["made"][:, 3:5].mean() > 100
    again = invert(model, images, labels, 1, "cpu", **settings)  # type: ignore[arg-type]
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_model_without_a_linear_head_is_refused() -> None:
    victim = Victim(nn.Conv2d(1, 3, 1), np.zeros(1, np.float32), np.ones(1, np.float32), "cpu")
    with pytest.raises(BdbenchError, match="'bti-dbf' needs features: expected a model that ends in one linear layer"):
        parts(victim, 3, "bti-dbf")


def test_the_mask_takes_all_that_would_tell_the_label() -> None:
    # Of two features that say the same; with both in the mask the first loss is e^-38, and has no slope left.
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[12.0, 12.0], [-12.0, -12.0]])
    labels = torch.arange(20) % 2
    features = (1.0 - 2 * labels)[:, None].expand(-1, 2)

    def drawn(seed: int) -> torch.Tensor:
        return torch.randn(2, generator=torch.Generator().manual_seed(seed))

    seed = next(s for s in range(1000) if drawn(s).min() > 0.8 and drawn(s).max() < 1.3)
    found = decoupling._mask(head, features, labels, 300, 20, torch.Generator().manual_seed(seed))
    assert decoupling.unit(drawn(seed)).max() < 0.95 < 0.98 < found.min()


@pytest.mark.parametrize(
    ("start", "bound", "end"),
    [
        (0.1, 1.0, 0.1 + 8.99 * 0.1),  # .01 p^2 / 2 - 9 p^2 / 2 falls
        (0.1, 0.03, 0.1 - 8 * 0.1),  # a change of 4 p^2 = .04 is too much
        (4.0, 1e9, 4.0 - 8 * 4.0),  # benign features moved by p^2 / 2 = 8, more than 5
    ],
)
def test_a_step_of_the_generator_by_hand(
    start: float, bound: float, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.tensor(start))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.p

    made_by = Add()
    monkeypatch.setattr(decoupling, "generator", lambda *given: made_by)
    monkeypatch.setattr(decoupling, "_mask", lambda *given: torch.tensor([1.0, 0.0]))
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr: torch.optim.SGD(parameters, 1.0))
    # Of one pixel x the features x, which the mask keeps, and 3 x; a deviation is .5.
    model: Any = SimpleNamespace(
        features=lambda x: torch.cat([x.flatten(1), 3 * x.flatten(1)], 1),
        head=nn.Linear(2, 2),
        std=torch.full((1, 1, 1), 0.5),
    )
    images = np.zeros((4, 1, 1, 1), np.uint8)
    invert(model, images, np.zeros(4, np.int64), 0, "cpu", mask_steps=1, steps=1, batch=4, bound=bound, width=2)
    assert made_by.p.item() == pytest.approx(end, rel=1e-5)
