"""``bdbench inspect``: look for a backdoor in a model that somebody sent. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bdbench import foreign
from bdbench.commands import options
from bdbench.errors import BdbenchError
from bdbench.host import stopping
from bdbench.storage import schemas

if TYPE_CHECKING:
    from bdbench.inspecting import Inspection

_PATH = click.Path(path_type=Path)


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BdbenchError(f"--{parameter.name} {text!r}: expected numbers such as 0.485,0.456,0.406") from None


@click.command()
@click.argument("checkpoint", metavar="FILE", type=_PATH)
@click.option(
    "--model", metavar="SPEC", help="The architecture, such as torchvision:net=resnet18. [default: what the file says]"
)
@click.option(
    "--classes",
    metavar="FILE|N",
    help="Their names, one a line in the order of the labels, or how many. [default: what the file says, else the "
    "folders of --clean]",
)
@click.option("--clean", type=_PATH, metavar="DIR", help="Some clean images, in folders of classes or in none.")
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    metavar="SPEC",
    help="A detector of models or of inputs; may be given several times. [default: neural-cleanse and mm-bd; for "
    "--inputs strip]",
)
@click.option("--inputs", type=_PATH, metavar="DIR", help="Images that the model is asked about, to be scored.")
@click.option(
    "--size", type=int, metavar="N", help="Resize images to N x N pixels. [default: what the file says, else their own]"
)
@click.option(
    "--channels", type=int, metavar="1|3", help="Of an image: grey or colour. [default: what the file says, else 3]"
)
@click.option(
    "--normalise",
    metavar="NAME",
    help="imagenet, cifar10, half or none. [default: what the file says, else imagenet for colour, none for grey]",
)
@click.option("--mean", metavar="NUMBERS", callback=_numbers, help="Of each channel, of pixels in 0..1, with --std.")
@click.option("--std", metavar="NUMBERS", callback=_numbers, help="The same of the deviation.")
@click.option("--seed", default=0, show_default=True, help="The root of all random streams.")
@click.option("--out", default="inspection", show_default=True, metavar="DIR", help="Where the report and files go.")
@click.option(
    "--seconds",
    type=options.SECONDS,
    help="Time for the detectors of models; they do less in it, or are left out. [default: all they need]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: as many as are free]")
@options.device
@click.option("--dry-run", is_flag=True, help="Say what was read, what would run and for how long, and stop.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print inspect.json instead of sentences, or with --dry-run the estimate."
)
def inspect(checkpoint: Path, out: str, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Is there a backdoor in the model whose weights are in FILE, safetensors or a torch state dict?

    Leaves report.html, inspect.json, the reversed triggers as pictures and, with --inputs, scores.csv in a folder.
    Exit code 0: nothing found; 1: found; 2: bad input; 3: cannot tell; 130 and 143: interrupted; 70: an error of ours.
    """
    known = options.warn_of_broken_plugins()
    from bdbench import progress

    with progress.bars() as bars:
        with bars.busy("start"):
            from bdbench import inspecting
            from bdbench.storage.store import STAGES
        stopping.keeps("" if dry_run else f"finished pieces are kept in {Path(out) / STAGES}")
        with inspecting.prepared(checkpoint, out=None if dry_run else out, progress=bars, **asked) as ready:
            for line in ready.lines():
                bars.say(foreign.line(line))
            if dry_run:
                if as_json:
                    click.echo(schemas.dumps(ready.to_dict()), nl=False)
                return
            found = ready.run()
    options.warn_of_broken_plugins(known)
    if as_json:
        click.echo(schemas.dumps(found.to_dict()), nl=False)
    else:
        _tell(found, Path(out))
    click.get_current_context().exit(found.exit_code)


def _tell(found: Inspection, out: Path) -> None:
    from bdbench.inspecting import page, result

    click.echo(foreign.line(found.sentence))
    for finding in found.findings:
        click.echo(f"  {finding.defense.name}: {page.told(finding)}")
    for one in found.inputs.by if found.inputs else ():
        click.echo(f"  {one.defense.name}: {page.told_of_inputs(one)}")
    for line in found.conclusion.notes:
        click.echo(foreign.line(line))
    click.echo("What could not have been found:")
    for line in found.conclusion.limits:
        click.echo(f"  {foreign.line(line)}")
    click.echo(out / result.REPORT)
