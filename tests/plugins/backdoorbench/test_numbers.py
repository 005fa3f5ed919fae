"""What crosses the bridge is what it was: weights of every layer, rates, percentages, and who is attacked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import bdbench
from bdbench_backdoorbench import export
from bdbench_backdoorbench.known import CLEAN_SETS
from bdbench_backdoorbench.results import read
from bdbench_backdoorbench.weights import renormalised
from bdbench_models.architectures import PreActResNet18
from tests.plugins.backdoorbench.conftest import Clean, invoke

# Where a border is padded, with another value under another normalisation, the two differ.
_INNER = (..., slice(6, -6), slice(6, -6))


def _stream(network: Any, pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> list[torch.Tensor]:
    """What the first normalisation of three blocks gives, the last of which is the first of the second layer."""
    x = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        x = network.conv1(x)
        one = network.layer1[0](x)
        return [network.layer1[0].bn1(x), network.layer1[1].bn1(one), network.layer2[0].bn1(network.layer1[1](one))]


def test_a_network_under_another_normalisation_computes_the_same_in_all_of_its_first_layers() -> None:
    torch.manual_seed(0)
    network = PreActResNet18().build((24, 24, 3), 4).train()
    with torch.no_grad():
        network(torch.randn(16, 3, 24, 24))
    mean, std = np.array([0.3, 0.5, 0.4], np.float32), np.array([0.2, 0.3, 0.25], np.float32)
    other = np.zeros(3, np.float32), np.ones(3, np.float32)
    moved = PreActResNet18().build((24, 24, 3), 4).eval()
    moved.load_state_dict(renormalised(bdbench.Victim(network.eval(), mean, std, "cpu"), *other))
    pixels = np.random.default_rng(0).random((2, 24, 24, 3)).astype(np.float32)
    for ours, theirs in zip(_stream(network, pixels, mean, std), _stream(moved, pixels, *other), strict=True):
        assert torch.allclose(ours[_INNER], theirs[_INNER], atol=1e-3)


def test_the_drift_of_an_export_is_told_of_those_that_are_attacked_towards_their_goals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    class Compared:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def drift(self, images: np.ndarray, wanted: np.ndarray) -> None:
            asked.append((images.tolist(), wanted.tolist()))

    monkeypatch.setattr(export, "Comparison", Compared)
    monkeypatch.setattr(export, "renormalised", lambda *_, **__: {})
    challenge = SimpleNamespace(images=np.array([7, 8, 9]), goal=np.array([0, 0, 2]), index=np.array([1, 2, 2]))
    run: Any = SimpleNamespace(
        victim=lambda: SimpleNamespace(mean=np.ones(3), std=np.ones(3)),
        clean=SimpleNamespace(test=SimpleNamespace(images=np.arange(3), labels=np.array([0, 1, 2]))),
        challenge=challenge,
        attacked=np.array([True, True, False]),
    )
    export._weights(run, CLEAN_SETS["gtsrb"])
    assert asked == [([0, 1, 2], [0, 1, 2]), ([7, 8], [0, 0])]


def test_the_rate_of_a_record_is_that_of_its_poisons_without_covers(tmp_path: Path, clean: Clean) -> None:
    train = clean.changed(clean.train, [1, 2, 7], [0, 0, 3])
    folder = clean.write(tmp_path / "r", train, clean.changed(clean.test, [1], [0]))
    told = invoke("import", "backdoorbench", str(folder), "--dataset", f"npz:path={clean.file}", "--json").stdout
    found = json.loads(told)
    assert (found["poisons"], found["cover_examples"], found["poison_rate"]) == (2, 1, 0.05)


def test_a_table_of_shares_with_a_whole_one_is_not_of_percentages(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    head = "dataset,backbone,attack_name,defense_name,ratio,test_acc,test_asr,test_ra"
    file.write_text(f"{head}\na,b,c,d,0.1,0.9,1.0,0\n")
    (row,) = read(file).rows
    names = ("rate", "clean_accuracy", "attack_success_rate", "robust_accuracy")
    assert [row[name] for name in names] == [0.1, 0.9, 1.0, 0]
