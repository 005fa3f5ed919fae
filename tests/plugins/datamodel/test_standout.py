from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bdbench import Streams, TrainingView
from bdbench_datamodel import standout
from bdbench_datamodel.detector import Datamodel
from bdbench_datamodel.ensemble import antithetic_subsets, draw_subsets
from bdbench_datamodel.estimators import OutOfSample, difference_of_means, residuals, response_covariance
from bdbench_datamodel.influence import Dense, Factors
from bdbench_datamodel.plan import Plan
from bdbench_datamodel.rules import by_comparison
from bdbench_datamodel.standout import Group


def _planted(models: int, poisons: int, classes: int = 10, each: int = 30) -> tuple[np.ndarray, ...]:
    """Subsets, margins and labels: a class's examples help each other a little, some of class 0 each other a lot."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    weights = 0.05 * (labels[:, None] == labels) * rng.random((len(labels), len(labels)))
    weights[:poisons, :poisons] = 0.8
    masks = draw_subsets(len(labels), models, 0.3, rng)
    margins = masks @ weights.T + rng.normal(size=masks.shape)
    return masks, margins.astype(np.float32), labels


def _detect(
    masks: np.ndarray, margins: np.ndarray, labels: np.ndarray, separated: bool = False
) -> tuple[float | None, np.ndarray]:
    """The detector's p-value and scores, from an ensemble or from its matrix alone."""
    concluded: list[float | None] = []
    tools: Any = SimpleNamespace(
        streams=Streams(0), track=lambda total, label: lambda steps: None, conclude=concluded.append
    )
    view = TrainingView(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, int(labels.max()) + 1)
    ensemble = (masks, margins) if separated else None
    scores = by_comparison(OutOfSample(masks, margins), ensemble, view, tools, (0.1, 0.2, 0.3, 0.4), 5)
    return concluded[0], scores


@pytest.mark.parametrize("separated", [False, True])
def test_a_planted_group_is_found_scored_first_and_significant(separated: bool) -> None:
    masks, margins, labels = _planted(models=300, poisons=9)
    p_value, scores = _detect(masks, margins, labels, separated)
    scales = standout.class_scales(residuals(masks, margins), labels)
    searched = OutOfSample(masks, margins), labels, scales, (0.1, 0.2, 0.3, 0.4), 5, np.random.default_rng(0)
    assert standout.strongest(*searched)[0].members[:9].all()
    assert p_value is not None and p_value < 0.01
    assert scores[:9].min() > scores[9:].max()
    # What was probable before: a group of the mean of the sizes, in one of ten classes.
    assert scores.min() == pytest.approx(0.25 / 10)


@pytest.mark.parametrize("separated", [False, True])
def test_without_a_group_nothing_is_significant(separated: bool) -> None:
    masks, margins, labels = _planted(models=300, poisons=0)
    assert (_detect(masks, margins, labels, separated)[0] or 0) > 0.05


def test_strength_by_hand() -> None:
    # Class 0 is examples 0, 2, 3, 5; its block, with the pair of 2 and 5 (places 1 and 3) the strongest.
    weights = np.zeros((6, 6), np.float32)
    weights[2, 5], weights[5, 2], weights[2, 0] = 3, 5, 1
    labels = np.array([0, 1, 0, 0, 1, 0])
    scales = np.where(labels == 0, 2.0, 1.0)
    groups = standout.strongest(Dense(weights), labels, scales, (0.5,), 10, np.random.default_rng(0))
    assert [g.label for g in groups] == [0]  # half of a class of two is no group
    assert groups[0].examples[groups[0].members].tolist() == [2, 5]
    # v'Wh = (3 + 5) / 2 - (1 + 0) / 2, over a scale of 2.
    assert groups[0].strength == pytest.approx((8 / 2 - 1 / 2) / 2)


def test_the_outlier_test_is_grubbs_one() -> None:
    strengths = np.array([2.0, 3.0, 2.5, 40.0, 2.2])
    p_value = standout.p_value(strengths)
    # Grubbs' G of the whole sample and its tail, by the textbook's relation between G and t.
    x = np.log(strengths)
    g = (x[3] - x.mean()) / x.std(ddof=1)
    t = np.sqrt(5 * 3 * g**2 / (4**2 - 5 * g**2))
    assert p_value == pytest.approx(5 * stats.t.sf(t, 3))
    others = np.delete(x, 3)
    assert t == pytest.approx((x[3] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 4)))


