from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bdbench import Split, Streams, Victim
from bdbench_inspection import hyperplane
from bdbench_inspection.feature_re import FeatureRE
from bdbench_inspection.generating import Parts, parts
from bdbench_inspection.hyperplane import Bounds, Pass, Target, search
from tests.plugins.inspection.test_bti_dbf import Planted

BOUNDS = Bounds(change=3.0, spread=10.0, size=1.0)


def test_the_mixed_value_by_hand() -> None:
    bounds = Bounds(change=0.2, spread=1.0, size=4.0)
    best = Pass(likeness=0.0, obeyed=1.0, change=0.2, spread=0.5, size=4.0)
    assert best.value(bounds) == -1
    # Half as much change again, a spread of three times the bound, a mask by a quarter too large.
    worse = Pass(likeness=0.3, obeyed=0.6, change=0.3, spread=3.0, size=5.0)
    assert worse.value(bounds) == pytest.approx(0.3 - 0.6 + 0.5 + 2.0 + 0.25)


@pytest.fixture
def planted() -> tuple[Parts, np.ndarray, np.ndarray]:
    """A model that takes what is bright in the middle for label 2, and clean images of labels 0 and 1."""
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    images = rng.integers(0, 40, (40, 8, 8, 1))
    for label, rows in enumerate((slice(0, 3), slice(5, 8))):
        images[labels == label, rows] += 150
    victim = Victim(Planted(), np.zeros(1, np.float32), np.full(1, 0.3, np.float32), "cpu")
    victim.network.features = lambda x: Planted.features(victim.network, 0.3 * x)  # type: ignore[assignment, arg-type]
    return parts(victim, 3, "feature-re"), images.astype(np.uint8), labels


def found(planted: tuple[Parts, np.ndarray, np.ndarray], label: int, passes: int = 40) -> dict[str, np.ndarray]:
    settings: dict[str, Any] = {"warm_up": 20, "passes": passes, "batch": 20, "width": 8, "bounds": BOUNDS}
    return search(*planted, [5, 6, 7], "cpu", label, **settings)


def test_a_planted_target_is_found_by_its_feature_and_no_other_label_is(
    planted: tuple[Parts, np.ndarray, np.ndarray],
) -> None:
    values = [found(planted, label) for label in range(3)]
    assert float(values[2]["value"]) < -0.9 < min(float(v["value"]) for v in values[:2])
    assert values[2]["mask"].argmax() == 2 and values[2]["mask"][:2].max() < 0.3
    assert values[2]["made"][:, 3:5].mean() > values[2]["clean"][:, 3:5].mean() + 50
    # Its own images are none of those that are changed.
    assert np.array_equal(values[0]["clean"], planted[1][1:4:2])
    again = found(planted, 2)
    assert all(np.array_equal(values[2][name], again[name]) for name in again)


def test_under_the_mask_are_the_changed_images_features_and_elsewhere_those_of_clean_ones(
    planted: tuple[Parts, np.ndarray, np.ndarray],
) -> None:
    model, images, labels = planted
    target = hyperplane._target(model, images, labels, 2, "cpu")
    x = target.images
    assert len(x) == 40 and target.own.tolist() == [0, 0, 0]
    other = hyperplane._target(model, images, labels, 1, "cpu")
    assert len(other.images) == 20 and torch.equal(other.own, other.features[1::2].mean(0))
    hunt = hyperplane._Hunt(
        model,
        target,
        BOUNDS,
        torch.Generator().manual_seed(0),
        torch.nn.Identity(),
        torch.zeros(3),
        (),  # type: ignore[arg-type]
    )
    mixed = hunt._mixed(torch.full((50, 3), 7.0), torch.tensor([0.0, 1.0, 0.0]))
    # 9 times the features, and 1 less for the last.
    assert (mixed[:, 1] == 63).all()
    pairs = {(round(float(a), 3), round(float(b), 3)) for a, b in zip(mixed[:, 0], mixed[:, 2], strict=True)}
    assert pairs <= {(round(9 * float(f[0]), 3), round(9 * float(f[2]) - 1, 3)) for f in target.features}
    assert len(pairs) > 10


