"""Attacks that misbehave: each is named, and changes nothing for the others."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bdbench import BdbenchError, Streams, TriggerAttack
from bdbench.cli import cli
from bdbench.components import guard
from bdbench.components.guard import Quit
from bdbench.experiment import run_each
from bdbench.registry.plugins import Plugin, Registration, installed
from tests.conftest import TINY


@dataclass(frozen=True, kw_only=True)
class Falls(TriggerAttack):
    """Fails when it stamps."""

    name = "falls"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        raise ValueError("no trigger")


def asked(monkeypatch: pytest.MonkeyPatch, attack: type[TriggerAttack], owner: str) -> list[str]:
    """The options of a small run of an attack, which is then registered as of a distribution ``owner``."""
    registered = [Registration(attack.name, attack, Plugin("made", owner, "1"))]
    monkeypatch.setitem(installed()._all("attack"), attack.name, registered)
    small = [f"--{key}={value}" for key, value in TINY.items() if key in ("dataset", "model", "device")]
    return [*small, "--attack", attack.name]


@pytest.mark.parametrize("command", ["run", "preview"])
@pytest.mark.parametrize("owner", ["theirs", "bdbench"])
def test_an_attack_that_fails_is_a_line_and_code_1_unless_it_is_ours(
    command: str, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = asked(monkeypatch, Falls, owner)
    output = ["--output", str(tmp_path / "p.png")] if command == "preview" else []
    result = CliRunner().invoke(cli, [command, *options, "--out", str(tmp_path), *output])
    if owner == "bdbench":
        assert result.exit_code == 70 and "Traceback" in result.stderr
        return
    assert result.exit_code == 1 and "Traceback" not in result.output
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("bdbench: "))
    assert line.startswith("bdbench: attack 'falls' of theirs: ValueError: no trigger (")
    assert Path(line.rpartition("(")[2].rstrip(")")).read_text().endswith("ValueError: no trigger\n")
    assert not (tmp_path / "p.png").exists() and not list(tmp_path.glob("*/record.json"))


@dataclass(frozen=True, kw_only=True)
class Refuses(TriggerAttack):
    """Does not fit."""

    name = "refuses"

    def stamp(self, images: np.ndarray, streams: Streams) -> np.ndarray:
        raise BdbenchError("side=3 is not allowed: expected 4")


@pytest.mark.parametrize(
    ("owner", "said"), [("theirs", "attack 'refuses' of theirs: side=3 is not"), ("bdbench", "side=3 is not")]
)
def test_what_anothers_attack_refuses_names_it(
    owner: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = asked(monkeypatch, Refuses, owner)
    result = CliRunner().invoke(cli, ["run", *options, "--out", str(tmp_path)])
    assert result.exit_code == 2 and result.stderr.splitlines()[-1] == f"bdbench: {said} allowed: expected 4"


@dataclass(frozen=True, kw_only=True)
class Odd(TriggerAttack):
    """Misbehaves in one way."""

    name = "odd"
    way: str = "none"

    def stamp(self, images: np.ndarray, streams: Any) -> np.ndarray:
        stamped = images.copy()
        stamped[:, :2, :2] = 255
        return stamped

    def poison(self, train: Any, state: Any, tools: Any) -> Any:
        if self.way == "in place":
            train.images[:, :2, :2] = 255
        if self.way == "round the back":
            train.labels.flags.writeable = True
            train.labels[0] = (train.labels[0] + 1) % 10
        if self.way == "exit":
            sys.exit(0)
        made = super().poison(train, state, tools)
        if self.way == "role":
            made.roles[0] = 3
        if self.way == "original":
            made.original_labels[0] = 99
        return made

    def goal(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        if self.way == "labels":
            labels[:] = 0
        return np.full(len(labels), {"half": 0.5, "far": 99}.get(self.way, 0))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("in place", "assignment destination is read-only"),
        ("labels", "assignment destination is read-only"),
        ("round the back", "attack 'odd' wrote to the images or labels that it was given"),
        ("exit", "it raised SystemExit: 0"),
        ("role", r"attack 'odd' returned roles \[0, 1, 3\]: expected \[0, 1, 2\]"),
        ("original", "attack 'odd' returned original labels outside 0..9"),
        ("half", r"attack 'odd' teaches labels of float64 \(300,\): expected integers"),
        ("far", "attack 'odd' returned labels outside 0..9"),
    ],
)
def test_an_attack_that_misbehaves_fails(tmp_path: Path, way: str, message: str) -> None:
    with pytest.raises((BdbenchError, ValueError, Quit), match=message) as error:
        next(run_each(**{**TINY, "attack": Odd(way=way)}, defenses=["random"], out=tmp_path))
    assert isinstance(guard.whose(error.value), Odd)
