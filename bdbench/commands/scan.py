"""``bdbench scan``: is my data set poisoned? And what is done about it."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bdbench import foreign
from bdbench.commands import options
from bdbench.errors import BdbenchError
from bdbench.host import stopping
from bdbench.storage import schemas

_PATH = click.Path(path_type=Path)


class _Scan(click.Command):
    """A command of paths that has another in the place of the first: a folder called apply is ./apply."""

    further: dict[str, click.Command]

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the other command, if its name comes first."""
        other = self.further.get(args[0]) if args else None
        if other is None:
            return super().make_context(info_name, args, parent, **extra)
        return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)


@click.command(cls=_Scan)
@click.argument("source", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--defense",
    "defenses",
    default=["datamodel"],
    show_default=True,
    multiple=True,
    metavar="SPEC",
    help="A detector. May be given several times.",
)
@click.option("--seconds", type=options.SECONDS, help="Time for the detectors that can be told one.")
@click.option("--subset", type=click.IntRange(2), metavar="N", help="Scan N of the images, by chance and by class.")
@click.option(
    "--size", type=click.IntRange(8), metavar="N", help="Bring images to N x N. [default: their own, 64 at most]"
)
@click.option("--strict", is_flag=True, help="Refuse a set in which a file does not read or is no image.")
@click.option("--model", default="convnet", show_default=True, metavar="SPEC", help="What detectors look into.")
@click.option("--seed", default=0, show_default=True, help="The root of all random streams.")
@click.option(
    "--report", default="scan", show_default=True, metavar="DIR", type=_PATH, help="Where reports and stage results go."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: as many as are free]")
@click.option("--download", is_flag=True, help="Let torchvision fetch a data set that is not there.")
@options.data_root
@options.device
@click.option("--dry-run", is_flag=True, help="Say what was read and what it would take, and stop.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print scan.json instead of the verdict, or with --dry-run the estimate."
)
def scan(
    source: tuple[str, ...],
    report: Path,
    data_root: str | None,
    download: bool,
    dry_run: bool,
    as_json: bool,
    **plan: Any,
) -> None:
    """Look for poisoned images in PATH: a folder of class folders, with or without train/ and test/; an .npz file;
    .parquet files; or the name of a data set. Nothing there is changed: see bdbench scan apply.

    Leaves report.html, suspects.csv, skipped.csv, scan.json, keep.txt and quarantine.txt. Exit codes: 0 nothing found,
    1 found, 2 bad input, 3 cannot tell, 130 and 143 interrupted, 70 an error of ours. Started again, it goes on where
    it was.
    """
    options.warn_of_broken_plugins()
    from bdbench import progress
    from bdbench.registry.plugins import installed

    # Before torch is imported, which takes seconds: a misspelt name is said at once.
    for kind, specs in (("model", [plan["model"]]), ("defense", plan["defenses"])):
        for spec in specs:
            installed().component(kind, spec)
    with ExitStack() as stack:
        bars = stack.enter_context(progress.bars())
        with bars.busy("start"):
            from bdbench.scanning import files, front
            from bdbench.storage.store import STAGES

        front.check_report(report, source)
        # A dry run leaves nothing.
        stages = Path(stack.enter_context(tempfile.TemporaryDirectory())) if dry_run else report / STAGES
        stopping.keeps("" if dry_run else f"finished stages are kept in {stages}")
        prepared = front.prepare(
            source, front.Plan(**plan), stages, data_root=data_root, download=download, progress=bars
        )
        for line in prepared.lines():
            bars.say(foreign.line(line))
        if dry_run:
            if as_json:
                click.echo(schemas.dumps(prepared.to_dict()), nl=False)
            return
        files.tidy(report)
        found, failed = prepared.run(), None
        try:
            with bars.busy("write the report"):
                files.write(report, found)
        except BdbenchError as error:  # the verdict was dear, and is told all the same
            failed = error
    if as_json:
        click.echo(schemas.dumps(files.to_dict(found)), nl=False)
    else:
        click.echo(foreign.line(found.verdict.sentence))
        click.echo("What could not have been found:")
        for line in found.limits:
            click.echo(f"- {foreign.line(line)}")
    if failed:
        raise failed
    click.echo(str(report / "report.html"), err=True)
    sys.exit(found.exit_code)


@click.command()
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option("--copy-kept", metavar="NEW", type=_PATH, help="Copy the images of keep.txt to a new folder.")
@click.option("--move-suspects", metavar="NEW", type=_PATH, help="Move the images of quarantine.txt to a new folder.")
@click.option("--retrain", is_flag=True, help="Train with and without the suspects, and compare on a test part.")
@click.option("--yes", is_flag=True, help="Copy or move. Without this it is only told; --retrain does not need it.")
def apply(folder: Path, copy_kept: Path | None, move_suspects: Path | None, retrain: bool, yes: bool) -> None:
    """Act on a scan, of which DIR is the folder: copy what is kept, or move what is suspicious, in the folders they
    lie in. keep.txt and quarantine.txt are read again, so that they may be edited before.
    """
    from bdbench import progress

    with progress.bars() as bars:
        with bars.busy("start"):
            from bdbench.scanning import applying

        for line in applying.apply(folder, copy_kept, move_suspects, retrain, yes, bars):
            bars.say(foreign.line(line), err=False)


scan.further = {"apply": apply}  # type: ignore[attr-defined]
