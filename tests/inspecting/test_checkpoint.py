"""What is read of a checkpoint, and what is never run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import bdbench
from bdbench import BdbenchError, inspecting
from bdbench.cli import cli
from bdbench.inspecting import weights
from tests.inspecting.asking import Place, quickly, reads_pickles, state

Wrapped = Callable[[dict[str, torch.Tensor]], Any]


@pytest.mark.parametrize(
    "wrapped",
    [
        dict,
        lambda s: {"epoch": 3, "state_dict": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"_orig_mod.module.{k}": v.half() for k, v in s.items()}, "lr": 0.1},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["plain", "in a checkpoint", "of DataParallel", "compiled, in half precision", "without counters"],
)
@reads_pickles
def test_a_state_dict_of_torch_is_read_as_it_is_in_the_world(place: Place, tmp_path: Path, wrapped: Wrapped) -> None:
    file = tmp_path / "model.pt"
    torch.save(wrapped(state(place)), file)
    own, other = (
        quickly(f, model="convnet:width=4", classes=10, size=8, channels=1, normalise="half").subject
        for f in (place.good, file)
    )
    assert other.checkpoint.format == "torch" and own.checkpoint.format == "safetensors"
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    assert other.victim.logits(images) == pytest.approx(own.victim.logits(images), rel=0.01, abs=0.01)


def test_a_network_of_torchvision_keeps_its_own_names(tmp_path: Path) -> None:
    from torchvision import models

    network = models.resnet18(num_classes=5).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    subject = quickly(
        tmp_path / "model.safetensors", model="torchvision:net=resnet18,small=false", classes=5, size=32
    ).subject
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normal = torch.from_numpy((x / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        assert subject.victim.logits(x) == pytest.approx(network(normal).numpy(), abs=1e-4)


def test_the_parameter_with_which_the_weights_fit_is_named(tmp_path: Path) -> None:
    from torchvision import models

    save_file(models.resnet18(num_classes=5).state_dict(), tmp_path / "model.safetensors")
    fits = r": they fit model 'torchvision:net=resnet18,small=[Ff]alse'$"
    with pytest.raises(BdbenchError, match=fits):
        quickly(tmp_path / "model.safetensors", model="torchvision:net=resnet18", classes=5, size=32)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-was-run",)


@reads_pickles
def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(2), "evil": Evil()}, "zip.pt")
    Path("old.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    cases = {"zip.pt": "asks for posix.mkdir", "old.pt": "holds more than tensors", "module.pt": "asks for torch.nn."}
    for name, asks in cases.items():
        ended = CliRunner().invoke(cli, ["inspect", name, "--model", "convnet", "--classes", "10", "--size", "8"])
        assert ended.exit_code == 2 and not Path("evil-was-run").exists()
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"bdbench: {name} is refused: it is a pickle that {asks}")
        assert "expected a safetensors file" in line


def test_an_older_torch_reads_no_pickle(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state(place), tmp_path / "model.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(BdbenchError, match=r"expected safetensors, or torch >= 2\.10"):
        quickly(tmp_path / "model.pt", model="convnet", classes=10, size=8)


def test_without_safetensors_it_says_how_to_get_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(BdbenchError, match=r"needs safetensors: expected pip install 'bdbench\[safetensors\]'"):
        quickly(place.good)


def test_what_a_file_of_ours_says_is_checked(place: Place, tmp_path: Path) -> None:
    for told in ("[]", '{"shape": [8, 8]}', '{"classes": "0123456789"}', "{"):
        save_file(state(place), tmp_path / "model.safetensors", {"bdbench": told})
        with pytest.raises(BdbenchError, match="damaged|cannot read"):
            quickly(tmp_path / "model.safetensors", model="convnet:width=4")
    assert inspecting.inspect is bdbench.inspect


LAYERS = st.sets(st.from_regex(r"layer[0-9]\.[0-9]\.(conv|bn)\.(weight|bias)", fullmatch=True), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.sampled_from(["", "module.", "_orig_mod.module."]), st.sampled_from(["fc", "classifier.1", "linear"]))
def test_names_that_differ_by_what_stands_before_them_are_known(layers: set[str], before: str, head: str) -> None:
    own = {name: f"body.{name}" for name in sorted(layers)} | {f"{head}.{w}": f"linear.{w}" for w in ("weight", "bias")}
    tensors = {f"{before}{name}": torch.tensor(float(i)) for i, name in enumerate(own)}
    known = {name: torch.zeros(()) for name in own.values()}
    made = weights.named(tensors, known)
    assert {name: float(t) for name, t in made.items()} == {name: float(i) for i, name in enumerate(own.values())}
    # What is a stranger's is left under its own name, for the error to tell.
    strange = weights.named({**tensors, f"{before}stranger.weight": torch.zeros(2)}, known)
    assert any(name.endswith("stranger.weight") for name in strange) and strange.keys() != known.keys()
