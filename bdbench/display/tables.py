"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bdbench.components import configs
from bdbench.components.applicable import why_not
from bdbench.components.configs import labels, parameters, shown
from bdbench.components.configs import targets as record_targets
from bdbench.foreign import markup
from bdbench.grids.board import Board
from bdbench.grids.grid import Job, show_seeds
from bdbench.host import pace
from bdbench.storage.record import SHARED_STAGES, number

# (row, key in a part of the record): fractions are printed in percent, but AUROC, AP and scores as they are.
# What no record of a table has is left out.
_Rows = tuple[tuple[str, str], ...]
_MODEL: _Rows = (
    ("CA %", "clean_accuracy"),
    ("ASR %", "attack_success_rate"),
    ("worst goal's ASR %", "worst_goal"),
    ("RA %", "robust_accuracy"),
    ("bystanders right %", "bystander_accuracy"),
    ("bystanders as a target %", "spill"),
)
_NARROWEST = 20
# Targets that are named one by one.
_FEW = 3
_AFTER = {
    "training set": "after removal and retraining",
    "training time": "trained by the defense",
    "repair": "repaired",
    "inputs": "with suspicious inputs refused",
}
_OWN: dict[str, _Rows] = {
    "detection": (
        ("AUROC", "auroc"),
        ("AP", "average_precision"),
        ("TPR at budget %", "tpr_at_budget"),
        ("FPR at budget %", "fpr_at_budget"),
        ("covers at budget %", "cover_flagged"),
        ("TPR at 1 % FPR %", "tpr_at_1pct_fpr"),
    ),
    "decision": (
        ("flagged %", "flagged"),
        ("TPR %", "tpr"),
        ("FPR %", "fpr"),
        ("precision %", "precision"),
        ("covers flagged %", "cover_flagged"),
        ("CA after %", "after.clean_accuracy"),
        ("ASR after %", "after.attack_success_rate"),
    ),
    "inputs": (
        ("AUROC", "auroc"),
        ("AUROC where the victim obeys", "auroc_obeyed"),
        ("TPR at 1 % FPR %", "tpr_at_1pct_fpr"),
        ("TPR at 5 % FPR %", "tpr_at_5pct_fpr"),
        ("refused of attacked %", "tpr"),
        ("refused of clean %", "fpr"),
        ("refused of bystanders %", "bystander_fpr"),
    ),
    "verdict": (("score", "score"),),
}
_TITLES = {"decision": "what the defense itself flags", "verdict": "verdict on the model"}


def show_runs(records: Sequence[Mapping[str, Any]]) -> None:
    """Finished runs on one poisoned set: a table for each stage of defense, with a column for each."""
    config = records[0]["config"]
    told = [f"{k}={shown(v)}" for k, v in parameters(config["attack"]).items()]
    facts = config.get("data", {})
    covers = f", {facts['covers']} covers" if facts.get("covers") else ""
    targets = f", target {'+'.join(record_targets(facts))}" if 0 < len(facts.get("targets", [])) <= _FEW else ""
    console = _console()
    for line in (
        f"{labels([config['attack']])[0]} on {config['dataset']['name']}, {config['model']['name']}, "
        f"seed {records[0]['seed']}{targets}",
        ", ".join(told),
        f"{facts.get('poisons')} poisons{covers} in {facts.get('train')} training images, "
        f"{facts.get('test')} test images",
    ):
        console.print(markup(line), style="italic")
    for stage in dict.fromkeys(record["stage"] for record in records):
        console.print(_stage_table(stage, [record for record in records if record["stage"] == stage]))


