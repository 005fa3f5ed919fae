"""MNIST both ways: BackdoorBench's networks take three channels, ours one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import BdbenchError, Split, Victim
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from bdbench_backdoorbench.weights import renormalised, three_channels
from bdbench_models.architectures import PreActResNet18
from tests.plugins.backdoorbench.conftest import Clean, make_clean

HALF = np.array([0.5], np.float32)


@pytest.fixture
def grey(tmp_path: Path) -> Clean:
    return make_clean(tmp_path, 1)


def network(channels: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return PreActResNet18().build((8, 8, channels), 4).eval()


def restored(arrays: dict[str, np.ndarray]) -> Victim:
    """What ``tools.restore`` gives for grey images."""
    own = network(1)
    own.load_state_dict(
        {k.removeprefix("state."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("state.")}
    )
    return Victim(own, arrays["mean"], arrays["std"], "cpu")


def seen_there(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """The logits of a network of three channels on grey images in three equal ones, normalised as there."""
    x = torch.from_numpy((images / np.float32(255) - 0.5) / 0.5).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        return network(x).numpy()


TOOLS: Any = SimpleNamespace(architecture=PreActResNet18(), restore=restored)


def test_a_victim_of_three_channels_is_one_of_grey_images(tmp_path: Path, grey: Clean, small_sets: None) -> None:
    theirs = network(3)
    folder = grey.badnet(tmp_path / "r", clean_data="mnist", weights=theirs.state_dict())
    victim = BackdoorBenchRecord(record=str(folder)).victim({}, TOOLS)
    assert victim is not None
    images = np.asarray(grey.test.images)
    assert np.allclose(victim.logits(images), seen_there(theirs, images), atol=1e-5)


def test_a_victim_of_grey_images_is_one_of_three_channels_and_back(
    tmp_path: Path, grey: Clean, small_sets: None
) -> None:
    ours = network(1)
    state = three_channels(renormalised(Victim(ours, HALF, HALF, "cpu"), HALF, HALF))
    theirs = network(3)
    theirs.load_state_dict(state)
    images = np.asarray(grey.test.images)
    assert np.allclose(seen_there(theirs, images), Victim(ours, HALF, HALF, "cpu").logits(images), atol=1e-5)
    again = BackdoorBenchRecord(record=str(grey.badnet(tmp_path / "r", clean_data="mnist", weights=state)))
    back = again.victim({}, TOOLS)
    assert back is not None
    for name, value in ours.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], value), name


@pytest.mark.parametrize("equal", [True, False])
def test_images_in_three_equal_channels_are_grey_and_others_are_not(tmp_path: Path, grey: Clean, equal: bool) -> None:
    coloured = Clean(
        grey.file, *(Split(np.repeat(s.images, 3, 3), s.labels) for s in (grey.train, grey.test)), (8, 8, 3)
    )
    train = coloured.changed(coloured.train, [7, 21], [0, 0])
    if not equal:
        train[7][0][0, 0] = (1, 2, 3)
    folder = coloured.write(tmp_path / "r", train, coloured.changed(coloured.test, [1], [0]), clean_data="mnist")
    if not equal:
        with pytest.raises(BdbenchError, match="example 7 is RGB of 8 x 8: expected L of 8 x 8"):
            grey.poison(folder)
        return
    expected = np.array(grey.train.images)
    expected[[7, 21], -2:, -2:] = 255
    assert np.array_equal(grey.poison(folder).images, expected)
