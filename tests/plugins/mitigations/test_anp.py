from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import Streams
from bdbench_mitigations import anp, masks, rnp
from bdbench_mitigations.anp import AdversarialNeuronPruning, added, disturbance
from bdbench_mitigations.clean_part import batches
from bdbench_mitigations.masks import Masked, learnt, pruned_by
from bdbench_mitigations.rnp import ReconstructiveNeuronPruning
from tests.plugins.mitigations.repairs import BAD, CHANNELS, Told, clean_images, gone, handed, planted, rates


def test_masks_scale_channels_and_leave_the_victim() -> None:
    victim = planted()
    masked = Masked(victim)
    x, y = next(batches(clean_images(20), 20, 1, torch.Generator(), "cpu"))
    masks = masked.factors(torch.ones)
    assert list(masks) == ["network.norm.weight"]
    whole = masked.logits(masks, x)
    halved = masked.logits({"network.norm.weight": torch.full((CHANNELS,), 0.5)}, x)
    network = masked.network.network
    network.norm.weight.data *= 0.5  # type: ignore[operator, union-attr]
    assert torch.allclose(halved, network(x)) and not torch.allclose(halved, whole)  # type: ignore[operator]
    # By the statistics of the batch, which do not become the victim's.
    assert (victim.network.norm.weight == 1).all()  # type: ignore[union-attr]
    assert float(masked.loss(masks, x, y).detach()) > 0


@pytest.mark.parametrize("project", [True, False])
def test_a_disturbance_stays_within_the_budget_and_raises_the_loss(project: bool) -> None:
    masked = Masked(planted())
    x, y = next(batches(clean_images(60), 60, 1, torch.Generator(), "cpu"))
    masks = masked.factors(torch.ones)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        start = disturbance(masked, masks, x, y, 0.4, 0, project, torch.Generator().manual_seed(seed))
        moved = disturbance(masked, masks, x, y, 0.4, 1, project, generator)
        assert set(moved) == {"network.norm.weight", "network.norm.bias"}
        largest = max(float(one.abs().max()) for one in moved.values())
        assert largest <= 0.4 + 1e-6 if project else 0.4 < largest <= 0.8
        risen = [float(masked.loss(added(masks, one), x, y).detach()) for one in (start, moved)]
        assert risen[1] > 2 * risen[0]


def test_the_planted_channel_is_pruned_and_the_task_stays(tmp_path: Path) -> None:
    victim = planted()
    anp = AdversarialNeuronPruning(steps=300)
    repaired = anp.repair(handed(anp, victim, tmp_path))
    accuracy, success = rates(repaired)
    assert BAD in gone(repaired) and len(gone(repaired)) < CHANNELS
    assert rates(victim) == (1, 1) and accuracy > 0.95 and success < 0.1
    # Shifts stay.
    assert repaired.network.norm.bias[BAD] == -2  # type: ignore[union-attr, index]


def test_the_level_is_a_threshold_or_what_accuracy_allows() -> None:
    victim, held = planted(), clean_images(60)
    masks = {"norm": np.where(np.arange(CHANNELS) == BAD, 0.1, 0.6).astype(np.float32)}
    assert gone(pruned_by(victim, masks, 0.05, held, None)) == []
    assert gone(pruned_by(victim, masks, 0.1, held, None)) == [BAD]
    assert gone(pruned_by(victim, masks, 0.6, held, None)) == list(range(CHANNELS))
    # Pruning all costs half of the accuracy.
    assert gone(pruned_by(victim, masks, 0.0, held, 0.1)) == [BAD]
    assert gone(pruned_by(victim, masks, 0.0, held, 0.9)) == list(range(CHANNELS))


