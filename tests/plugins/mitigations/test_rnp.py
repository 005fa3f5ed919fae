from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Streams
from bdbench_mitigations import masks, rnp
from bdbench_mitigations.clean_part import batches
from bdbench_mitigations.rnp import ReconstructiveNeuronPruning, unlearn
from tests.plugins.mitigations.repairs import BAD, Told, clean_images, gone, handed, planted, rates, victim_of


def test_unlearning_ends_at_the_floor_and_leaves_the_victim() -> None:
    victim, clean = planted(sure=0.2), clean_images(60)
    drawn = batches(clean, 30, 1000, torch.Generator().manual_seed(0), "cpu")
    other = unlearn(victim, drawn, 0.2, 0.2, 60)
    # It went on to the floor and no further: batches are left.
    assert next(drawn, None) is not None
    assert rates(victim) == (1, 1)
    assert (other.predict(np.asarray(clean.images)) == clean.labels).mean() < 0.5
    few = list(batches(clean, 30, 3, torch.Generator().manual_seed(0), "cpu"))
    still = unlearn(victim, few, 1e-6, 0.2, 60)
    assert (still.predict(np.asarray(clean.images)) == clean.labels).all()


def test_masks_recover_a_model_that_a_channel_sends_to_the_target(tmp_path: Path) -> None:
    # What unlearning makes of a backdoored model by the paper: the backdoor's channel answers to clean images.
    victim, rnp = planted(0.0, sure=0.2), ReconstructiveNeuronPruning(floor=1, tolerance=None)
    victim.network.norm.weight.data[BAD] = 60  # type: ignore[operator, union-attr]
    victim.network.norm.bias.data[BAD] = 0  # type: ignore[operator, union-attr]
    assert rates(victim)[0] < 0.9 and rates(victim)[1] == 1
    # The floor is met at once, so that the weights are but a step away.
    repaired = rnp.repair(handed(rnp, victim, tmp_path))
    accuracy, success = rates(repaired)
    assert gone(repaired) == [BAD] and accuracy > 0.95 and success < 0.1


def test_a_model_that_is_sure_of_its_clean_examples_is_not_driven_to_infinity(tmp_path: Path) -> None:
    rnp = ReconstructiveNeuronPruning(steps=200)
    tools = handed(rnp, planted(sure=0.4), tmp_path)
    assert np.isfinite(rnp.repair(tools).logits(np.asarray(clean_images(20).images))).all()
    drawn = batches(clean_images(60), 30, 200, torch.Generator().manual_seed(0), "cpu")
    weights = unlearn(tools.victim, drawn, 0.01, 0.2, 60).network.parameters()
    assert all(torch.isfinite(weight).all() for weight in weights)


def test_a_step_of_unlearning_is_as_long_as_a_gradient_of_20_at_most() -> None:
    """Up the loss; decay, which the optimiser adds afterwards, apart."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 2)
    network = nn.Sequential(nn.Flatten(), layer)
    before = torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])
    y, lr = torch.tensor([0, 1, 0, 1]), 1e-3
    for size, longest in ((1.0, False), (1000.0, True)):
        x = size * torch.rand(4, 1, 4, 4)
        loss = nn.functional.cross_entropy(network(x), y)
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, [layer.weight, layer.bias])])
        assert (gradient.norm() > 20) == longest
        made = unlearn(victim_of(network), [(x, y)], lr, 0.0, 4).network[1]  # type: ignore[index]
        after = torch.cat([made.weight.detach().flatten(), made.bias.detach()])  # type: ignore[union-attr, operator]
        step = gradient * min(1.0, 20 / float(gradient.norm()))
        assert torch.allclose(after, before + lr * (step - 5e-4 * before), atol=1e-5)


def test_masks_are_of_the_unlearnt_model_and_the_loss_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    Told.victims.clear()
    monkeypatch.setattr(masks, "Masked", Told)
    monkeypatch.setattr(masks, "learnt", lambda masked, drawn, loss, lr, track: (seen.append(lr), loss("m", 0, 0))[1])
    monkeypatch.setattr(rnp, "batches", lambda *given: None)
    monkeypatch.setattr(rnp, "unlearn", lambda victim, drawn, lr, floor, n: (seen.extend([victim, lr, floor]), "un")[1])
    tools: Any = SimpleNamespace(victim="it", shared_streams=Streams(0), device="cpu", track=lambda *given: None)
    defense = ReconstructiveNeuronPruning(alpha=0.4, unlearning=0.02, floor=0.3, recovering=0.1)
    assert defense._masks(clean_images(4), tools) == pytest.approx(0.4)  # type: ignore[comparison-overlap]
    assert Told.victims == ["un"] and seen == ["it", 0.02, 0.3, 0.1]
