"""What a server of processes does before it forks them: the cell, once, so that all is loaded that a cell loads."""

import tempfile
from pathlib import Path

from tests.reliability.work import cell

with tempfile.TemporaryDirectory() as folder:
    cell(Path(folder))
