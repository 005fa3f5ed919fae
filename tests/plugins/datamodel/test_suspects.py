from __future__ import annotations

import numpy as np

from bdbench_datamodel.separation import Separation
from bdbench_datamodel.sharpest import explained
from bdbench_datamodel.standout import Group, covariance_affinity
from bdbench_datamodel.suspects import Looked, Suspects, _alike, _parts, look
from tests.plugins.datamodel.test_sharpest import _class


def looked(residuals: np.ndarray, labels: np.ndarray, seed: int = 0, **options: bool) -> list[Looked]:
    """What is found beside groups that lead nowhere: of every class the first four examples."""
    groups = []
    for label in np.unique(labels):
        examples = np.flatnonzero(labels == label)
        groups.append(Group(int(label), examples, np.arange(len(examples)) < 4, 1.0))
    affinities = [covariance_affinity(residuals, group) for group in groups]
    return look(residuals, groups, affinities, np.random.default_rng(seed), **options)


def test_what_moves_together_is_found_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=(200, 180)).astype(np.float32)
    labels = np.repeat([0, 1, 2], 60)
    for members in (slice(0, 4), slice(60, 90)):
        residuals[:, members] += 3 * rng.normal(size=(200, 1)).astype(np.float32)
    found = looked(residuals, labels)
    kinds = [[group.kind for group in own.groups] for own in found]
    assert kinds[1][:2] == ["sharpest", "rest"] and "handful" in kinds[0]
    handful = next(group for group in found[0].groups if group.kind == "handful")
    assert sorted(handful.group) == [0, 1, 2, 3]
    half, rest = found[1].groups[:2]
    assert sorted(half.group) in ([*range(60, 90)], [*range(90, 120)])
    assert (half.members == ~rest.members).all() and half.sharpness == rest.sharpness
    assert all(group.kind != "handful" for own in looked(residuals, labels, handfuls=False) for group in own.groups)


def test_what_the_strongest_group_grows_to_is_found() -> None:
    rng = np.random.default_rng(1)
    residuals = rng.normal(size=(100, 400)).astype(np.float32)
    residuals[:, :60] += 0.8 * rng.normal(size=(100, 1)).astype(np.float32)
    examples = np.arange(400)
    group = Group(0, examples, examples < 40, 1.0)
    (found,) = look(residuals, [group], [covariance_affinity(residuals, group)], np.random.default_rng(2))
    for grown in (found.grown, found.sharpest):
        assert grown.members[:60].mean() > 0.9 and grown.members[60:].mean() < 0.1


def test_the_strongest_group_is_a_suspect_of_its_own_where_it_is_another_than_the_sharpest() -> None:
    rng = np.random.default_rng(4)
    residuals = rng.normal(size=(200, 200)).astype(np.float32)
    residuals[:, :30] += 3 * rng.normal(size=(200, 1)).astype(np.float32)
    residuals[:, 100:130] += 1.2 * rng.normal(size=(200, 1)).astype(np.float32)
    examples = np.arange(200)
    suspects = {}
    for start in (0, 100):
        group = Group(0, examples, (examples >= start) & (examples < start + 20), 1.0)
        (found,) = look(residuals, [group], [covariance_affinity(residuals, group)], np.random.default_rng(2))
        suspects[start] = {own.kind: own for own in found.groups}
    assert sorted(suspects[0]["sharpest"].group) == sorted(suspects[100]["sharpest"].group) == [*range(30)]
    assert "strongest" not in suspects[0]
    assert sorted(suspects[100]["strongest"].group) == [*range(100, 130)]


def test_groups_are_alike_by_what_they_or_their_rests_have_in_common() -> None:
    one = np.arange(10) < 4
    assert _alike(one, np.arange(10) < 5) and _alike(one, np.arange(10) >= 4)
    assert not _alike(one, (np.arange(10) >= 2) & (np.arange(10) < 6))  # by hand: 2 of 6 in common, and 2 of 8
    assert not _alike(one, np.arange(10) == 3)


def test_nothing_is_told_of_classes_that_are_too_small() -> None:
    residuals = np.random.default_rng(0).normal(size=(50, 27)).astype(np.float32)
    first, second = looked(residuals, np.array([0] * 20 + [1] * 7))
    assert first.groups and not second.groups
    assert second.sharpest.sharpness == 0 and not second.sharpest.members.any() and len(second.sharpest.fits) == 7


def test_which_of_two_parts_was_found_decides_nothing() -> None:
    """Both are as sharp, and rounding tells which a search ends at."""
    rng = np.random.default_rng(3)
    residuals = rng.normal(size=(60, 40))
    examples = np.arange(40)
    for members in (examples >= 25, examples % 2 == 1):
        fits = rng.random(40)
        ways = [
            _parts(Suspects(0, examples, own, told, 0.9, "sharpest"), residuals)
            for own, told in ((members, fits), (~members, 1 - fits))
        ]
        for one, other in zip(*ways, strict=True):
            assert (one.members == other.members).all() and one.kind == other.kind
            assert np.allclose(one.fits, other.fits) and one.explained == other.explained
        first, rest = ways[0]
        assert (first.kind, rest.kind) == ("sharpest", "rest") and first.members.sum() <= rest.members.sum()
    # Of two of one size it is the one with the first example.
    assert first.members[0] and first.fits[0] == 1 - fits[0]


def both(share: float, told: tuple[float, float]) -> Looked:
    """A class of 40 whose sharpest group is so large, and the rest of it; told: of each."""
    examples = np.arange(40)
    first = examples < share * 40
    parts = [
        Suspects(0, examples, members, members.astype(float), 0.9, kind, of)
        for members, kind, of in zip((first, ~first), ("sharpest", "rest"), told, strict=True)
    ]
    return Looked(Separation(np.zeros(40), first, 0.9), tuple(parts))


def test_of_two_halves_as_sharp_the_one_that_the_rest_tells_less_of_is_compared() -> None:
    assert both(0.5, (0.8, 0.1)).sharpest.members.tolist() == [False] * 20 + [True] * 20
    assert both(0.5, (0.1, 0.8)).sharpest.members.tolist() == [True] * 20 + [False] * 20
    # A smaller part is the group whatever the rest tells of it.
    assert both(0.3, (0.8, 0.1)).sharpest.members.sum() == 12


def test_half_of_a_class_is_told_from_its_rest_whichever_way_round() -> None:
    for seed in range(4):
        residuals, _, poisoned = _class(np.random.default_rng(seed))
        assert explained(residuals, poisoned) < 0.3 < explained(residuals, ~poisoned)
        # Turned round, the margins are as sharply told and the poisons are on the other side of them.
        for sign in (1, -1):
            (found,) = looked(sign * residuals, np.zeros(200, int), handfuls=False)
            assert (found.sharpest.members == poisoned).mean() > 0.95
