"""Plugins that misbehave: what they do ends nothing but their own cell, and disturbs no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bdbench
from bdbench import BdbenchError, Detector, Measured, Metric, Tools, TrainingView
from bdbench.cli import cli
from bdbench.components import guard
from bdbench.components.guard import Quit
from bdbench.errors import one_line
from bdbench.experiment import run_each
from bdbench.registry.plugins import Plugin, Registration, installed
from tests.conftest import TINY


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def fails(how: Callable[[TrainingView, Tools], Any]) -> type[Detector]:
    """A detector of its own name that does something before it scores."""

    @dataclass(frozen=True, kw_only=True)
    class Misbehaves(Detector):
        name: ClassVar[str] = how.__name__.replace("_", "-")

        def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
            how(view, tools)
            return np.linspace(0, 1, len(view.labels))

    return Misbehaves


def exits(view: TrainingView, tools: Tools) -> None:
    sys.exit(0)


def is_interrupted(view: TrainingView, tools: Tools) -> None:
    raise KeyboardInterrupt


def cannot_say(view: TrainingView, tools: Tools) -> None:
    raise Unspeakable


class Leaving(Exception):
    def __str__(self) -> str:
        sys.exit(0)


def leaves_speaking(view: TrainingView, tools: Tools) -> None:
    raise Leaving


def leaves_at_once(view: TrainingView, tools: Tools) -> None:
    os._exit(0)


def runs_out(view: TrainingView, tools: Tools) -> None:
    raise MemoryError


def writes_images(view: TrainingView, tools: Tools) -> None:
    view.images[0] = 0


def writes_round_the_back(view: TrainingView, tools: Tools) -> None:
    view.labels.flags.writeable = True
    view.labels[:] = 0


def counts_down(view: TrainingView, tools: Tools) -> None:
    tools.count_models(-5)


def counts_nan(view: TrainingView, tools: Tools) -> None:
    tools.count_models(float("nan"))  # type: ignore[arg-type]


def concludes_nan(view: TrainingView, tools: Tools) -> None:
    tools.conclude(p_value=float("nan"))


def keeps_objects(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 1}, lambda: {"x": object()})  # type: ignore[dict-item]


def keeps_a_file(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 2}, lambda: {"file": np.zeros(1)})


def keeps_an_ending(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 5}, lambda: {"a": np.zeros(1), "a.npy": np.ones(2)})


def keeps_a_null(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 6}, lambda: {"a": np.zeros(1), "a\0b": np.ones(2)})


def keeps_half_a_letter(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 7}, lambda: {"\ud800": np.zeros(1)})


def keeps_a_number(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 3}, lambda: {7: np.zeros(1)})  # type: ignore[dict-item]


def keeps_nothing_known(view: TrainingView, tools: Tools) -> None:
    tools.saved({"a": 4}, lambda: 3)  # type: ignore[arg-type, return-value]


def asks_for_the_truth(view: TrainingView, tools: Tools) -> None:
    tools.oracle("poisons")


SAID = {
    exits: "Quit: it raised SystemExit: 0, which ends programs: expected an error",
    is_interrupted: "Quit: it raised KeyboardInterrupt, which ends programs: expected an error",
    cannot_say: "Unspeakable: (its text cannot be read)",
    runs_out: "MemoryError",
    leaves_speaking: "Leaving: (its text cannot be read)",
    leaves_at_once: "Quit: it raised SystemExit: 0, which ends programs: expected an error",
    writes_images: "ValueError: assignment destination is read-only",
    writes_round_the_back: "wrote to the images or labels that it was given: expected copies of them",
    counts_down: "counts -5 models: expected an integer >= 0",
    counts_nan: "counts nan models: expected an integer >= 0",
    concludes_nan: "ValueError: p_value=nan is not allowed: expected a probability in [0, 1]",
    keeps_objects: "keeps object 'x': expected arrays of numbers by names that can be printed, other than 'file'",
    keeps_a_file: "keeps ndarray 'file': expected arrays of numbers",
    keeps_an_ending: "keeps ndarray 'a.npy': expected arrays of numbers by names that can be printed",
    keeps_a_null: "keeps ndarray 'a\\x00b': expected arrays of numbers by names that can be printed",
    keeps_half_a_letter: "keeps ndarray '\\ud800': expected arrays of numbers by names that can be printed",
    keeps_a_number: "keeps ndarray 7: expected arrays of numbers",
    keeps_nothing_known: "keeps-nothing-known returned an int to be kept: expected arrays by name",
    asks_for_the_truth: "asks for the oracle 'poisons' but declares none",
}


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all detectors above, registered by a distribution called theirs."""
    known = installed()._all("defense")
    for how in SAID:
        made = fails(how)
        monkeypatch.setitem(known, made.name, [Registration(made.name, made, Plugin("made", "theirs", "1"))])
    return [fails(how).name for how in SAID]


def run(*arguments: str, out: Path) -> Result:
    options = [f"--{key}={value}" for key, value in TINY.items()]
    return CliRunner().invoke(cli, ["run", *options, "--out", str(out), *arguments])


def test_of_several_defenses_each_that_fails_is_a_line_and_the_others_run(
    tmp_path: Path, misbehaving: list[str]
) -> None:
    asked = [word for name in (*misbehaving[:3], "random", *misbehaving[3:]) for word in ("--defense", name)]
    result = run(*asked, "--budget", "0", out=tmp_path)
    assert result.exit_code == 1, result.output
    assert len(list(tmp_path.glob("*/record.json"))) == 1 and "AUROC" in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("bdbench: ")]
    assert len(lines) == len(SAID) and "Traceback" not in result.output
    for name, said, line in zip(misbehaving, SAID.values(), lines, strict=True):
        assert line.startswith(f"bdbench: defense {name!r} of theirs: ") and said in line
    trace = Path(lines[list(SAID).index(runs_out)].rpartition("(")[2].rstrip(")"))
    assert trace.read_text().endswith("raise MemoryError\nMemoryError\n")
    # Started again they fail again: nothing of them was kept.
    assert run("--defense", misbehaving[5], "--defense", "random", "--budget", "0", out=tmp_path).exit_code == 1


