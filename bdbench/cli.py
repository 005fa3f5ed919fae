"""The command line: parse, call, print."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bdbench import __version__, foreign
from bdbench.commands import boards, options
from bdbench.commands.inspect import inspect
from bdbench.commands.plugin import plugin
from bdbench.commands.scan import scan
from bdbench.errors import BdbenchError, one_line
from bdbench.host import stopping

if TYPE_CHECKING:
    from bdbench.cells.runs import Reopened
    from bdbench.progress import Bars

_LISTED = ("attacks", "defenses", "datasets", "models", "metrics", "plugins")


# An error of ours: no 1, which is what a scan ends with that found something. sysexits.h calls it EX_SOFTWARE.
_OURS = 70
# What shells report of a program whose reader has gone.
_PIPE = 141
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Letters of a name.
_SHOWN = 200


@contextmanager
def _in_a_line() -> Iterator[None]:
    """A BdbenchError ends the program with one line on standard error and exit code 2."""
    try:
        yield
    except BdbenchError as error:
        click.echo(f"bdbench: {foreign.line(error)}", err=True)
        sys.exit(2)


def _of_a_place(error: Exception) -> str:
    """A line for a name that no system has, a folder that others may not enter, or a full disk behind standard output;
    nothing for any other error.
    """
    if not isinstance(error, OSError) or (error.filename is None and error.errno not in _FULL):
        return ""
    place = "standard output" if error.filename is None else foreign.line(str(error.filename))
    shown = place if len(place) <= _SHOWN else f"{place[:_SHOWN]}..."
    return f"{shown}: {error.strerror}: expected a place that can be read or written"


class _Program(click.Group):
    """A group whose commands end a BdbenchError with one line on standard error and exit code 2; what else goes wrong
    has a traceback and exit code 70.
    """

    def invoke(self, context: click.Context) -> Any:
        with _in_a_line():
            try:
                return super().invoke(context)
            except (BdbenchError, click.ClickException, click.exceptions.Exit, click.Abort):
                raise  # said in a line; and click's own
            except BrokenPipeError:
                # Click would end with 1, which is what a scan ends with that found something.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.exit(_PIPE)
            except Exception as error:
                if told := _of_a_place(error):
                    raise BdbenchError(told) from None
                click.echo(traceback.format_exc(), err=True, nl=False)
                context.exit(_OURS)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bdbench")
def cli() -> None:
    """A benchmark for backdoor attacks and defenses on image classifiers."""


@cli.command()
@options.attack
@click.option(
    "--defense",
    "defenses",
    default=["datamodel"],
    multiple=True,
    metavar="SPEC",
    help="May be given several times.",
)
@click.option("--dataset", default="digits", show_default=True, metavar="SPEC")
@click.option("--model", default="convnet", show_default=True, metavar="SPEC", help="The victim's architecture.")
@click.option("--seed", default=0, show_default=True, help="The root of all random streams.")
@click.option(
    "--budget",
    default="0.1",
    show_default=True,
    metavar="SHARE|auto",
    help="The share of the training set to remove (0: none; auto: what a detector itself flags).",
)
@options.reserve
@click.option("--floor", is_flag=True, help="Try a model of the clean set with the triggers, too.")
@options.workplace
@options.cell_seconds
@click.option("--fresh", is_flag=True, help="Compute every stage again.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the records instead of a table.")
def run(as_json: bool, dry_run: bool, **cell: Any) -> None:
    """Poison, train, defend, measure, record: a table for each stage of defense.

    SPEC is a name, or a name with parameters: blend:alpha=0.2,rate=0.015. `bdbench list` shows them all. Exit code 1: a
    defense failed, or another's attack, data set or model; 2: bad input.
    """
    if as_json and dry_run:
        raise BdbenchError("--dry-run and --json are both given: expected either, since there are no records yet")
    known = options.warn_of_broken_plugins()
    from bdbench import progress
    from bdbench.registry.plugins import installed

    # Before torch is imported, which takes seconds: a misspelt name is said at once.
    for kind in ("attack", "dataset", "model"):
        cell[kind] = installed().component(kind, cell[kind])
    cell["defenses"] = [installed().component("defense", spec) for spec in cell["defenses"]]
    with _named(Path(cell["out"])), progress.bars() as bars:
        with bars.busy("start"):
            from bdbench import experiment
            from bdbench.storage.store import STAGES

        if dry_run:
            lines = _forecast(cell, bars)
        stopping.keeps(f"finished stages are kept in {Path(cell['out']) / STAGES}")
        outcomes = [] if dry_run else list(experiment.run_each(**cell, progress=bars))
    if dry_run:
        click.echo("\n".join(lines))
        return
    options.warn_of_broken_plugins(known)
    records = [outcome.to_dict() for outcome in outcomes if not isinstance(outcome, Exception)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if len({one_line(error) for error in failed}) == 1 and not records and isinstance(failed[0], BdbenchError):
        # What all of them share, or the only one there is: an error in what was asked for.
        raise BdbenchError(installed().told(failed[0]))
    if as_json:
        click.echo(json.dumps(records, indent=1))
    else:
        from bdbench.display import tables

        if records:
            tables.show_runs(records)
        for record in records:
            click.echo(foreign.line(Path(cell["out"]) / record["id"]), err=True)
    for error in failed:
        click.echo(f"bdbench: {foreign.line(_failure(error, Path(cell['out'])))}", err=True)
    if failed:
        sys.exit(1)


@contextmanager
def _named(out: Path) -> Iterator[None]:
    """What another's attack, data set or model fails with ends the program with a line naming it and exit code 1, or
    2 if it is a BdbenchError: something in what was asked for.
    """
    from bdbench.registry.plugins import installed

    try:
        yield
    except Exception as error:
        if installed().owner(error) in (None, __package__):
            raise
        if isinstance(error, BdbenchError):
            raise BdbenchError(installed().told(error)) from error
        click.echo(f"bdbench: {foreign.line(_failure(error, out))}", err=True)
        sys.exit(1)


def _forecast(cell: dict[str, Any], bars: Bars) -> list[str]:
    """What a run would take, line by line; nothing is left of it."""
    import tempfile

    from bdbench import experiment

    defenses = cell.pop("defenses")
    with tempfile.TemporaryDirectory() as aside:
        told = experiment.cell(**{**cell, "out": aside}, progress=bars).forecast(defenses)
    return list(told.lines())


def _failure(error: Exception, out: Path) -> str:
    """A line on what a defense failed with; the traceback of what is no plain mistake is in a file that it names."""
    from bdbench.registry.plugins import installed
    from bdbench.storage.store import key_of, write_file

    line = installed().told(error)
    if isinstance(error, BdbenchError):
        return line
    trace = "".join(traceback.format_exception(error))
    file = out / ".failed" / f"{key_of({'trace': trace})[:8]}.txt"
    write_file(file, trace)
    return f"{line} ({file})"


@cli.command()
@options.attack
@click.option("--dataset", default="digits", show_default=True, metavar="SPEC")
@click.option("--model", default="convnet", show_default=True, metavar="SPEC", help="Of what the attack itself trains.")
@click.option("--seed", default=0, show_default=True, help="The root of all random streams.")
@click.option("--output", default="preview.png", show_default=True, metavar="FILE", help="A .png, .svg or .pdf.")
@click.option("--all", "every", is_flag=True, help="A test image under every attack there is, in place of --attack.")
@options.workplace
def preview(output: str, every: bool, **setting: Any) -> None:
    """Show clean images, what the attack makes of them, and the amplified difference, without training a victim."""
    options.warn_of_broken_plugins()
    from bdbench import progress
    from bdbench.display import preview as previews

    previews.check_name(Path(output))
    asked = click.get_current_context().get_parameter_source("attack")
    if every and asked is not ParameterSource.DEFAULT:
        raise BdbenchError("--all and --attack are both given: expected either")
    with _named(Path(setting["out"])), progress.bars() as bars:
        with bars.busy("start"):
            from bdbench import experiment
        if every:
            from bdbench.registry.plugins import installed

            names = [known.name for known in installed().registered("attack")]
            scenes = {
                name: lambda name=name: experiment.cell(**{**setting, "attack": name}, progress=bars).scene
                for name in names
            }
            for name, reason in previews.write_all(scenes, Path(output)).items():
                click.echo(f"left out: {name}: {reason}", err=True)
        else:
            previews.write(experiment.cell(**setting, progress=bars).scene, Path(output))
    click.echo(output)


@cli.command("list")
@click.argument("what", type=click.Choice(_LISTED), required=False)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def list_(what: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """Show components, their parameters and where they came from: all of them, or those called NAME."""
    from bdbench.registry import catalogue

    if what != "plugins":
        options.warn_of_broken_plugins()
    found = catalogue.catalogue([what] if what else list(_LISTED), names)
    if as_json:
        click.echo(json.dumps(found[what] if what else found, indent=1))
    else:
        from bdbench.display import tables

        tables.show_catalogue(found)


@cli.command()
@click.argument("run", metavar="RUN")
@options.out
@click.option("--json", "as_json", is_flag=True, help="Print the record instead of a table.")
def show(run: str, out: str, as_json: bool) -> None:
    """Show the table of a finished run: its folder, its record.json, or its id."""
    from bdbench.storage import record

    found = record.read(options.folder_of(run, out)).to_dict()
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        from bdbench.display import tables

        tables.show_runs([found])


@cli.group("import")
def import_() -> None:
    """Bring in what another benchmark made."""


@cli.group()
def export() -> None:
    """Write a run's poisoned set, or its victim, in another format."""


