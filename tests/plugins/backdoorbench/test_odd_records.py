"""Records of BackdoorBench as they lie about: written on Windows, damaged, or on another order of the data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdbench import BdbenchError, Split
from bdbench_backdoorbench.attack import BackdoorBenchRecord
from bdbench_backdoorbench.record import ROLES, read
from tests.plugins.backdoorbench.conftest import Clean


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = torch.load(folder / "attack_result.pt", weights_only=False)
    change(data)
    torch.save(data, folder / "attack_result.pt", pickle_protocol=2)
    return folder


def entries(data: dict[str, Any], part: str = "bd_train") -> dict[Any, Any]:
    return data[part]["bd_data_container"]["data_dict"]


def test_records_written_on_windows_are_read(clean: Clean, tmp_path: Path) -> None:
    folder = clean.badnet(tmp_path / "rec")
    before = read(folder).train.decoded((8, 8, 3))

    def windows(data: dict[str, Any]) -> None:
        for part in ("bd_train", "bd_test"):
            for entry in entries(data, part).values():
                entry["path"] = entry["path"].replace("./record", "C:/bb/record").replace("/", "\\")

    assert np.array_equal(read(changed(folder, windows)).train.decoded((8, 8, 3)), before)


def label(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: entries(data)[7].__setitem__("other_info", [value, 3])


def path(value: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: entries(data)[7].__setitem__("path", value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(img_size=32), "img_size is 32: expected three numbers"),
        (lambda data: data.update(num_classes="ten"), "cannot read .*attack_result.pt as a record"),
        (lambda data: data.update(model=[1]), "cannot read .*attack_result.pt as a record"),
        (lambda data: data.update({ROLES: np.array([1, 5, 1])}), "odd bdbench_roles"),
        (label(-1), "example 7 is labelled -1 and was 3: expected labels in 0..3"),
        (label(2**70), "example 7 is labelled 1180591620717411303424"),
        (label(4), "example 7 is labelled 4"),
        (label(1.5), "ValueError: 1.5 is no whole number"),
        (label("1"), "ValueError: '1' is no whole number"),
        (lambda data: data.update(num_classes=4.5), "4.5 is no whole number"),
        (lambda data: entries(data).__setitem__(7.5, entries(data)[7]), "7.5 is no whole number"),
        (
            lambda data: data["bd_train"].update(original_index_array=np.arange(40) + 0.5),
            "0.5.* is no whole number",
        ),
        (path("C:\\..\\..\\secret\\7.png"), "leads out of the record"),
        (path("..\\3/7.png"), "leads out of the record"),
        (path("a\\C:\\7.png"), "leads out of the record"),
        (path("7.png"), "leads out of the record"),
        (
            lambda data: data["bd_train"].update(original_index_array=np.array([7, 7, 21, 38])),
            "has examples twice: expected each once",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(change: Any, message: str, clean: Clean, tmp_path: Path) -> None:
    folder = changed(clean.badnet(tmp_path / "rec"), change)
    with pytest.raises(BdbenchError, match=message) as raised:
        read(folder)
    assert "\n" not in str(raised.value)


def test_images_in_another_order_within_their_classes_are_told_of(clean: Clean, tmp_path: Path, caplog: Any) -> None:
    tests = np.flatnonzero(clean.test.labels != 0).tolist()
    train = list(range(1, 40))
    own = (clean.changed(clean.train, train, [0] * len(train)), clean.changed(clean.test, tests, [0] * len(tests)))
    attack = BackdoorBenchRecord(record=str(clean.write(tmp_path / "rec", *own)))
    caplog.set_level(logging.WARNING)
    attack.poisoned_set(clean.train, 4)
    attack.triggered_set(clean.test)
    assert not caplog.records
    turned = Split(np.roll(np.asarray(clean.train.images), 4, 0), clean.train.labels)  # four classes in turn
    attack.poisoned_set(turned, 4)
    assert "its training images are no nearer to the data set's own images" in caplog.text


def test_images_that_are_none_are_not_waited_for_nor_blown_up(clean: Clean, tmp_path: Path) -> None:
    folder = clean.badnet(tmp_path / "rec")
    image = next(path for path in sorted(folder.rglob("*.png")) if "train" in str(path))
    image.unlink()
    os.mkfifo(image)
    with pytest.raises(BdbenchError, match="no regular file"):
        read(folder).training_set().decoded((8, 8, 3))
    image.unlink()
    # Half a billion pixels in some kilobytes.
    Image.new("1", (30_000, 20_000)).save(image)
    with pytest.raises(BdbenchError, match="exceeds limit|is 1 of 20000 x 30000: expected RGB of 8 x 8"):
        read(folder).training_set().decoded((8, 8, 3))
