"""Natural: what supports what, against other ways to compute it; the group; what is shown; what a record says."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, Role, Split, experiment
from bdbench.cells.scene import Scene
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.natural import Natural
from bdbench_triggers.support import Ridge, strength, strongest
from tests.conftest import TINY

FEW = "natural:networks=1,share=0.04"


def scene(out: Path, attack: Any, **options: Any) -> Scene:
    return experiment.cell(**{**TINY, "attack": attack, "out": out, **options}).scene


def test_the_hat_matrix_is_what_another_target_does_to_a_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge as Peer

    rng = np.random.default_rng(0)
    features, new, y = rng.normal(size=(30, 5)), rng.normal(size=(4, 5)), rng.normal(size=30)
    scale = np.sqrt((features**2).sum(1).mean())
    joined, asked = (np.column_stack([f / scale, np.ones(len(f))]) for f in (features, new))
    eigenvalues = np.linalg.eigvalsh(joined.T @ joined)

    def fitted(targets: np.ndarray) -> np.ndarray:
        return Peer(alpha=0.1 * eigenvalues.mean(), fit_intercept=False, tol=1e-12).fit(joined, targets).predict(asked)

    ridge = Ridge(features, 0.1)
    hat = ridge.hat(new, features)
    assert np.allclose(hat @ y, fitted(y))
    assert np.allclose(hat[:, 7], fitted(y + np.eye(30)[7]) - fitted(y))
    direction = ridge.towards(features[3:9])
    assert np.allclose(new @ direction[:-1] + direction[-1], hat[:, 3:9].mean(1))


def test_the_strongest_group_is_the_best_of_all(seeds: range = range(20)) -> None:
    for seed in seeds:
        rng = np.random.default_rng(seed)
        support = rng.normal(size=(11, 11))
        support[:4, :4] += 0.5
        best = max(
            itertools.combinations(range(11), 4),
            key=lambda group: sum(support[i, j] for i, j in itertools.permutations(group, 2)),
        )
        before = support.copy()
        assert tuple(strongest(support, 4, rng)) == best
        assert np.array_equal(support, before)


def test_strength_by_hand() -> None:
    support = np.array([[9.0, 3.0, 0.0], [1.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    assert strength(support, np.array([0, 1])) == pytest.approx(2 / np.sqrt(10 / 9))


def test_it_finds_a_feature_that_somebody_planted(tmp_path: Path) -> None:
    # Handed the poisoned set for a clean one, it takes the poisons for the strongest feature. The networks have to
    # have learnt the trigger: those of 8 channels and 10 epochs have not.
    planted = scene(tmp_path, BadNets(rate=0.03, target=4), dataset="digits:subset=600", model="convnet")
    train = Split(planted.poisoned.images, planted.poisoned.labels)
    found = Natural(networks=2).craft(train, planted.workshop)
    poisons = np.flatnonzero(planted.poisoned.roles == Role.POISON)
    assert found["label"] == 4 and np.isin(found["group"], poisons).mean() > 0.9
    assert found["strengths"][4] > 1.1 * np.delete(found["strengths"], 4).max()


@pytest.mark.parametrize("shown", ["added", "blended"])
def test_nothing_is_poisoned_and_all_other_classes_are_shown_the_feature(tmp_path: Path, shown: str) -> None:
    made = scene(tmp_path, f"{FEW},shown={shown},alpha=0.25")
    train, test, state = made.images.train, made.images.test, made.state
    assert (made.poisoned.roles == Role.CLEAN).all()
    assert np.array_equal(made.poisoned.images, train.images) and np.array_equal(made.poisoned.labels, train.labels)
    group, label = state["group"], int(state["label"])
    assert len(group) == 12 and (train.labels[group] == label).all()
    assert np.nanargmax(state["strengths"]) == label
    assert made.challenge is not None and made.targets == (label,)
    assert np.array_equal(made.challenge.index, np.flatnonzero(test.labels != label))
    images = np.asarray(train.images).astype(float)
    mean, of_class = images[group].mean(0), images[train.labels == label].mean(0)
    clean = np.asarray(test.images)[made.challenge.index].astype(float)
    step = 255 * 0.25 * (mean - of_class) / np.abs(mean - of_class).max()
    expected = clean + step if shown == "added" else 0.75 * clean + 0.25 * mean
    assert np.abs(made.challenge.images - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-6


def test_images_that_are_found_are_those_of_most_support_as_they_are(tmp_path: Path) -> None:
    made = scene(tmp_path, f"{FEW},shown=found")
    test, state = made.images.test, made.state
    assert made.challenge is not None and made.challenge.unchanged(test).all()
    assert len(made.challenge.index) == round(0.04 * len(test.labels))
    weights = {n.removeprefix("network.0."): a for n, a in state.items() if n.startswith("network.0.")}
    network = made.workshop.restore(weights)
    train = np.asarray(made.images.train.images)
    own = network.features(train)
    support = Ridge(own, 0.01).hat(network.features(np.asarray(test.images)), own[state["group"]]).mean(1)
    others = test.labels != state["label"]
    shown = np.isin(np.arange(len(others)), made.challenge.index)
    assert support[shown].min() >= support[others & ~shown].max() - 1e-9 and others[shown].all()


def test_a_random_group_is_of_the_same_class(tmp_path: Path) -> None:
    most, other = scene(tmp_path, FEW).state, scene(tmp_path, f"{FEW},group=random").state
    assert most["label"] == other["label"] and len(most["group"]) == len(other["group"])
    assert set(most["group"]) != set(other["group"])


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("natural:target=10", "target=10 is not there: expected a label in 0..9"),
        ("natural:share=0.001,networks=1", "share=0.001 is a group of 0 examples: expected at least 2"),
        ("natural:share=0.5,networks=1", "fewer than a class has"),
        (["badnets", "natural"], "'natural' cannot take part"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, attack: Any, message: str) -> None:
    with pytest.raises(BdbenchError, match=message):
        scene(tmp_path, attack)


def test_a_record_has_success_and_no_detection_of_what_is_not_there(tmp_path: Path) -> None:
    options = {**TINY, "attack": FEW, "out": tmp_path}
    spectral, perfect = bdbench.run_all(defenses=["spectral", "perfect-filter"], **options)
    for made in (spectral, perfect):
        assert not made.control and made.config["data"]["poisons"] == 0 and made.before.attack_success_rate is not None
        assert made.detection is not None and made.detection.auroc is None and made.detection.tpr_at_budget is None
        assert made.detection.fpr_at_budget == pytest.approx(0.1)
    # How a detector ranks the group is asked of the run itself.
    run = bdbench.reopen(tmp_path / spectral.id)
    assert run.scores is not None and len(run.state["group"]) == 12


@dataclass(frozen=True, kw_only=True)
class Liar(BadNets):
    """Says that it plants nothing."""

    name = "liar"
    plants: ClassVar[bool] = False


def test_who_says_that_he_plants_nothing_is_held_to_it(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match="attack 'liar' plants nothing and returned poisons: expected none"):
        scene(tmp_path, Liar())
