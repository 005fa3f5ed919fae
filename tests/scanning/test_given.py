"""Objects of Python as listings: odd ones are read right, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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
