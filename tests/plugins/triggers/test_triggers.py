"""The poisoning of each attack, pixel by pixel, on tiny images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bdbench import BdbenchError, PoisonedData, Record, Role, Split, Streams, TriggerAttack
from bdbench.testing import samples
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.blend import Blend
from bdbench_triggers.ctrl import Ctrl
from bdbench_triggers.none import NoAttack
from bdbench_triggers.sig import Sig
from bdbench_triggers.tact import Tact

STREAMS = Streams(0)
# What these attacks use of a workshop.
TOOLS: Any = SimpleNamespace(streams=STREAMS, num_classes=4, device="cpu")
GREY = np.full((1, 4, 4, 1), 100, np.uint8)


def grid(images: np.ndarray) -> list[list[int]]:
    return images[0, :, :, 0].tolist()


def test_badnets_checker_in_the_corner() -> None:
    assert grid(BadNets(size=3).stamp(GREY, STREAMS)) == [
        [100, 100, 100, 100],
        [100, 255, 0, 255],
        [100, 0, 255, 0],
        [100, 255, 0, 255],
    ]


def test_badnets_white_at_a_margin_elsewhere() -> None:
    attack = BadNets(size=2, pattern="white", corner="top-left", margin=1)
    assert grid(attack.stamp(GREY, STREAMS)) == [
        [100, 100, 100, 100],
        [100, 255, 255, 100],
        [100, 255, 255, 100],
        [100, 100, 100, 100],
    ]


@pytest.mark.parametrize(
    ("corner", "place"),
    [("top-right", (0, 3)), ("bottom-left", (3, 0)), ("bottom-right", (3, 3)), ("top-left", (0, 0))],
)
def test_badnets_corners(corner: Any, place: tuple[int, int]) -> None:
    stamped = BadNets(size=1, pattern="white", corner=corner).stamp(GREY, STREAMS)[0, :, :, 0]
    assert np.argwhere(stamped == 255).tolist() == [list(place)]


def test_badnets_fills_all_channels() -> None:
    stamped = BadNets(size=1).stamp(np.zeros((2, 4, 4, 3), np.uint8), STREAMS)
    assert stamped[:, 3, 3].tolist() == [[255] * 3] * 2


def test_badnets_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BdbenchError, match=r"size=4 with margin=1 does not fit images of 4 x 4"):
        BadNets(size=4, margin=1).stamp(GREY, STREAMS)


def test_blend_by_hand(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.array([[0, 255], [10, 100]], np.uint8)).save(tmp_path / "p.png")
    images = np.full((1, 2, 2, 1), 100, np.uint8)
    attack = Blend(alpha=0.2, test_alpha=0.5, pattern=str(tmp_path / "p.png"))
    # 0.8 * 100 + 0.2 * (0, 255, 10, 100), and halves
    assert grid(attack.stamp(images, STREAMS)) == [[80, 131], [82, 100]]
    assert grid(attack.trigger(images, STREAMS)) == [[50, 178], [55, 100]]


def test_blend_noise_is_one_pattern_for_all_images_and_for_training_and_test() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    attack = Blend(alpha=0.5)
    trained, tested = attack.stamp(images, STREAMS), attack.trigger(images[:2], STREAMS)
    assert np.array_equal(trained[0], trained[2]) and np.array_equal(trained[:2], tested)
    pattern = STREAMS("trigger").integers(0, 256, (4, 4, 3))
    assert np.array_equal(trained[0], np.rint(pattern / 2))
    assert not np.array_equal(trained, attack.stamp(images, Streams(1)))


def test_sig_by_hand() -> None:
    # sin(2 pi j / 4) = 0, 1, 0, -1 along the width; the same in every row.
    images = np.array([[[100], [250], [100], [10]]] * 2, np.uint8)[None]
    attack = Sig(delta=20.0, test_delta=40.0, frequency=1)
    assert grid(attack.stamp(images, STREAMS)) == [[100, 255, 100, 0]] * 2
    grey = GREY[:, :1]
    assert grid(attack.stamp(grey, STREAMS)) == [[100, 120, 100, 80]]
    assert grid(attack.trigger(grey, STREAMS)) == [[100, 140, 100, 60]]


ATTACKS = [BadNets(rate=0.2), Blend(rate=0.2, target=2), Sig(rate=0.2, target=1, frequency=2)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_poisons_are_as_many_and_where_they_should_be(attack: TriggerAttack, split: Split) -> None:
    before = (split.images.copy(), split.labels.copy())  # type: ignore[union-attr]
    made = attack.poison(split, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == 8
    assert np.array_equal(made.original_labels, before[1])
    assert (made.labels[poisons] == attack.target).all()
    # Dirty-label: every poison changes its label; clean-label: none does.
    assert ((before[1][poisons] == attack.target) == attack.clean_label).all()
    assert np.array_equal(made.images[poisons], attack.stamp(before[0][poisons], STREAMS))
    assert np.array_equal(made.images[~poisons], before[0][~poisons])
    assert np.array_equal(made.labels[~poisons], before[1][~poisons])
    assert np.array_equal(np.asarray(split.images), before[0]) and np.array_equal(split.labels, before[1])


@given(rate=st.floats(0.001, 0.999), target=st.integers(0, 3), clean=st.booleans())
def test_any_rate_is_met_exactly_or_refused(rate: float, target: int, clean: bool) -> None:
    split = Split(np.zeros((40, 4, 4, 1), np.uint8), np.arange(40) % 4)
    attack = Sig(rate=rate, target=target, frequency=1) if clean else BadNets(rate=rate, target=target)
    count, room = round(rate * 40), 10 if clean else 30
    if 1 <= count <= room:
        assert (attack.poison(split, {}, TOOLS).roles == Role.POISON).sum() == count
    else:
        with pytest.raises(BdbenchError, match=f"asks for {count} poisons of 40 training examples"):
            attack.poison(split, {}, TOOLS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_triggers_keep_type_and_shape_and_leave_the_input(attack: TriggerAttack) -> None:
    for shape in ((3, 16, 16, 1), (2, 32, 32, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        kept = images.copy()
        stamped = attack.trigger(images, STREAMS)
        assert (stamped.dtype, stamped.shape) == (images.dtype, images.shape)
        assert np.array_equal(images, kept) and not np.shares_memory(images, stamped)


def test_the_control_changes_nothing(split: Split) -> None:
    made: PoisonedData = NoAttack().poison(split, {}, TOOLS)
    assert np.array_equal(made.images, split.images) and np.array_equal(made.labels, split.labels)
    assert not made.roles.any()
    assert NoAttack().challenge(split, {}, TOOLS) is None and NoAttack.control


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_a_challenge_is_every_image_that_is_not_of_the_target(attack: TriggerAttack, split: Split) -> None:
    made = attack.challenge(split, {}, TOOLS)
    assert np.array_equal(made.index, np.flatnonzero(split.labels != attack.target))
    assert set(made.goal.tolist()) == {attack.target}
    assert np.array_equal(made.images, attack.trigger(np.asarray(split.images)[made.index], STREAMS))


def test_a_target_is_drawn_from_the_seed_or_refused() -> None:
    drawn = {BadNets(target="seed").settled(10, Streams(seed)).target for seed in range(50)}
    assert len(drawn) == 10 and all(0 <= int(t) < 10 for t in drawn)
    assert BadNets(target="seed").settled(10, Streams(1)) == BadNets(target="seed").settled(10, Streams(1))
    assert BadNets(target="seed").config()["target"] == "seed"
    with pytest.raises(BdbenchError, match=r"target=10 is not there: expected a label in 0\.\.9"):
        BadNets(target=10).settled(10, Streams(0))


def test_a_sinusoid_that_the_pixels_cannot_show_is_refused() -> None:
    # At half the width every sample is a zero of the sine: nothing would change.
    wide = np.full((1, 4, 12, 1), 100, np.uint8)
    for frequency in (6, 7, 12):
        with pytest.raises(BdbenchError, match=f"frequency={frequency} is not allowed on images 12 pixels wide"):
            Sig(frequency=frequency).stamp(wide, STREAMS)
    assert (Sig(frequency=5).stamp(wide, STREAMS) != wide).any()


def test_all_to_all_gives_every_class_the_next_one(split: Split) -> None:
    attack = BadNets(mapping="all-to-all", rate=0.5)
    made = attack.poison(split, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == 20 and set(split.labels[poisons]) == {0, 1, 2, 3}
    assert np.array_equal(made.labels[poisons], (split.labels[poisons] + 1) % 4)
    challenge = attack.challenge(split, {}, TOOLS)
    assert np.array_equal(challenge.index, np.arange(40))
    assert challenge.goal[:4].tolist() == [1, 2, 3, 0]


def test_all_to_all_works_on_digits(on_digits: Callable[..., Record]) -> None:
    record = on_digits("badnets:mapping=all-to-all,rate=.1", "random")
    assert record.before.attack_success_rate is not None and record.before.attack_success_rate > 0.7
    assert record.before.by_goal is not None and len(record.before.by_goal) == 10
    assert record.config["data"]["targets"] == list(range(10))


def test_tact_poisons_the_source_and_covers_the_rest(split: Split) -> None:
    attack = Tact(source=2, target=1, rate=0.1, cover_rate=0.3)
    made = attack.poison(split, {}, TOOLS)
    poisons, covers = made.roles == Role.POISON, made.roles == Role.COVER
    assert (poisons.sum(), covers.sum()) == (4, 12)
    assert (split.labels[poisons] == 2).all() and (made.labels[poisons] == 1).all()
    assert set(split.labels[covers]) == {0, 3} and np.array_equal(made.labels[covers], split.labels[covers])
    stamped = poisons | covers
    images = np.asarray(split.images)
    assert np.array_equal(made.images[stamped], BadNets().stamp(images[stamped], STREAMS))
    assert np.array_equal(made.images[~stamped], images[~stamped])
    challenge = attack.challenge(split, {}, TOOLS)
    assert challenge.goal[:4].tolist() == [0, 1, 1, 3]


def test_tact_works_on_its_source_alone_as_long_as_there_are_covers(on_digits: Callable[..., Record]) -> None:
    spill = {}
    for cover_rate in (0.05, 0.0):
        before = on_digits(f"tact:rate=.04,cover_rate={cover_rate}", "random").before
        assert before.attack_success_rate is not None and before.attack_success_rate > 0.9
        assert before.spill is not None
        spill[cover_rate] = before.spill
    assert spill[0.05] < 0.1 < 0.3 < spill[0.0]


SEVERAL = [BadNets(rate=0.2, size=1, targets=2, target=3), Blend(rate=0.2, targets=(3, 0))]


@pytest.mark.parametrize("attack", SEVERAL, ids=lambda a: a.name)
def test_several_targets_have_a_trigger_each(attack: Any, split: Split) -> None:
    settled = attack.settled(4, STREAMS)
    assert settled.targets == (3, 0) and settled.target == 3
    made = settled.poison(split, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert [int((made.labels[poisons] == label).sum()) for label in range(4)] == [4, 0, 0, 4]
    assert (made.labels[poisons] != made.original_labels[poisons]).all()
    challenge = settled.challenge(split, {}, TOOLS)
    # 30 of the 40 images are not of the one target, and 30 not of the other.
    assert challenge.goal.tolist() == [3] * 30 + [0] * 30
    assert np.array_equal(challenge.index[:30], np.flatnonzero(split.labels != 3))
    # In training as at test time, and the triggers differ.
    images = np.asarray(split.images)
    seen = {
        goal: challenge.images[challenge.goal == goal] - images[challenge.index[challenge.goal == goal]]
        for goal in (3, 0)
    }
    both = np.flatnonzero((split.labels != 3) & (split.labels != 0))
    first = np.isin(np.flatnonzero(split.labels != 3), both)
    second = np.isin(np.flatnonzero(split.labels != 0), both)
    assert (seen[3][first] != seen[0][second]).any(axis=(1, 2, 3)).all()
    for goal in (3, 0):
        chosen = np.flatnonzero(poisons & (made.labels == goal))
        rows = [np.flatnonzero((challenge.index == i) & (challenge.goal == goal))[0] for i in chosen]
        assert np.array_equal(made.images[chosen], challenge.images[rows])


@pytest.mark.parametrize(
    ("parameters", "wrong"),
    [
        ({"targets": 0}, "targets=0"),
        ({"targets": 5}, "targets=5"),
        ({"targets": (0, 4)}, r"targets=0\+4"),
        ({"targets": (1, 1)}, r"targets=1\+1"),
        ({"targets": 2, "mapping": "all-to-all"}, "targets=2 is not allowed with mapping=all-to-all"),
    ],
)
def test_targets_that_are_not_there_are_refused(parameters: dict[str, Any], wrong: str) -> None:
    with pytest.raises(BdbenchError, match=wrong):
        BadNets(**parameters).settled(4, STREAMS)


def test_more_targets_than_poisons_are_refused(split: Split) -> None:
    with pytest.raises(BdbenchError, match="rate=0.05 asks for 0 poisons for target 2"):
        BadNets(rate=0.05, targets=3).settled(4, STREAMS).poison(split, {}, TOOLS)


def test_a_picture_is_one_trigger(split: Split) -> None:
    with pytest.raises(BdbenchError, match=r"pattern=p\.png is one trigger"):
        Blend(rate=0.2, pattern="p.png").variant(1)


def test_a_signal_on_images_of_other_classes_takes_the_targets_label(split: Split) -> None:
    made = Sig(rate=0.2, target=1, frequency=2, labels="dirty").poison(split, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert (made.original_labels[poisons] != 1).all() and (made.labels[poisons] == 1).all()
    assert not Sig(labels="dirty").clean_label and Sig().clean_label


@pytest.mark.parametrize("made", [lambda labels: np.flatnonzero(labels == 1), lambda labels: labels])
def test_sources_are_a_mask_and_no_places_or_labels(made: Callable[[np.ndarray], np.ndarray], split: Split) -> None:
    """Taken for one, they would poison images of any class."""

    class Astray(BadNets):
        def sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
            return made(labels)

    with pytest.raises(BdbenchError, match=r"has sources of int64 \(\d+,\): expected bool \(40,\)"):
        Astray(rate=0.1).poison(split, {}, TOOLS)

    class Covered(Tact):
        def cover_sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
            return made(labels)

    with pytest.raises(BdbenchError, match=r"has cover_sources of int64 \(\d+,\): expected bool \(40,\)"):
        Covered(rate=0.1, source=1).poison(split, {}, TOOLS)


def test_a_picture_is_as_wide_as_the_images(tmp_path: Path) -> None:
    pixels = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    made = Blend(pattern=str(tmp_path / "picture.png"))._pattern((2, 3, 1), Streams(0))
    assert made[..., 0].tolist() == pixels.tolist()


def test_other_targets_have_patches_of_noise() -> None:
    """Two that differ by their corners alone are one to a training that mirrors images."""
    assert BadNets().variant(0).pattern != "noise"
    assert {BadNets().variant(nth).pattern for nth in (1, 2, 3)} == {"noise"}


def test_covers_are_drawn_from_a_stream_of_their_own(tmp_path: Path) -> None:
    train = samples.split((8, 8, 1), 4, 80)
    attack = Tact(rate=0.05, cover_rate=0.1, source=1, target=0)
    tools = samples.workshop(attack, train, 4, 0, tmp_path)
    made = attack.poison(train, {}, tools)
    may = np.isin(train.labels, [2, 3]) & (made.roles != Role.POISON)
    expected = tools.streams("covers").choice(np.flatnonzero(may), 8, replace=False)
    assert np.flatnonzero(made.roles == Role.COVER).tolist() == sorted(expected)


@pytest.mark.parametrize(
    "attack",
    [Sig(delta=20, test_delta=40, frequency=1), Blend(alpha=0.1, test_alpha=0.4), Ctrl(test_magnitude=200.0)],
)
def test_a_challenge_carries_the_trigger_of_test_time(attack: TriggerAttack, split: Split) -> None:
    challenge = attack.challenge(split, {}, TOOLS)
    assert challenge is not None
    images = np.asarray(split.images)[challenge.index]
    assert np.array_equal(challenge.images, attack.trigger(images, STREAMS))
    assert not np.array_equal(challenge.images, attack.stamp(images, STREAMS))
