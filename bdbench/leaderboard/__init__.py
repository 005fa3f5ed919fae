"""Records to tables: the same records always give the same bytes.

A leaderboard is a folder: ``records/*.json``, which is all that the tables are made of; ``grid.toml``, which says
what else is to be run; ``failed/*.json``, the cells that failed.
"""

from __future__ import annotations

from pathlib import Path

from bdbench.grids.board import Board
from bdbench.leaderboard.coverage import covered, made_by_other_code
from bdbench.leaderboard.frame import add, csv_of, frame_of, load, repeated
from bdbench.leaderboard.overall import overall
from bdbench.leaderboard.summary import BySeed, summarise
from bdbench.storage.store import write_file

__all__ = ["add", "build", "load", "made_by_other_code", "render", "repeated", "stale", "summarise"]


def build(folder: Path) -> list[Path]:
    """Write table.csv, README.md, index.html and cost.svg in ``folder`` from its records; returns their paths.

    Raises BdbenchError if there are no records, one is not valid, or the folder cannot be written.
    """
    paths = []
    for name, text in render(folder).items():
        path = folder / name
        write_file(path, text)
        paths.append(path)
    return paths


def stale(folder: Path) -> list[Path]:
    """The built files in ``folder`` that are missing or differ from what its records give."""
    return [
        folder / name
        for name, text in render(folder).items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode()
    ]


def render(folder: Path) -> dict[str, str]:
    """The text of each built file."""
    from bdbench.leaderboard import markdown, overview, page, plot

    board = Board.read(folder)
    frame = frame_of(board)
    recorded, by_seed = summarise(frame), BySeed.of(frame)
    overviews = list(overview.tables(recorded, overall(recorded, by_seed.values, by_seed.counts)))
    table = covered(recorded, board)
    title, notes = folder.resolve().name, board.grid.notes if board.grid else ()
    picture = plot.auroc_against_cost(table)
    return {
        "table.csv": csv_of(table),
        "README.md": markdown.render(title, table, overviews, bool(picture), notes),
        "index.html": page.render(title, frame, table, overviews, picture),
        **({"cost.svg": picture} if picture else {}),
    }
