from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bdbench
from bdbench import BdbenchError, ImageData, Role, Split, Streams
from bdbench.images.preparation import in_turn, prepare, source_of, stratified


def _data(images: np.ndarray, labels: np.ndarray | None = None, classes: int = 2) -> ImageData:
    labels = np.arange(len(images)) % classes if labels is None else labels
    return ImageData(Split(images, labels), Split(images, labels), tuple(map(str, range(classes))))


def _prepared(data: ImageData, seed: int = 0, **options: object) -> ImageData:
    return prepare(data, streams=Streams(seed), **options)  # type: ignore[arg-type]


def _sorted_by_class(count: int = 400, classes: int = 4) -> ImageData:
    """Every image another one; listed class by class, as folders list them."""
    images = np.arange(2 * count * 4, dtype=np.uint32).view(np.uint8).reshape(2 * count, 4, 4, 1)
    labels = np.repeat(np.arange(classes), count // classes)
    return ImageData(
        Split(images[:count], labels), Split(images[count:], labels[:count]), tuple(map(str, range(classes)))
    )


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


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_every_prefix_of_a_reserve_keeps_the_shares(labels: list[int]) -> None:
    array = np.array(labels)
    index = in_turn(array, len(array), np.random.default_rng(0))
    assert sorted(index) == list(range(len(array)))
    for size in range(1, len(array) + 1):
        for c in np.unique(array):
            assert abs((array[index[:size]] == c).sum() - (array == c).sum() * size / len(array)) < 3


def test_a_subset_larger_than_the_set_is_refused() -> None:
    images = np.zeros((4, 4, 4, 1), np.uint8)
    with pytest.raises(BdbenchError, match="subset=5 is not allowed: the data set has 4 training examples$"):
        _prepared(_data(images), subset=5)
    with pytest.raises(BdbenchError, match="subset=4 is not allowed: .* 2 training examples, beside a reserve of 2"):
        _prepared(_data(images), subset=4, reserve=0.5)
    with pytest.raises(BdbenchError, match=r"reserve=0.9 sets apart all 4 train examples"):
        _prepared(_data(images), reserve=0.9)


def test_floats_become_bytes_and_grey_images_get_a_channel() -> None:
    data = _prepared(_data(np.array([0.0, 0.5, 1.0]).reshape(3, 1, 1)))
    assert data.train.images.dtype == np.uint8
    assert data.train.images.shape == (3, 1, 1, 1)
    assert data.train.images[np.argsort(data.train.places)].ravel().tolist() == [0, 128, 255]
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
        _prepared(_data(images))


class Large:
    """A set of images of 100 x 100, read as they are asked for, of which the first is looked at."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        self.read.append(len(index))
        return np.broadcast_to(np.uint8(index[:, None, None, None] % 256), (len(index), 100, 100, 1))


def test_what_does_not_fit_into_memory_is_told_by_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _data(np.zeros((10, 100, 100, 1), np.uint8), np.arange(10) % 2)
    images = Large()
    large = ImageData(Split(images, np.arange(1000) % 2), data.test, data.classes)
    monkeypatch.setattr("bdbench.host.memory.available", lambda: 9_000_000)
    with pytest.raises(BdbenchError, match=r"reading 1000 images of 100 x 100 needs 9\.5 MiB of memory, and 8\.6 MiB"):
        _prepared(large)
    assert images.read == [1]
    monkeypatch.setattr("bdbench.host.memory.available", lambda: 10_000_001)
    monkeypatch.setattr("bdbench.images.preparation._BYTES_AT_ONCE", 1_000_000)
    made = _prepared(large).train
    assert max(images.read) == 100
    assert np.array_equal(np.asarray(made.images)[:, 0, 0, 0], made.places % 256)


class Lazy:
    """Images of 4 x 4, made when they are asked for."""

    def __init__(self, values: np.ndarray, as_list: bool = False) -> None:
        self.values, self.as_list = values, as_list

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        made = np.broadcast_to(self.values[index][:, None, None, None], (len(index), 4, 4, 1))
        return made.tolist() if self.as_list else made


def test_images_that_are_made_on_demand_are_read_as_others_are() -> None:
    ramp = np.linspace(0, 1 + 1e-7, 256)
    labels, classes = np.arange(256) % 2, ("0", "1")

    def lazy(values: np.ndarray, **options: bool) -> ImageData:
        part = Split(Lazy(values, **options), labels)  # type: ignore[arg-type]
        return _prepared(ImageData(part, part, classes))

    whole = _prepared(_data(np.broadcast_to(ramp[:, None, None, None], (256, 4, 4, 1)).copy(), labels)).train
    for made in (lazy(ramp).train, lazy(ramp, as_list=True).train):
        assert np.array_equal(np.asarray(made.images), np.asarray(whole.images))
    for odd in (np.arange(256) - 5, np.arange(256) + 5, ramp * 255):
        with pytest.raises(
            BdbenchError, match=r"the (training|test) images are .*: expected uint8, or floats in 0\.\.1"
        ):
            lazy(odd)


def test_bad_labels_are_refused() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    with pytest.raises(BdbenchError, match=r"labels are int64 in 0..2: expected integers in 0..1"):
        _prepared(_data(images, np.array([0, 2])))
    with pytest.raises(BdbenchError, match="2 training images but 3 labels"):
        _prepared(_data(images, np.array([0, 1, 1])))


def test_places_lead_back_to_the_data_set() -> None:
    data = _sorted_by_class()
    made = _prepared(data, reserve=0.1, subset=200)
    assert made.reserve is not None
    for part in (made.train, made.reserve):
        assert np.array_equal(part.images, np.asarray(data.train.images)[part.places])
        assert np.array_equal(part.labels, data.train.labels[part.places])
    assert np.array_equal(made.test.images, data.test.images)
    assert (made.whole, made.whole_test) == (400, 400)


def test_the_reserve_is_apart_from_training_and_test_by_place_and_by_pixels() -> None:
    data = _sorted_by_class()
    images = np.asarray(data.train.images).copy()
    images[1::2] = images[::2]  # every image twice: of a pair, one may be in the reserve and one in the training set
    twins = ImageData(Split(images, data.train.labels), data.test, data.classes)
    made = _prepared(twins, reserve=0.2)
    assert made.reserve is not None and 0 < len(made.reserve.labels) < 80
    assert not set(made.reserve.places) & set(made.train.places)
    known = {x.tobytes() for part in (made.train, made.test) for x in np.asarray(part.images)}
    assert not [x for x in np.asarray(made.reserve.images) if x.tobytes() in known]


def test_a_reserve_from_the_test_part_leaves_it() -> None:
    made = _prepared(_sorted_by_class(), reserve=0.1, reserve_from="test")
    assert made.reserve is not None
    assert len(made.train.labels) == 400 and len(made.test.labels) == 360
    assert not set(made.reserve.places) & set(made.test.places)


def test_a_subset_of_another_size_leaves_the_reserve_as_it_is() -> None:
    some, all_ = (_prepared(_sorted_by_class(), reserve=0.1, subset=s) for s in (100, None))
    assert some.reserve is not None and all_.reserve is not None
    assert np.array_equal(some.reserve.places, all_.reserve.places)


def test_the_source_is_the_same_for_every_seed_subset_and_reserve_and_no_other_set() -> None:
    data = _sorted_by_class()
    found = {
        _prepared(data, seed, reserve=reserve, subset=subset).source
        for seed, reserve, subset in ((0, 0.0, None), (1, 0.1, None), (2, 0.2, 100))
    }
    assert len(found) == 1
    images = np.asarray(data.train.images).copy()
    images[5, 0, 0] += 1
    other = ImageData(Split(images, data.train.labels), data.test, data.classes)
    assert _prepared(other).source not in found
    assert {source_of(data)} == found and source_of(other) == _prepared(other).source


def order_only(labels: np.ndarray, neighbours: int = 50) -> np.ndarray:
    """The share of the nearest places that have another label, less that of all places.

    What a detector knows that sees nothing but the order: how often a label occurs, which dirty labels change, is taken
    out of it.
    """
    half = neighbours // 2
    scores = np.empty(len(labels))
    for i, label in enumerate(labels):
        around = np.r_[labels[max(0, i - half) : i], labels[i + 1 : i + 1 + half]]
        scores[i] = (around != label).mean() - (labels != label).mean()
    return scores


@pytest.mark.parametrize("attack", ["badnets", "blend"])
def test_the_order_of_a_training_set_tells_nothing_of_the_poisons(tmp_path: Path, attack: str) -> None:
    """Of a set that is listed class by class, poisons would lie in the block of their true class: AUROC 1."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 100)
    images = rng.integers(0, 256, (1000, 8, 8, 1)).astype(np.uint8)
    file = tmp_path / "sorted.npz"
    np.savez(file, x_train=images, y_train=labels, x_test=images[::10], y_test=labels[::10])
    from bdbench import experiment

    aurocs = []
    for seed in range(3):
        cell = experiment.cell(attack=attack, dataset=f"npz:path={file}", seed=seed, out=tmp_path / "runs")
        made = cell.scene.poisoned
        aurocs.append(roc_auc_score(made.roles == Role.POISON, order_only(made.labels)))
    assert abs(float(np.mean(aurocs)) - 0.5) < 0.1
    in_order = labels.copy()
    poisons = rng.choice(np.flatnonzero(labels != 0), 50, replace=False)
    in_order[poisons] = 0
    # The score itself does see it, where there is something to see.
    assert roc_auc_score(np.isin(np.arange(1000), poisons), order_only(in_order)) > 0.95


def test_load_gives_what_a_run_has_before_the_attack(tmp_path: Path) -> None:
    from bdbench import experiment

    cell = experiment.cell(attack="none", dataset="digits:subset=200", seed=3, out=tmp_path)
    loaded = bdbench.load("digits:subset=200", seed=3)
    assert np.array_equal(loaded.train.images, cell.scene.poisoned.images)
    assert loaded.reserve is not None and len(loaded.reserve.labels) == 72


def test_equal_remainders_favour_no_class() -> None:
    labels = np.repeat(np.arange(4), 5)
    larger = np.zeros(4, int)
    for seed in range(200):
        counts = np.bincount(labels[stratified(labels, 6, np.random.default_rng(seed))])
        assert sorted(counts) == [1, 1, 2, 2]
        larger += counts == 2
    # Each is among the two larger ones half of the time: 100 +- 7.
    assert larger.min() > 65
