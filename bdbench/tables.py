"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from bdbench.applicable import why_not
from bdbench.board import Board
from bdbench.grid import Job, short_spec, show_seeds
from bdbench.record import labels, number

# (title, [(row, path in the record)]): fractions are printed in percent, but AUROC and AP as they are.
_SECTIONS: list[tuple[str, list[tuple[str, tuple[str, str]]]]] = [
    (
        "before",
        [
            ("CA %", ("before", "clean_accuracy")),
            ("ASR %", ("before", "attack_success_rate")),
            ("RA %", ("before", "robust_accuracy")),
        ],
    ),
    (
        "detection",
        [
            ("AUROC", ("detection", "auroc")),
            ("AP", ("detection", "average_precision")),
            ("TPR at budget %", ("detection", "tpr_at_budget")),
            ("FPR at budget %", ("detection", "fpr_at_budget")),
            ("TPR at 1 % FPR %", ("detection", "tpr_at_1pct_fpr")),
            ("p-value", ("detection", "p_value")),
        ],
    ),
    (
        "after removal and retraining",
        [
            ("CA %", ("after", "clean_accuracy")),
            ("ASR %", ("after", "attack_success_rate")),
            ("RA %", ("after", "robust_accuracy")),
        ],
    ),
]


def show_runs(records: Sequence[Mapping[str, Any]]) -> None:
    """One table of finished runs on one poisoned set: a column for each defense."""
    config = records[0]["config"]
    attack = {k: v for k, v in config["attack"].items() if k != "name" and v is not None}
    facts = config.get("data", {})
    title = (
        f"{config['attack']['name']} on {config['dataset']['name']}, {config['model']['name']}, "
        f"seed {records[0]['seed']}\n{', '.join(f'{k}={v}' for k, v in attack.items())}\n"
        f"{facts.get('poisons')} poisons in {facts.get('train')} training images, {facts.get('test')} test images, "
        f"budget {100 * config['budget']:g} %"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in labels([record["config"]["defense"] for record in records]):
        table.add_column(name.replace(" ", "\n"), justify="right", overflow="fold")
    for section, rows in _SECTIONS:
        table.add_row(f"[bold]{section}[/bold]")
        for name, (part, key) in rows:
            values = [number(record, part, key) for record in records]
            table.add_row(f"  {name}", *(_number(v, percent=name.endswith("%")) for v in values))
        table.add_section()
    table.add_row("seconds", *(f"{sum(r['cost']['seconds'].values()):.1f}" for r in records))
    table.add_row("models trained", *(str(r["cost"]["models_trained"]) for r in records))
    if any(r["oracles"] for r in records):
        table.add_row("oracles", *(", ".join(r["oracles"]) or "none" for r in records))
    for name in sorted({name for r in records for name in r["extra"]}):
        table.add_row(name, *(_number(r["extra"].get(name), percent=False) for r in records))
    _console().print(table)


def _number(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def show_catalogue(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Installed components, with a line for each parameter; plugins, with what is wrong with them."""
    console = _console()
    for what, entries in found.items():
        console.print(f"[bold]{what}[/bold]")
        for entry in entries:
            if what == "plugins":
                state = f"[red]{_plain(entry['error'])}[/red]" if entry["error"] else "ok"
                console.print(f"  {entry['name']:<24} {entry['distribution']} {entry['version']}  {state}")
                hooks = [hook.removeprefix("bdbench_") for hook in entry["hooks"]]
                console.print(f"      hooks v{entry['hooks_version']}: {', '.join(hooks) or 'none'}", style="dim")
                continue
            console.print(f"  [bold]{entry['name']}[/bold]  {_plain(entry['help'])}")
            for p in entry["parameters"]:
                limits = f" ({p['allowed']})" if p["allowed"] else f" ({p['type']})"
                console.print(f"      {p['name']}={_shown(p['default'])}  {_plain(p['help'] + limits)}", style="dim")
            if entry["oracles"]:
                console.print(f"      needs: {', '.join(entry['oracles'])}")
            origin = f"{entry['plugin']}, {entry['distribution']} {entry['version']}"
            console.print(f"      {_plain('; '.join(filter(None, [entry['paper'], origin])))}", style="dim italic")


def _shown(default: Any) -> str:
    if isinstance(default, tuple | list):
        return "+".join(map(str, default))
    return "none" if default is None else str(default)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def show_plan(jobs: Sequence[Job], board: Board) -> None:
    """What a grid asks for: which cells are recorded, which failed, which are to run, and how long that may take."""
    console = _console()
    table = Table(title="seeds of each cell", title_justify="left")
    states = ("recorded", "stale", "failed", "not run")
    for heading in ("data set", "model", "attack", "defense", *states):
        table.add_column(heading)
    rows: dict[tuple[str, ...], dict[str, list[int]]] = {}
    apart: dict[tuple[str, ...], str] = {}
    for job in jobs:
        for defense in job.defenses:
            key = tuple(map(short_spec, (job.dataset, job.model, job.attack, defense)))
            if reason := why_not(defense, job.attack, job.reserve):
                apart[key] = reason
            else:
                rows.setdefault(key, {state: [] for state in states})[board.state(job, defense)].append(job.seed)
    for names, known in rows.items():
        table.add_row(*map(_plain, names), *(show_seeds(seeds) or "-" for seeds in known.values()))
    console.print(table)
    for names, reason in apart.items():
        console.print(_plain(f"{', '.join(names)} is not run: {reason}"))
    if any(known["stale"] for known in rows.values()):
        console.print("stale: made by other code than today's, and run again")
    pending = board.pending(jobs)
    seconds, untold = board.estimate(pending)
    cells = sum(len(job.defenses) for job in pending)
    told = f"at most about {timedelta(seconds=round(seconds))} by earlier records" if cells > untold else ""
    unknown = f"no earlier record tells of {untold} of them" if untold else ""
    console.print(
        f"{sum(len(job.applicable) for job in jobs) - cells} cells are recorded, {cells} are to run, on {len(pending)} "
        f"poisoned sets: " + ("; ".join(filter(None, [told, unknown])) or "nothing to do")
    )


def show_comparison(found: Mapping[str, Any]) -> None:
    """Paired differences: a row for each cell and number."""
    console = _console()
    console.print(_plain(f"differences from {found['baseline']}: mean over shared seeds, 95 % interval"))
    table = Table()
    for heading in ("cell", "number", "seeds", "baseline", "cell's", "difference", "95 % interval"):
        table.add_column(heading, justify="left" if heading in ("cell", "number") else "right")
    for cell in found["cells"]:
        for i, row in enumerate(cell["differences"]):
            low, high = row["low"], row["high"]
            interval = "-" if low is None else f"{low:+.3f} .. {high:+.3f}"
            table.add_row(
                _plain(cell["cell"]) if not i else "",
                row["number"],
                show_seeds(row["seeds"]),
                f"{row['baseline']:.3f}",
                f"{row['mean']:.3f}",
                f"{row['difference']:+.3f}",
                interval,
                style="bold" if low is not None and (low > 0 or high < 0) else None,
            )
        table.add_section()
    console.print(table)
    console.print("bold: the interval does not hold 0")