def test_one_defense_that_fails_is_a_line_and_code_1_or_2_if_it_is_a_mistake(
    tmp_path: Path, misbehaving: list[str]
) -> None:
    assert run("--defense", "exits", out=tmp_path).exit_code == 1
    assert run("--defense", "counts-down", out=tmp_path).exit_code == 2


def test_metrics_and_reporters_write_into_nothing_and_end_nothing(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scribble(measured: Measured) -> float:
        measured.before["clean_accuracy"] = 0.0  # type: ignore[index]
        base = measured.roles.base
        assert base is not None
        base.flags.writeable = True
        base[:] = 0
        measured.roles[:] = 0
        return 1.0

    def leave(measured: Measured) -> float:
        sys.exit(0)

    class Reporter:
        @staticmethod
        @bdbench.hookimpl
        def bdbench_run_started(run_id: str, config: dict[str, Any]) -> None:
            config["budget"] = 0.7
            config["data"].clear()
            sys.exit(0)

    known = installed()
    plugins = {name: Plugin(name, "theirs", "1") for name in ("scribble", "leave", "reporter")}
    own = [Registration(f.__name__, Metric(f.__name__, f), plugins[f.__name__]) for f in (scribble, leave)]
    registered = dict(known._all("metric"))
    for registration in own:
        monkeypatch.setitem(known._registered["metric"], registration.name, [registration])
    monkeypatch.setattr(known, "found", [*known.found, plugins["reporter"]])
    known.manager.register(Reporter, name=plugins["reporter"].unique)
    try:
        made = bdbench.run(defense="random", **tiny)
    finally:
        known.manager.unregister(name=plugins["reporter"].unique)
    assert registered.keys() == known._all("metric").keys() - {"scribble", "leave"}
    assert made.config["budget"] == 0.1 and made.config["data"]["poisons"] == 15
    assert made.detection is not None and made.detection.auroc is not None and made.before.clean_accuracy > 0
    assert made.extra["scribble"] is None and made.extra["leave"] is None
    assert "read-only" in str(plugins["scribble"].error) and "SystemExit: 0" in str(plugins["leave"].error)
    assert "bdbench_run_started: Quit" in str(plugins["reporter"].error)


def test_an_import_whose_error_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.metadata

    (tmp_path / "made_mute.py").write_text("from tests.components.test_guard import Unspeakable\nraise Unspeakable\n")
    (tmp_path / "made_key.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "made_gone.py").write_text("def __getattr__(name):\n    raise SystemExit\n")
    (tmp_path / "made_loud.py").write_text("from tests.components.test_guard import Leaving\nraise Leaving\n")
    monkeypatch.syspath_prepend(tmp_path)
    known = installed()
    before = len(known.found)
    for name in ("made_mute", "made_key", "made_gone", "made_loud"):
        known.load(importlib.metadata.EntryPoint(name, name, "bdbench"))
    mute, key, gone, loud = known.found[before:]
    del known.found[before:]
    assert mute.error == "Unspeakable: (its text cannot be read)"
    assert key.error == "Quit: it raised KeyboardInterrupt, which ends programs: expected an error"
    assert gone.error == "Quit: it raised SystemExit, which ends programs: expected an error"
    assert loud.error == "Leaving: (its text cannot be read)"


def test_a_line_is_a_line() -> None:
    assert one_line(ValueError("")) == "ValueError"
    assert one_line(ValueError("a\nb")) == "ValueError: a"
    assert one_line(BdbenchError("a sentence")) == "a sentence"


def test_who_comes_back_from_a_fork_goes_no_further(tmp_path: Path) -> None:
    program = (
        "import os\nfrom bdbench.components import guard\n"
        "with guard.call():\n    child = os.fork()\n"
        "print('on', flush=True)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "on\n"), done.stderr


def test_a_child_may_end_as_it_likes_and_the_way_out_is_back_afterwards() -> None:
    before = os._exit
    with guard.call():
        child = os.fork()
        if not child:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert os._exit is before


class Shy(Detector):
    """Ends the program when it is asked what it is told."""

    name = "shy"

    @property
    def told(self) -> tuple[Any, ...]:
        sys.exit(0)

    def score(self, view: TrainingView, tools: Tools) -> np.ndarray:
        return np.zeros(len(view.labels))


def test_what_a_component_says_of_itself_ends_nothing(tmp_path: Path) -> None:
    made = list(run_each(**TINY, defenses=[Shy(), "random"], out=tmp_path, budget=0))
    assert isinstance(made[0], Quit) and isinstance(guard.whose(made[0]), Shy)
    assert isinstance(made[1], bdbench.Record)


def test_closed_streams_are_open_again() -> None:
    program = (
        "import os, sys\nfrom bdbench.components import guard\n"
        "with guard.call():\n    sys.stdout.close(); sys.stderr.close(); os.close(0)\n"
        "print('out', flush=True); print('err', file=sys.stderr, flush=True); assert sys.stdin.read() == 'in'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input="in", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_what_torch_says_of_arrays_that_we_made_read_only_is_not_shown() -> None:
    """In a process of its own: torch says it once."""
    program = """
import numpy as np, torch, warnings
from bdbench.components import guard
array = guard.read_only(np.zeros(3))
with guard.call():
    torch.from_numpy(array)
    warnings.warn("what else is said is shown")
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert "what else is said is shown" in said and "not writable" not in said