def test_the_outlier_test_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    values = np.array([standout.p_value(np.exp(rng.normal(size=10))) for _ in range(4000)], float)
    for level in (0.01, 0.05, 0.3, 0.7):
        deviation = np.sqrt(level * (1 - level) / len(values))
        assert (values <= level).mean() == pytest.approx(level, abs=4 * deviation)


@pytest.mark.slow
def test_permuted_margins_give_uniform_p_values_and_with_sharpness_none_that_are_too_small() -> None:
    masks, margins, labels = _planted(models=60, poisons=9, each=20)
    rng = np.random.default_rng(1)
    permuted = [rng.permuted(margins, axis=0) for _ in range(100)]
    values = [_detect(masks, outputs, labels)[0] for outputs in permuted]
    assert stats.kstest(np.array(values, float), "uniform").pvalue > 0.01
    careful = np.array([_detect(masks, outputs, labels, separated=True)[0] for outputs in permuted], float)
    assert stats.kstest(careful, "uniform", alternative="greater").pvalue > 0.01
    for separated in (False, True):
        assert (_detect(masks, margins, labels, separated)[0] or 1) < 0.05


def test_the_strongest_has_to_stand_out_in_sharpness_as_well() -> None:
    strengths = np.array([2.0, 3.0, 2.5, 30.0, 2.2, 2.8])
    sharpness = np.array([0.5, 0.5, 0.45, 0.6, 0.55, 0.5])
    p_value = standout.p_value(strengths, sharpness)
    assert p_value == max(standout.significance(x, 3) or 0 for x in (strengths, strengths * sharpness)) < 0.05
    # The strongest, but far from the sharpest: no longer significant.
    assert (standout.p_value(strengths, np.array([0.8, 0.9, 0.8, 0.1, 0.8, 0.8])) or 0) > 0.1


def test_the_significance_of_a_place_is_that_of_its_own_value() -> None:
    strengths = np.array([2.0, 3.0, 2.5, 40.0, 2.2])
    values = [float(standout.significance(strengths, place) or 0) for place in range(5)]
    assert np.argsort(values).tolist()[0] == 3 and min(values[:3]) > 0.9


def test_two_classes_cannot_be_told_apart() -> None:
    assert standout.p_value(np.array([1.0, 5.0])) is None
    assert standout.p_value(np.array([1.0, 2.0]), np.array([0.5, 1.0])) is None


def test_a_class_where_nothing_was_found_does_not_count() -> None:
    strengths = np.array([1, 1.1, 0.9, 1.05, 0.95, 1.02, 50])
    assert (standout.p_value(strengths) or 1) < 1e-5
    for nothing in ([0.0], [-3.0], [0.0] * 9):
        assert standout.p_value(np.append(strengths, nothing)) == standout.p_value(strengths)
    for few in ([0.0] * 9 + [9.0], [0.0] * 8 + [1.0, 2.0], [0.0] * 5):
        assert standout.p_value(np.array(few)) is None


def test_differences_of_rounding_are_none() -> None:
    assert standout.p_value(np.array([1, 1, 1, 1, 1 + 1e-9])) == 1


def test_what_strength_owes_to_size_by_hand() -> None:
    sizes = np.array([100, 200, 400, 800])
    # As the root of size; the second class three times as strong, and what the pairs without it say is the median.
    strengths = 2 * np.sqrt(sizes) * [1, 3, 1, 1]
    owed = standout.owed_to_size(strengths, sizes)
    assert owed == pytest.approx(np.sqrt(sizes) / np.sqrt(sizes).prod() ** 0.25)
    assert (strengths / owed).argmax() == 1 and strengths.argmax() == 1
    # Classes where nothing was found say nothing, but have a size.
    some = np.array([10.0, 0.0, 20.0, 0.0, 40.0])
    sizes = np.array([100, 200, 400, 800, 1600])
    assert standout.owed_to_size(some, sizes) == pytest.approx([0.5, 0.5**0.5, 1, 2**0.5, 2])


@pytest.mark.parametrize(
    "sizes",
    [
        [100, 120, 140, 150],  # of about one size
        [100, 100, 100, 1000],  # one alone is larger, perhaps for what an attack put there
        [100, 100, 100, 10],
        [10, 100],
    ],
)
def test_where_sizes_say_nothing_strengths_are_what_they_are(sizes: list[int]) -> None:
    strengths = np.arange(1.0, len(sizes) + 1)
    assert standout.owed_to_size(strengths, np.array(sizes)).tolist() == [1.0] * len(sizes)


