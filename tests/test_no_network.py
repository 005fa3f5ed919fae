"""Nothing goes to the network unless it is asked for: neither an import, nor a command on what is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import TINY, TINY_DATAMODEL

# From the first line on; every way of Python's to another machine goes through one of these.
GUARD = """
import sys

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        raise SystemExit(f"network: {event} {arguments[1:] or arguments}")

sys.addaudithook(forbid)
"""

PROGRAM = """
import importlib, pkgutil
import bdbench
from click.testing import CliRunner
from bdbench.cli import cli
from bdbench.registry.plugins import installed

kinds = ("dataset", "model", "attack", "defense", "metric")
homes = {r.component.__module__.partition(".")[0] for kind in kinds for r in installed().registered(kind)}
for home in sorted({name for name in homes if name.startswith("bdbench")}):
    for module in pkgutil.walk_packages(importlib.import_module(home).__path__, home + "."):
        if module.name.endswith(".__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except (ImportError, bdbench.BdbenchError):
            continue  # what it needs is optional, and not there
        print("imported", module.name)

for arguments in ARGUMENTS:
    result = CliRunner().invoke(cli, arguments)
    print(arguments[0], result.exit_code, result.output if result.exit_code else "")
"""


def guarded(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", GUARD + program], capture_output=True, text=True, cwd=cwd)


def test_the_guard_sees_the_ways_out(tmp_path: Path) -> None:
    for way in ("urllib.request.urlopen('http://192.0.2.1/x')", "socket.create_connection(('localhost', 9))"):
        found = guarded(f"import socket, urllib.request\n{way}", tmp_path)
        assert found.returncode == 1 and found.stderr.startswith("network: socket."), found.stderr


def test_imports_and_runs_need_no_network(tmp_path: Path) -> None:
    options = [f"--{key}={value}" for key, value in TINY.items()]
    arguments = [
        ["list", "attacks"],
        ["run", "--defense", TINY_DATAMODEL, *options, "--out", "runs"],
        ["preview", *options[:2], "--out", "."],
    ]
    found = guarded(PROGRAM.replace("ARGUMENTS", repr(arguments)), tmp_path)
    assert found.returncode == 0, found.stderr
    *imported, listed, ran, previewed = found.stdout.splitlines()
    assert len(imported) > 150 and {"imported bdbench_datamodel.plan", "imported bdbench.cli"} <= set(imported)
    assert [line.strip() for line in (listed, ran, previewed)] == ["list 0", "run 0", "preview 0"], found.stdout
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 1
