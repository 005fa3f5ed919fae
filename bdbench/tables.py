"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bdbench.record import labels

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
            values = [(record[part] or {}).get(key) for record in records]
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
