"""Fresh virtual environments, and pip installs into them that need no network."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import venv
from pathlib import Path

import bdbench

OFFLINE = ["--no-index", "--no-deps", "--no-build-isolation"]


class Environment:
    """A new virtual environment that sees the packages of this one.

    torch takes gigabytes, so that what this environment has is made visible there instead of copied.
    """

    def __init__(self, root: Path) -> None:
        venv.create(root, with_pip=True)
        self.root, self.python = root, root / "bin" / "python"
        where = subprocess.run(
            [self.python, "-c", "import site; print(site.getsitepackages()[0])"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        lines.append(str(Path(bdbench.__file__).parent.parent))
        (Path(where) / "this-environment.pth").write_text("\n".join(lines) + "\n")

    def install(self, *packages: Path) -> None:
        """pip install copies of source folders, so that nothing is built inside them."""
        sources = []
        for package in packages:
            sources.append(self.root / "sources" / package.name)
            shutil.copytree(package, sources[-1], dirs_exist_ok=True)
        self.module("pip", "install", "--quiet", *OFFLINE, *map(str, sources)).check_returncode()

    def uninstall(self, *names: str) -> None:
        """pip uninstall."""
        self.module("pip", "uninstall", "--quiet", "--yes", *names).check_returncode()

    def bdbench(self, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """The program, as it runs there."""
        return self.module("bdbench", *arguments, cwd=cwd, **variables)

    def module(self, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """``python -m`` something."""
        command = [self.python, "-m", *arguments]
        # Never in the checkout: reporters write where they are.
        where = cwd or self.root
        return subprocess.run(command, capture_output=True, text=True, cwd=where, env={**os.environ, **variables})

    def shell(self, script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A bash script that stops at its first error, with ``bdbench``, ``pytest`` and offline ``pip install``."""
        functions = "\n".join(
            [
                "set -euo pipefail",
                'bdbench() { python -m bdbench "$@"; }',
                'pytest() { python -m pytest -q -p no:cacheprovider "$@"; }',
                f'pip() {{ python -m pip "$@" {" ".join(OFFLINE)}; }}',
            ]
        )
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", "-c", f"{functions}\n{script}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PATH": path})
