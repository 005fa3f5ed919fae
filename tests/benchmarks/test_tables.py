"""All tables of a leaderboard of 10,000 records: seconds, and the largest size of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.records import keep, made

ATTACKS, DEFENSES, SEEDS = 50, 40, 5
BUILD = """
import sys, pathlib, resource
from bdbench import leaderboard
leaderboard.build(pathlib.Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big")
    rng = np.random.default_rng(0)
    for attack in range(ATTACKS):
        for defense in range(DEFENSES):
            parts = {
                "attack": {"name": "blend", "rate": 0.01 + attack / 1000},
                "defense": {"name": f"defense-{defense}", "strength": defense, "sizes": [0.1, 0.2]},
            }
            for seed in range(SEEDS):
                data = made(seed, auroc=float(rng.random()), asr=float(rng.random()), parts=parts)
                keep(folder, {**data, "id": f"r-{attack}-{defense}-{seed}"})
    return folder


@pytest.mark.benchmark(group="tables")
def test_tables_of_10000_records(benchmark: Any, board: Path) -> None:
    def build() -> int:
        done = subprocess.run([sys.executable, "-c", BUILD, str(board)], check=True, capture_output=True, text=True)
        return int(done.stdout)

    benchmark.extra_info["peak_mb"] = benchmark.pedantic(build, rounds=3)
    assert len(list((board / "records").iterdir())) == ATTACKS * DEFENSES * SEEDS
