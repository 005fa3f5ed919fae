from __future__ import annotations

from pathlib import Path

import pytest

import bdbench
from tests.conftest import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done."""
    out = tmp_path_factory.mktemp("runs")
    return out / bdbench.run(defense="spectral", out=out, **TINY).id
