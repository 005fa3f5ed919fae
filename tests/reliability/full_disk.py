"""A cell on a small disk of its own: ``unshare -rm python -m tests.reliability.full_disk FOLDER KIB``.

The disk is a tmpfs that only this process sees. It says as JSON how the cell ended there, what was left unfinished, and
the records that come of it once there is room.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.reliability.conftest import records, unfinished
from tests.reliability.work import cell, done, refused


def main(folder: Path, kib: int) -> None:
    disk, said = folder / "disk", folder / "said"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", disk], check=True)
    code = done(refused, disk / "runs", said)
    left = unfinished(disk)
    subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
    again = done(cell, disk / "runs")
    found = {
        "code": code, "said": said.read_text() if said.exists() else "", "left": [str(path) for path in left],
        "again": again, "records": records(disk / "runs"),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
