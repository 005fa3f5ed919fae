"""A backdoored and a clean model, and what is found in the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import bdbench
from bdbench.cli import cli
from tests.inspecting.asking import QUICK, VICTIM, Place, command


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("inspect")
    for name, attack in (("bad", "badnets:rate=0.1,target=3"), ("good", "none")):
        made = bdbench.run(attack, "random", budget=0, seed=1, out=root / "runs", **VICTIM)
        done = CliRunner().invoke(
            cli, ["export", "victim", made.id, str(root / f"{name}.safetensors"), "--out", str(root / "runs")]
        )
        assert done.exit_code == 0, done.output
    digits = bdbench.load("digits").test
    for i, (image, label) in enumerate(zip(np.asarray(digits.images)[:60], digits.labels, strict=False)):
        (root / "clean" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(root / "clean" / str(label) / f"{i}.png")
    return Place(root / "bad.safetensors", root / "good.safetensors", root / "clean")


@pytest.fixture(scope="session")
def found(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("found") / "out"
    return command(place.bad, *QUICK, clean=place.clean, inputs=place.clean, out=out, json=True), out
