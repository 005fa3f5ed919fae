"""Objects of Python as listings: odd ones are read right, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from bdbench import BdbenchError
from bdbench.scanning.given import of_object

LABELS = np.arange(4) % 2
FLOATS = np.linspace(-1e-8, 1 + 1e-7, 4 * 64).reshape(4, 8, 8, 1)
UNLIKE = [np.zeros((8, 8)), np.zeros((9, 8)), np.zeros((8, 8)), np.zeros((8, 8))]


def test_a_rounding_outside_of_what_is_allowed_is_none() -> None:
    pairs = of_object([(image, int(label)) for image, label in zip(FLOATS, LABELS, strict=True)])
    arrays = of_object((FLOATS, LABELS))
    for place in range(4):
        assert np.array_equal(pairs.open(place), arrays.open(place))


def test_tensors_that_want_gradients_are_read() -> None:
    tensors = torch.tensor(FLOATS.clip(0, 1), requires_grad=True)
    assert of_object((tensors, torch.tensor(LABELS))).open(0).dtype == np.uint8
    assert of_object([(image, 0) for image in tensors]).open(1).shape == (8, 8, 1)


def test_the_two_forms_of_a_name_are_one_class() -> None:
    listing = of_object((FLOATS.clip(0, 1), np.array(["caf\u00e9", "cafe\u0301", "tea", "tea"])))
    assert listing.classes == ("caf\u00e9", "tea") and listing.labels.tolist() == [0, 0, 1, 1]


def _frame(labels: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"image": list(FLOATS.clip(0, 1)), "label": labels})


class Broken:
    """A data set whose items cannot be had."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> Any:
        raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((FLOATS, np.array([b"caf\xe9", b"caf\xea", b"tea", b"tea"])), "is no text"),
        (_frame(["a", None, "b", "b"]), r"row 1 has no label"),
        (_frame([0, np.nan, 1, 1]), r"row 1 has no label \(nan\)"),
        (_frame([pd.NA, 0, 1, 1]), r"row 0 has no label"),
        (pd.concat([_frame([0, 1, 0, 1]), _frame([0, 1, 0, 1])[["label"]]], axis=1), "2 columns called 'label'"),
        ((FLOATS, np.ma.masked_array(LABELS, LABELS == 1)), "labels are masked in 2 places"),
        ((FLOATS, LABELS.astype("timedelta64[s]")), "labels are timedelta64"),
        ((FLOATS, np.full(4, 2**63, np.uint64)), "labels are uint64"),
        ((FLOATS, [[0], [1, 2], [0], [1]]), "the labels make no array"),
        ((UNLIKE, LABELS), "the images make no array"),
        ((5, LABELS), "the images are 5"),
        ([1, 2, 3], "its items give no labels"),
        (Broken(), "its items give no labels .*the disk is gone"),
        ("a folder", "cannot scan str"),
    ],
)
def test_what_is_no_data_set_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(BdbenchError, match=message) as caught:
        of_object(given)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    listing = of_object(pd.DataFrame({"path": [str(tmp_path / "pipe.png")], "label": [0]}))
    with pytest.raises(BdbenchError, match=r"pipe\.png"):
        listing.open(0)


class Pairs:
    """Four images; labels, and what else a data set of torchvision may have."""

    def __init__(self, labels: Any = LABELS, **more: Any) -> None:
        self.labels = labels
        for name, value in more.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> Any:
        return FLOATS.clip(0, 1)[place % 4], int(self.labels[place])


def test_targets_are_believed_where_items_have_the_same() -> None:
    assert of_object(Pairs(targets=LABELS.tolist())).labels.tolist() == LABELS.tolist()
    swapped = Pairs(1 - LABELS, targets=LABELS.tolist(), target_transform=lambda label: 1 - label)
    assert of_object(swapped).labels.tolist() == (1 - LABELS).tolist()
    with pytest.raises(BdbenchError, match="6 items and 4 targets"):
        of_object(Pairs(np.arange(6) % 2, targets=LABELS.tolist()))
    with pytest.raises(BdbenchError, match="item 0 has the label 1, and by targets 0: expected the same"):
        of_object(Pairs(1 - LABELS, targets=LABELS.tolist()))
    with pytest.raises(BdbenchError, match="its items give no labels .*division"):
        of_object(Pairs(targets=LABELS.tolist(), target_transform=lambda label: 1 // 0))


def test_the_last_item_is_compared_with_targets_too() -> None:
    labels = LABELS.copy()
    labels[3] = 0
    with pytest.raises(BdbenchError, match="item 3 has the label 0, and by targets 1"):
        of_object(Pairs(labels, targets=LABELS.tolist()))


def test_an_image_with_its_channels_first_stays_upright() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    assert np.array_equal(of_object([(image.transpose(2, 0, 1), 0)]).open(0), image)


def test_classes_that_are_named_keep_their_order() -> None:
    named = np.array(["tea", "caf\u00e9", "tea", "tea"])
    listing = of_object((FLOATS.clip(0, 1), named), classes=["tea", "water", "cafe\u0301"])
    assert listing.classes == ("tea", "water", "caf\u00e9") and listing.labels.tolist() == [0, 2, 0, 0]
    assert of_object(_frame(LABELS.tolist()), classes=["x", "y", "z"]).classes == ("x", "y", "z")
    with pytest.raises(BdbenchError, match="unknown class 'tea': .*known: cafe, water"):
        of_object((FLOATS.clip(0, 1), named), classes=["water", "cafe"])
    with pytest.raises(BdbenchError, match="classes='tea' is not allowed"):
        of_object((FLOATS.clip(0, 1), named), classes="tea")


class HuggingFace:
    """Rows with the names of their classes."""

    column_names = ("image", "label")
    features: ClassVar = {"label": SimpleNamespace(names=["a", "b"])}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, asked: Any) -> Any:
        return LABELS.tolist() if asked == "label" else {"image": FLOATS.clip(0, 1)[asked]}


def test_names_that_are_given_come_before_those_of_the_set() -> None:
    assert of_object(HuggingFace()).classes == ("a", "b")
    assert of_object(HuggingFace(), classes=["x", "y", "z"]).classes == ("x", "y", "z")
