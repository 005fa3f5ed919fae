"""The data sets that BackdoorBench reads and torchvision does not lay out so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bdbench
from bdbench import BdbenchError
from bdbench_backdoorbench.datasets import _Files, _tiny_tests
from bdbench_backdoorbench.detector import _arrays
from tests.conftest import in_order


def save(path: Path, colour: tuple[int, int, int], size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def test_gtsrb_is_read_in_the_order_of_its_tables(tmp_path: Path) -> None:
    root = tmp_path / "gtsrb"
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    for c in range(43):
        names = ["b.ppm", "a.ppm"] if c == 1 else ["x.ppm"]
        for i, name in enumerate(names):
            save(root / "Train" / f"{c:05d}" / name, (c, i, 0), 20)
        rows = "".join(f"{n};20;20;0;0;1;1;{c}\n" for n in names)
        (root / "Train" / f"{c:05d}" / f"GT-{c:05d}.csv").write_text(head + rows)
    save(root / "Test" / "00000.ppm", (9, 9, 9), 40)
    (root / "Test" / "GT-final_test.csv").write_text(head + "00000.ppm;40;40;0;0;1;1;16\n")
    for data_root in (tmp_path, root):
        data = in_order(bdbench.load("gtsrb-full", data_root=data_root, reserve=0))
        assert data.shape == (32, 32, 3) and data.num_classes == 43
        assert data.train.labels.tolist() == [0, 1, 1, *range(2, 43)]
        images = np.asarray(data.train.images)
        assert images[1:4, 0, 0, :2].tolist() == [[1, 0], [1, 1], [2, 0]]
        assert data.test.labels.tolist() == [16]
    with pytest.raises(BdbenchError, match="gtsrb-full was not found in .*: expected Test/GT-final_test.csv there"):
        bdbench.load("gtsrb-full", data_root=root / "Train")
    for row in ("00000.ppm;40\n", f"{'x' * 140_000};40;40;0;0;1;1;16\n", "../Train/00000/x.ppm;40;40;0;0;1;1;16\n"):
        (root / "Test" / "GT-final_test.csv").write_text(head + row)
        with pytest.raises(BdbenchError, match="cannot read .*: expected GTSRB's table of files"):
            bdbench.load("gtsrb-full", data_root=root)


def test_tiny_imagenet_is_read_sorted(tmp_path: Path) -> None:
    root = tmp_path / "tiny" / "tiny-imagenet-200"
    for name, red in (("n02", 2), ("n01", 1)):
        for i in (1, 0):
            save(root / "train" / name / "images" / f"{name}_{i}.png", (red, i, 0), 64)
    for i in (1, 0):
        save(root / "val" / "images" / f"val_{i}.png", (0, i, 0), 64)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "val" / "val_annotations.txt").write_text("val_1.png\tn01\t0\nval_0.png\tn02\t0\n")
    pristine = in_order(bdbench.load("tiny-imagenet", data_root=tmp_path, reserve=0))
    # BackdoorBench moves the tests into class folders, reads those, and removes the table.
    for name, file in (("n01", "val_1.png"), ("n02", "val_0.png")):
        (root / "val" / name).mkdir()
        (root / "val" / "images" / file).rename(root / "val" / name / file)
    (root / "val" / "val_annotations.txt").unlink()
    (root / "val" / "images").rmdir()
    for data in (pristine, in_order(bdbench.load("tiny-imagenet", data_root=tmp_path, reserve=0))):
        assert data.classes == ("n01", "n02") and data.shape == (64, 64, 3)
        assert np.asarray(data.train.images)[:, 0, 0, :2].tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
        assert data.train.labels.tolist() == [0, 0, 1, 1]
        assert data.test.labels.tolist() == [0, 1]
        assert np.asarray(data.test.images)[:, 0, 0, 1].tolist() == [1, 0]
    for file in (root / "val").rglob("*.png"):
        file.unlink()
    with pytest.raises(BdbenchError, match="val/n01 holds no images"):
        bdbench.load("tiny-imagenet", data_root=tmp_path)


def test_the_tests_of_tiny_imagenet_are_listed_class_by_class_in_the_order_of_file_names(tmp_path: Path) -> None:
    """As BackdoorBench does, by which its records count: not as the table lists them."""
    table = "val_2.JPEG\tn01\t0\nval_1.JPEG\tn02\t0\nval_10.JPEG\tn01\t0\n"
    (tmp_path / "val_annotations.txt").write_text(table)
    listed = _tiny_tests(tmp_path, ("n01", "n02"))
    expected = [("val_10.JPEG", 0), ("val_2.JPEG", 0), ("val_1.JPEG", 1)]
    assert listed == [(tmp_path / "images" / name, label) for name, label in expected]


def test_images_are_brought_to_a_size_as_backdoorbench_does(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8))
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(_Files([tmp_path / "a.png"], 32)[np.array([0])][0], expected)
    images, *_ = _arrays([(image, 0, 0, 0)], (32, 32, 3))
    assert np.array_equal(images[0], expected)
