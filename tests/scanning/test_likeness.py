from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bdbench.scanning import likeness


def photographs(count: int, seed: int = 0) -> list[np.ndarray]:
    """Smooth random images of 48 x 64."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 6, 8, 3)).astype(np.uint8)
    return [np.asarray(Image.fromarray(one).resize((64, 48), Image.Resampling.BICUBIC)) for one in small]


def small(image: np.ndarray, size: int = 32) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def groups(images: list[np.ndarray]) -> list[int]:
    working = np.stack([small(image) for image in images])
    hashes = np.stack([likeness.difference_hash(image) for image in working])
    return likeness.near(hashes, working).tolist()


def test_a_copy_of_another_size_compression_or_brightness_is_near_and_another_image_is_not() -> None:
    one, other, third = photographs(3)
    resized = np.asarray(Image.fromarray(one).resize((200, 150), Image.Resampling.LANCZOS))
    darker = (other * 0.9).astype(np.uint8)
    assert groups([one, other, resized, darker, third]) == [0, 1, 0, 1, 4]


def test_copies_compressed_again_or_halved_are_known_among_many() -> None:
    def compressed(image: np.ndarray) -> np.ndarray:
        kept = io.BytesIO()
        Image.fromarray(image).save(kept, "JPEG", quality=50)
        return np.asarray(Image.open(kept))

    originals = photographs(300)
    halved = [small(image, 24) for image in originals[60:90]]
    found = groups([*originals, *map(compressed, originals[:60]), *halved])
    assert found == [*range(300), *range(90)]


def test_flat_images_and_digits_are_no_copies_of_each_other() -> None:
    flat = [np.full((20, 20, 3), shade, np.uint8) for shade in (0, 90, 255)]
    assert groups(flat) == [0, 1, 2]
    from sklearn.datasets import load_digits

    digits = np.repeat((load_digits().images[:300, ..., None] * 15).astype(np.uint8), 3, axis=3)
    found = groups(list(digits))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("side", [32, 512, 1000])
def test_flat_images_do_not_vary_alike(side: int) -> None:
    flat = np.stack([np.full((side, side, 3), shade, np.uint8) for shade in (77, 201, 251)])
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    assert not likeness._alike(flat, pairs).any()
    # Nor where one pixel of the same place is a grey level off.
    flat[:, 5, 5] += 1
    assert not likeness._alike(flat, pairs).any()


def test_flat_images_of_any_colour_and_size_are_no_copies() -> None:
    colours = [(10, 20, 30), (100, 150, 200), (200, 30, 20), (100, 20, 16), (90, 90, 91)]
    for shape in ((1, 1), (32, 32), (333, 333)):
        flat = np.stack(
            [np.full((*shape, 3), colour, np.uint8) for colour in [*colours, *[(i, i, i) for i in range(52)]]]
        )
        hashes = np.stack([likeness.difference_hash(image) for image in flat])
        assert likeness.near(hashes, flat).tolist() == list(range(len(flat)))


def test_each_pair_is_compared_once_however_alike_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    one = photographs(1)[0]
    alike = np.stack([one] * 50)
    compared: list[int] = []
    confirmed = likeness._alike

    def noted(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        compared.append(len(pairs))
        return confirmed(images, pairs)

    monkeypatch.setattr(likeness, "_alike", noted)
    monkeypatch.setattr(likeness, "_AT_ONCE", 4 * one.size)
    assert likeness.near(np.stack([likeness.difference_hash(one)] * 50), alike).tolist() == [0] * 50
    assert max(compared) <= 4 and sum(compared) < 2 * 50
    assert likeness.near(np.zeros((0, likeness.BYTES), np.uint8), alike[:0]).tolist() == []


def test_exact_copies_share_shape_and_pixels() -> None:
    one, other = photographs(2)
    digests = [likeness.digest(image) for image in (one, other, one.copy(), one.reshape(64, 48, 3))]
    found = likeness.exact(np.array([np.frombuffer(d, np.uint8) for d in digests]))
    assert found.tolist() == [0, 1, 0, 3]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_an_image_of_any_shape_has_a_hash(height: int, width: int, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)
    assert likeness.difference_hash(pixels).shape == (likeness.BYTES,)


def test_all_pairs_of_images_that_are_alike_are_candidates() -> None:
    assert likeness._candidates(np.zeros((3, likeness.BYTES), np.uint8)).tolist() == [[0, 1], [0, 2], [1, 2]]
