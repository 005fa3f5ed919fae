"""Networks that are denied a group under suspicion, and what that does to its members."""

from __future__ import annotations

import numpy as np
import pytest

from bdbench_datamodel import withheld
from bdbench_datamodel.suspects import Suspects
from bdbench_datamodel.withheld import draw, effects
from tests.plugins.datamodel.suspected import group


def test_a_network_is_denied_its_groups_and_nothing_else() -> None:
    classes = [[group(0, 10), group(0, 4, kind="handful")], [group(1, 12)]]
    denied, masks = draw(classes, 80, 200, 30, np.random.default_rng(0))
    assert denied.shape == (200, 2) and masks.shape == (200, 80)
    assert (masks.sum(1) == 30).all()
    assert set(denied[:, 0]) == {0, 1, 2} and set(denied[:, 1]) == {0, 1}
    for row, own in zip(masks, denied, strict=True):
        for groups, place in zip(classes, own, strict=True):
            if place:
                assert not row[groups[place - 1].group].any()
    # Each group as often as another, and as none, to within one network.
    assert np.bincount(denied[:, 0]).tolist() == [67, 67, 66] and np.bincount(denied[:, 1]).tolist() == [100, 100]
    # Who is in no group that a network is denied is drawn as often as in any other network.
    free = masks[denied[:, 0] == 0][:, :10].mean()
    assert free == pytest.approx(30 / 74, abs=0.05)


def test_of_few_networks_each_group_is_denied_to_some() -> None:
    classes = [[group(0, 10), group(0, 4, kind="handful")], [group(1, 12)]]
    for seed in range(50):
        denied, _ = draw(classes, 80, 3, 30, np.random.default_rng(seed))
        assert sorted(denied[:, 0]) == [0, 1, 2] and set(denied[:, 1]) == {0, 1}


def test_subsets_are_as_large_as_what_is_left_to_every_network() -> None:
    _, masks = draw([[group(0, 30)]], 40, 50, 25, np.random.default_rng(0))
    assert (masks.sum(1) == 10).all()


def test_effects_by_hand() -> None:
    own = Suspects(3, np.array([0, 1, 2]), np.array([True, True, False]), np.zeros(3), 0.5, "sharpest")
    denied = np.array([[0], [0], [1], [1]])
    masks = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]], bool)
    margins = np.array([[9.0, 2, 1, 0], [4, 4, 7, 0], [-1, 1, 0, 0], [-3, 1, 2, 0]])
    rivals = np.array([[7, 7, 7, 7], [7, 7, 7, 7], [1, 4, 5, 0], [2, 4, 6, 0]])
    ((found,),) = effects([[own]], denied, masks, margins, rivals, 8)
    # In reach and not held: example 0 in network 1, example 1 in both, example 2 in network 0. Without the group and
    # not held: example 2, a class-mate, in network 3 alone.
    assert found.lift.tolist() == [4 - -2, 3 - 1, 1 - 2]
    assert found.without.tolist() == [-2, 1, 2] and found.strength == 4 and found.alone == -0.5
    # Of four answers two are wrong, on example 0.
    assert found.taken.tolist() == [0, 0.25, 0.25, 0, 0, 0, 0, 0]


def test_a_group_that_no_network_was_denied_has_no_effect() -> None:
    own = group(0, 5, size=10)
    ((found,),) = effects([[own]], np.zeros((3, 1), int), np.zeros((3, 10), bool), *np.ones((2, 3, 10), int), 2)
    assert found.strength == 0 and not found.lift.any() and not found.taken.any()


def test_as_many_networks_more_as_asked_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    import bdbench

    asked: list[int] = []
    monkeypatch.setattr(withheld, "draw", lambda *a: asked.append(a[2]) or draw(*a))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8), np.arange(60) % 3
    small = "datamodel:models=40,epochs=1,hidden=4,starts=2,withheld=0.5"
    scores = bdbench.detect(small, images, labels, num_classes=3, device="cpu")
    assert asked == [20] and scores.shape == (60,)
