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


def test_an_array_that_is_no_view_of_more_than_it_holds(tmp_path: Path) -> None:
    """numpy.ndarray, called, would make one of any length of 16 bytes, and a tensor of that what lies beside them."""
    view = Evil(np.ndarray, (400,), "u1", b"x" * 16, 0, (0,))
    tensor = Evil(torch._utils._rebuild_tensor_v2, view, 0, (400,), (1,), False, OrderedDict())  # type: ignore[attr-defined]
    for number, made in enumerate((view, tensor)):
        path = tmp_path / f"{number}.pt"
        torch.save({"tensor": made}, path)
        with pytest.raises(BdbenchError, match="cannot read .*; expected a zip file that torch.save wrote"):
            load(path)
    held = Evil(torch._utils._rebuild_tensor_v2, np.zeros(3, np.uint8), 0, (3,), (1,), False, OrderedDict())  # type: ignore[attr-defined]
    torch.save(held, tmp_path / "held.pt")
    with pytest.raises(BdbenchError, match="a tensor lies in a ndarray: expected a storage of the file's"):
        load(tmp_path / "held.pt")


def test_what_would_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.zeros(1, dtype=torch.uint8).expand(10**9), tmp_path / "one.pt")
    torch.save(torch.zeros(10**6, dtype=torch.uint8), tmp_path / "many.pt")
    monkeypatch.setattr("bdbench.host.memory.available", lambda: 10**8)
    with pytest.raises(BdbenchError, match=r"a tensor of shape \(1000000000,\) needs 953.7 MiB of memory"):
        load(tmp_path / "one.pt")
    assert load(tmp_path / "many.pt").shape == (10**6,)
    monkeypatch.setattr("bdbench.host.memory.available", lambda: 10**5)
    with pytest.raises(BdbenchError, match="reading .*many.pt needs 1.9 MiB of memory"):
        load(tmp_path / "many.pt")
    large = Image.new("L", (2, 2))
    state = large.__getstate__()
    large.__getstate__ = lambda: [*state[:2], (60000, 60000), *state[3:]]  # type: ignore[method-assign]
    torch.save(large, tmp_path / "large.pt")
    monkeypatch.undo()
    with pytest.raises(BdbenchError, match="an image of 60000 x 60000 in 4 bytes"):
        load(tmp_path / "large.pt")


def test_a_part_of_a_storage_is_read_from_where_it_begins(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0)[2:5]}, tmp_path / "part.pt")
    assert load(tmp_path / "part.pt")["a"].tolist() == [2, 3, 4]
