"""Runs on records, with the victims in them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import bdbench
from bdbench import BdbenchError, experiment
from bdbench.registry.plugins import installed
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from bdbench_backdoorbench.known import CLEAN_SETS
from bdbench_models.architectures import ConvNet, PreActResNet18
from tests.plugins.backdoorbench.conftest import Clean


def test_the_records_own_victim_is_measured(
    tmp_path: Path, clean: Clean, small_sets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = PreActResNet18().build((8, 8, 3), 4)
    # DataParallel, as BackdoorBench trains on several devices, puts a prefix before every name.
    weights = OrderedDict((f"module.{k}", v) for k, v in network.state_dict().items())
    record = clean.badnet(tmp_path / "r", weights=weights)
    trained = []
    real = bdbench.networks.training.Trainer.train

    def train(self: Any, images: Any, labels: Any, seed: int, label: str = "train", **options: Any) -> Any:
        trained.append(label)
        return real(self, images, labels, seed, label, **options)

    monkeypatch.setattr("bdbench.networks.training.Trainer.train", train)
    options: dict[str, Any] = {
        "attack": f"backdoorbench:record={record}",
        "dataset": f"npz:path={clean.file}",
        "model": "preact-resnet18:epochs=1",
        "device": "cpu",
        "out": tmp_path / "runs",
    }
    found = bdbench.run(defense="low-loss", **options)
    assert trained == ["train the reference", "low-loss: retrain"]
    run = bdbench.reopen(tmp_path / "runs" / found.id, device="cpu")
    expected = CLEAN_SETS["cifar10"].normalisation()
    assert np.array_equal(run.victim().mean, expected["mean"])
    x = (np.asarray(run.clean.test.images) / np.float32(255) - expected["mean"]) / expected["std"]
    network.eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    mine = run.victim()
    mine.precision = "float32"
    assert np.allclose(mine.logits(np.asarray(run.clean.test.images)), logits, atol=1e-4)
    assert found.before.clean_accuracy == pytest.approx((logits.argmax(1) == run.clean.test.labels).mean(), abs=0.1)
    trained.clear()
    bdbench.run(defense="low-loss", **{**options, "model": "convnet:width=4,epochs=1"})
    assert trained == ["train the victim", "train the reference", "low-loss: retrain"]


def test_its_victim_is_computed_as_it_was_trained_by_defenses_too(
    tmp_path: Path, clean: Clean, small_sets: None
) -> None:
    record = clean.badnet(tmp_path / "r", weights=PreActResNet18().build((8, 8, 3), 4).state_dict())
    cell = experiment.cell(
        attack=f"backdoorbench:record={record}",
        dataset=f"npz:path={clean.file}",
        model="preact-resnet18",
        device="cpu",
        precision="bfloat16",
        out=tmp_path / "runs",
    )
    handed = cell.scene.tools(installed().component("defense", "clp"), cell.models.victim)
    assert cell.scene.bench.trainer.precision == "bfloat16"
    assert cell.models.victim.precision == handed.victim.precision == "float32"


class _Restored(dict[str, Any]):
    precision = "bfloat16"


def test_weights_are_a_victim_of_their_own_architecture_only(tmp_path: Path, clean: Clean) -> None:
    record = str(clean.badnet(tmp_path / "r"))
    tools: Any = SimpleNamespace(architecture=PreActResNet18(), restore=_Restored)
    own: Any = BackdoorBenchRecord(record=record).victim({}, tools)
    assert own.precision == "float32"
    assert own is not None and {"state.conv1.weight", "mean", "std"} == own.keys()
    assert BackdoorBenchRecord(record=record).victim({}, SimpleNamespace(architecture=ConvNet())) is None  # type: ignore[arg-type]
    assert BackdoorBenchRecord(record=record, weights=False).victim({}, tools) is None
    other = str(clean.badnet(tmp_path / "other", clean_data="celeba"))
    with pytest.raises(BdbenchError, match="unknown BackdoorBench data set 'celeba'.*known: cifar10"):
        BackdoorBenchRecord(record=other).victim({}, tools)


def test_another_victim_is_another_result(tmp_path: Path, clean: Clean, small_sets: None) -> None:
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = PreActResNet18().build((8, 8, 3), 4).state_dict()
        record = clean.badnet(tmp_path / f"r{seed}", weights=weights)
        found = clean.run(tmp_path / "runs", f"backdoorbench:record={record}", defense="low-loss")
        with np.load(tmp_path / "runs" / found.id / "scores.npz") as arrays:
            scores.append(arrays["scores"])
    assert not np.array_equal(*scores)


def test_weights_that_do_not_fit_are_named(tmp_path: Path, clean: Clean, small_sets: None) -> None:
    weights = PreActResNet18().build((8, 8, 3), 7).state_dict()
    record = clean.badnet(tmp_path / "r", weights=weights)
    with pytest.raises(BdbenchError, match="brings weights that do not fit model 'preact-resnet18': .*linear.weight"):
        clean.run(tmp_path / "runs", f"backdoorbench:record={record}")
