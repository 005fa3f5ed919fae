from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bdbench
from bdbench import BdbenchError, Detector, Needs, Record, Tools, TrainingView
from bdbench.cli import cli
from bdbench.experiment import run_each
from bdbench.host import memory
from bdbench.progress import quiet
from bdbench.registry.plugins import installed
from tests.conftest import TINY

GIB = 2**30
MEMINFO = "MemTotal: 25000000 kB\nMemAvailable: 20971520 kB\n"
# Where limits are, by the version of control groups and where the group is mounted; each leaves 2 of 3 GiB.
GROUPS = {
    "v2": (
        "0::/user/job",
        {
            "user/memory.max": "max",
            "user/job/memory.max": 3 * GIB,
            "user/job/memory.current": 1.5 * GIB,
            "user/job/memory.stat": f"anon 1\ninactive_file {GIB // 2}",
        },
    ),
    "v2, above": (
        "0::/user/job",
        {
            "user/job/memory.max": "max",
            "user/memory.max": 3 * GIB,
            "user/memory.current": GIB,
            "user/memory.stat": "inactive_file 0",
        },
    ),
    "v2, container": ("0::/", {"memory.max": 3 * GIB, "memory.current": GIB, "memory.stat": ""}),
    "v1": (
        "7:cpu,cpuacct:/x\n4:memory:/docker/1",
        {
            "memory/docker/1/memory.limit_in_bytes": 3 * GIB,
            "memory/docker/1/memory.usage_in_bytes": GIB,
            "memory/docker/1/memory.stat": "total_inactive_file 0",
        },
    ),
    "v1, container": (
        "4:memory:/docker/1",
        {"memory/memory.limit_in_bytes": 3 * GIB, "memory/memory.usage_in_bytes": GIB, "memory/memory.stat": ""},
    ),
}


def machine(root: Path, groups: str = "", files: dict[str, Any] | None = None) -> Path:
    for name, text in {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": value for name, value in (files or {}).items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(int(text) if isinstance(text, float) else text))
    return root


@pytest.mark.parametrize("how", GROUPS)
def test_limits_of_control_groups_count(tmp_path: Path, how: str) -> None:
    assert memory.available(machine(tmp_path, *GROUPS[how])) == 2 * GIB


def test_without_limits_it_is_what_the_system_has(tmp_path: Path) -> None:
    unlimited = {"memory/memory.limit_in_bytes": 9223372036854771712, "memory/memory.usage_in_bytes": GIB}
    assert memory.available(machine(tmp_path, "4:memory:/", unlimited)) == 20 * GIB
    here = memory.available()
    assert here is not None and here > 0


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (13.41 * GIB, "13.4 GiB")])
def test_bytes_are_shown_for_people(size: float, text: str) -> None:
    assert memory.shown(size) == text


@dataclass(frozen=True, kw_only=True)
class Quadratic(Detector):
    """Takes a matrix."""

    name = "quadratic"

    def needs(self, examples: int, shape: tuple[int, int, int], num_classes: int) -> Needs:
        return Needs(4 * examples**2, models=7)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.zeros(len(view.labels))