def _stage_table(stage: str, records: Sequence[Mapping[str, Any]]) -> Table:
    budgets = {record["config"]["budget"] for record in records}
    removed = "".join(f", budget {100 * b:g} %" for b in budgets if isinstance(b, int | float))
    table = Table(title=f"{stage}{removed}", title_justify="left")
    table.add_column("")
    for name in labels([record["config"]["defense"] for record in records]):
        table.add_column(markup(name).replace(" ", "\n"), justify="right", overflow="fold")
    targets = records[0]["config"].get("data", {}).get("targets", [])
    goals = tuple((f"ASR to {t} %", f"by_goal.{t}") for t in targets) if 1 < len(targets) <= _FEW else ()
    model = (*_MODEL[:2], *goals, *_MODEL[2:])
    sections: list[tuple[str, str, _Rows]] = [
        ("before", "before", model),
        ("reference: plain training", "reference", model),
        ("floor: a model of clean data", "floor", model),
    ]
    sections += [(_TITLES.get(part, part), part, rows) for part, rows in _OWN.items()]
    sections += [(_AFTER.get(stage, "after"), "after", model)]
    for title, part, rows in sections:
        told = [(name, [number(record, f"{part}.{key}") for record in records]) for name, key in rows]
        told = [(name, values) for name, values in told if any(value is not None for value in values)]
        if told:
            table.add_row(f"[bold]{title}[/bold]")
            for name, values in told:
                table.add_row(f"  {name}", *(_number(v, percent=name.endswith("%")) for v in values))
            if part == "verdict":
                table.add_row("  says", *(_verdict(record["verdict"]) for record in records))
            table.add_section()
    if any(record["p_value"] is not None for record in records):
        table.add_row("p-value", *(_probability(record["p_value"]) for record in records))
    for name, shared in (("seconds", False), ("seconds of what all share", True)):
        table.add_row(name, *(f"{_seconds(r, shared):.1f}" for r in records))
    table.add_row("models trained", *(str(r["cost"]["models_trained"]) for r in records))
    if any(r["oracles"] for r in records):
        table.add_row("oracles", *(markup(", ".join(r["oracles"])) or "none" for r in records))
    for name in sorted({name for r in records for name in r["extra"]}):
        table.add_row(markup(name), *(_number(r["extra"].get(name), percent=False) for r in records))
    return table


def _seconds(data: Mapping[str, Any], shared: bool) -> float:
    return sum(s for stage, s in data["cost"]["seconds"].items() if (stage in SHARED_STAGES) == shared)


def _verdict(found: Mapping[str, Any]) -> str:
    if not found["flagged"]:
        return "clean"
    named = "+".join(map(str, found["targets"]))
    return f"backdoored{f', target {named}' if named else ''}"


