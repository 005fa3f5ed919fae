"""Records without a training set: blind and lira, whose attacker trains the model and saves no more than that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import BdbenchError
from bdbench_backdoorbench.attack import BackdoorBenchRecord, BackdoorBenchVictim
from bdbench_backdoorbench.known import CLEAN_SETS
from bdbench_models.architectures import ConvNet, PreActResNet18
from tests.plugins.backdoorbench.conftest import Clean, invoke


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return PreActResNet18().build((8, 8, 3), 4).eval()


@pytest.fixture
def blind(tmp_path: Path, clean: Clean, network: torch.nn.Module) -> Path:
    """A record as BackdoorBench's blind writes it."""
    others = np.flatnonzero(clean.test.labels != 0).tolist()
    test = clean.changed(clean.test, others, [0] * len(others))
    return clean.write(tmp_path / "blind_demo", None, test, weights=network.state_dict())


def test_it_is_said_that_it_cannot_be_imported_why_and_what_can_be_done(clean: Clean, blind: Path) -> None:
    done = invoke("import", "backdoorbench", str(blind), "--dataset", f"npz:path={clean.file}")
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert f"the record {blind} cannot be imported: it holds no training set" in done.stderr
    assert "blind and lira save none" in done.stderr and f"backdoorbench-victim:record={blind}" in done.stderr
    with pytest.raises(BdbenchError, match="holds no training set"):
        BackdoorBenchRecord(record=str(blind)).poisoned_set(clean.train, 4)


def test_its_victim_is_repaired(
    tmp_path: Path, clean: Clean, blind: Path, network: torch.nn.Module, small_sets: None
) -> None:
    found = clean.run(tmp_path / "runs", f"backdoorbench-victim:record={blind}", defense="clp")
    assert found.after is not None and found.config["data"]["poisons"] == 0
    attack = BackdoorBenchVictim(record=str(blind))
    challenge = attack.triggered_set(clean.test)
    known = CLEAN_SETS["cifar10"].normalisation()
    x = (challenge.images / np.float32(255) - known["mean"]) / known["std"]
    with torch.inference_mode():
        predicted = network(torch.from_numpy(x).permute(0, 3, 1, 2)).argmax(1).numpy()
    # One of 24 test images is set apart for the defense.
    assert found.before.attack_success_rate == pytest.approx((predicted == 0).mean(), abs=1 / 12)
    with pytest.raises(BdbenchError, match="does not apply to attack 'backdoorbench-victim': the attacker trains"):
        clean.run(tmp_path / "runs", f"backdoorbench-victim:record={blind}", defense="low-loss")


def test_a_victim_that_is_not_of_the_model_is_refused(clean: Clean, blind: Path) -> None:
    tools: Any = SimpleNamespace(architecture=ConvNet(), num_classes=10)
    attack = BackdoorBenchVictim(record=str(blind))
    with pytest.raises(BdbenchError, match="preactresnet18, not convnet: expected --model preact-resnet18 for preact"):
        attack.victim({}, tools)
    with pytest.raises(BdbenchError, match="is of 4 classes .cifar10.: the data set has 10"):
        attack.poison(clean.train, {}, tools)
    with pytest.raises(BdbenchError, match="needs a record: expected backdoorbench-victim:record=DIR"):
        BackdoorBenchVictim().result()