def leave(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(memory, "available", lambda: size)


def test_a_defense_that_needs_too_much_is_refused_before_anything_is_trained(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 4 * 200**2)
    monkeypatch.setattr("bdbench.cells.forecast.of_training", lambda ground: 0)
    monkeypatch.setattr("bdbench.networks.training.Trainer.train", lambda *a, **k: pytest.fail("trained"))
    said = "defense 'quadratic' on 300 examples needs 351.6 KiB of memory, and 156.2 KiB are free: expected at most 200"
    with pytest.raises(BdbenchError, match=re.escape(said)):
        bdbench.run(defense=Quadratic(), **tiny)


def test_others_run_beside_a_defense_that_needs_too_much(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 4 * 200**2)
    monkeypatch.setattr("bdbench.cells.forecast.of_training", lambda ground: 0)
    refused, ran = run_each(defenses=[Quadratic(), "random"], **tiny)
    assert isinstance(refused, BdbenchError) and isinstance(ran, Record)


def test_a_training_that_needs_too_much_is_refused(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 20_000)
    with pytest.raises(BdbenchError, match="training model 'convnet' in batches of .*: expected a smaller batch_size"):
        bdbench.run(defense="random", **tiny)


def test_a_lasso_that_needs_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_datamodel.lasso import chosen_penalties, lasso

    masks = np.arange(400).reshape(4, 100) % 3 == 0
    leave(monkeypatch, 8 * 100**2 - 1)
    for fit in (lambda: lasso(masks, masks * 1.0, 0.1), lambda: chosen_penalties(masks, masks * 1.0)):
        with pytest.raises(BdbenchError, match="estimator=lasso on 100 examples needs"):
            fit()


@pytest.mark.parametrize("options", ["score_by=frequency", "compat=khaddaj2023,score_by=frequency,classes=ignore"])
def test_a_detector_whose_whole_matrix_does_not_fit_is_refused_before_anything_is_trained(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setattr("bdbench.cells.forecast.of_training", lambda ground: 0)
    monkeypatch.setattr("bdbench.networks.training.Trainer.train", lambda *a, **k: pytest.fail("trained"))
    leave(monkeypatch, 4 * 300**2 - 1)
    for estimator in ("out-of-sample", "covariance"):
        defense = f"datamodel:models=12,chunk=4,epochs=1,hidden=8,starts=2,estimator={estimator},{options}"
        with pytest.raises(BdbenchError, match="defense 'datamodel' on 300 examples needs .*: expected at most"):
            bdbench.run(defense=defense, **tiny)


def test_a_class_by_class_search_needs_less() -> None:
    from bdbench_datamodel.detector import Datamodel

    whole, each = (Datamodel(score_by=by).needs(20_000, (8, 8, 1), 10).memory for by in ("frequency", "auto"))
    assert whole is not None and each is not None and whole - each > 5 * 20_000**2 - 5 * 2_000**2 - 1e9


def test_a_matrix_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench_datamodel.estimators import difference_of_means
    from bdbench_datamodel.influence import Factors

    leave(monkeypatch, 4 * 300**2 - 1)
    masks, rows = np.arange(1200).reshape(4, 300) % 3 == 0, np.ones((300, 4), np.float32)
    for matrix in (lambda: difference_of_means(masks, masks * 1.0), lambda: Factors(rows, rows).dense()):
        with pytest.raises(BdbenchError, match="the matrix of 300 .*examples needs 351.6 KiB of memory"):
            matrix()


def test_a_dry_run_says_what_it_takes_and_leaves_nothing(tmp_path: Path) -> None:
    options = [f"--{key}={value}" for key, value in TINY.items()]
    command = ["run", *options, "--defense", "random", "--defense", "strip", "--out", str(tmp_path / "runs")]
    said = CliRunner().invoke(cli, [*command, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "models: 3 trainings of the victim's kind" in said.stdout
    assert re.search(r"time: about 0:00:\d\d, ", said.stdout) and "free" in said.stdout
    assert "defense strip: its own models: not told; its own memory: not told" in said.stdout
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_trains_nothing_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 30_000)
    monkeypatch.setattr("bdbench.networks.training.Trainer.train", lambda *a, **k: pytest.fail("trained"))
    options = [f"--{key}={value}" for key, value in TINY.items()]
    said = CliRunner().invoke(cli, ["run", *options, "--defense", "random", "--out", str(tmp_path), "--dry-run"])
    assert said.exit_code == 2 and "training model 'convnet' in batches of" in said.stderr, said.output


def test_the_forecast_of_a_training_is_about_what_it_takes(tmp_path: Path) -> None:
    """Memory by the sizes of a convnet that are easily told; the time within a factor that a busy machine may have."""
    from bdbench.experiment import cell

    made = cell(dataset="digits", model="convnet", device="cpu", out=tmp_path).forecast(
        [installed().component("defense", "random")]
    )
    assert 2**20 < made.memory < 2**30
    assert 0.2 < made.seconds < 120
    assert made.trainings == 3


# Prints what is told of a training, and how much more it takes than a short one, which shows what comes once.
TAKEN = """
import functools, re, sys
from dataclasses import replace
import numpy as np
from bdbench.cells.forecast import Ground, of_training
from bdbench.registry.plugins import installed
from bdbench.progress import quiet
from bdbench.networks.training import Trainer

shape = (64, 64, 3)
model = installed().component("model", sys.argv[1])
images = np.zeros((128, *shape), np.uint8)
trainer = Trainer(functools.partial(model.build, shape, 3), replace(model.recipe("", shape), epochs=1), "cpu", quiet)
most = []
for count in (4, 128):
    trainer.train(images[:count], np.arange(count) % 3, 0)
    # Not getrusage: it counts what the process that started this one held.
    most.append(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
print(of_training(Ground(model, trainer, images, 3)), most[1] - most[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say")
def test_a_training_takes_the_memory_that_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", TAKEN, "convnet"], capture_output=True, text=True, check=True)
    told, taken = map(int, done.stdout.split())
    assert 0.8 * told < taken < 1.25 * told


@pytest.mark.parametrize("net", ["resnet18", "vgg11_bn", "mobilenet_v2"])
def test_networks_of_torchvision_are_laid_out_without_their_weights(net: str) -> None:
    from bdbench.cells.forecast import Ground, of_training
    from bdbench.networks.training import Trainer

    shape = (32, 32, 3)
    model = installed().component("model", f"torchvision:net={net}")
    trainer = Trainer(functools.partial(model.build, shape, 3), model.recipe("", shape), "cpu", quiet)
    assert of_training(Ground(model, trainer, np.zeros((8, *shape), np.uint8), 3)) > 3 * 4 * 10**6


@pytest.mark.parametrize(
    ("width", "why"),
    [
        (10**6, r"needs 560\.2 TiB of memory, and .* free: expected a smaller model"),
        (10**12, "has more weights than can be counted: expected a smaller model"),
        (10**30, "has more weights than can be counted: expected a smaller model"),
    ],
)
def test_a_model_whose_weights_do_not_fit_is_refused_before_it_is_made(width: int, why: str, tmp_path: Path) -> None:
    spec = f"convnet:width={width}"
    with pytest.raises(BdbenchError, match=f"^model '{spec}' {why}"):
        bdbench.run(defense="random", **{**TINY, "model": spec}, out=tmp_path)
    with pytest.raises(BdbenchError, match=f"^model '{spec}' {why}"):
        bdbench.detect("low-loss", np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2, num_classes=2, model=spec)


def test_no_pace_is_nothing_where_chance_made_two_images_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdbench.cells.forecast import Ground, seconds_per_image
    from bdbench.networks.training import Trainer

    class Odd(Trainer):
        def train(self, images: np.ndarray, *rest: Any, **options: Any) -> Any:
            time.sleep(0.05 if len(images) == 2 else 0.01)

    model = installed().component("model", "convnet")
    trainer = Odd(functools.partial(model.build, (8, 8, 1), 2), model.recipe("", (8, 8, 1)), "cpu", quiet)
    assert 0.001 <= seconds_per_image(Ground(model, trainer, np.zeros((10, 8, 8, 1), np.uint8), 2)) < 0.05


# How many pages are made for ten pairs of arrays, one after the other, and how many MiB are held then and given back.
KEPT = """
import re, resource
import numpy as np
from bdbench.host import memory

def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

memory.keep_freed()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(40 << 20, np.uint8)
    np.ones(50 << 20, np.uint8)
pages, most = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, held()
memory.available()
print(pages, most - held())
"""


def _kept(**variables: str) -> list[int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, check=True, env={**environment, **variables}
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's allocator that gives back")
def test_freed_memory_is_kept_for_the_next_step_and_given_back_before_it_is_asked_how_much_is_free() -> None:
    pages, given_back = _kept()
    assert given_back > 30
    # Unless the user says how.
    as_told, left = _kept(MALLOC_TRIM_THRESHOLD_="131072")
    assert 4 * pages < as_told and left < 30
