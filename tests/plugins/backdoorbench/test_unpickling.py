"""The reader of pickles that builds arrays and images, and nothing else."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from bdbench import BdbenchError
from bdbench_backdoorbench.unpickling import load
from tests.plugins.backdoorbench.files import pickle_module

CORES: list[Literal["numpy.core", "numpy._core"]] = ["numpy.core", "numpy._core"]


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (os.system, "posix.system"),
        (eval, "__builtin__.eval"),
        (getattr, "__builtin__.getattr"),
        (np.load, "numpy.load"),
    ],
)
def test_anything_else_in_a_file_is_refused_by_name(tmp_path: Path, call: Any, name: str) -> None:
    witness = tmp_path / "ran"
    torch.save({"model": Evil(call, f"touch {witness}")}, tmp_path / "evil.pt")
    with pytest.raises(BdbenchError, match=f"it asks for {name}, which is refused") as caught:
        load(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    assert not witness.exists()


def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.arange(4)}, tmp_path / "good.pt")
    short = tmp_path / "short.pt"
    short.write_bytes((tmp_path / "good.pt").read_bytes()[:200])
    for path in (bare, short, tmp_path):
        with pytest.raises(BdbenchError, match="cannot read .*; expected a zip file that torch.save wrote") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(BdbenchError, match="no file at"):
        load(tmp_path / "absent.pt")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    tensor = torch.arange(6.0)
    torch.save(tensor, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    # The size, a one-byte integer in a tuple of one, made larger than the six numbers stored.
    files["good/data.pkl"] = files["good/data.pkl"].replace(b"K\x06\x85", b"K\x60\x85")
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(BdbenchError, match="does not fit its storage of 6"):
        load(tmp_path / "evil.pt")


def test_values_are_those_that_torch_reads(tmp_path: Path) -> None:
    weights = OrderedDict(
        a=torch.randn(3, 4).t(), b=torch.arange(5), c=torch.tensor(7), d=torch.zeros(0, 2), e=torch.randn(4)[1:3].half()
    )
    weights["f"] = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    value = {"w": weights, "i": np.arange(3)[::2], "f": np.float64(0.5), "o": [None, True, "x", (1, 2.5)]}
    torch.save(value, tmp_path / "v.pt", pickle_module=pickle_module("numpy.core"))
    found = load(tmp_path / "v.pt")
    for name, tensor in weights.items():
        assert found["w"][name].dtype == tensor.numpy().dtype
        assert np.array_equal(found["w"][name], tensor.numpy())
    assert found["i"].tolist() == [0, 2] and found["f"] == 0.5 and found["o"] == [None, True, "x", (1, 2.5)]


@pytest.mark.parametrize("form", ["PNG", "PPM", "BMP"])
def test_an_image_that_was_opened_from_a_file_is_read_from_memory(tmp_path: Path, form: str) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    opened = Image.open(buffer)
    opened.load()
    torch.save({"image": opened}, tmp_path / "x.pt")
    assert np.array_equal(np.asarray(load(tmp_path / "x.pt")["image"]), pixels)
