"""The command that this plugin adds. Imports nothing heavy: every command of bdbench loads this file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bdbench import export_command

if TYPE_CHECKING:
    from bdbench import Reopened
    from bdbench_datamodel.strength import Estimate


@export_command("FILE")
def strength(run: Reopened, target: Path, bars: object) -> None:
    """Measure how strong the trigger of a datamodel run was beside natural groups, and plot it into FILE.

    FILE is a picture (.png, .svg, .pdf), or .json for the numbers. For each group of p training examples: g, the
    margin of members left out of a training subset, at the k = alpha p members that subsets hold on average; and how
    much one more member adds to it, by counting (models grouped by the members they saw) and by datamodels (Lemma 1
    of Khaddaj et al. 2023). The detector can work where the trigger is the strongest group of its size.
    """
    from bdbench import BdbenchError, write_file

    kinds = (".png", ".svg", ".pdf", ".json")
    if target.suffix not in kinds:
        raise BdbenchError(f"{str(target)!r} is no picture: expected a name that ends in {', '.join(kinds)}")
    from bdbench_datamodel import study
    from bdbench_datamodel.strength import verdict

    found = study.strengths(run)
    rows = [
        (s.name, s.size, f"{s.k:.0f}", _shown(s.output, 2), _shown(s.counted, 4), _shown(s.by_datamodels, 4))
        for s in sorted(found, key=lambda s: -s.counted.value)
    ]
    from tabulate import tabulate

    head = ("group", "p", "k", "g(k)", "strength, counted", "strength, by datamodels")
    click.echo(tabulate(rows, head, disable_numparse=True))
    click.echo(f"\n± half of the 95 % interval. {verdict(found)}")
    if target.suffix == ".json":
        content = [{**asdict(s), "curve": s.curve.tolist()} for s in found]
        write_file(target, json.dumps(content, indent=1) + "\n")
        return
    import io

    from bdbench_datamodel import pictures

    buffer = io.BytesIO()
    pictures.strengths(found).savefig(buffer, format=target.suffix[1:], dpi=150)
    write_file(target, buffer.getvalue())


def _shown(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ± {estimate.half:.{digits}f}"
