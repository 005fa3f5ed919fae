"""What does not fit is refused in a line, before work."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import bdbench
from bdbench import BdbenchError
from bdbench.host import memory
from tests.inspecting.asking import Breaks, Place, Says, command, quickly, reads_pickles, state


@pytest.fixture
def odd(place: Place, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Files and folders that are not what they should be."""
    weights = state(place)
    save_file({**weights, "extra.weight": torch.zeros(2)}, tmp_path / "extra.safetensors")
    last = max(weights)
    save_file({k: v for k, v in weights.items() if k != last}, tmp_path / "missing.safetensors")
    save_file({**weights, last: torch.full_like(weights[last].float(), torch.nan)}, tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(place.good.read_bytes()[:-100])
    for name, shape, end in (("huge", [10**9] * 2, 4 * 10**18), ("larger", [4, 4], 64), ("negative", [-1, 4], 16)):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    for name, said in (("wide", {"model": "convnet:width=1000000"}), ("long", {"shape": [10**8, 8, 1]})):
        told = {"model": "convnet:width=4", "classes": ["a", "b"], "shape": [8, 8, 1], **said}
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors", {"bdbench": json.dumps(told)})
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "stretched.pt")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": weights, "ema": weights}, tmp_path / "two.pt")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    (tmp_path / "empty").mkdir()
    for name in ("text/a.txt", "mixed/a.png", "mixed/0/a.png", "named/zero/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name, side in (("sizes/0/a.png", 8), ("sizes/1/b.png", 9)):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (side, side)).save(tmp_path / name)
    yield {path.name: path for path in (place.good, place.clean, *tmp_path.iterdir())}


OWN = {"model": "convnet:width=4"}
KNOWN = {**OWN, "classes": 10, "size": 8, "channels": 1}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gone.safetensors", {}, r"no file at .*gone\.safetensors: expected a safetensors file, or what torch.save"),
    ("cut.safetensors", {}, r"cannot read .*cut\.safetensors as safetensors: "),
    ("huge.safetensors", {}, r"cannot read .*huge\.safetensors as safetensors: .*overflow"),
    ("larger.safetensors", {}, r"cannot read .*larger\.safetensors as safetensors: "),
    ("negative.safetensors", {}, r"cannot read .*negative\.safetensors as safetensors: "),
    ("wide.safetensors", {}, r"model 'convnet:width=1000000' needs 560\.2 TiB of memory, and .*: expected a smaller"),
    ("long.safetensors", {}, r"long\.safetensors: what it says of its model is damaged: expected"),
    ("good.safetensors", {"model": f"convnet:width={10**9}"}, r"has more weights than can be counted"),
    ("stretched.pt", KNOWN, r"stretched\.pt is not of model 'convnet:width=4': it lacks"),
    ("text.pt", {}, r"text\.pt is no checkpoint by its first bytes: expected a safetensors file"),
    ("list.pt", {}, r"list\.pt holds a list and no state dict: expected"),
    ("two.pt", OWN, r"two\.pt holds 2 state dicts, 'model', 'ema': expected one"),
    ("extra.safetensors", KNOWN, r"it has extra\.weight, which the mod"),
    ("missing.safetensors", KNOWN, r"it lacks .*expected the architecture"),
    ("nan.safetensors", KNOWN, r"holds NaN or infinite values: expected fin"),
    ("good.safetensors", {"model": "convnet"}, r"model 'convnet:width=32' .*: they fit model 'convnet:width=4'$"),
    ("good.safetensors", {"model": "resnet9", "size": 16}, r"is not of model 'resnet9': it lacks .* and it has "),
    ("good.safetensors", {"model": "convnt"}, r"unknown model 'convnt': did you mean 'convnet'\?"),
    ("good.safetensors", {"classes": 12}, r"is of 10 classes .* and 12 are named: expected 10 classes"),
    ("good.safetensors", {"classes": 1}, r"1 class named: expected --classes"),
    ("good.safetensors", {"classes": 10**9}, r"classes=1000000000 is not allowed: .* at most 1000000"),
    ("good.safetensors", {"classes": "9" * 5000}, r"classes=9+ is not allowed: .* at most 1000000"),
    ("good.safetensors", {"classes": -1}, r"classes=-1 is not allowed"),
    ("good.safetensors", {"classes": 2.5}, r"classes=2\.5 is not allowed: expected names in a list"),
    ("good.safetensors", {"classes": True}, r"classes=True is not allowed"),
    ("good.safetensors", {"classes": {"a", "b"}}, r"classes=\{.* is not allowed: expected names in a list"),
    ("good.safetensors", {"size": "8"}, r"size='8' is not allowed: expected an integer"),
    ("good.safetensors", {"size": 8.0}, r"size=8\.0 is not allowed: expected an integer"),
    ("good.safetensors", {"channels": True}, r"channels=True is not allowed: expected an integer"),
    ("good.safetensors", {"seed": 1.5}, r"seed=1\.5 is not allowed: expected an integer >= 0"),
    ("good.safetensors", {"mean": 0.5, "std": 1.0}, r"mean=0\.5 is not allowed: expected numbers, one a channel"),
    ("good.safetensors", {"mean": "0.5", "std": "1"}, r"mean='0\.5' is not allowed: expected numbers"),
    ("good.safetensors", {"mean": [10**400], "std": [1]}, r"mean=\[10+\.\.\. is not allowed: expected numbers"),
    ("good.safetensors", {"normalise": ["none"]}, r"normalise=\['none'\] is not allowed: expected a str"),
    ("good.safetensors", {"device": 0}, r"device=0 is not allowed: expected a str"),
    ("good.safetensors", {"model": 5}, r"5 is no model: expected a name with parameters, or a component"),
    ("good.safetensors", {"defenses": None}, r"defenses=None is not allowed: expected a list of names"),
    ("good.safetensors", {"defenses": 3}, r"defenses=3 is not allowed: expected a list of names"),
    ("good.safetensors", {"defenses": [None]}, r"None is no defense: expected a name with parameters"),
    ("good.safetensors", {"clean": 1}, r"clean=1 is not allowed: expected a path"),
    ("good.safetensors", {"inputs": ["a.png"]}, r"inputs=\['a\.png'\] is not allowed: expected a path"),
    ("good.safetensors", {"classes": "gone.txt"}, r"no file of classes at gone\.txt: expected a name a line"),
    ("good.safetensors", {"classes": "twice.txt"}, r"the class 'a' is named twice"),
    ("good.safetensors", {"channels": 3}, r"takes images of 1 channel .* and they have 3: expected channels=1"),
    ("good.safetensors", {"channels": 2}, r"channels=2 is not allowed: expected 1 or 3"),
    ("good.safetensors", {"size": 2}, r"size=2 is not allowed: expected 4\.\.4096"),
    ("good.safetensors", {"normalise": "imagnet"}, r"unknown normalisation 'imagnet': did you mean 'imagenet'\?"),
    ("good.safetensors", {"normalise": "imagenet"}, r"mean=\[0\.485.* is not allowed: expected one finite number"),
    ("good.safetensors", {"mean": [0.5]}, r"mean and std come together"),
    ("good.safetensors", {"mean": [0.5], "std": [0.0]}, r"std=\[0\.0\] is not allowed: expected numbers > 0"),
    ("good.safetensors", {"mean": [0.5], "std": [1.0], "normalise": "none"}, r"both given: expected either"),
    ("good.safetensors", {"seed": -1}, r"seed=-1 is not allowed: expected an integer >= 0"),
    ("good.safetensors", {"device": "gpu"}, r"device 'gpu' is not available"),
    ("good.safetensors", {"clean": "gone"}, r"gone is not there: expected image files"),
    ("good.safetensors", {"clean": "empty"}, r"empty holds no images: expected"),
    ("good.safetensors", {"clean": "text"}, r"text holds no images: expected"),
    ("good.safetensors", {"clean": "mixed"}, r"mixed has images beside folders of classes \(a\.png\): expected either"),
    ("good.safetensors", {"clean": "named"}, r"zero is no folder of a class: expected one of 0, 1, 2"),
    ("good.safetensors", {"inputs": "empty"}, r"empty holds no images: expected"),
    ("good.safetensors", {"defenses": ["spectral"]}, r"is of stage 'training set': expected a detector of "),
    ("good.safetensors", {"defenses": ["strip"]}, r"defense 'strip' scores inputs: expected --inputs DIR"),
    ("good.safetensors", {"defenses": ["mm-bd", "mm-bd"]}, r"'mm-bd' is given twice"),
    ("list.pt", {"defenses": ["mmbd"]}, r"unknown defense 'mmbd': did you mean 'mm-bd'\?"),
    ("plain.safetensors", {}, r"does not say of what architecture it is: expected --model"),
    ("plain.safetensors", OWN, r"does not name its classes: expected --classes"),
    ("plain.safetensors", {**OWN, "classes": 10}, r"nothing says how large the model's images are: expected --size N"),
    ("plain.safetensors", {**OWN, "clean": "sizes"}, r"images differ in size: .* is .*: expected --size N"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "asked", "told"),
    [pytest.param(*one, id=one[2], marks=[reads_pickles] if one[0].endswith(".pt") else []) for one in REFUSED],
)
def test_what_does_not_fit_is_refused_in_a_line(
    place: Place, odd: dict[str, Path], tmp_path: Path, file: str, asked: dict[str, Any], told: str
) -> None:
    save_file(state(place), tmp_path / "plain.safetensors")
    asked = {k: odd.get(v, v) if isinstance(v, str) else v for k, v in asked.items()}
    out = tmp_path / "out"
    with pytest.raises(BdbenchError, match=told) as caught:
        quickly(odd.get(file, tmp_path / file), out=out, **asked)
    assert "\n" not in str(caught.value) and not out.exists()


