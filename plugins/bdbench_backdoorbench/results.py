"""The results that BackdoorBench publishes, read for comparison. They were measured there, not here."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from bdbench import BdbenchError, check_regular

_TEXTS = {"dataset": "dataset", "backbone": "model", "attack_name": "attack", "defense_name": "defense"}
_NUMBERS = {
    "ratio": "rate",
    "test_acc": "clean_accuracy",
    "test_asr": "attack_success_rate",
    "test_ra": "robust_accuracy",
}
SOURCE = "published by BackdoorBench"
COLUMNS = ("source", *_TEXTS.values(), *_NUMBERS.values())


@dataclass(frozen=True)
class Published:
    """Rows of a results.csv, and how many of its rows held no number and were left out.

    A row: the values of COLUMNS, in that order; the accuracies are those after the defense, in 0..1 or None.
    """

    rows: list[dict[str, str | float | None]]
    empty: int


def read(path: Path) -> Published:
    """The rows of ``path``. Raises BdbenchError if it is no results.csv."""
    try:
        check_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in (*_TEXTS, *_NUMBERS) if c not in (reader.fieldnames or ())]
            if missing:
                expected = ", ".join((*_TEXTS, *_NUMBERS))
                raise BdbenchError(f"{path} has no column {missing[0]!r}: expected {expected}")
            found = [_row(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BdbenchError(f"cannot read {path}: {error}: expected BackdoorBench's results.csv") from None
    accuracies = [name for column, name in _NUMBERS.items() if column != "ratio"]
    rows = [row for row in found if any(row[name] is not None for name in accuracies)]
    # Their tables come in percent and in fractions; one file is of one kind.
    percent = any(isinstance(v := row[name], float) and v > 1 for row in rows for name in accuracies)
    for row in rows:
        for name in accuracies:
            value = row[name]
            row[name] = value / 100 if percent and isinstance(value, float) else value
    return Published(rows, len(found) - len(rows))


def _row(path: Path, line: int, row: dict[str, str | None]) -> dict[str, str | float | None]:
    found: dict[str, str | float | None] = {"source": SOURCE}
    for column, name in _TEXTS.items():
        text = row[column] or ""
        # What a terminal would obey is no name.
        if not text.isprintable():
            raise BdbenchError(f"{path}, line {line}: {column}={text!r}: expected a name of printable characters")
        found[name] = text
    for column, name in _NUMBERS.items():
        text = (row[column] or "").strip()
        try:
            value = float(text) if text else math.nan
        except ValueError:
            raise BdbenchError(f"{path}, line {line}: {column}={text!r}: expected a number or nothing") from None
        if not (math.isnan(value) or 0 <= value <= 100):
            raise BdbenchError(f"{path}, line {line}: {column}={text}: expected a share, in 0..1 or in percent")
        found[name] = None if math.isnan(value) else value
    return found
