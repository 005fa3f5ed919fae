from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdbench import BdbenchError, ImageData, PoisonedData, Split
from bdbench.data import fingerprint, pick, stratified


def _data(images: np.ndarray, labels: np.ndarray | None = None, classes: int = 2) -> ImageData:
    labels = np.arange(len(images)) % classes if labels is None else labels
    return ImageData(Split(images, labels), Split(images, labels), tuple(map(str, range(classes))))


def test_subset_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    index = stratified(labels, 10, np.random.default_rng(0))
    assert np.bincount(labels[index]).tolist() == [5, 3, 2]
    assert np.all(np.diff(index) > 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_subset_has_its_size_and_is_within_one_of_its_share(labels: list[int], data: st.DataObject) -> None:
    array = np.array(labels)
    size = data.draw(st.integers(1, len(labels)))
    index = stratified(array, size, np.random.default_rng(0))
    assert len(np.unique(index)) == size
    for c in np.unique(array):
        assert abs((array[index] == c).sum() - (array == c).sum() * size / len(array)) < 1


def test_a_subset_larger_than_the_set_is_refused() -> None:
    with pytest.raises(BdbenchError, match="subset=5 is not allowed: the data set has 4"):
        stratified(np.zeros(4, int), 5, np.random.default_rng(0))


def test_floats_become_bytes_and_grey_images_get_a_channel() -> None:
    data = pick(_data(np.array([0.0, 0.5, 1.0]).reshape(3, 1, 1)), None, np.random.default_rng(0))
    assert data.train.images.dtype == np.uint8
    assert data.train.images.shape == (3, 1, 1, 1)
    assert data.train.images.ravel().tolist() == [0, 128, 255]
    assert data.train.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 4, 4, 1), np.nan), "NaN"),
        (np.full((2, 4, 4, 1), 7.0), r"float64 in 7..7: expected uint8, or floats in 0..1"),
        (np.zeros((2, 4, 4, 1), np.int32), "int32: expected uint8"),
        (np.zeros((2, 4, 4, 2), np.uint8), r"shape \(2, 4, 4, 2\)"),
        (np.zeros((0, 4, 4, 1), np.uint8), "no training images"),
    ],
)
def test_bad_images_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(BdbenchError, match=message):
        pick(_data(images), None, np.random.default_rng(0))


def test_bad_labels_are_refused() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(BdbenchError, match=r"labels are int64 in 0..2: expected integers in 0..1"):
        pick(_data(images, np.array([0, 2])), None, np.random.default_rng(0))
    with pytest.raises(BdbenchError, match="2 training images but 3 labels"):
        pick(_data(images, np.array([0, 1, 1])), None, np.random.default_rng(0))


def test_a_view_is_a_read_only_copy() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    poisoned = PoisonedData(images, np.zeros(2, np.int64), np.zeros(2, np.int8), np.zeros(2, np.int64))
    view = poisoned.view(2)
    assert not np.shares_memory(view.images, images)
    with pytest.raises(ValueError, match="read-only"):
        view.images[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        view.labels[0] = 1


def test_fingerprint_sees_contents_shape_and_type() -> None:
    a = np.arange(6, dtype=np.int64)
    prints = {fingerprint(x) for x in (a, a.reshape(2, 3), a.astype(np.int32), a[::-1], a + 1)}
    assert len(prints) == 5
    assert fingerprint(a) == fingerprint(a.copy())
    assert fingerprint(a[::2]) == fingerprint(a[::2].copy())
