from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench import Recipe, Record
from bdbench_mitigations import ft_sam
from bdbench_mitigations.clean_part import tuning
from bdbench_mitigations.ft_sam import SharpnessAwareFineTuning, sharp


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()


def test_the_gradient_is_that_at_the_worst_weights_of_the_ellipsoid() -> None:
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    network, other = _network(), _network()
    sharp(network, x, y, 2.0, 0.1).backward()
    # By hand: climb, and differentiate there.
    cross_entropy(other(x), y, label_smoothing=0.1).backward()
    own = [(p.detach().clone(), p.grad.clone()) for p in other.parameters() if p.grad is not None]
    norm = sum(float(((w.abs() * g) ** 2).sum()) for w, g in own) ** 0.5
    for p, (w, g) in zip(other.parameters(), own, strict=True):
        p.data = w + 2.0 * w**2 * g / norm
        p.grad = None
    statistics = other[1].running_mean.clone()  # type: ignore[operator, union-attr]
    cross_entropy(other(x), y, label_smoothing=0.1).backward()
    for p, q in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad)  # type: ignore[arg-type]
    # What is kept of the batch is what it was before the climb.
    assert torch.equal(network[1].running_mean, statistics)  # type: ignore[arg-type]


def test_no_climb_is_plain_fine_tuning() -> None:
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    network, other = _network(), _network()
    sharp(network, x, y, 0.0).backward()
    cross_entropy(other(x), y).backward()
    for p, q in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad)  # type: ignore[arg-type]


@pytest.mark.slow
def test_it_weakens_a_backdoor_and_keeps_the_accuracy(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "ft-sam")
    before, after = record.before, record.after
    assert after is not None and record.access == ["clean_set"] and record.cost.models_trained == 1
    assert before.attack_success_rate is not None and after.attack_success_rate is not None
    assert before.attack_success_rate > 0.95 and after.attack_success_rate < before.attack_success_rate - 0.2
    assert after.clean_accuracy > before.clean_accuracy - 0.05


RECIPE = Recipe(epochs=9, batch_size=8, lr=0.1, label_smoothing=0.25)


def test_the_tuning_is_by_the_sharp_loss_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(ft_sam, "tuned", lambda *args: calls.append(args))
    tools: Any = SimpleNamespace(victim="it", recipe=RECIPE, clean_examples=lambda n: n)
    defense = SharpnessAwareFineTuning(clean=7, epochs=2, lr=0.5, rho=0.5, smoothing=0.2)
    defense.repair(tools)
    ((_, clean, _, start, recipe, loss),) = calls
    assert (clean, start, recipe) == (7, "it", tuning(RECIPE, 2, 0.5))
    torch.manual_seed(0)
    network, x, y = torch.nn.Linear(3, 2), torch.randn(4, 3), torch.arange(4) % 2
    batch: Any = SimpleNamespace(network=network, x=x, labels=y)
    assert float(loss(batch)) == pytest.approx(float(sharp(network, x, y, 0.5, 0.2)))
    assert float(loss(batch)) != pytest.approx(float(sharp(network, x, y, 2.0, 0.1)), abs=1e-3)
