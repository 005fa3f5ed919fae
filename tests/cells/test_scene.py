"""What is made before any model is trained: crafted state, poisoned sets, challenges, and what identifies them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import bdbench
from bdbench import (
    ANY_OTHER,
    BdbenchError,
    Challenge,
    Covers,
    CraftedTrigger,
    Role,
    SourceSpecific,
    Split,
    State,
    Streams,
    TriggerAttack,
    Workshop,
    experiment,
    param,
)
from bdbench.cells.scene import Scene
from tests.conftest import TINY

CALLS: list[str] = []
STOP: list[bool] = []


def scene(out: Path, attack: Any, **options: Any) -> Scene:
    return experiment.cell(**{**TINY, "attack": attack, "out": out, **options}).scene


@dataclass(frozen=True, kw_only=True)
class Crafted(CraftedTrigger):
    """Adds what a surrogate and a random stream came to."""

    name = "crafted"
    strength: int = param(40, help="at most, in grey levels", low=1)

    def craft(self, train: Split, tools: Workshop) -> State:
        CALLS.append("craft")

        def surrogate() -> State:
            CALLS.append("surrogate")
            victim = tools.train(np.asarray(train.images), train.labels, "surrogate")
            return {"bias": victim.arrays()["state.linear.bias"]}

        bias = tools.saved({"what": "surrogate"}, surrogate)["bias"]
        if STOP:
            raise KeyboardInterrupt
        noise = tools.streams("noise").integers(1, self.strength, train.images.shape[1:])
        return {"pattern": np.rint(noise + np.abs(bias).max()).astype(np.uint8)}

    def stamp_with(self, images: np.ndarray, state: State, streams: Streams, device: str) -> np.ndarray:
        return np.where(images < 128, images + state["pattern"], images - state["pattern"]).astype(np.uint8)


def test_what_is_crafted_is_a_stage(tmp_path: Path) -> None:
    CALLS.clear()
    first, again = scene(tmp_path, Crafted()), scene(tmp_path, Crafted())
    assert CALLS == ["craft", "surrogate"]
    assert np.array_equal(first.state["pattern"], again.state["pattern"])
    assert first.seconds["craft"] == again.seconds["craft"] > 0
    assert np.array_equal(first.poisoned.images, again.poisoned.images)
    # Another parameter, another seed, another model: other states, and the surrogate is another one for the last two.
    scene(tmp_path, Crafted(strength=41))
    scene(tmp_path, Crafted(), seed=1)
    scene(tmp_path, Crafted(), model="convnet:width=8,epochs=2")
    assert CALLS.count("craft") == 4
    with pytest.raises(TypeError, match="stamps with what it crafted"):
        Crafted().stamp(np.zeros((1, 8, 8, 1), np.uint8), Streams(0))


def test_a_craft_that_was_interrupted_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "STOP", [True])
        with pytest.raises(RuntimeError, match="it raised KeyboardInterrupt"):
            scene(tmp_path, Crafted())
    scene(tmp_path, Crafted())
    assert CALLS == ["craft", "surrogate", "craft"]


@dataclass(frozen=True, kw_only=True)
class White(Covers):
    """Whitens the last row; covers have the first row white."""

    name = "white"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return np.concatenate([images[:, :-1], np.full_like(images[:, -1:], 255)], 1)

    def cover(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return np.concatenate([np.full_like(images[:, :1], 255), images[:, 1:]], 1)


def test_covers_are_changed_and_keep_their_labels(tmp_path: Path) -> None:
    made = scene(tmp_path, White(rate=0.1, cover_rate=0.2)).poisoned
    poisons, covers = made.roles == Role.POISON, made.roles == Role.COVER
    assert (poisons.sum(), covers.sum()) == (30, 60)
    assert (made.images[poisons][:, -1] == 255).all() and (made.images[covers][:, 0] == 255).all()
    assert (made.labels[covers] == made.original_labels[covers]).all() and (made.labels[poisons] == 0).all()
    with pytest.raises(BdbenchError, match="cover_rate=0.95 asks for 285 covers of 300 .* at most the 270"):
        scene(tmp_path, White(rate=0.1, cover_rate=0.95))


@dataclass(frozen=True, kw_only=True)
class OneClass(SourceSpecific):
    """Whitens the last row; works on one class."""

    name = "one-class"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return np.concatenate([images[:, :-1], np.full_like(images[:, -1:], 255)], 1)


def test_a_source_specific_trigger_has_bystanders(tmp_path: Path) -> None:
    made = scene(tmp_path, OneClass(rate=0.05, cover_rate=0.3, source=3, target=7))
    poisons = made.poisoned.roles == Role.POISON
    assert set(made.poisoned.original_labels[poisons]) == {3} and set(made.poisoned.labels[poisons]) == {7}
    assert set(made.poisoned.original_labels[made.poisoned.roles == Role.COVER]) == set(range(10)) - {3, 7}
    challenge, truth = made.challenge, made.images.test.labels
    assert challenge is not None and len(challenge.goal) == len(truth)
    assert np.array_equal(challenge.goal, np.where(truth == 3, 7, truth))
    assert np.array_equal(made.attacked, truth == 3) and made.targets == (7,)
    assert made.facts["bystanders"] == (truth != 3).sum()
    for source in (7, 10):
        with pytest.raises(BdbenchError, match=f"source={source} is not allowed: .* other than target=7"):
            scene(tmp_path, OneClass(source=source, target=7))
    drawn = [OneClass(source="seed", target="seed").settled(10, Streams(seed)) for seed in range(100)]
    assert all(attack.source != attack.target for attack in drawn)
    assert {attack.source for attack in drawn} == {attack.target for attack in drawn} == set(range(10))


def test_the_target_oracle_knows_every_goal(tmp_path: Path) -> None:
    """It used to be the goal of label 0, which is no target of most attacks with several."""
    for attack, expected in (("badnets:mapping=all-to-all", tuple(range(10))), (OneClass(source=3, target=7), (7,))):
        made = scene(tmp_path, attack)
        assert made.targets == expected
        assert made._oracle("target_labels") == expected
    assert scene(tmp_path, "none").targets == ()


def test_an_attack_without_a_target_has_none(tmp_path: Path) -> None:
    made = scene(tmp_path, "untargeted")
    assert made.challenge is not None and (made.challenge.goal == ANY_OTHER).all() and made.attacked.all()
    assert made.targets == made._oracle("target_labels") == ()
    found = bdbench.run(defense="strip", **{**TINY, "attack": "untargeted", "out": tmp_path})
    facts, before, inputs = found.config["data"], found.before, found.inputs
    assert (facts["targets"], facts["attacked"], facts["bystanders"]) == ([], 360, 0)
    assert before.attack_success_rate is not None and before.robust_accuracy is not None
    assert before.attack_success_rate + before.robust_accuracy == pytest.approx(1) and before.by_goal is None
    # The victim obeys on some inputs: no label is -1, which is what they are asked for.
    assert inputs is not None and inputs.auroc_obeyed is not None


@dataclass(frozen=True, kw_only=True)
class BelowAll(TriggerAttack):
    """Wants a label below all that are there."""

    name = "below-all"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return 255 - images

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        made = super().challenge(test, state, tools)
        return Challenge(made.images, made.index, np.full_like(made.goal, ANY_OTHER - 1))


def test_a_goal_that_is_neither_a_label_nor_any_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match=r"challenges with goal of int64 \(324,\): expected int64 \(324,\) in -1..9"):
        scene(tmp_path, BelowAll())


@dataclass(frozen=True, kw_only=True)
class TwoTargets(TriggerAttack):
    """A white row below gives the target, one above the label after it."""

    name = "two-targets"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return np.concatenate([images[:, :-1], np.full_like(images[:, -1:], 255)], 1)

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        first = super().challenge(test, state, tools)
        second = Challenge(first.images[:, ::-1].copy(), first.index, (first.goal + 1) % tools.num_classes)
        parts = [np.concatenate(pair) for pair in zip(vars(first).values(), vars(second).values(), strict=True)]
        return Challenge(*parts)


def test_several_triggers_of_one_image_are_rows_of_one_challenge(tmp_path: Path) -> None:
    found = bdbench.run(defense="random", **{**TINY, "attack": TwoTargets(target=4), "out": tmp_path})
    facts = found.config["data"]
    assert facts["targets"] == [4, 5] and facts["attacked"] + facts["bystanders"] == 2 * (360 - 36)
    assert found.before.by_goal is not None and set(found.before.by_goal) == {"4", "5"}
    assert found.before.worst_goal == max(found.before.by_goal.values())


@dataclass(frozen=True, kw_only=True)
class Idle(TriggerAttack):
    """Changes nothing, but calls examples of the target class poisons."""

    name = "idle"
    clean_label: ClassVar[bool] = True

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        return images.copy()


def test_poisons_that_are_as_they_were_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match="attack 'idle' leaves 15 of 15 poisons as they were: expected them changed"):
        scene(tmp_path, Idle())


@dataclass(frozen=True, kw_only=True)
class Harmless(White):
    """Challenges with images that are to stay what they are."""

    name = "harmless"
    bystanders: ClassVar[bool] = True

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        return labels.copy()

    def sources(self, labels: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return np.ones(len(labels), bool)


def test_a_challenge_without_an_attacked_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match="attack 'harmless' attacks none of the 360 test images"):
        scene(tmp_path, Harmless())


def test_what_an_attack_reads_is_part_of_what_a_cell_is(tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "p.png"
    ids, codes = [], []
    for grey in (10, 200):
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(picture)
        found = bdbench.run(defense="random", **{**TINY, "attack": f"blend:pattern={picture}", "out": tmp_path / "r"})
        ids.append(found.id)
        codes.append(bdbench.components.configs.identity(found.config))
        assert list(found.config["files"]) == [str(picture)]
    assert ids[0] != ids[1] and codes[0] != codes[1]
    with pytest.raises(BdbenchError, match=r"attack 'blend' reads 'none.png', which is not there: expected a file"):
        scene(tmp_path, "blend:pattern=none.png")


@dataclass(frozen=True, kw_only=True)
class Remade(White):
    """Returns what ``how`` says in place of what it should."""

    name = "remade"
    how: str = param("right", help="what is wrong with it")

    def poison(self, train: Split, state: State, tools: Workshop) -> bdbench.PoisonedData:
        made = super().poison(train, state, tools)
        arrays = {k: v for k, v in vars(made).items() if k != "index"}
        if self.how == "added":
            arrays = {k: np.concatenate([v, v[:9]]) for k, v in arrays.items()}
        if self.how == "role":
            arrays["roles"] = arrays["roles"] + np.int8(2)
        index = np.arange(len(arrays["labels"])) if self.how == "index" else None
        return bdbench.PoisonedData(**arrays, index=None if index is None else index - 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("added", "returned 309 examples of 300 and no index: expected what each was made of"),
        ("role", r"returned roles \[2, 3, 4\]: expected \[0, 1, 2\]"),
        ("index", r"returned an index of int64 \(300,\): expected int64 \(300,\) in 0..299"),
    ],
)
def test_a_poisoned_set_that_does_not_say_what_it_is_made_of_is_refused(tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(BdbenchError, match=f"attack 'remade' {message}"):
        scene(tmp_path, Remade(how=how))
    assert len(scene(tmp_path, Remade()).poisoned.labels) == 300


@dataclass(frozen=True, kw_only=True)
class Natural(White):
    """Shows all test images as they are, and wants another label of a few."""

    name = "natural"

    def challenge(self, test: Split, state: State, tools: Workshop) -> Challenge:
        index = np.arange(len(test.labels))
        goal = np.where(index < 5, (test.labels + 1) % tools.num_classes, test.labels)
        return Challenge(np.array(test.images), index, goal)


def test_a_challenge_that_leaves_nothing_for_clean_accuracy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BdbenchError, match="attack 'natural' shows all 360 test images as they are"):
        scene(tmp_path, Natural())


def _pictures(folder: Path) -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    turned = Image.Exif()
    turned[0x0112] = 6
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    yield "deep.png", Image.fromarray(grey), {}
    yield "clear.png", Image.new("RGBA", (8, 8), (255, 0, 0, 0)), {}
    upright = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    yield "turned.png", upright, {"exif": turned}


def test_a_picture_that_is_not_what_it_shows_is_no_pattern(tmp_path: Path) -> None:
    for name, picture, options in _pictures(tmp_path):
        picture.save(tmp_path / name, **options)
        with pytest.raises(BdbenchError, match=f"{name} is not the picture that it shows"):
            scene(tmp_path / "runs", f"blend:pattern={tmp_path / name}")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "plain.png")
    assert scene(tmp_path / "runs", f"blend:pattern={tmp_path / 'plain.png'}").poisoned is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BdbenchError, match=r"pipe\.png"):
        scene(tmp_path / "runs", f"blend:pattern={tmp_path / 'pipe.png'}")
