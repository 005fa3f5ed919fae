"""A run alone and beside another busy process: threads that spin at barriers would make the second ten times slower."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "bdbench.cli", "run", "--defense", "spectral", "--fresh"]


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
@pytest.mark.parametrize("neighbour", [nullcontext, busy], ids=["alone", "beside a busy process"])
def test_run(benchmark: Any, neighbour: Any, tmp_path: Path) -> None:
    def run() -> None:
        subprocess.run([*COMMAND, "--out", str(tmp_path)], check=True, capture_output=True)
        shutil.rmtree(tmp_path)

    with neighbour():
        benchmark.pedantic(run, rounds=3, warmup_rounds=1)
