"""Sources with the patch, nearest images, falling steps: attacks with clean labels, step by step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bdbench import Streams, Victim
from bdbench.testing.samples import split, workshop
from bdbench_triggers import collision, matching
from bdbench_triggers.hidden_trigger import HiddenTrigger
from bdbench_triggers.narcissus import Narcissus
from bdbench_triggers.sleeper_agent import SleeperAgent
from tests.plugins.triggers.test_clean_label import matched

STREAMS = Streams(0)
GREY = (8, 8, 1)


def test_what_images_collide_with_wears_the_patch_and_the_nearest_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, shown = split(GREY, 4, 80), []

    def moved(self: Any, surrogate: Any, images: np.ndarray, sources: np.ndarray, *rest: Any) -> dict[str, np.ndarray]:
        shown.append((images, sources))
        return {"images": images, "distance": np.arange(len(images), 0, -1.0)}

    monkeypatch.setattr(HiddenTrigger, "_moved", moved)
    attack: Any = HiddenTrigger(rate=0.05, candidates=3).settled(4, STREAMS)
    tools = workshop(attack, train, 4, 0, tmp_path)
    made = attack.craft(train, tools)
    ((images, sources),) = shown
    pool = np.resize(attack.source_pool(train, tools), 12)
    assert np.array_equal(sources, attack.stamp(np.asarray(train.images)[pool], tools.streams))
    assert not np.array_equal(sources, np.asarray(train.images)[pool])
    # Of twelve the last four are nearest.
    assert {i.tobytes() for i in made["images"]} == {i.tobytes() for i in images[8:]}


def test_the_step_size_falls_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def collide(features: Any, x: Any, sources: Any, **more: Any) -> Any:
        seen.append((features, more))
        return x, torch.zeros(len(x))

    class Flat(nn.Module):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    monkeypatch.setattr(collision, "collide", collide)
    images = np.full((2, 2, 2, 1), 51, np.uint8)
    victim = Victim(Flat(), np.full(1, 0.1, np.float32), np.full(1, 0.25, np.float32), "cpu")
    tools: Any = SimpleNamespace(device="cpu", track=lambda *given: None)
    attack = HiddenTrigger(lr=0.5, decay=0.9, decay_every=10, eps=51, steps=7, pairing="released")
    attack._moved(victim, images, images, "it", tools)
    ((features, more),) = seen
    assert [more["lr"](step) for step in (0, 9, 10, 20)] == pytest.approx([0.5, 0.5, 0.45, 0.405])
    assert (more["eps"], more["steps"], more["pairing"]) == (0.2, 7, "released")
    # (.2 - .1) / .25
    assert features(torch.full((1, 1, 2, 2), 0.2)).tolist() == [pytest.approx([0.4] * 4)]


def test_a_sleeper_agent_starts_from_noise_at_the_bound_and_follows_patched_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = split(GREY, 4, 80), []

    def match(model: Any, x: Any, labels: Any, wanted: Any, state: Any, **more: Any) -> Any:
        calls.append((model, x, labels, wanted, state["change"], more))
        return {"change": state["change"]}

    monkeypatch.setattr(matching, "match", match)
    attack: Any = SleeperAgent(rate=0.05, steps=6, retrainings=0, selection="random", eps=8.0).settled(4, STREAMS)
    tools = workshop(attack, train, 4, 0, tmp_path)
    attack.craft(train, tools)
    ((model, x, labels, wanted, change, more),) = calls
    assert float(np.abs(change * more["unit"].numpy()).max()) == pytest.approx(8 / 255)
    sources = attack.stamp(np.asarray(train.images)[attack.source_pool(train, tools)], tools.streams)
    shown = torch.from_numpy(sources).permute(0, 3, 1, 2).float() / 255
    expected = matching.gradient(model, shown, torch.full((len(shown),), attack.target))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(wanted, expected, strict=True))
    assert float(matching.apart(wanted, matching.gradient(model, x, labels))) > 1e-3


def test_the_step_of_matching_falls_at_3_5_and_7_eighths(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Noted(torch.optim.Adam):
        def step(self, *given: Any) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(*given)

    monkeypatch.setattr(torch.optim, "Adam", Noted)
    matched(torch.rand(6, 3, 4, 4), {"change": np.zeros((6, 3, 4, 4), np.float32)}, range(8), total=8)
    assert rates == pytest.approx([0.05] * 3 + [0.005] * 2 + [5e-4] * 2 + [5e-5])


def test_narcissus_descends_on_the_target_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, seen = split(GREY, 4, 40), []

    def descended(self: Any, surrogate: Any, images: np.ndarray, state: Any, first: int, tools: Any) -> Any:
        seen.append(images)
        return {"trigger": np.full((1, 1, 8, 8), 12 / 255, np.float32)}

    monkeypatch.setattr(Narcissus, "_descended", descended)
    attack: Any = Narcissus(rounds=1, target=2)
    made = attack.craft(train, workshop(attack, train, 4, 0, tmp_path))
    assert np.array_equal(seen[0], np.asarray(train.images)[train.labels == 2]) and (made["trigger"] == 12).all()
