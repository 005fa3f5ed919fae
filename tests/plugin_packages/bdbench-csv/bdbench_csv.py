"""A reporter: one row of a CSV file for every finished run."""

import csv
import json
import os
from pathlib import Path

from bdbench import hookimpl


def flat(record, prefix=""):
    """The values of a record by their dotted names; lists as JSON."""
    row = {}
    for name, value in record.items():
        if isinstance(value, dict):
            row |= flat(value, f"{prefix}{name}.")
        else:
            row[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return row


@hookimpl
def bdbench_run_finished(record):
    """Append the run to $BDBENCH_CSV, or to runs.csv here; a run with other columns gets them added to all."""
    path = Path(os.environ.get("BDBENCH_CSV", "runs.csv"))
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    rows.append(flat(record))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
