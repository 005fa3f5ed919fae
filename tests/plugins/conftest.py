"""Runs on digits that the plugins' tests share, so that each victim is trained once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import bdbench
from bdbench import Record, Reopened


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared runs on digits are kept; by all processes of pytest-xdist, whose bases lie in one folder."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def on_digits(digits_folder: Path) -> Callable[..., Record]:
    """Run one cell of digits on a development seed, on one thread."""

    def run(attack: str, defense: str, seed: int = 100, budget: float = 0.0, subset: int | None = None) -> Record:
        return bdbench.run(
            dataset="digits" if subset is None else f"digits:subset={subset}",
            attack=attack,
            defense=defense,
            seed=seed,
            budget=budget,
            out=digits_folder,
            device="cpu",
            threads=1,
        )

    return run


@pytest.fixture(scope="session")
def again(digits_folder: Path) -> Callable[[Record], Reopened]:
    """Open such a run again."""

    def opened(record: Record) -> Reopened:
        return bdbench.reopen(digits_folder / record.id, device="cpu")

    return opened
