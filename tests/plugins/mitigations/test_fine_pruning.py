from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Batch, Recipe, Record, Split
from bdbench_mitigations import fine_pruning
from bdbench_mitigations.channels import layers, pruned
from bdbench_mitigations.clean_part import tuning
from bdbench_mitigations.fine_pruning import FinePruning, activations, frozen
from tests.plugins.mitigations.repairs import BAD, CHANNELS, clean_images, gone, handed, planted, rates


def test_activations_are_the_mean_of_what_is_positive() -> None:
    victim, clean = planted(), clean_images(1100)
    (layer,) = layers(victim, (4, 4, 1))
    found = activations(victim, layer, clean)
    assert found == pytest.approx(victim.features(np.asarray(clean.images)).mean(0), abs=1e-5)
    # The planted channel is the one that clean images leave dormant.
    assert found.argmin() == BAD and found[BAD] < 0.01 < np.delete(found, BAD).min()


def test_the_dormant_channel_goes_and_accuracy_says_how_many(tmp_path: Path) -> None:
    victim = planted()
    fp = FinePruning(epochs=2)
    repaired = fp.repair(handed(fp, victim, tmp_path))
    assert BAD in gone(repaired) and len(gone(repaired)) < CHANNELS and gone(victim) == []
    accuracy, success = rates(repaired)
    assert accuracy > 0.95 and success < 0.1
    # Any fall is allowed: one channel is left.
    all_but_one = FinePruning(epochs=2, tolerance=1.0)
    assert len(gone(all_but_one.repair(handed(all_but_one, victim, tmp_path)))) == CHANNELS - 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_pruned_channels_stay_so_in_training(optimizer: str) -> None:
    chosen = np.arange(CHANNELS) < 4
    victim = pruned(planted(), {"norm": chosen}, biases=True)
    network = victim.network.train()
    loss = frozen(victim, "norm", Recipe(epochs=1, batch_size=8, lr=0.1))
    clean = clean_images(20)
    x = torch.from_numpy(np.array(clean.images)).permute(0, 3, 1, 2).float() / 255
    batch = Batch(network, x, torch.from_numpy(clean.labels), torch.arange(20), 0, lambda images: images)
    moved: type[torch.optim.Optimizer] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    steps = moved(network.parameters(), lr=0.1)  # type: ignore[call-arg]
    before = network.norm.weight.detach().clone()  # type: ignore[operator, union-attr]
    for _ in range(3):
        steps.zero_grad()
        loss(batch).backward()
        steps.step()
    norm: nn.BatchNorm2d = network.norm  # type: ignore[assignment]
    assert (norm.weight[chosen] == 0).all() and (norm.bias[chosen] == 0).all()
    others = ~chosen
    others[BAD] = False  # It is dormant, and has no gradient.
    assert (norm.weight[others] != before[others]).all()
    # The running statistics are the trained network's own.
    assert int(norm.num_batches_tracked) == 3  # type: ignore[arg-type]
    smooth = frozen(victim, "norm", dataclasses.replace(Recipe(epochs=1, batch_size=8, lr=0.1), label_smoothing=0.5))
    assert float(smooth(batch)) != float(loss(batch))


def test_it_weakens_a_backdoor_and_keeps_the_accuracy(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:rate=.1", "fine-pruning")
    before, after = record.before, record.after
    assert after is not None and record.access == ["clean_set"] and record.cost.models_trained == 1
    assert before.attack_success_rate is not None and after.attack_success_rate is not None
    assert before.attack_success_rate > 0.95 and after.attack_success_rate < before.attack_success_rate - 0.1
    assert after.clean_accuracy > before.clean_accuracy - 0.05


def test_it_measures_on_what_is_held_out_and_tunes_on_all_with_the_pruned_left_at_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp = FinePruning(epochs=2, lr=0.5, held=0.25, tolerance=0.07)
    tools = handed(fp, planted(), tmp_path)
    measured: list[Any] = []
    calls: list[Any] = []

    def furthest(steps: Any, start: Any, held: Split, tolerance: float) -> Any:
        measured.append((len(steps), len(held.labels), tolerance))
        return steps[2]()

    monkeypatch.setattr(fine_pruning, "furthest", furthest)
    monkeypatch.setattr(fine_pruning, "tuned", lambda *args: calls.append(args))
    fp.repair(tools)
    assert measured == [(CHANNELS - 1, 15, 0.07)]
    ((_, clean, _, start, recipe, loss),) = calls
    assert len(clean.labels) == 60 and len(gone(start)) == 3 and recipe == tuning(tools.recipe, 2, 0.5)
    # What a pruned channel would give has no part in the loss.
    network = start.network
    x = torch.from_numpy(np.array(clean.images)).permute(0, 3, 1, 2).float() / 255
    batch: Any = SimpleNamespace(network=network, x=x, labels=torch.from_numpy(clean.labels))
    before = float(loss(batch))
    network.norm.bias.data[gone(start)] = 50.0
    assert float(loss(batch)) == pytest.approx(before)
