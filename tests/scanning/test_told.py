"""What a scan read, found and doubts, in its files, on its page and in lines: each number is the one it is called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

import bdbench
from bdbench.scanning import files, page, pictures, telling, verdict
from tests.scanning.conftest import Patch, Ranks, arrays, write_folder
from tests.scanning.test_reading import read
from tests.scanning.test_verdict import says


def test_what_was_read(tmp_path: Path, quick: dict[str, Any]) -> None:
    root = write_folder(tmp_path / "set")
    (root / "cat" / "broken.png").write_bytes(b"no image")
    shutil.copy(root / "dog" / "020.png", root / "dog" / "again.png")
    (root / "rare").mkdir()  # too small to be judged: two copies, a larger image, and one that does not read
    for name in "ab":
        Image.new("L", (16, 16), 7).save(root / "rare" / f"{name}.png")
    noise = np.random.default_rng(9).integers(0, 256, (32, 16, 3)).astype(np.uint8)
    Image.fromarray(noise).save(root / "rare" / "tall.png")
    (root / "rare" / "broken.png").write_bytes(b"no image")
    found = bdbench.scan(root, defenses=["patch"], report=tmp_path / "out", **quick)
    told = files.read(tmp_path / "out")["data"]
    expected = {"listed": 66, "read": 64, "scanned": 60, "size": 16, "resized": 1, "grey": 2, "left_out": 0}
    expected |= {"not_judged": {"rare": 2}}
    assert {name: told[name] for name in expected} == expected
    assert told["sizes"] == {"smallest": [16, 16], "median": [16, 16], "largest": [16, 32]}
    assert told["skipped"]["count"] == 2
    assert (told["exact_copies"]["groups"], told["exact_copies"]["images"]) == (2, 4)
    keep = files.names_in(tmp_path / "out" / "keep.txt")
    # Unmarked, a copy, and what was not judged.
    assert len(keep) == 54 + 1 + 3 and {"dog/020.png", "dog/again.png", "rare/a.png", "rare/b.png"} <= set(keep)
    assert not [name for name in keep if "broken" in name]
    assert len(found.suspects()) == 61
    assert list(telling.lines(found.read))[:2] == [
        "read: 64 images of 4 classes",
        "sizes: 16 x 16 to 16 x 32, usually about 16 x 16; 2 of them grey",
    ]


def test_colours() -> None:
    images, labels = arrays()
    assert list(telling.lines(read((images[..., 0], labels))))[1] == "sizes: all 16 x 16; grey"
    assert list(telling.lines(read((images, labels))))[1] == "sizes: all 16 x 16; in colour"


def test_exact_copies_are_not_called_near_ones(tmp_path: Path, quick: dict[str, Any]) -> None:
    root = write_folder(tmp_path / "set")
    shutil.copy(root / "cat" / "010.png", root / "cat" / "again.png")
    bdbench.scan(root, defenses=["patch"], report=tmp_path / "out", **quick)
    told = files.read(tmp_path / "out")["data"]
    assert (told["exact_copies"]["groups"], told["near_copies"]["groups"]) == (1, 0)
    assert "Exact copies: cat/" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_not_sure_moves_nothing(quick: dict[str, Any], tmp_path: Path) -> None:
    found = bdbench.scan(arrays(), defenses=[Patch(chance=0.9)], report=tmp_path / "out", **quick)
    assert found.outcome == "cannot tell" and found.quarantine == [] and len(found.keep) == 60
    assert (tmp_path / "out" / "quarantine.txt").read_text() == ""


def test_of_several_detectors_none_finds_what_is_not_sure_for_all(quick: dict[str, Any], tmp_path: Path) -> None:
    """Two p-values of .03 and .04 are no finding at a level of 5 % for both together."""
    both = [Patch(chance=0.03), Patch(chance=0.04)]
    assert bdbench.scan(arrays(), defenses=both, report=tmp_path / "out", **quick).outcome == "cannot tell"
    told = [one["says"] for one in files.read(tmp_path / "out")["detectors"]]
    assert told == ["is not sure of 6 images, p = 0.03", "is not sure of 6 images, p = 0.04"]
    assert (tmp_path / "out" / "report.html").read_text().count("is not sure of 6 images") == 2


def test_suspects_are_ranked_by_a_detector_that_has_a_rule(quick: dict[str, Any]) -> None:
    found = bdbench.scan(arrays(), defenses=["ranks", "patch"], **quick)
    assert found.ranking is not None and found.ranking.detector.name == "patch"
    assert np.array_equal(found.scores, found.said[1].scores)


def test_copies_are_images_as_well(quick: dict[str, Any]) -> None:
    images, labels = arrays(stamped=0)
    twice = np.concatenate([images, images[:2]]), np.append(labels, [0, 0])
    told = bdbench.scan(twice, defenses=["patch"], **quick).verdict.sentence
    assert told.startswith("Nothing found in 62 images of 3")
    found = read(twice)
    one, other = says(found, 0.01, 60), replace(says(found, None, 60), detector=Ranks())
    assert verdict.agreement(found, [one, other]) == [("patch", "ranks", 62, 62)]


def test_how_far_two_detectors_agree(quick: dict[str, Any]) -> None:
    found = read(arrays())
    one, other = says(found, 0.01, 8), replace(says(found, None, 4), detector=Ranks())
    scan = replace(bdbench.scan(arrays(), defenses=["patch"], **quick), said=[one, other])
    assert files.to_dict(scan)["agreement"] == [{"detectors": ["patch", "ranks"], "both": 4, "either": 8}]
    assert "patch and ranks: both mark 4 of the 8 images that either marks." in page.render(scan)


def test_how_suspicious_a_class_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of its ten highest scores, where there is no evidence; of many classes the first 30 are shown."""
    ranking: Any = SimpleNamespace(evidence=None, scores=np.arange(12.0), detector=Patch())
    seen: Any = SimpleNamespace(read=SimpleNamespace(labels=np.zeros(12, int), classes=("a",)))
    assert page._strengths(seen, ranking) == {"a": 6.5}
    shown: list[dict[str, float]] = []
    monkeypatch.setattr(page.pictures, "classes", lambda strengths, *_: shown.append(strengths))
    ranking.evidence = {i: float(i) for i in range(31)}
    names = tuple(f"c{i}" for i in range(31))
    read_of = SimpleNamespace(classes=names, labels=np.zeros(0, int))
    scan: Any = SimpleNamespace(ranking=ranking, read=read_of, verdict=SimpleNamespace(classes={}))
    page._classes(scan)
    assert list(shown[0]) == [f"c{i}" for i in range(30, 0, -1)]


def test_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    hist, barh = Axes.hist, Axes.barh
    monkeypatch.setattr(Axes, "hist", lambda self, *a, **k: drawn.update(hist=(a, k)) or hist(self, *a, **k))
    monkeypatch.setattr(Axes, "barh", lambda self, *a, **k: drawn.update(barh=a) or barh(self, *a, **k))
    pictures.histogram(np.array([0.1, 0.9, 0.2]), np.array([False, True, False]), "x")
    (parts, _), told = drawn["hist"]
    assert [part.tolist() for part in parts] == [[0.1, 0.2], [0.9]]
    assert told["label"] == ["not marked (2)", "marked (1)"]
    pictures.classes({"a": 2.0, "b": 3.0, "c": 1.0}, {"b"}, "x")
    assert drawn["barh"][1] == [1.0, 2.0, 3.0]  # from below
    monkeypatch.setattr(pictures, "image", lambda pixels: pixels)
    picture, gain = pictures.amplified(np.array([[[10.0]], [[-5.0]]]))
    assert gain == 12.7 and np.ravel(picture).tolist() == [254, 64]