def test_what_is_beyond_a_bound_is_lowered_and_what_is_within_is_left(
    planted: tuple[Parts, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = planted
    target = hyperplane._target(model, images, labels, 0, "cpu")
    x = target.images
    losses: list[float] = []
    monkeypatch.setattr(hyperplane, "_descend", lambda adam, loss: losses.append(float(loss)))
    made_by = torch.nn.Hardtanh(0.0, 0.5)
    free = torch.tensor([0.5, -0.2, 0.1])
    for change, spread, size in itertools.product((1e-6, 10.0), (1e-6, 10.0), (0.1, 10.0)):
        bounds = Bounds(change, spread, size)
        hunt = hyperplane._Hunt(
            model,
            target,
            bounds,
            torch.Generator().manual_seed(0),
            made_by,
            free,
            (None, None),
            (0.5, 2.0, 0.0),  # type: ignore[arg-type]
        )
        losses.clear()
        told = hunt._generate(x)
        expected = 5 * max(told.likeness, 0)
        expected += 10 * 1.5 * told.change if told.change > change else 0
        expected += 10 * 3.0 * told.spread if told.spread > spread else 0
        if told.obeyed >= 0.9:
            assert losses == [pytest.approx(expected, rel=1e-5)]
        else:
            assert losses[0] > expected
        mask = (free.tanh() + 1) / 2
        assert told.size == pytest.approx(float(mask.sum()))
        moved = model.features(made_by(x))
        assert told.spread == pytest.approx(float((moved * mask).std(0).sum() / mask.sum()), rel=1e-5)
        assert told.change == pytest.approx(float(((made_by(x) - x) / 0.3).square().mean()), rel=1e-5)
        before = len(losses)
        hunt._narrow(x)
        assert (losses[before] > float(mask.sum())) if size == 0.1 else losses[before] > 0


def test_the_worse_a_pass_misses_a_bound_the_more_it_weighs_in_the_next(
    planted: tuple[Parts, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = planted
    target = hyperplane._target(model, images, labels, 0, "cpu")
    hunt = hyperplane._Hunt(model, target, Bounds(0.2, 1.0, 1.0), None, None, None, (None, None))  # type: ignore[arg-type]
    told = iter([Pass(0.0, 0.4, 0.3, 0.5, 9.0), Pass(0.0, 0.5, 0.5, 0.9, 9.0)])
    monkeypatch.setattr(hunt, "_generate", lambda x: next(told))
    monkeypatch.setattr(hunt, "_narrow", lambda x: None)
    mean = hunt.step([torch.arange(2), torch.arange(2)])
    assert mean == Pass(0.0, pytest.approx(0.45), pytest.approx(0.4), pytest.approx(0.7), 9.0)
    assert hunt.excess == (pytest.approx(1.0), 0.0, pytest.approx(0.5))


def test_a_label_without_clean_images_has_no_features_of_its_own(
    planted: tuple[Parts, np.ndarray, np.ndarray],
) -> None:
    made = found(planted, 2, passes=1)
    assert float(made["likeness"]) == 0 and isinstance(hyperplane._target(*planted, 2, "cpu"), Target)


@pytest.mark.parametrize(("size", "most"), [(0.5, 1.0), (0.9, 2.0), (0.03, 1.0)])
def test_labels_below_the_threshold_are_flagged(size: float, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[Bounds] = []

    def search(*given: Any, **settings: Any) -> dict[str, np.ndarray]:
        bounds.append(settings["bounds"])
        return {"value": np.array([-0.2, -0.9, -0.6][given[-1]])}

    monkeypatch.setattr(hyperplane, "search", search)
    tools: Any = SimpleNamespace(
        victim=Victim(Planted(), np.zeros(1, np.float32), np.ones(1, np.float32), "cpu"),
        clean_examples=lambda n: Split(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2)),
        num_classes=3,
        shared_streams=Streams(0),
        device="cpu",
        track=lambda *given: lambda steps: None,
        saved_each=lambda configs, make: (make(i) for i in range(len(configs))),
    )
    verdict = FeatureRE(threshold=-0.6, size=size, change=0.2, spread=0.7).inspect(tools)
    assert (verdict.score, verdict.flagged, verdict.targets) == (0.9, True, (1,))
    assert bounds == [Bounds(0.2, 0.7, most)] * 3
    assert not FeatureRE(threshold=-0.95).inspect(tools).flagged


@pytest.mark.parametrize("bound", [1e-6, 10.0])
def test_losses_of_feature_re_by_hand(bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = hyperplane.Parts(Planted(), Planted().linear, torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.3))
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    target = hyperplane._target(model, images, np.array([0, 0, 1, 1, 1, 1]), 0, "cpu")
    losses: list[float] = []
    monkeypatch.setattr(hyperplane, "_descend", lambda adam, loss: losses.append(float(loss.detach())))
    made_by, free, x = nn.Hardtanh(0.0, 0.5), torch.tensor([0.5, -0.2, 0.1]), target.images
    chance = torch.Generator()
    hunt = hyperplane._Hunt(model, target, Bounds(bound, 10.0, bound), chance, made_by, free, (None, None), (0, 0, 3))  # type: ignore[arg-type]
    fixed = torch.tensor([[0.0, 1.0, 0.0]]).expand(len(x), -1)  # none obeys
    monkeypatch.setattr(hunt, "_mixed", lambda features, mask: fixed)
    mislabelled = float(cross_entropy(fixed, torch.zeros(len(x), dtype=torch.int64)))
    told = hunt._generate(x)
    beyond = 10 * told.change if told.change > bound else 0.0
    assert losses[-1] == pytest.approx(5 * max(told.likeness, 0) + beyond + (1 + 3) * mislabelled, rel=1e-5)
    hunt._narrow(x)
    size = float(((free.tanh() + 1) / 2).sum())
    assert losses[-1] == pytest.approx(mislabelled + (size if size > bound else 0), rel=1e-5)
    hunt.warm(x)
    plain = float(cross_entropy(model.head(model.features(made_by(x))), torch.zeros(len(x), dtype=torch.int64)))
    assert losses[-1] == pytest.approx(plain + (100 * told.change if told.change > bound else 0), rel=1e-5)