def test_inputs_of_which_none_reads_are_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BdbenchError, match=r"holds no images that read: cannot read the image .*a\.png"):
        quickly(place.good, inputs=tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_work(place: Place, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BdbenchError, match="cannot write to .*out"):
        quickly(place.good, defenses=[Breaks()], out=tmp_path / "out")


def test_a_report_among_the_images_is_refused(place: Place) -> None:
    for asked in ({"clean": place.clean}, {"inputs": place.clean}):
        with pytest.raises(
            BdbenchError, match=r"out lies in the folder of (clean images|inputs), .*: expected a place ou"
        ):
            quickly(place.good, out=place.clean / "0" / ".." / "out", **asked)
    assert not (place.clean / "out").exists()


def test_the_command_refuses_numbers_that_are_none(place: Place) -> None:
    ended = command(place.good, mean="a,b", std="1")
    assert (
        ended.exit_code == 2 and ended.stderr == "bdbench: --mean 'a,b': expected numbers such as 0.485,0.456,0.406\n"
    )


@reads_pickles
def test_what_unpacks_to_more_than_there_is_is_not_read(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.zeros(1000, 1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    assert (tmp_path / "packed.pt").stat().st_size < 10_000
    (tmp_path / "long.safetensors").write_bytes(place.good.read_bytes() + bytes(10**6))
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    for name in ("packed.pt", "long.safetensors"):
        with pytest.raises(BdbenchError, match=rf"^reading .*{name} needs .* of memory, and 976\.6 KiB are free"):
            quickly(tmp_path / name, **KNOWN)


@pytest.mark.parametrize("file", [None, 3, 2.5, True, ["a.safetensors"], {"a": 1}, object(), np.array(1)])
def test_what_is_no_path_is_named(file: Any) -> None:
    with pytest.raises(
        BdbenchError, match=r"^checkpoint=.* is not allowed: expected a path, as a str or a pathlib"
    ) as e:
        bdbench.inspect(file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("file", ["", b"", "\0", b"\xff", "x" * 5000, Path("gone"), np.str_("gone")])
def test_a_path_to_nothing_is_named(file: Any) -> None:
    with pytest.raises(BdbenchError, match=r"no file at|cannot read"):
        bdbench.inspect(file)


def test_numbers_of_numpy_and_paths_in_bytes_are_of_use(place: Place, tmp_path: Path) -> None:
    given = {
        "size": np.int64(8), "channels": np.uint8(1), "seed": np.int32(1), "classes": np.array(list("0123456789")),
        "mean": np.array([0.5]), "std": (np.float32(0.5),), "out": str(tmp_path / "out").encode(),
    }  # fmt: skip
    found = bdbench.inspect(bytes(place.good), defenses=Says(), device="cpu", **given)
    assert (found.subject.shape, found.subject.seed, found.subject.classes[3]) == ((8, 8, 1), 1, "3")
    assert (tmp_path / "out" / "inspect.json").is_file()