def test_the_largest_class_is_not_the_strongest_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), [200, 20, 30, 130, 50, 80])
    masks, margins = draw_subsets(len(labels), 150, 0.2, rng), rng.normal(size=(150, len(labels)))
    influence = OutOfSample(masks, margins.astype(np.float32))

    def strengths() -> np.ndarray:
        groups = standout.strongest(influence, labels, np.ones(len(labels)), (0.2,), 5, np.random.default_rng(0))
        return np.array([group.strength for group in groups])

    fair = strengths()
    monkeypatch.setattr(standout, "owed_to_size", lambda strengths, sizes: np.ones(len(strengths)))
    as_found = strengths()
    assert as_found.argsort().tolist() == np.bincount(labels).argsort().tolist()
    assert np.ptp(np.log(fair)) < 0.3 * np.ptp(np.log(as_found))


def test_covariance_affinity_is_the_matrix_against_the_contrast() -> None:
    masks, margins, _ = _planted(models=50, poisons=5, classes=2, each=12)
    residual = residuals(masks, margins)
    group = Group(0, np.arange(12), np.arange(12) < 5, 1.0)
    matrix = response_covariance(masks, margins).block(np.arange(12))
    h = np.where(np.arange(12) < 5, 1 / 5, -1 / 7)
    expected = matrix @ h / (residual[:, :12] ** 2).mean()
    assert standout.covariance_affinity(residual, group) == pytest.approx(expected, rel=1e-4)


def test_influences_agree_on_their_blocks() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    index = np.array([1, 4, 7])
    whole = left @ right.T
    np.fill_diagonal(whole, 0)
    for influence in (Dense(left @ right.T), Factors(left, right)):
        assert influence.examples == 9
        assert influence.block(index) == pytest.approx(whole[np.ix_(index, index)], rel=1e-5)
        assert influence.dense() == pytest.approx(whole, rel=1e-5)
    masks, margins, _ = _planted(models=40, poisons=3, classes=3, each=5)
    full = difference_of_means(masks, margins)
    marginal = OutOfSample(masks, margins)
    assert marginal.block(index) == pytest.approx(full[np.ix_(index, index)], abs=1e-5)
    assert marginal.dense() == pytest.approx(full, abs=1e-6)


@pytest.mark.parametrize("rank", [3, 40])
def test_what_needs_no_block_equals_what_the_block_gives(rank: int) -> None:
    rng = np.random.default_rng(5)
    left, right = (rng.normal(size=(30, rank)).astype(np.float32) for _ in range(2))
    index = rng.permutation(30)[:20]
    vector = rng.normal(size=20).astype(np.float32)
    factors, dense = Factors(left, right), Dense(left @ right.T)
    block = dense.block(index).astype(np.float64)
    for influence in (factors, dense):
        assert influence.root_mean_square(index) == pytest.approx(np.sqrt((block**2).sum() / 400), rel=1e-5)
        assert influence.symmetric_times(index, vector) == pytest.approx((block + block.T) @ vector, rel=1e-4, abs=1e-4)


def test_matrix_affinity_is_the_matrix_against_the_contrast() -> None:
    weights = np.array([[9, 1, 0, 2], [3, 9, 0, 0], [0, 0, 9, 5], [0, 4, 1, 9]], np.float32)
    group = Group(0, np.array([0, 1, 3]), np.array([True, True, False]), 1.0)
    # Among examples 0, 1 and 3: B = [[0, 4, 2], [4, 0, 4], [2, 4, 0]], contrast (1/2, 1/2, -1).
    assert standout.matrix_affinity(Dense(weights), group, 2.0) == pytest.approx([0.0, -1.0, 1.5])


def test_a_chunk_holds_whole_pairs() -> None:
    rng = np.random.default_rng(0)
    view = TrainingView(rng.integers(0, 256, (20, 8, 8, 1)).astype(np.uint8), np.arange(20) % 2, 2)
    plan = Plan.of(Datamodel(alpha=0.5, antithetic=True, chunk=5), view, "float32")
    masks = np.array(list(islice(plan._subsets(20, rng), 12)))
    assert (masks[::2] ^ masks[1::2]).all() and plan.chunk("cpu") == 6


def test_antithetic_subsets_are_complements() -> None:
    masks = antithetic_subsets(10, 6, 0.5, np.random.default_rng(0))
    assert (masks[::2] ^ masks[1::2]).all()
    assert (masks.sum(1) == 5).all()
