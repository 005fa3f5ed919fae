"""Precision, threads and waiting: the machine's, and none of it in a cell's identity."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bdbench
from bdbench import BdbenchError
from bdbench.cli import cli
from bdbench.components import configs
from bdbench.host import machine


@pytest.mark.parametrize("faster", [True, False])
def test_precision_is_what_the_processor_is_faster_in(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    """By its flags where they say so. Vectors of bfloat16 are timed: an EPYC is faster in them, a Xeon slower."""
    timed = "bfloat16" if faster else "float32"
    monkeypatch.setattr(machine, "_measured", lambda: faster)
    for flags, expected in (
        ({"avx2"}, "float32"),
        ({"avx2", "avx512f"}, "float32"),
        ({"avx512f", "avx512_bf16"}, timed),
        ({"avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}, "bfloat16"),
        ({"asimd", "bf16"}, timed),
        (None, timed),
    ):
        monkeypatch.setattr(machine, "_flags", lambda flags=flags: flags)
        assert machine.precision("auto", "cpu") == expected
        assert machine.precision("float32", "cpu") == "float32"
        assert machine.precision("bfloat16", "cpu") == "bfloat16"
    assert machine.precision("auto", "mps") == "float32"


@pytest.mark.parametrize(
    ("visible", "count", "seen"),
    [
        (None, 0, [None, None]),
        (None, 1, [None, None]),
        (None, 2, ["0", "1", "0"]),
        ("3", 1, ["3", "3"]),
        ("4, GPU-8f", 2, ["4", "GPU-8f", "4"]),
    ],
)
def test_gpus_in_turn(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, seen: list[str | None]) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    for seat, expected in enumerate(seen):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        machine.use_gpu(seat)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


@pytest.mark.parametrize("faster", [True, False])
def test_the_faster_of_the_two_is_told_by_its_best_time(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    """Whatever the first products take, in which libraries are set up, and however slow one of them was."""
    now = 0.0
    spans = iter([9, 8] if faster else [8, 9])
    best, other = (1, 2) if faster else (2, 1)
    spans = itertools.chain(spans, [best + 5, other], [best, other + 5] * 7)
    ends = itertools.cycle([False, True])

    def clock() -> float:
        nonlocal now
        now += next(spans) if next(ends) else 0
        return now

    monkeypatch.setattr(machine.time, "perf_counter", clock)
    assert machine._measured.__wrapped__() is faster


def test_timing_the_two_takes_no_time_to_speak_of() -> None:
    start = time.perf_counter()
    assert machine._measured.__wrapped__() in (True, False)
    assert time.perf_counter() - start < 5


def test_precision_is_in_the_environment_and_in_no_identity(tiny: dict[str, Any]) -> None:
    found = [bdbench.run(defense="random", precision=p, **tiny) for p in ("float32", "bfloat16")]
    assert [f.environment["precision"] for f in found] == ["float32", "bfloat16"]
    assert found[0].id == found[1].id and configs.identity(found[0].config) == configs.identity(found[1].config)


def test_a_recipe_that_allows_it_computes_in_the_machines_precision(tiny: dict[str, Any]) -> None:
    from bdbench import experiment

    for model, expected in (("convnet:width=4,epochs=1", "float32"), ("resnet9:epochs=1", "bfloat16")):
        cell = {**tiny, "dataset": "digits:subset=40", "model": model, "precision": "bfloat16", "attack": "none"}
        if model.startswith("resnet9"):
            cell["dataset"] = f"npz:path={_sixteen(tiny['out'])}"
        assert experiment.cell(**cell).models.victim.precision == expected


def _sixteen(folder: Path) -> Path:
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1)).astype(np.uint8)
    np.savez(folder / "x.npz", x_train=x, y_train=np.arange(12) % 2, x_test=x, y_test=np.arange(12) % 2)
    return folder / "x.npz"


def _in_a_new_process(code: str, **variables: str) -> str:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **variables}
    )
    return done.stdout.strip()


def test_how_threads_wait_is_said_before_torch_is_loaded_unless_the_user_has() -> None:
    code = "import os, bdbench; bdbench.run; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert _in_a_new_process(code) == str(machine._SPINS)
    assert _in_a_new_process(code, GOMP_SPINCOUNT="7") == "7"
    assert _in_a_new_process(code, OMP_WAIT_POLICY="PASSIVE") == "None"
    assert _in_a_new_process("import torch\n" + code) == "None"


def test_threads_are_the_cores_that_are_free_when_first_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 2)
    try:
        for busy, expected in ((0.2, 2), (0.9, 1), (2.0, 1)):
            machine._free_cores.cache_clear()
            monkeypatch.setattr(machine, "busy_cores", lambda busy=busy: busy)
            machine.use_threads()
            assert torch.get_num_threads() == expected
        monkeypatch.setattr(machine, "busy_cores", lambda: 0.0)
        machine.use_threads()
        assert torch.get_num_threads() == 1  # as when first asked: cells of one grid share it
        machine.use_threads(2)
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        machine._free_cores.cache_clear()
        monkeypatch.setattr(machine, "busy_cores", lambda: 2.0)
        machine.use_threads()
        assert torch.get_num_threads() == 2  # the user has said
    finally:
        machine._free_cores.cache_clear()
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells how busy its cores are")
def test_a_process_that_is_busy_is_seen() -> None:
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        assert max(machine.busy_cores() for _ in range(5)) > 0.7
    finally:
        loop.kill()
        loop.wait()


def test_the_cores_of_a_process_are_those_it_may_run_on() -> None:
    code = "from bdbench.host import machine; print(machine.allowed_cores())"
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity here")
    pinned = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n{code}"
    assert _in_a_new_process(pinned) == "1"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),  # a part of one
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({}, 4),
    ],
)
def test_a_control_groups_quota_is_kept_to(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert machine.allowed_cores() == cores


def test_a_record_says_how_threads_waited(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine._TOLD:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert bdbench.run(defense="random", **tiny).environment["waiting"] == {"GOMP_SPINCOUNT": "77"}


@pytest.mark.parametrize("threads", [0, -1, 99999, 2.5, True, "2"])
def test_threads_that_no_machine_has_are_named(threads: Any, tiny: dict[str, Any]) -> None:
    # So many crash OpenMP, and with it the process.
    with pytest.raises(BdbenchError, match=r"^threads=.* is not allowed: expected an integer in 1\.\.\d+ on this"):
        bdbench.run(defense="random", **tiny, threads=threads)
    assert not tiny["out"].exists()


def test_a_grid_is_refused_before_its_cells_are(tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli, ["grid", str(tmp_path / "grid.toml"), "--threads", "99999"])
    assert ended.exit_code == 2 and ended.stderr.startswith("bdbench: threads=99999 is not allowed")


def test_threads_are_also_those_of_numpys_and_scipys_products() -> None:
    """In a process of its own, in which nobody has set them by the environment."""
    code = """
import threadpoolctl, numpy
from bdbench.host import machine
machine.use_threads(1)
import scipy.linalg, sklearn.linear_model
products = [one for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]
assert products and all(one["num_threads"] == 1 for one in products), products
"""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)


def test_threads_of_numpy_are_a_number() -> None:
    assert machine.checked_threads(np.int64(1)) == 1 and machine.checked_threads(None) is None
