"""What a workshop keeps: found again by all that it hangs on, and counted once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdbench import Streams
from bdbench.cells.tools import HarnessWorkshop
from bdbench.storage.store import Stage, Store
from bdbench.testing import samples


def _at_work(name: str, folder: Path) -> HarnessWorkshop:
    """The workshop of a component of that name; all share what is kept."""
    train = samples.split(samples.GREY, 4, 40)
    place = samples.bench(np.asarray(train.images), train.labels, 4, 0, folder)
    return HarnessWorkshop(name, place, Streams(0).child(name), Streams(0).child("shared"))


def _looped(name: str, folder: Path, rate: float = 0.1) -> np.ndarray:
    tools = _at_work(name, folder)
    network = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(network.weight, 0.5)
    torch.nn.init.zeros_(network.bias)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)

    def epoch(number: int, generator: torch.Generator) -> None:
        optimizer.zero_grad()
        network(torch.rand(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()

    tools.loop("it", {"network": network, "optimizer": optimizer}, 4, epoch)
    return network.weight.detach().numpy().copy()


def test_two_components_with_one_loop_keep_their_own_draws(tmp_path: Path) -> None:
    """They share its code, where one derives from the other or both from a helper."""
    alone = [_looped(name, tmp_path / name) for name in ("one", "two")]
    together = [_looped(name, tmp_path / "both") for name in ("one", "two")]
    assert np.array_equal(alone, together)
    assert not np.array_equal(*alone)


def test_a_loop_hangs_on_how_its_optimizer_is_set(tmp_path: Path) -> None:
    alone = _looped("one", tmp_path / "alone", rate=0.2)
    assert not np.array_equal(_looped("one", tmp_path / "both", rate=0.1), alone)
    assert np.array_equal(_looped("one", tmp_path / "both", rate=0.2), alone)


def test_a_model_trained_on_from_another_hangs_on_what_is_fixed_in_that(tmp_path: Path) -> None:
    tools, train = _at_work("one", tmp_path), samples.split(samples.GREY, 4, 40)
    images = np.asarray(train.images)
    start = tools.train(images, train.labels, "first")

    def on(fixed: bool) -> Mapping[str, np.ndarray]:
        begun: Any = tools.restore(start.arrays())
        begun.network.convolution.requires_grad_(not fixed)
        return tools.train(images, train.labels, "on", start=begun).arrays()

    before, free, fixed = start.arrays(), on(False), on(True)
    weights = "state.convolution.weight"
    assert np.array_equal(fixed[weights], before[weights])
    assert not np.array_equal(free[weights], before[weights])


class _Awaited(Store):
    """Another process makes everything, and is waited for."""

    def stage(self, config: Mapping[str, Any], make: Callable[[], Any]) -> Stage:
        time.sleep(0.2)
        return Stage({"models trained": np.array(3)}, 5.0, reused=True)


def test_a_piece_costs_what_it_took_where_it_was_made_and_once(tmp_path: Path) -> None:
    tools = _at_work("one", tmp_path)
    tools._bench = replace(tools._bench, store=_Awaited(tmp_path))
    start = time.perf_counter()
    for _ in range(3):
        tools.saved({"piece": 1}, dict)
    # The harness adds what the defense took on the clock, the wait among it.
    took = time.perf_counter() - start
    assert took + tools.reused_seconds == pytest.approx(5.0, abs=0.1)
    assert tools.models_trained == 3
    tools.saved({"piece": 2}, dict)
    assert tools.models_trained == 6


def test_a_model_that_is_asked_for_twice_is_trained_and_counted_once(tmp_path: Path) -> None:
    tools, train = _at_work("one", tmp_path), samples.split(samples.GREY, 4, 40)
    for name in ("a", "a", "b"):
        tools.train(np.asarray(train.images), train.labels, name)
    assert tools.models_trained == 2
