from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from bdbench_datamodel import sharpest as module
from bdbench_datamodel.separation import FEWEST, Separation, separate
from bdbench_datamodel.sharpest import Starts, explained, sharpest
from bdbench_datamodel.spectrum import Spectrum


def _class(rng: np.random.Generator, poisons: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 networks, 200 examples: (residuals, natural group, poisons).

    All follow ten things that the networks differ by, a natural group one of them more than the others do; the poisons,
    any of the examples, follow one more, each but a little.
    """
    common = rng.normal(size=(60, 10))
    loadings = 0.5 * rng.normal(size=(10, 200))
    natural = rng.permutation(200) < 60
    loadings[0] += 1.5 * natural
    poisoned = rng.permutation(200) < poisons
    return (
        common @ loadings + 0.8 * np.outer(rng.normal(size=60), poisoned) + rng.normal(size=(60, 200)),
        natural,
        poisoned,
    )


def _found(residuals: np.ndarray, seed: int) -> Separation:
    return sharpest(Spectrum.of(residuals), Starts.of(residuals, np.random.default_rng(seed)))


def test_it_finds_half_of_a_class_that_a_first_guess_does_not_lead_to() -> None:
    found, led = [], []
    for seed in range(5):
        residuals, natural, poisoned = _class(np.random.default_rng(seed))
        best = _found(residuals, 0)
        told = roc_auc_score(poisoned, best.fits)
        # The half, or the rest of the class, which is as sharp.
        found.append(max(told, 1 - told))
        led.append(roc_auc_score(poisoned, separate(Spectrum.of(residuals), natural, natural.astype(float)).fits))
        # The members are the upper of the fits, and the sharpness is that of their membership.
        assert best.fits[best.members].mean() > best.fits[~best.members].mean()
        assert 0.5 < best.sharpness < 1
    assert min(found) > 0.95 and max(led) < 0.75


def test_it_keeps_the_sharpest_of_all_groups_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    residuals = np.random.default_rng(5).normal(size=(40, 60))
    visited: list[float] = []
    fit = Spectrum.without_own

    def watched(self: Spectrum, targets: np.ndarray, penalty: float) -> np.ndarray:
        fits = fit(self, targets, penalty)
        visited.extend(1 - ((targets - fits) ** 2).mean(0) / targets.var(0))
        return fits

    monkeypatch.setattr(Spectrum, "without_own", watched)
    found = _found(residuals, 0)
    assert found.sharpness == max(visited)
    # Columns that have come to an end are no longer fitted.
    assert 60 * 2 < len(visited) < 60 * 30
    # It is that of the group which is given, by the formula and one ridge regression for each example.
    monkeypatch.undo()
    predictors = (residuals - residuals.mean(1, keepdims=True)).T
    predictors -= predictors.mean(0)
    penalty = (predictors**2).sum() / 60
    alone = [
        Ridge(alpha=penalty)
        .fit(np.delete(predictors, i, 0), np.delete(found.members, i))
        .predict(predictors[i : i + 1])
        for i in range(60)
    ]
    errors = (found.members - np.concatenate(alone)) ** 2
    assert found.sharpness == pytest.approx(1 - errors.mean() / found.members.var(), abs=0.02)


def test_it_is_seeded_and_does_not_depend_on_the_order_of_the_networks() -> None:
    # Of two halves of one size rounding decides which is the group: less than half is poisoned here.
    residuals, _, _ = _class(np.random.default_rng(1), 70)
    first, again = (_found(residuals, 3) for _ in range(2))
    assert (first.fits == again.fits).all() and (first.members == again.members).all()
    turned = _found(residuals[::-1].copy(), 3)
    assert turned.fits == pytest.approx(first.fits) and (turned.members == first.members).all()


def test_explained_does_not_depend_on_how_much_a_class_mate_moves() -> None:
    rng = np.random.default_rng(0)
    members = np.arange(8) < 3
    residuals = rng.normal(size=(60, 8))
    alone = rng.normal(size=60) + 0.3 * residuals[:, :3].sum(1)
    told = []
    for much in (1.0, 30.0):
        # Two that take each other away, so that what the group does beside the others stays the same.
        residuals[:, 6], residuals[:, 7] = much * alone, -much * alone
        told.append(explained(residuals, members))
    assert told[0] == pytest.approx(told[1])


def test_explained_by_hand() -> None:
    rng = np.random.default_rng(0)
    free, shared = rng.normal(size=(2, 400))
    noise = rng.normal(size=(400, 6))
    members = np.array([True, True, False, False, False, False])
    # What the members do, the others do not: nothing to tell it by.
    residuals = np.outer(free, members) + noise * 1e-3
    assert explained(residuals, members) == pytest.approx(0, abs=0.05)
    # All do one thing, the members twice as much: told but for the noise.
    residuals = np.outer(shared, 1 + members) + noise * 1e-3
    assert explained(residuals, members) == pytest.approx(1, abs=0.01)
    # Half of the variance of the members' is of the one kind, half of the other.
    residuals = np.outer(free + shared, members) + np.outer(shared, 2 * ~members) + noise * 1e-3
    signal = (free + shared) - 2 * shared
    told = 1 - np.var(free - np.cov(free, shared)[0, 1] * shared) / np.var(signal)
    assert explained(residuals, members) == pytest.approx(told, abs=0.05)
    assert explained(np.ones((5, 6)), members) == 0


@pytest.mark.parametrize("examples", [9, 30])
@pytest.mark.parametrize("power", [1, 2, -2])
def test_the_split_has_the_least_error_of_all(examples: int, power: int) -> None:
    fits = np.random.default_rng(0).normal(size=(examples, 7))
    if power != 1:  # few that lie far above, or below: the best of all splits is less even than is allowed
        fits = np.sign(power) * np.exp(np.abs(power) * fits)
    found = module._split(fits, module._SHARES)
    least, most = (int(share * examples) for share in (0.04, 0.6))
    for column, members in zip(fits.T, found.T, strict=True):
        ranked = np.sort(column)[::-1]
        errors = {
            size: ranked[:size].var() * size + ranked[size:].var() * (examples - size)
            for size in range(max(least, FEWEST), min(most, examples - FEWEST) + 1)
        }
        assert members.sum() == min(errors, key=lambda size: errors[size])
        assert column[members].min() > column[~members].max()


@pytest.mark.parametrize(
    "residuals", [np.random.default_rng(0).normal(size=(20, 7)), np.ones((20, 30)), np.ones((20, 1))]
)
def test_nothing_is_found_where_nothing_can_be(residuals: np.ndarray) -> None:
    found = _found(residuals.astype(np.float32), 0)
    assert found.sharpness == 0 and not found.members.any() and not found.fits.any()


def test_starts_are_an_example_and_those_that_co_vary_with_it() -> None:
    residuals = np.random.default_rng(0).normal(size=(30, 50))
    correlations = np.corrcoef((residuals - residuals.mean(1, keepdims=True)).T)
    starts = Starts.of(residuals, np.random.default_rng(1))
    found = starts.neighbourhoods(0.1)
    assert found.shape == (50, 50) and sorted(starts.nearest[0]) == list(range(50))
    for place, members in zip(starts.nearest[0], found.T, strict=True):
        assert set(np.flatnonzero(members)) == set(np.argsort(-correlations[place])[:5])
    assert (starts.neighbourhoods(0.01).sum(0) == FEWEST).all()


def test_a_guess_is_one_start_more() -> None:
    rng = np.random.default_rng(1)
    residuals = rng.normal(size=(100, 400))
    residuals[:, :60] += 0.8 * rng.normal(size=(100, 1))
    # One start alone, of examples that have nothing in common.
    spectrum, starts = Spectrum.of(residuals), Starts(np.arange(400)[::-1, None])
    without = sharpest(spectrum, starts)
    found = sharpest(spectrum, starts, guess=np.arange(400) < 55)
    assert found.sharpness > without.sharpness and without.members[:60].mean() < 0.9
    assert found.members[:60].mean() > 0.9 and found.members[60:].mean() < 0.1


def test_a_handful_is_no_part_of_a_larger_group() -> None:
    rng = np.random.default_rng(2)
    residuals = rng.normal(size=(200, 120))
    residuals[:, :5] += 2 * rng.normal(size=(200, 1))
    residuals[:, 60:100] += 2 * rng.normal(size=(200, 1))
    spectrum, starts = Spectrum.of(residuals), Starts.of(residuals, rng)
    assert np.flatnonzero(sharpest(spectrum, starts, few=True).members).tolist() == [0, 1, 2, 3, 4]
    assert sorted(np.flatnonzero(sharpest(spectrum, starts).members)) == list(range(60, 100))
