from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench import BdbenchError
from bdbench.testing import check_defense
from bdbench_baselines.dp_sgd import DPSGD
from bdbench_baselines.shaping import clipped_sum, example_gradients, shaped, without_batch_norm


def network(channels: int = 16) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.Linear(36 * channels, 4)]
    return without_batch_norm(nn.Sequential(*layers))


def batch(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 1, 8, 8), torch.arange(count) % 4


def alone(net: nn.Module, x: torch.Tensor, label: torch.Tensor) -> list[torch.Tensor]:
    loss = cross_entropy(net(x[None]), label[None])
    return list(torch.autograd.grad(loss, list(net.parameters())))


def test_gradients_are_those_of_each_example_alone() -> None:
    net, (x, labels) = network(), batch()
    found = list(example_gradients(net, x, labels).values())
    for i in range(len(x)):
        for one, all_of in zip(alone(net, x[i], labels[i]), found, strict=True):
            assert torch.allclose(one, all_of[i], atol=1e-6)


def test_clipping_by_hand() -> None:
    gradients = {"a": torch.tensor([[3.0], [0.3]]), "b": torch.tensor([[4.0, 0.0], [0.4, 0.0]])}
    found = clipped_sum(gradients, 1.0)
    # The first has norm 5 and is shortened to 1, the second has .5 and stays.
    assert found["a"].tolist() == pytest.approx([0.6 + 0.3]) and found["b"].tolist() == pytest.approx([0.8 + 0.4, 0])
    assert torch.isfinite(clipped_sum({"a": torch.zeros(2, 3)}, 1.0)["a"]).all()


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_a_step_descends_the_clipped_gradients(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdbench_baselines.shaping._AT_ONCE", at_once)
    net, (x, labels) = network(), batch()
    shaped(net, x, labels, 0.5, 0.0).backward()
    expected = [torch.zeros_like(p) for p in net.parameters()]
    for i in range(len(x)):
        own = alone(net, x[i], labels[i])
        norm = torch.cat([g.flatten() for g in own]).norm()
        assert norm > 0.5
        for total, g in zip(expected, own, strict=True):
            total += g * 0.5 / norm / len(x)
    for p, value in zip(net.parameters(), expected, strict=True):
        assert p.grad is not None and torch.allclose(p.grad, value, atol=1e-6)


def test_what_is_not_clipped_is_the_plain_gradient_and_noise_has_its_size() -> None:
    net, (x, labels) = network(), batch()
    plain = copy.deepcopy(net)
    cross_entropy(plain(x), labels).backward()
    shaped(net, x, labels, 1e6, 0.0).backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.allclose(p.grad, q.grad, atol=1e-6)
    net.zero_grad()
    shaped(net, x, labels, 1e-3, 500.0).backward()
    noise = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    assert noise.std().item() == pytest.approx(500 * 1e-3 / len(x), rel=0.05)


@pytest.mark.parametrize("channels", [1, 6, 8, 12, 16])
def test_no_example_depends_on_others_and_no_channel_is_alone(channels: int) -> None:
    net, (x, _) = network(channels), batch()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    norm = next(m for m in net.modules() if isinstance(m, nn.GroupNorm))
    assert channels == 1 or channels // norm.num_groups > 1
    assert torch.allclose(net.train()(x)[2], net(x[2:3])[0], atol=1e-6)


def test_a_network_that_cannot_be_taken_apart_is_refused_in_a_line() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.flatten(1)) if x.sum() > 0 else -self.linear(x.flatten(1))

    with pytest.raises(BdbenchError, match="no gradients of single examples") as caught:
        example_gradients(Branching(), *batch())
    assert "\n" not in str(caught.value)


def test_it_keeps_the_contracts_with_other_settings() -> None:
    check_defense(DPSGD(clip=0.1, noise=0.5))
