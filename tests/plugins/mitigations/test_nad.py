from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench import BdbenchError, Recipe
from bdbench_mitigations import nad
from bdbench_mitigations.clean_part import tuning
from bdbench_mitigations.nad import NeuralAttentionDistillation, attended, stages
from bdbench_models.networks import PreActResNet18, SmallConvNet
from tests.plugins.mitigations.repairs import handed, planted, rates, victim_of


def test_stages_end_where_the_size_changes() -> None:
    assert stages(victim_of(SmallConvNet(1, 10, 2)), (8, 8, 1)) == ["blocks.0.2", "blocks.1.2", "blocks"]
    groups = stages(victim_of(PreActResNet18(3, 10), 3), (32, 32, 3))
    # Not the first normalisation of the next group, which is of the size of the one before.
    assert groups == ["layer1", "layer2", "layer3", "layer4"]
    with pytest.raises(BdbenchError, match="no maps"):
        stages(victim_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 2))), (4, 4, 1))


def test_attention_by_hand() -> None:
    network = nn.Sequential(nn.Identity(), nn.Flatten())
    # Two channels of two pixels: sums of squares 9 + 16 and 0 + 0; 1 + 4 and 144 + 0.
    x = torch.tensor([[[[3.0, 0.0]], [[-4.0, 0.0]]], [[[-1.0, 12.0]], [[2.0, 0.0]]]])
    logits, (found,) = attended(network, x, ["0"], 2.0)
    assert torch.equal(logits, x.flatten(1))
    assert found.numpy() == pytest.approx(np.array([[1, 0], np.array([5, 144]) / np.hypot(5, 144)]))
    # It does not change with the scale of what is activated, and an image without any is no error.
    assert torch.allclose(attended(network, 7 * x, ["0"], 2.0)[1][0], found)
    assert torch.isfinite(attended(network, 0 * x, ["0"], 2.0)[1][0]).all()
    assert not network[0]._forward_hooks


def test_the_student_comes_to_attend_as_its_teacher() -> None:
    torch.manual_seed(0)
    nad = NeuralAttentionDistillation(betas=(1000.0, 1000.0))
    student, teacher = SmallConvNet(1, 3, 2), SmallConvNet(1, 3, 2).eval()
    names = ["blocks.1.2", "blocks"]
    loss = nad._loss(teacher, names, 0.0)
    x, y = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    batch = type("B", (), {"network": student, "x": x, "labels": y})()

    def apart() -> float:
        maps = [attended(network.eval(), x, names, 2.0)[1] for network in (student, teacher)]
        return sum(float((a - b).detach().square().mean()) for a, b in zip(*maps, strict=True))

    start, optimizer = apart(), torch.optim.Adam(student.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    assert apart() < start / 2
    # The same network is at no distance: cross-entropy is left.
    batch.network = teacher
    assert float(loss(batch)) == pytest.approx(float(nn.functional.cross_entropy(teacher(x), y)))


def test_with_fewer_stages_the_last_betas_count_low_to_high() -> None:
    torch.manual_seed(0)
    student, teacher = SmallConvNet(1, 3, 2).eval(), SmallConvNet(1, 3, 2).eval()
    names, x, y = ["blocks.1.2", "blocks"], torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    value = NeuralAttentionDistillation(betas=(7.0, 2.0, 30.0))._loss(teacher, names, 0.0)(
        type("B", (), {"network": student, "x": x, "labels": y})()
    )
    logits, (low, high) = attended(student, x, names, 2.0)
    _, (low_wanted, high_wanted) = attended(teacher, x, names, 2.0)
    apart = [float((a - b).detach().square().mean()) for a, b in ((low, low_wanted), (high, high_wanted))]
    expected = float(nn.functional.cross_entropy(logits, y)) + 2 * apart[0] + 30 * apart[1]
    assert float(value) == pytest.approx(expected)


def test_it_keeps_what_the_victim_can_and_trains_two_models(tmp_path: Path) -> None:
    nad = NeuralAttentionDistillation(epochs=2, teacher=1)
    with pytest.raises(BdbenchError, match="no maps"):
        # Its maps have one pixel.
        nad.repair(handed(nad, planted(), tmp_path))
    assert rates(planted()) == (1, 1)


RECIPE = Recipe(epochs=9, batch_size=8, lr=0.1, label_smoothing=0.25)


def nad_repair(defense: NeuralAttentionDistillation, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Any]:
    """What was tuned, in turn, and the teacher that was then handed out."""
    torch.manual_seed(0)
    victim, teacher = (victim_of(SmallConvNet(1, 3, 2)) for _ in range(2))
    calls: list[Any] = []
    monkeypatch.setattr(nad, "tuned", lambda *args: (calls.append(args[2:]), teacher)[1])
    tools: Any = SimpleNamespace(victim=victim, shape=(8, 8, 1), recipe=RECIPE, clean_examples=lambda n: None)
    defense.repair(tools)
    assert calls[0][1] is calls[1][1] is victim
    return calls, teacher


def test_a_teacher_is_tuned_and_the_victim_then_distilled_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    defense = NeuralAttentionDistillation(betas=(3.0, 7.0), power=3.0, teacher=2, epochs=5, lr=0.5)
    calls, teacher = nad_repair(defense, monkeypatch)
    assert calls[0][0] == "teacher" and calls[0][2:] == (tuning(RECIPE, 2, 0.5),)
    assert calls[1][2] == tuning(RECIPE, 5, 0.5)
    torch.manual_seed(1)
    student, x, y = SmallConvNet(1, 3, 2).eval(), torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    batch: Any = SimpleNamespace(network=student, x=x, labels=y)
    # Of its three stages the last two.
    names = ["blocks.1.2", "blocks"]
    logits, own = attended(student, x, names, 3.0)
    theirs = attended(teacher.network, x, names, 3.0)[1]
    apart = [float((a - b).detach().square().mean()) for a, b in zip(own, theirs, strict=True)]
    wanted = float(cross_entropy(logits, y, label_smoothing=0.25)) + 3 * apart[0] + 7 * apart[1]
    assert min(apart) > 1e-4 and float(calls[1][3](batch)) == pytest.approx(wanted, rel=1e-5)
