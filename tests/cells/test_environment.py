from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bdbench
from bdbench.cells import environment

ROOT = Path(bdbench.__file__).parent.parent


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_a_commit_is_marked_if_the_code_differs_from_it_by_a_new_file_too(tmp_path: Path) -> None:
    for name in ("bdbench", "plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)

    def commit() -> str:
        code = "from bdbench.cells import environment; print(environment.commit())"
        variables = {"PYTHONPATH": f"{tmp_path}:{tmp_path / 'plugins'}"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, cwd=tmp_path)
        return done.stdout.strip()

    clean = commit()
    assert len(clean) == 40
    (tmp_path / "notes.txt").write_text("records and notes are no code")
    assert commit() == clean
    (tmp_path / "plugins" / "bdbench_triggers" / "new.py").write_text("")
    assert commit() == clean + "+"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts from a moment on")
def test_peak_memory_is_of_what_came_after_its_reset() -> None:
    large = np.ones(50_000_000)  # 400 MB
    high = environment.peak_memory_mb()
    del large
    environment.reset_peak_memory()
    assert environment.peak_memory_mb() < high - 200


def test_results_of_two_cards_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bdbench.cells.bench import _made_from

    keys = set()
    for card in ("one card", "another card"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, card=card: card)
        assert environment.device_name("cuda:0") == card
        keys.add(_made_from("contents", 10, 0, "cuda:0", "float32")["made_from"])
    assert len(keys) == 2 and environment.device_name("cpu") == "cpu"
