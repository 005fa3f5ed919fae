"""The commands that this plugin adds. Imports nothing heavy: every command of bdbench loads this file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bdbench import BdbenchError, export_command

if TYPE_CHECKING:
    from bdbench import ImageData, Reopened

_FOLDER = click.Path(path_type=Path)
# Targets of all-to-all records that are shown one by one.
_MANY = 10


def add(cli: click.Group) -> None:
    """Add them to the groups ``import`` and ``export``, and a group ``export-detector``."""
    for name, command in (("import", import_record), ("import", import_results), ("export", backdoorbench)):
        group = cli.commands.setdefault(name, click.Group(name))
        assert isinstance(group, click.Group)
        group.add_command(command)
    cli.add_command(export_detector)


@click.command("backdoorbench")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--dataset", metavar="SPEC", help="The data set it was run on.  [default: by the record's name for it]")
@click.option("--data-root", envvar="BDBENCH_DATA", metavar="DIR", help="Where data sets are. [env: BDBENCH_DATA]")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def import_record(folder: Path, dataset: str | None, data_root: str | None, as_json: bool) -> None:
    """Check a record of BackdoorBench against its data set, and say how to run defenses on it.

    DIR holds attack_result.pt and the poisoned images, wherever it was moved. The attack 'backdoorbench' reads it.
    """
    from bdbench import bars
    from bdbench_backdoorbench.attack import BackdoorBenchRecord

    attack = BackdoorBenchRecord(record=str(folder))
    with bars() as progress, progress.busy("read the record"):
        dataset = dataset or _dataset_of(attack.result().clean_data)
        data_root = _root_of(data_root, attack.result().clean_data)
        from bdbench import load

        found = _summary(attack, load(dataset, data_root=data_root, reserve=0, progress=progress))
    found["command"] = _command(folder, dataset, data_root, found)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        if name != "command":
            click.echo(f"{name.replace('_', ' '):<20} {_shown(value)}")
    click.echo(f"\n{found['command']}")


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) if len(value) <= _MANY else f"{len(value)} labels"
    return "-" if value is None else value


def _dataset_of(clean_data: str) -> str:
    from bdbench_backdoorbench.known import CLEAN_SETS

    if clean_data not in CLEAN_SETS:
        known = ", ".join(CLEAN_SETS)
        raise BdbenchError(f"the record is on {clean_data!r}: known: {known}; --dataset SPEC names another")
    return CLEAN_SETS[clean_data].name


def _root_of(data_root: str | None, clean_data: str) -> str | None:
    """BackdoorBench keeps each data set in a folder of its own name."""
    if data_root is not None and (Path(data_root) / clean_data).is_dir():
        return str(Path(data_root) / clean_data)
    return data_root


def _summary(attack: Any, images: ImageData) -> dict[str, Any]:
    from bdbench import Role
    from bdbench_backdoorbench.known import MODELS

    result = attack.result()
    poisoned = attack.poisoned_set(images.train, images.num_classes)
    attack.triggered_set(images.test)
    poisons, covers = (int((poisoned.roles == role).sum()) for role in (Role.POISON, Role.COVER))
    return {
        "dataset": result.clean_data,
        "classes": result.num_classes,
        "training_images": len(poisoned.labels),
        "poisons": poisons,
        "poison_rate": poisons / len(poisoned.labels),
        "cover_examples": covers,
        "targets": result.targets(),
        "triggered_tests": len(result.test.changed),
        "architecture": result.model_name,
        "model": MODELS.get(result.model_name),
    }


def _command(folder: Path, dataset: str, data_root: str | None, found: dict[str, Any]) -> str:
    # In quotes where a spec would read it otherwise.
    mark = '"' if "'" in str(folder) else "'"
    record = f"{mark}{folder}{mark}" if set(str(folder)) & set(",[]") else folder
    words = ["bdbench", "run", "--dataset", dataset, *(["--data-root", data_root] if data_root else [])]
    words += ["--model", found["model"] or "convnet", "--attack", f"backdoorbench:record={record}"]
    return shlex.join([*words, "--defense", "spectral"])


@click.command("backdoorbench-results")
@click.argument("file", metavar="CSV", type=_FOLDER)
@click.option("--csv", "target", metavar="FILE", type=_FOLDER, help="Write the table there as well.")
def import_results(file: Path, target: Path | None) -> None:
    """Show what BackdoorBench has published, as a table apart from any of ours.

    CSV is its results.csv. Rows without a number are left out, and counted.
    """
    import pandas as pd
    from tabulate import tabulate

    from bdbench import csv_text, write_file
    from bdbench_backdoorbench.results import COLUMNS, SOURCE, read

    found = read(file)
    table = pd.DataFrame(found.rows)
    if target is not None:
        write_file(target, csv_text(COLUMNS, [row.values() for row in found.rows]))
    if found.rows:
        click.echo(f"{SOURCE}, not measured by bdbench; accuracies after the defense, in 0..1\n")
        shown = table.drop(columns="source").astype(object)
        click.echo(tabulate(shown.where(shown.notna(), "-").to_numpy().tolist(), list(shown.columns), "github"))
    click.echo(f"{len(found.rows)} rows; {found.empty} without a number left out", err=True)


@export_command("DIR")
@click.option("--clean-data", metavar="NAME", help="BackdoorBench's name of the data set, where it is not plain.")
def backdoorbench(run: Reopened, target: Path, bars: Any, clean_data: str | None) -> None:
    """A record that BackdoorBench's load_attack_result and defenses read.

    Put DIR into record/ of BackdoorBench under its own name. The run's model must be preact-resnet18.
    """
    from bdbench_backdoorbench.export import write

    write(run, target, bars.track, clean_data)


@click.group("export-detector")
def export_detector() -> None:
    """Write a detector as a method of another benchmark."""


@export_detector.command("backdoorbench")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--defense", default="datamodel", show_default=True, metavar="SPEC", help="NAME or NAME:KEY=VALUE,...")
def detector(folder: Path, defense: str) -> None:
    """A detection method and its configurations, for DIR, the root of BackdoorBench.

    bdbench must be installed where BackdoorBench runs.
    """
    from bdbench_backdoorbench.detector import write

    for path in write(folder, defense):
        click.echo(path)
