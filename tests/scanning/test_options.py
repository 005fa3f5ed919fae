"""What a scan is asked for arrives where it is done: sizes, subsets, seeds, seconds, and where data are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, Needs
from bdbench.scanning import detecting, files
from tests.scanning.conftest import STAMPED, Patch, arrays, write_folder


def test_size_and_subset(tmp_path: Path, quick: dict[str, Any]) -> None:
    found = bdbench.scan(arrays(), defenses=["patch"], subset=30, size=8, report=tmp_path / "out", **quick)
    assert len(found.read.labels) == 30 and found.read.size == 8
    assert files.read(tmp_path / "out")["data"]["left_out"] == 30


def test_seed(quick: dict[str, Any]) -> None:
    one, other = (bdbench.scan(arrays(), defenses=["patch"], seed=seed, **quick).read.places for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_strict(tmp_path: Path, quick: dict[str, Any]) -> None:
    root = write_folder(tmp_path / "set")
    (root / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(BdbenchError, match="with --strict"):
        bdbench.scan(root, defenses=["patch"], strict=True, **quick)


def test_a_data_set_by_its_name_is_looked_for_below_its_root_and_its_training_part_is_scanned(
    tmp_path: Path, quick: dict[str, Any]
) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images[::2], y_test=labels[::2])
    found = bdbench.scan("npz:path=set.npz", data_root=tmp_path, defenses=["patch"], **quick)
    assert set(found.quarantine) == {f"train/{i}" for i in range(STAMPED)}
    assert found.read.listing.test is not None
    assert (len(found.read.listing), len(found.read.listing.test)) == (60, 30)


def test_a_path_is_kept_so_that_it_leads_there_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: dict[str, Any]
) -> None:
    write_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert bdbench.scan("photos", defenses=["patch"], **quick).given == [str(tmp_path / "photos")]


def test_seconds_are_shared_by_the_detectors_that_have_none_of_their_own() -> None:
    found = detecting.chosen([Patch(), Patch(chance=0.5), Patch(chance=0.4, seconds=7.0)], 60)
    assert [one.seconds for one in found] == [30, 30, 7]


@dataclass(frozen=True, kw_only=True)
class Timed(Patch):
    """Half as many models where it is given seconds."""

    name = "timed"

    def needs(self, examples: int, shape: tuple[int, int, int], num_classes: int) -> Needs:
        return Needs(0, None if self.seconds else 10)


def test_what_was_done_in_haste_is_told(quick: dict[str, Any], tmp_path: Path) -> None:
    found = bdbench.scan(arrays(stamped=0), defenses=[Timed()], seconds=60, report=tmp_path / "out", **quick)
    assert "in the time there was (timed with 50 % of its usual networks)" in found.verdict.sentence
    (told,) = files.read(tmp_path / "out")["detectors"]
    assert (told["models_trained"], told["models_usual"]) == (5, 10)


def test_a_detector_whose_settings_do_not_fit_takes_nothing_from_another(quick: dict[str, Any]) -> None:
    found = bdbench.scan(arrays(), defenses=["patch", "datamodel:alpha=0.99"], **quick)
    assert found.outcome == "found" and found.said[1].error
