"""What the scripts beside it share: a table between two marks of a page, and a figure of what a grid's records say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from bdbench.grids.board import Board
from bdbench.grids.grid import read


def with_table(page: Path, name: str, table: str) -> str:
    """The text of a page, with a table between ``<!-- NAME -->`` and ``<!-- end NAME -->``."""
    start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    before, rest = page.read_text().split(start)
    return f"{before}{start}\n{table.strip()}\n\n{end}{rest.split(end)[1]}"


def draw(
    grid: Path,
    file: str,
    collect: Callable[[Iterable[dict[str, Any]]], pd.DataFrame],
    figure: Callable[[pd.DataFrame], Figure],
) -> None:
    """Draw a file beside a grid from the table.csv there, which is made anew where all records of the grid are there.

    These are hundreds, and are not committed.
    """
    matplotlib.rcParams["svg.hashsalt"] = "bdbench"  # the same figure, the same bytes
    table, board = grid.parent / "table.csv", Board.read(grid.parent)
    missing = board.pending(read(grid).jobs())
    if missing:
        print(f"{table} stays as it is: {len(missing)} poisoned sets of {grid} have cells without a record")
    else:
        collect(board.records.values()).to_csv(table, index=False)
    figure(pd.read_csv(table)).savefig(grid.parent / file, metadata={"Date": None})
