"""Refool: each model of reflection against another implementation of it, the pictures, and the labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift

from bdbench import BdbenchError, Role, Split, Streams
from bdbench_triggers.reflection import reflected as over
from bdbench_triggers.refool import Refool

STREAMS = Streams(2)
MODELS: tuple[Any, ...] = ("same-depth", "out-of-focus", "ghost")
TOOLS: Any = SimpleNamespace(streams=STREAMS, num_classes=4, device="cpu", shape=(8, 8, 1))


def reflected(
    picture: np.ndarray, *, blurred: bool, blur: float, down: float, right: float, moved: float
) -> np.ndarray:
    drawn = torch.tensor([[float(blurred), 0.0, blur, down, right, moved]])
    return over(torch.from_numpy(picture)[None], drawn)[0].numpy()


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).random((3, 12, 17), np.float32)


def test_out_of_focus_is_a_gaussian_that_leaves_no_light_behind(picture: np.ndarray) -> None:
    found = reflected(picture, blurred=True, blur=1.3, down=0, right=0, moved=1)

    def filtered(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (0, 1.3, 1.3), mode="constant", truncate=20)

    expected = filtered(picture.astype(float)) / filtered(np.ones(picture.shape))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("down", "right"), [(2.0, 3.0), (0.4, 1.1), (0.0, 0.25)])
def test_a_ghost_is_a_second_image_shifted(picture: np.ndarray, down: float, right: float) -> None:
    found = reflected(picture, blurred=False, blur=1, down=down, right=right, moved=0.3)
    second = shift(picture.astype(float), (0, down, right), order=1, mode="nearest")
    assert found == pytest.approx(0.7 * picture + 0.3 * second, abs=1e-5)


def test_at_the_same_depth_weights_are_drawn_and_light_is_mixed_by_them() -> None:
    # A white picture on black: the light of a pixel is the weight. On white nothing changes.
    state = {"pictures": np.full((2, 4, 4, 1), 255, np.uint8)}
    attack = Refool(model="same-depth")
    stamped = attack.stamp_with(np.zeros((2000, 4, 4, 1), np.uint8), state, STREAMS, "cpu")
    assert (stamped == stamped[:, :1, :1]).all()
    weights = (stamped[:, 0, 0, 0] / 255) ** 2.2
    assert 0.04 < weights.min() < 0.06 and 0.44 < weights.max() < 0.46 and abs(weights.mean() - 0.25) < 0.02
    white = np.full((3, 4, 4, 1), 255, np.uint8)
    assert np.array_equal(attack.stamp_with(white, state, STREAMS, "cpu"), white)
    black = {"pictures": np.zeros((1, 4, 4, 1), np.uint8)}
    darker = attack.stamp_with(white, black, STREAMS, "cpu")[:, 0, 0, 0]
    # Of each image the picture is drawn first, and then its weight.
    rng = STREAMS("trigger")
    rng.integers(1, size=3)
    assert np.array_equal(darker, np.rint((1 - rng.uniform(0.05, 0.45, 3)) ** (1 / 2.2) * 255))


def test_the_fainter_of_a_ghosts_images_is_the_first_or_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[np.ndarray] = []

    def kept(pictures: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        tables.append(drawn.numpy())
        return pictures

    monkeypatch.setattr("bdbench_triggers.reflection.reflected", kept)
    state = {"pictures": np.zeros((1, 4, 4, 1), np.uint8)}
    Refool(model="ghost").stamp_with(np.zeros((1000, 4, 4, 1), np.uint8), state, STREAMS, "cpu")
    second = np.concatenate(tables)[:, 5]
    assert 0.45 < (second < 0.5).mean() < 0.55
    fainter = np.minimum(second, 1 - second)
    assert fainter.min() >= 0.15 and fainter.max() <= 0.5 and second.max() > 0.8


@pytest.mark.parametrize("size", [8, 32, 224])
def test_models_look_alike_at_any_size_and_the_mixture_has_all(size: int) -> None:
    dot = np.zeros((1, size, size, 3), np.uint8)
    side = size // 8
    dot[:, size // 2 : size // 2 + side, size // 2 : size // 2 + side] = 255
    black = np.zeros((60, size, size, 3), np.uint8)
    kinds = {m: Refool(model=m, canvas=32).stamp_with(black[:20], {"pictures": dot}, STREAMS, "cpu") for m in MODELS}
    lit = {m: float((images > 0).mean()) for m, images in kinds.items()}
    assert lit["same-depth"] == pytest.approx(1 / 64) and lit["ghost"] > 1.5 / 64 and lit["out-of-focus"] > 1.5 / 64
    mixed = (Refool(canvas=32).stamp_with(black, {"pictures": dot}, STREAMS, "cpu") > 0).mean((1, 2, 3))
    assert 10 <= (mixed < 1.1 / 64).sum() <= 30


def test_poisons_are_of_the_target_or_of_the_others(split: Split) -> None:
    for labels, classes in (("clean", {1}), ("dirty", {0, 2, 3})):
        attack = Refool(labels=labels, target=1, rate=0.2, count=6)  # type: ignore[arg-type]
        state = attack.craft(split, TOOLS)
        made = attack.poison(split, state, TOOLS)
        poisons = made.roles == Role.POISON
        assert poisons.sum() == 8 and set(made.original_labels[poisons]) <= classes and set(made.labels[poisons]) == {1}
        images = np.asarray(split.images)
        origin = [int(split.labels[(images == p).all((1, 2, 3))].item()) for p in state["pictures"]]
        assert len(origin) == 6 and 1 not in origin


@pytest.mark.parametrize("count", [3, 200])
def test_test_images_have_no_picture_that_no_poison_has(
    count: int, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[set[int]] = []
    real = Refool._stamped

    def noted(self: Refool, images: np.ndarray, which: np.ndarray, *rest: Any) -> np.ndarray:
        drawn.append(set(which.tolist()))
        return real(self, images, which, *rest)

    monkeypatch.setattr(Refool, "_stamped", noted)
    attack = Refool(labels="dirty", target=1, rate=0.2, count=count)
    state = attack.craft(split, TOOLS)
    assert len(state["pictures"]) == min(count, 8)
    made = attack.poison(split, state, TOOLS)
    assert (made.roles == Role.POISON).sum() == 8
    attack.challenge(split, state, TOOLS)
    assert drawn[0] == set(range(min(count, 8))) and drawn[1] <= drawn[0]


def test_pictures_of_a_folder(tmp_path: Path, split: Split) -> None:
    from PIL import Image

    for name, value in (("a.png", 10), ("b.JPG", 200)):
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    attack = Refool(reflections=str(tmp_path), rate=0.2)
    assert [p.name for p in attack.files()] == ["a.png", "b.JPG"]
    pictures = attack.craft(split, TOOLS)["pictures"]
    assert pictures.shape == (2, 8, 8, 1) and [int(p.mean()) for p in pictures] == [10, 200]
    assert len(Refool(reflections=str(tmp_path), count=1).craft(split, TOOLS)["pictures"]) == 1
    (tmp_path / "c.png").write_text("no picture either")
    with pytest.raises(BdbenchError, match=r"cannot read the reflection .*c\.png"):
        attack.craft(split, TOOLS)
    for wrong in (tmp_path / "nowhere", tmp_path / "notes.txt"):
        with pytest.raises(BdbenchError, match="holds no pictures: expected 'images' or a folder of them"):
            Refool(reflections=str(wrong)).files()


def test_lengths_are_those_of_the_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[np.ndarray] = []
    monkeypatch.setattr(
        "bdbench_triggers.reflection.reflected", lambda pictures, drawn: (tables.append(drawn.numpy()), pictures)[1]
    )
    images = np.zeros((500, 4, 8, 1), np.uint8)
    Refool(model="out-of-focus", canvas=16).stamp_with(images, {"pictures": images[:1]}, STREAMS, "cpu")
    kind, _, blur, down, right, moved = tables[0].T
    # Half of what is drawn.
    assert (kind == 1).all() and (moved == 1).all() and 0.5 <= blur.min() < 0.6 < 2.4 < blur.max() <= 2.5
    assert all(1.5 <= way.min() < 1.6 < 3.9 < way.max() <= 4 for way in (down, right))
