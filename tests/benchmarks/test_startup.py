"""``bdbench --help`` and ``bdbench list`` beside a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

COMMANDS = {
    "python": ["-c", "pass"],
    "help": ["-m", "bdbench", "--help"],
    "list": ["-m", "bdbench", "list"],
}


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("name", COMMANDS)
def test_start(benchmark: Any, name: str) -> None:
    command = [sys.executable, *COMMANDS[name]]
    benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=5, warmup_rounds=1)
