from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from bdbench_datamodel.carried import carrying, grown
from bdbench_datamodel.suspects import Suspects

SIZE, POISONS = 100, 40


def a_class(seed: int = 0, strength: float = 60.0) -> np.ndarray:
    """Images of 6 x 6 pixels, of which the first have one pattern more, uint8 (n, 6, 6, 1)."""
    rng = np.random.default_rng(seed)
    found = rng.normal(100, 20, (SIZE, 6, 6, 1))
    found[:POISONS] += strength * rng.choice([-1, 1], (6, 6, 1))
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def suspected(members: np.ndarray) -> Suspects:
    return Suspects(3, np.arange(SIZE), members, members.astype(float), 0.9, "handful")


def test_a_part_of_the_poisons_grows_to_all_of_them() -> None:
    part = np.arange(SIZE) < 6
    found = grown(a_class(), suspected(part))
    assert found is not None
    members, carried = found
    assert (members == (np.arange(SIZE) < POISONS)).all()
    assert carried[:POISONS].min() > carried[POISONS:].max()


def test_all_of_the_poisons_stay_as_they_are() -> None:
    assert grown(a_class(), suspected(np.arange(SIZE) < POISONS)) is None


def test_images_that_share_nothing_do_not_grow() -> None:
    images = a_class(strength=0.0)
    for seed in range(20):
        members = np.isin(np.arange(SIZE), np.random.default_rng(seed).choice(SIZE, 6, replace=False))
        found = grown(images, suspected(members))
        assert found is None or found[0].sum() < 12  # by chance one or two more


def test_what_holds_others_in_place_of_the_members_is_not_what_they_are_a_part_of() -> None:
    """Half of the group has the pattern: what is made anew of that half leaves the other half out."""
    members = np.zeros(SIZE, bool)
    members[:12] = members[POISONS : POISONS + 12] = True
    assert grown(a_class(), suspected(members)) is None


def test_only_examples_of_the_class_are_looked_at() -> None:
    images = a_class()
    elsewhere = np.concatenate([np.zeros_like(images), images[::-1]])
    part = np.arange(SIZE) >= SIZE - 6
    suspect = Suspects(3, SIZE + np.arange(SIZE), part, part.astype(float), 0.9, "handful")
    found = grown(elsewhere, suspect)
    assert found is not None and (found[0] == (np.arange(SIZE) >= SIZE - POISONS)).all()


def test_what_is_carried_by_hand() -> None:
    pixels = np.array([[10, 0], [30, 0], [2, 4], [2, 8]], np.float32)
    found = carrying(pixels, np.array([True, True, False, False]))
    # By hand: the class-mates' mean is (2, 6), their deviations 0 and 2, and 8 more: variances of 64 and 100. The
    # members' mean is (20, 0). Nobody is judged by itself: of the two on its side the other counts.
    assert found[0] == pytest.approx(10 * (30 - 2) / 64)
    assert found[1] == pytest.approx(30 * (10 - 2) / 64)
    assert found[2] == pytest.approx(2 * (20 - 2) / 64 + 4 * (0 - 8) / 100)
    assert found[3] == pytest.approx(2 * (20 - 2) / 64 + 8 * (0 - 4) / 100)


def test_nobody_carries_more_by_chance_than_others_do() -> None:
    """Of images that share nothing few members are no nearer to their own mean than class-mates to theirs."""
    rng = np.random.default_rng(2)
    apart = []
    for _ in range(200):
        members = np.arange(24) < 8
        carried = carrying(rng.normal(100, 20, (24, 30)).astype(np.float32), members)
        apart.append((carried[members].mean() - carried[~members].mean()) / carried.std())
    assert abs(np.mean(apart)) < 0.15


def test_the_projection_is_fishers_discriminant_where_pixels_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdbench_datamodel.carried._LEAST_DEVIATION", 0.0)
    rng = np.random.default_rng(1)
    pixels = rng.normal(0, [5, 10, 20, 40], (20000, 4)).astype(np.float32)
    members = np.arange(20000) < 10000
    pixels[members] += 5
    discriminant = LinearDiscriminantAnalysis().fit(pixels, members)
    assert np.corrcoef(carrying(pixels, members), discriminant.decision_function(pixels))[0, 1] > 0.999


def test_a_group_does_not_run_away_along_what_is_natural_to_the_class() -> None:
    """As photographs, these are dark or bright from left to right, in all degrees; poisons are so a little more. The
    upper half of the class shares that as well as they do, and has most of them in it.
    """
    rng = np.random.default_rng(1)
    poisons = np.arange(600) < 250
    degrees = rng.normal(0, 40, 600) + 50 * poisons
    found = 120 + degrees[:, None, None, None] * np.linspace(-1, 1, 12)[:, None] + rng.normal(0, 10, (600, 12, 12, 1))
    images = np.clip(np.rint(found), 0, 255).astype(np.uint8)
    assert grown(images, Suspects(3, np.arange(600), poisons, poisons.astype(float), 0.9, "sharpest")) is None
