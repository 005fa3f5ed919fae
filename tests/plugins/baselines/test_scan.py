from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from bdbench import Split
from bdbench_baselines.scan import Scan, global_model, halved, principal
from tests.plugins.baselines.test_baselines import tools, view

LABELS = np.repeat(np.arange(6), 100)
MIX = np.random.default_rng(0).normal(size=(8, 8))
POISONS = np.arange(200, 225)


def features(poisoned: bool = True) -> np.ndarray:
    """Six labels with one covariance; 25 of the third are elsewhere."""
    rng = np.random.default_rng(1)
    made = rng.normal(size=(600, 8)) @ MIX + 4 * rng.normal(size=(6, 8))[LABELS]
    if poisoned:
        made[POISONS] += 10 * MIX[0]
    return made


def covariances(made: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The EM written out in the original coordinates, an example at a time."""
    x = made - made.mean(0)
    names, n = np.unique(labels), len(labels)
    means = np.stack([x[labels == k].mean(0) for k in names])[np.searchsorted(names, labels)]
    between, within = means.T @ means / n, (x - means).T @ (x - means) / n
    for _ in range(100):
        u = np.zeros_like(x)
        for k in names:
            members = labels == k
            u[members] = between @ np.linalg.inv(members.sum() * between + within) @ x[members].sum(0)
        between, within = u.T @ u / n, (x - u).T @ (x - u) / n
    return between, within


def test_the_global_model_equals_the_em_written_out() -> None:
    made, labels = features(), np.repeat([0, 1, 2, 3, 5], [200, 100, 150, 148, 2])
    between, within = covariances(made, labels)
    model = global_model(made, labels)
    inverse = np.linalg.inv(model.basis)
    assert inverse.T @ inverse == pytest.approx(within, rel=1e-3, abs=1e-3)
    assert inverse.T @ np.diag(model.between) @ inverse == pytest.approx(between, rel=1e-3, abs=1e-2)


def test_the_statistic_is_twice_the_log_likelihood_ratio() -> None:
    made = features()
    between, within = covariances(made, LABELS)
    members = made[LABELS == 2] - made.mean(0)
    found = halved(members, members[:0], global_model(made, LABELS), 0)
    assert np.flatnonzero(found.second).tolist() == list(range(25))
    single = between @ np.linalg.inv(100 * between + within) @ members.sum(0)
    groups = [members[found.second], members[~found.second]]
    apart = sum(multivariate_normal(g.mean(0), within).logpdf(g).sum() for g in groups)
    together = multivariate_normal(single, within).logpdf(members).sum()
    assert found.statistic == pytest.approx(2 * (apart - together) / 100, rel=1e-3)
    inverse = np.linalg.inv(within)
    to = [np.einsum("ij,jk,ik->i", members - g.mean(0), inverse, members - g.mean(0)) for g in groups]
    assert found.gap == pytest.approx(to[1] - to[0], rel=1e-3, abs=0.05)


def test_it_finds_the_label_and_the_poisons() -> None:
    given = tools(features())
    scores = Scan().score(view(LABELS), given)
    assert set(np.argsort(-scores)[:25]) == set(POISONS)
    assert np.flatnonzero(given.flagged).tolist() == list(POISONS)


def test_features_are_projected_on_as_many_directions_as_labels_have_tens_of_examples() -> None:
    rng = np.random.default_rng(2)
    made = features()
    # Far more directions of noise than 100 examples of a label can bear.
    wide = np.concatenate([made, rng.normal(size=(600, 300))], 1)
    scores = {count: Scan(components=count).score(view(LABELS), tools(wide)) for count in (None, 10, 308)}
    assert np.array_equal(scores[None], scores[10])
    assert set(np.argsort(-scores[None])[:25]) == set(POISONS) != set(np.argsort(-scores[308])[:25])
    few = np.repeat(np.arange(6), [5, 5, 580, 3, 3, 4])
    assert np.array_equal(Scan().score(view(few), tools(wide)), Scan(components=1).score(view(few), tools(wide)))


def test_the_principal_directions_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    made = features()
    assert np.abs(principal(made, 3).T @ PCA(3).fit(made).components_.T) == pytest.approx(np.eye(3), abs=1e-6)
    assert principal(made, 99).shape == (8, 8) and principal(made, 0).shape == (8, 1)


def test_nothing_is_flagged_where_all_labels_are_alike() -> None:
    given = tools(features(poisoned=False))
    Scan().score(view(LABELS), given)
    assert not given.flagged.any()


def test_told_clean_examples_it_flags_the_group_that_they_are_not_in() -> None:
    made = features()
    # Most of the label: the smaller group is the clean one.
    made[225:270] += 10 * MIX[0]
    clean = np.r_[0:20, 100:120, 280:300, 300:320, 400:420, 500:520]
    given = tools(made)
    Scan().score(view(LABELS), given)
    assert given.flagged[270:300].all() and given.flagged.sum() == 30
    images = view(LABELS).images
    given.clean_examples = lambda count: Split(images[clean], LABELS[clean])
    given.victim.features = lambda asked: made if len(asked) == 600 else made[clean]
    scores = Scan(oracle=True).score(view(LABELS), given)
    assert np.flatnonzero(given.flagged).tolist() == list(range(200, 270))
    assert scores[200:270].min() > scores[270:300].max()


def test_permuted_examples_have_permuted_scores() -> None:
    made, order = features(), np.random.default_rng(0).permutation(600)
    scores = Scan().score(view(LABELS), tools(made))
    assert Scan().score(view(LABELS[order]), tools(made[order]))[LABELS[order] == 2] == pytest.approx(
        scores[order][LABELS[order] == 2], rel=1e-4, abs=1e-6
    )


def test_where_nothing_can_be_told() -> None:
    for made in (np.ones((7, 3)), np.zeros((7, 3)), np.random.default_rng(0).normal(size=(7, 3))):
        given = tools(made)
        scores = Scan().score(view(np.array([0, 0, 0, 1, 1, 2, 4])), given)
        assert np.isfinite(scores).all() and not scores[3:].any()
