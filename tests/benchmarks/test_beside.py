"""A run alone and beside another busy process: threads that spin at barriers would make the second ten times slower."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMMAND = [sys.executable, "-m", "bdbench", "run", "--defense", "spectral", "--fresh"]


def digits(folder: Path) -> list[str]:
    """Options for the embedded default."""
    return []


def colour(folder: Path) -> list[str]:
    """Options for as many images as digits has, of the size of CIFAR-10's: its cells' steps, in some seconds."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (1797, 32, 32, 3)).astype(np.uint8), np.arange(1797) % 10
    images[..., 0] //= 1 + labels[:, None, None].astype(np.uint8)
    split = {"x_train": images[:1437], "y_train": labels[:1437], "x_test": images[1437:], "y_test": labels[1437:]}
    np.savez(folder / "colour.npz", **split)
    return ["--dataset", f"npz:path={folder / 'colour.npz'}", "--model", "convnet:epochs=3"]


@contextmanager
def busy() -> Iterator[None]:
    """One core's worth of somebody else's work."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


@pytest.mark.benchmark(group="beside")
@pytest.mark.parametrize("images", [digits, colour])
@pytest.mark.parametrize("neighbour", [nullcontext, busy], ids=["alone", "beside a busy process"])
def test_run(benchmark: Any, neighbour: Any, images: Callable[[Path], list[str]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, *images(tmp_path), "--out", str(out)]

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(out)

    with neighbour():
        benchmark.pedantic(run, rounds=3, warmup_rounds=1)
