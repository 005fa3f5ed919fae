"""``bdbench plugin``: start a plugin package, and check an installed one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bdbench import scaffold

if TYPE_CHECKING:
    from bdbench.testing.cases import Case


@click.group()
def plugin() -> None:
    """Packages that add attacks, defenses, data sets, models, metrics and reporters."""


@plugin.command()
@click.argument("name", metavar="NAME")
@click.option("--kind", type=click.Choice(scaffold.KINDS), required=True, help="What it adds; defense: a detector.")
def new(name: str, kind: str) -> None:
    """Make the folder NAME: a complete package with one attack, defense, ... that works as it is.

    The component is called NAME without a leading "bdbench-".
    """
    folder = scaffold.write(name, kind, Path())
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        click.echo(path)
    click.echo(f"\nnext: cd {folder} && pip install -e '.[test]' && pytest && bdbench plugin check {name}", err=True)


@plugin.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--using", multiple=True, metavar="SPEC", help="A component with parameters, instead of its defaults.")
@click.option("--data-root", envvar="BDBENCH_DATA", metavar="DIR", help="Where data sets are. [env: BDBENCH_DATA]")
@click.option("-q", "--quiet", is_flag=True, help="Name what is not ok alone.")
def check(names: tuple[str, ...], using: tuple[str, ...], data_root: str | None, quiet: bool) -> None:
    """Check that all an installed plugin registers keeps bdbench's contracts.

    NAME is a plugin or a distribution of `bdbench list plugins`. Ends with exit code 1 if a check fails.
    """
    from bdbench import progress

    with progress.bars() as bars:
        with bars.busy("start"):
            from bdbench.components.interfaces import Source
            from bdbench.testing.cases import installed_cases

            source = Source(Path(data_root) if data_root else None)
            cases = installed_cases(names, using, source)
        advance = bars.track(len(cases), "check")
        results = []
        for case in cases:
            results.append((case, *_result(case)))
            advance(1)
    title = ""
    for case, state, text in results:
        if quiet and state == "ok":
            continue
        if case.title != title:
            title = case.title
            click.echo(title)
        click.echo(f"  {state:<7} {case.check.expected if state == 'ok' else text}")
    failed, skipped = (sum(state == wanted for _, state, _ in results) for wanted in ("FAILED", "skipped"))
    click.echo(f"{len(results)} checks: {len(results) - failed - skipped} ok, {failed} failed, {skipped} skipped")
    if failed:
        sys.exit(1)


def _result(case: Case) -> tuple[str, str]:
    """ok, FAILED or skipped, and what there is to say."""
    from bdbench.testing.checks import Fault, NotChecked

    try:
        case.run()
    except NotChecked as reason:
        return "skipped", f"{case.check.name}: {reason}"
    except Fault as fault:
        return "FAILED", str(fault).partition(": ")[2].replace("\n", "\n        ")
    return "ok", ""
