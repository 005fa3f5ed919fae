"""Grids of cells, the leaderboards they fill, and what is made of records: comparisons and reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bdbench import foreign
from bdbench.commands import options
from bdbench.errors import BdbenchError
from bdbench.host import machine, stopping

if TYPE_CHECKING:
    from bdbench.grids.engines import Engine

_PATH = click.Path(path_type=Path)
# How many rows that other code made are named by themselves.
_STALE_SHOWN = 5


@click.command()
@click.argument("file", metavar="GRID.toml", type=_PATH)
@click.option("--dry-run", is_flag=True, help="Say what would run, and stop.")
@click.option("--only", multiple=True, metavar="KIND=SPEC", help="Such as attack=blend; may be given several times.")
@click.option("--seeds", metavar="SEEDS", help="Such as 0-4 or 0,2: in place of the grid's.")
@options.cell_seconds
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", metavar="ADDRESS", help="Of the Ray cluster: auto, or host:port. None: start one here.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes on this machine that share the cells.",
)
@options.workplace
def grid(
    file: Path,
    dry_run: bool,
    only: tuple[str, ...],
    seeds: str | None,
    engine: str,
    address: str | None,
    workers: int,
    **place: Any,
) -> None:
    """Run the cells of GRID.toml that have no record beside it yet, and record them there.

    A record that was made by other code of the attack, the defense or the model than today's is stale: its cell is run
    again, and the new record takes its place.

    Started again after any interruption, it repeats no finished stage. Several processes on one grid share its cells,
    if they see the same folders: on this machine --workers of them, on others whoever starts the same command. A cell
    that fails is recorded with its error and the rest goes on; the exit code is then 1.
    """
    known = options.warn_of_broken_plugins()
    from bdbench import progress
    from bdbench.components.interfaces import Source
    from bdbench.display import tables
    from bdbench.grids import grid as grids
    from bdbench.grids import jobs
    from bdbench.grids.board import Board
    from bdbench.grids.workers import dealt
    from bdbench.storage.store import STAGES

    if engine == "local":
        machine.checked_threads(place["threads"])
    elif workers > 1:
        raise BdbenchError(f"--workers {workers} is not allowed with --engine {engine}: expected --engine local")
    source = Source(Path(place["data_root"]) if place["data_root"] else None, place["download"] and not dry_run)
    board = Board.read(file.parent)
    asked = grids.read(file).only(only).jobs(None if seeds is None else grids.read_seeds(seeds))
    if board.records:
        with progress.bars() as bars:
            asked = jobs.with_data(asked, source, bars)
    tables.show_plan(asked, board)
    pending = board.pending(asked)
    if dry_run or not pending:
        return
    if place["data_root"] is not None and not Path(place["data_root"]).is_dir():
        raise BdbenchError(f"data root {place['data_root']!r} is not there: expected a folder")
    jobs.check_data(pending, source)
    stopping.keeps(f"records are in {file.parent / 'records'}, finished stages in {Path(place['out']) / STAGES}")
    run = _engine(engine, address, workers)
    _work(dealt(pending, workers), run, set(known), board=file.parent, **place)


def _engine(name: str, address: str | None, count: int) -> Engine:
    """What does the jobs."""
    from bdbench.grids import engines, workers

    if name == "ray":
        return engines.on_ray(address)
    return workers.on_processes(count) if count > 1 else engines.local


def _work(jobs: list[Any], run: Engine, known: set[str], **place: Any) -> None:
    """Do the jobs, with a line for each and a bar for all; exit with 1 if any cell failed.

    known: what is wrong with plugins and has been said.
    """
    from bdbench import progress
    from bdbench.grids.jobs import Workplace

    place = {key: Path(v).absolute() if key in ("board", "out", "data_root") and v else v for key, v in place.items()}
    failed = 0
    with progress.bars() as bars:
        advance = bars.track(sum(len(job.defenses) for job in jobs), "cells")
        for i, done in enumerate(run(jobs, Workplace(**place), bars), 1):
            job = done.job
            others = f", {done.elsewhere} by another process" if done.elsewhere else ""
            click.echo(
                f"[{i}/{len(jobs)}] {job}: {done.records} of {len(job.defenses)} cells recorded{others}", err=True
            )
            for defense, error in done.errors:
                click.echo(f"    {defense} failed: {foreign.line(error)}", err=True)
            for line in set(done.broken) - known:
                click.echo(f"bdbench: warning: {foreign.line(line)}", err=True)
            known |= set(done.broken)
            failed += len(done.errors)
            advance(len(job.defenses))
    if failed:
        click.echo(f"bdbench: {failed} cells failed; their errors are in {place['board'] / 'failed'}", err=True)
        sys.exit(1)


@click.group()
def leaderboard() -> None:
    """Tables that are made from raw records."""


@leaderboard.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option("--check", is_flag=True, help="Write nothing; fail if what is there differs from the records.")
def build(folder: Path, check: bool) -> None:
    """Make table.csv, README.md, index.html and cost.svg in DIR from DIR/records/*.json.

    A record that does not read is told of and left out; --check then fails, too.

    Where DIR has a grid.toml, what it asks for and has no record is said to be not run, or not to apply, and why.
    """
    from bdbench import leaderboard as boards

    if not check:
        for path in boards.build(folder):
            click.echo(path)
        return
    unreadable = _say_stale(folder).unreadable
    stale = boards.stale(folder)
    for path in stale:
        click.echo(f"{path} differs from the records: run bdbench leaderboard build {folder}", err=True)
    if stale or unreadable:
        sys.exit(1)


@leaderboard.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.argument("runs", metavar="RUN...", type=_PATH, nargs=-1, required=True)
@click.option(
    "--replace", is_flag=True, help="In place of what is there of the same cells and seeds, whatever it was made of."
)
def add(folder: Path, runs: tuple[Path, ...], replace: bool) -> None:
    """Take records from elsewhere into DIR/records: runs' folders or record files, all of them or none."""
    from bdbench import leaderboard as boards

    for path in boards.add(folder, runs, replace):
        click.echo(path)
    if count := boards.repeated(folder):
        what = "1 record is" if count == 1 else f"{count} records are"
        beside = "of a cell and seed that another one is of, too, and made of other code or data"
        click.echo(f"{what} {beside}: each is a row of its own; --replace keeps the new", err=True)


@leaderboard.command("show")
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Such as attack=blend; may be given several times."
)
@click.option("--sort", metavar="COLUMN", help="By a number of table.csv, such as auroc; the best first.")
@click.option("--by", type=click.Choice(["dataset", "attack", "defense", "access"]), help="A table for each of these.")
@click.option("--columns", metavar="NAMES", help="Such as attack,defense,auroc: what to show of the columns.")
@click.option(
    "--matrix",
    metavar="NUMBER",
    help="Attacks down and defenses across, of one number such as auroc; where nobody defends, data sets across.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of Markdown.")
def show(folder: Path, **part: Any) -> None:
    """Print a part of DIR's table, as Markdown, a table for each stage of defense."""
    from bdbench.leaderboard import markdown

    click.echo(markdown.part(folder, **part), nl=False)
    _say_stale(folder)


def _say_stale(folder: Path) -> Any:
    """Name on stderr what other code than today's made, some of it where it is much. No table tells, since tables are
    of the records alone.

    Returns the board.
    """
    from bdbench import leaderboard as boards
    from bdbench.grids.board import Board

    board = Board.read(folder)
    lines = boards.made_by_other_code(board)
    for line in lines[:_STALE_SHOWN]:
        click.echo(f"stale: {foreign.line(line)}", err=True)
    if len(lines) > _STALE_SHOWN:
        click.echo(f"stale: {len(lines) - _STALE_SHOWN} rows more", err=True)
    return board


@click.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@options.out
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def compare(runs: tuple[str, ...], out: str, as_json: bool) -> None:
    """Differences between cells over the same seeds: every cell against that of the first RUN.

    RUN is a run's folder, a record file, or a run's id. Runs that differ in nothing but their seeds are one cell; those
    of other data, or measured by other definitions, are refused.
    """
    from bdbench.display import tables
    from bdbench.leaderboard import comparison

    found = comparison.compare([options.folder_of(run, out) for run in runs])
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        tables.show_comparison(found)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--output", type=_PATH, metavar="FILE", help="Where to write. [default: report.html in the run's folder]")
@options.out
@options.data_root
@options.device
def report(run: str, output: Path | None, out: str, data_root: str | None, device: str) -> None:
    """Make one HTML file of pictures of RUN, a run's folder or its id: whether the defense worked, and why."""
    known = options.warn_of_broken_plugins()
    from bdbench import progress

    folder = options.folder_of(run, out)
    with progress.bars() as bars:
        with bars.busy("start"):
            from bdbench.display import report as reports
        written = reports.write(folder, output, data_root=data_root, device=device, progress=bars)
    options.warn_of_broken_plugins(known)
    click.echo(written)


COMMANDS = (grid, leaderboard, compare, report)
