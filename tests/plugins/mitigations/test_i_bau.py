from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bdbench import Record
from bdbench_mitigations.clean_part import batches
from bdbench_mitigations.i_bau import ImplicitAdversarialUnlearning, _inner, hypergradient, perturbation
from tests.plugins.mitigations.repairs import TARGET, clean_images, handed, planted


def test_the_hypergradient_of_a_quadratic_is_exact() -> None:
    # inner = d A d / 2 - d B w, least at d = A^-1 B w; outer = |d - c|^2 / 2 + w D w / 2 + d E w.
    torch.manual_seed(0)
    root, b, c, e = torch.randn(4, 4), torch.randn(4, 3), torch.randn(4), torch.randn(4, 3)
    a, d = root @ root.T / 4 + torch.eye(4), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    w = torch.randn(3, requires_grad=True)

    def outer(delta: torch.Tensor) -> torch.Tensor:
        return (delta - c).square().sum() / 2 + w @ d @ w / 2 + delta @ e @ w

    best = torch.linalg.solve(a, b @ w)
    (exact,) = torch.autograd.grad(outer(best), w)
    step = 1 / float(torch.linalg.eigvalsh(a).max())
    found = [hypergradient(lambda x: x @ a @ x / 2 - x @ b @ w, outer, best, [w], k, step)[0] for k in (1, 5, 200)]
    assert found[2] == pytest.approx(exact, rel=1e-4)
    errors = [float((one - exact).norm()) for one in found]
    assert errors[0] > errors[1] > errors[2]
    # Without what the best perturbation follows, it is another.
    (direct,) = torch.autograd.grad(outer(best.detach()), w)
    assert float((direct - exact).norm()) > 0.1


def test_one_perturbation_takes_all_to_the_target_and_stays_in_its_ball() -> None:
    model = planted(sure=0.2).module().eval()
    clean = clean_images(60)
    x, y = next(batches(clean, 60, 1, torch.Generator(), "cpu"))
    delta = perturbation(model, batches(clean, 60, 50, torch.Generator(), "cpu"), 10.0, 10.0)
    assert delta.shape == (1, 1, 4, 4) and float(delta.norm()) <= 10 + 1e-5
    # Both classes are told apart without it.
    others = x[y != TARGET]
    assert (model(others).argmax(1) != TARGET).all()
    assert (model(others + delta).argmax(1) == TARGET).float().mean() > 0.9
    small = perturbation(model, batches(clean, 60, 50, torch.Generator(), "cpu"), 10.0, 0.1)
    assert float(small.norm()) <= 0.1 + 1e-6


def test_two_steps_of_a_perturbation_by_hand() -> None:
    """Of a linear model: up cross-entropy against what the model says, the labels apart, and down .001 |delta|^2."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    weights, bias = layer.weight.detach(), layer.bias.detach()
    parts = [(torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)) for _ in "12"]
    delta, lr = torch.zeros(4), 200.0
    for x, _ in parts:
        logits = x.flatten(1) @ weights.T + bias
        said = nn.functional.one_hot(logits.argmax(1), 3)
        slope = (torch.softmax(logits + weights @ delta, 1) - said) @ weights
        delta = delta + lr * (slope.mean(0) - 2 * 1e-3 * delta)
    model = nn.Sequential(nn.Flatten(), layer)
    assert torch.allclose(perturbation(model, iter(parts), lr, None).flatten(), delta, rtol=1e-4)
    held = perturbation(model, iter(parts[:1]), lr, 0.5)
    free = perturbation(model, iter(parts[:1]), lr, None)
    assert torch.allclose(held, free * 0.5 / free.norm(), rtol=1e-5) and free.norm() > 0.5


def test_what_a_perturbation_makes_least_is_cross_entropy_turned_round_and_its_own_square() -> None:
    model, delta = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.full((1, 1, 2, 2), 10.0)
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    expected = 1e-3 * 400 - nn.functional.cross_entropy(model(x + 10), y)
    assert float(_inner(model, x, y)(delta).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_first_step_is_adams_along_the_hypergradient_of_the_perturbed_loss(tmp_path: Path) -> None:
    """Where a batch is all clean images and all of them are perturbed, whatever their order."""
    victim, count, lr = planted(sure=0.2), 40, 0.01
    before = [weight.detach().clone() for weight in victim.network.parameters()]
    bau = ImplicitAdversarialUnlearning(rounds=1, steps=1, batch=count, portion=1.0, lr=lr)
    tools = handed(bau, victim, tmp_path, count)
    after = [weight.detach() for weight in bau.repair(tools).network.parameters()]
    assert all(torch.equal(old, weight) for old, weight in zip(before, victim.network.parameters(), strict=True))

    model = victim.module().eval()
    x, y = next(batches(tools.clean_examples(), count, 1, torch.Generator(), "cpu"))
    delta = perturbation(model, iter([(x, y)]), bau.ascent, bau.radius)
    assert float(delta.norm()) > 0.01

    def inner(found: torch.Tensor) -> torch.Tensor:
        return 1e-3 * found.square().sum() - nn.functional.cross_entropy(model(x + found), y)

    def outer(found: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x + found), y)

    gradients = hypergradient(inner, outer, delta, list(victim.network.parameters()), 5, 0.1)
    told = torch.cat([gradient.flatten() for gradient in gradients])
    moved = torch.cat([(new - old).flatten() for new, old in zip(after, before, strict=True)])
    sure = told.abs() > 1e-5
    assert sure.sum() > 100
    # Adam's first step is of its rate against the sign.
    assert moved[sure].numpy() == pytest.approx(-lr * told[sure].sign().numpy(), rel=0.01)


@pytest.mark.slow
def test_it_ends_a_backdoor(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "i-bau")
    before, after = record.before, record.after
    assert after is not None and record.access == ["clean_set"]
    assert before.attack_success_rate is not None and after.attack_success_rate is not None
    assert before.attack_success_rate > 0.95 and after.attack_success_rate < 0.2
    assert after.clean_accuracy > before.clean_accuracy - 0.05