@options.export_command("FILE")
def npz(run: Reopened, target: Path, bars: Bars) -> None:
    """The poisoned set, the clean and triggered test sets and the truth, as one npz file."""
    from bdbench.export import write_npz

    with bars.busy("write"):
        write_npz(run, target)


@options.export_command("DIR")
def parquet(run: Reopened, target: Path, bars: Bars) -> None:
    """The same as image parquet in the layout of Hugging Face: load_dataset(DIR)."""
    from bdbench.export import write_parquet

    write_parquet(run, target, bars.track)


@options.export_command("DIR")
def imagefolder(run: Reopened, target: Path, bars: Bars) -> None:
    """The same as PNG files in class folders: DIR/train, DIR/test and DIR/triggered; the truth is in DIR/truth.csv."""
    from bdbench.export import write_imagefolder

    write_imagefolder(run, target, bars.track)


@options.export_command("FILE.safetensors")
def victim(run: Reopened, target: Path, bars: Bars) -> None:
    """The weights of the model that was trained on the poisoned set, as safetensors: bdbench inspect FILE."""
    from bdbench.export import write_victim

    with bars.busy("train the victim, if it is gone"):
        write_victim(run, target)


export.add_command(npz)
export.add_command(parquet)
export.add_command(imagefolder)
export.add_command(victim)


for command in (*boards.COMMANDS, inspect, plugin, scan):
    cli.add_command(command)
# Before plugins add theirs.
OWN_COMMANDS = frozenset(cli.commands)


def main() -> None:
    """The commands, with those that plugins add; ``bdbench.__main__`` is the program."""
    from bdbench.host import machine, memory
    from bdbench.registry.plugins import installed

    machine.wait_kindly()
    memory.keep_freed()
    with _in_a_line():
        installed().call("bdbench_add_commands", cli=cli)
    # Third-party warnings (numba's, torch's) are no news to someone who reads a table.
    warnings.simplefilter("ignore")
    cli()
