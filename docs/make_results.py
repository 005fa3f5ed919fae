"""Writes the tables of results in README.md and docs/results.md from the leaderboards' records.

A table stands between ``<!-- BOARD NUMBER -->`` and ``<!-- end -->``: of the records in leaderboards/BOARD, one number,
attacks down and defenses across, for each stage of defense that has it. ``<!-- BOARD NUMBER of repair -->``: of that
stage alone; ``<!-- BOARD NUMBER where dataset=digits -->``: of what fits, as ``bdbench leaderboard show`` has it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from bdbench.leaderboard import markdown

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
_TABLE = re.compile(r"(<!-- (?!end )(\S+) (\w+)(?: of ([\w ]+?))?(?: where (\S+))? -->\n).*?(<!-- end -->)", re.S)
# A board has many tables, on both pages.
summary = functools.cache(markdown.summary)


def page(file: Path) -> str:
    """One of the pages as it should be."""

    def table(found: re.Match[str]) -> str:
        start, board, number, stage, fits, end = found.groups()
        where = [*([f"stage={stage}"] if stage else []), *([fits] if fits else [])]
        return f"{start}\n{markdown.part(summary(ROOT / 'leaderboards' / board), where=where, matrix=number)}\n{end}"

    return _TABLE.sub(table, file.read_text())


if __name__ == "__main__":
    for file in PAGES:
        file.write_text(page(file))