def _number(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def _probability(value: float | None) -> str:
    """To two digits, however small: what is not 0 is not told as 0."""
    return "-" if value is None else f"{value:.2g}"


def show_catalogue(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Installed components, with a line for each parameter; plugins, with what is wrong with them."""
    console = _console()
    for what, entries in found.items():
        console.print(f"[bold]{what}[/bold]")
        for entry in entries:
            if what == "plugins":
                state = f"[red]{markup(entry['error'])}[/red]" if entry["error"] else "ok"
                state = state if entry["error"] or entry["hooks"] else "[yellow]has no hook: it adds nothing[/yellow]"
                console.print(f"  {entry['name']:<24} {entry['distribution']} {entry['version']}  {state}")
                hooks = [hook.removeprefix("bdbench_") for hook in entry["hooks"]]
                console.print(f"      hooks v{entry['hooks_version']}: {', '.join(hooks) or 'none'}", style="dim")
                continue
            console.print(f"  [bold]{entry['name']}[/bold]  {markup(entry['help'])}")
            for p in entry["parameters"]:
                limits = f" ({p['allowed']})" if p["allowed"] else f" ({p['type']})"
                console.print(f"      {p['name']}={_shown(p['default'])}  {markup(p['help'] + limits)}", style="dim")
            for line in _told_of_kind(entry):
                console.print(f"      {markup(line)}")
            origin = f"{entry['plugin']}, {entry['distribution']} {entry['version']}"
            console.print(f"      {markup('; '.join(filter(None, [entry['paper'], origin])))}", style="dim italic")


def _told_of_kind(entry: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say of an attack, or of a defense: at which stage it acts, what it is given, what it assumes."""
    if entry.get("control"):
        yield "a control: nothing is attacked"
    if not entry.get("plants", True):
        yield "nothing is poisoned"
    if entry.get("trains"):
        yield "the attacker trains the model"
    if entry.get("stage"):
        given = ", ".join(entry["access"]).replace("_", " ") or "nothing but the model"
        yield f"stage: {entry['stage']}; is given: {given}"
    if entry.get("assumption"):
        yield f"assumes: {entry['assumption']}"


def _shown(default: Any) -> str:
    if isinstance(default, tuple | list):
        return "+".join(map(str, default))
    return "none" if default is None else str(default)


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    # Some shells say that a terminal has no columns at all; nothing fits into those.
    return console if console.width >= _NARROWEST else Console(highlight=False, soft_wrap=True, width=_NARROWEST)


def show_plan(jobs: Sequence[Job], board: Board) -> None:
    """What a grid asks for: which cells are recorded, which failed, which are to run, and how long that may take."""
    console = _console()
    states = ("recorded", "stale", "failed", "not run")
    cells: dict[tuple[str, ...], dict[str, list[int]]] = {}
    apart: dict[tuple[str, ...], str] = {}
    for job in jobs:
        for defense in job.defenses:
            key = tuple(map(configs.short_spec, (job.dataset, job.model, job.attack, defense)))
            if reason := why_not(defense, job.attack, job.reserve):
                apart[key] = reason
            else:
                cells.setdefault(key, {state: [] for state in states})[board.state(job, defense)].append(job.seed)
    if cells:
        console.print(_cells_table(cells))
    for names, reason in apart.items():
        console.print(markup(f"{', '.join(names)} is not run: {reason}"))
    if any(known["stale"] for known in cells.values()):
        console.print("stale: of other code, files or data than today's, or without a floor, and run again")
    pending = board.pending(jobs)
    seconds, untold = board.estimate(pending)
    left = sum(len(job.defenses) for job in pending)
    told = f"at most about {pace.clock(seconds)} by earlier records" if left > untold else ""
    unknown = f"how long {untold} of them take is not known" if untold else ""
    console.print(
        f"{sum(len(job.applicable) for job in jobs) - left} cells are recorded, {left} are to run, on {len(pending)} "
        f"poisoned sets: " + ("; ".join(filter(None, [told, unknown])) or "nothing to do")
    )


def _cells_table(cells: Mapping[tuple[str, ...], Mapping[str, Sequence[int]]]) -> Table:
    """The seeds of each cell (data set, model, attack, defense) by their state, in few rows: defenses of which the same
    is known share one, and what would be the same in every row has no column.
    """
    same: dict[tuple[str, ...], list[str]] = {}
    for (*setting, defense), known in cells.items():
        same.setdefault((*setting, *(show_seeds(seeds) or "-" for seeds in known.values())), []).append(defense)
    states = list(next(iter(cells.values())))
    headings = ["data set", "model", "attack", "defenses", *states]
    rows = [(*row[:3], ", ".join(defenses), *row[3:]) for row, defenses in same.items()]
    told = [{row[i] for row in rows} for i in range(len(headings))]
    once = 2 if len(told[0]) == len(told[1]) == 1 else 0
    title = ", ".join(["seeds of each cell", *rows[0][:once]])
    table = Table(title=markup(title), title_justify="left")
    kept = [i for i, heading in enumerate(headings) if i >= once and (heading not in states or told[i] != {"-"})]
    for i in kept:
        # In a narrow terminal two cells must not look alike.
        table.add_column(headings[i], overflow="fold")
    for row in rows:
        table.add_row(*(markup(row[i]) for i in kept))
    return table


def show_comparison(found: Mapping[str, Any]) -> None:
    """Paired differences: a row for each cell and number."""
    console = _console()
    console.print(markup(f"differences from {found['baseline']}: mean over shared seeds, 95 % interval"))
    table = Table()
    for heading in ("cell", "number", "seeds", "baseline", "cell's", "difference", "95 % interval"):
        words = heading in ("cell", "number")
        # Names may go on in the next line, numbers not.
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for cell in found["cells"]:
        for i, row in enumerate(cell["differences"]):
            low, high = row["low"], row["high"]
            interval = "-" if low is None else f"{low:+.3f} .. {high:+.3f}"
            table.add_row(
                markup(cell["cell"]) if not i else "",
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