def test_the_plain_loss_has_alpha_and_the_disturbed_one_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "Masked", Told)
    monkeypatch.setattr(masks, "learnt", lambda masked, drawn, loss, lr, track: loss("masks", None, None))
    monkeypatch.setattr(anp, "batches", lambda *given: None)
    monkeypatch.setattr(anp, "disturbance", lambda *given: "moved")
    monkeypatch.setattr(anp, "added", lambda factors, moved: "disturbed")
    tools: Any = SimpleNamespace(victim=None, shared_streams=Streams(0), device="cpu", track=lambda *given: None)
    clean: Any = None
    assert AdversarialNeuronPruning(alpha=0.2)._masks(clean, tools) == pytest.approx(0.2 * 1 + 0.8 * 3)


def test_factors_are_added_to_masks_and_to_one_for_shifts() -> None:
    found = added({"w": torch.tensor([0.5])}, {"w": torch.tensor([0.2]), "b": torch.tensor([-0.1])})
    assert {n: f.tolist() for n, f in found.items()} == {"w": [pytest.approx(0.7)], "b": [pytest.approx(0.9)]}


def test_ascents_add_up_to_the_budget() -> None:
    masked = Masked(planted())
    x, y = next(batches(clean_images(60), 60, 1, torch.Generator(), "cpu"))
    ones = masked.factors(torch.ones)
    start, moved = (disturbance(masked, ones, x, y, 0.4, n, False, torch.Generator().manual_seed(0)) for n in (0, 4))
    ways = torch.cat([moved[n] - start[n] for n in start])
    assert float(ways.abs().max()) == pytest.approx(0.4, abs=1e-6)


def test_a_disturbance_is_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(masks, "Masked", Told)
    monkeypatch.setattr(masks, "learnt", lambda masked, drawn, loss, lr, track: (seen.append(lr), loss("m", 0, 0)))
    monkeypatch.setattr(anp, "batches", lambda clean, size, steps, *rest: seen.extend([size, steps]))
    monkeypatch.setattr(anp, "disturbance", lambda *given: seen.extend(given[4:7]))
    monkeypatch.setattr(anp, "added", lambda factors, moved: "disturbed")
    tools: Any = SimpleNamespace(victim=None, shared_streams=Streams(0), device="cpu", track=lambda *given: None)
    settings: Any = {"lr": 0.3, "batch": 5, "steps": 11, "budget": 0.7, "ascents": 6, "project": False}
    AdversarialNeuronPruning(**settings)._masks(None, tools)  # type: ignore[arg-type]
    assert seen == [5, 11, 0.3, 0.7, 6, False]


@pytest.mark.parametrize("module", [anp, rnp])
def test_what_is_held_out_is_not_fitted_to(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = AdversarialNeuronPruning if module is anp else ReconstructiveNeuronPruning
    clean, fitted, measured = clean_images(20), list[int](), list[int]()
    monkeypatch.setattr(cls, "_masks", lambda self, clean, tools: fitted.append(len(clean.labels)))
    monkeypatch.setattr(masks, "pruned_by", lambda v, m, threshold, held, t: measured.append(len(held.labels)))
    tools: Any = SimpleNamespace(victim=None, clean_examples=lambda n: clean, saved=lambda config, make: make())
    for tolerance in (None, 0.1):
        cls(tolerance=tolerance, held=0.25).repair(tools)
    assert fitted == [20, 15] and measured == [20, 5]


def test_masks_are_learnt_with_momentum_and_stay_in_0_to_1() -> None:
    masked = Masked(planted())
    sign = torch.tensor([1.0, -1.0]).repeat(CHANNELS // 2)

    def learn(steps: int, lr: float) -> list[float]:
        x: Any = torch.zeros(1)
        found = learnt(masked, [(x, x)] * steps, lambda m, x, y: (sign * m["network.norm.weight"]).sum(), lr, id)
        return found["norm"][:2].tolist()

    # 1 - .1 - .19; what would rise above 1 is cut.
    assert learn(2, 0.1) == pytest.approx([0.71, 1.0])
    assert learn(3, 2.0) == [0.0, 1.0]
