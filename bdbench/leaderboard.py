"""Records to tables: the same records always give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from bdbench import record
from bdbench.errors import BdbenchError
from bdbench.store import write_file

_PARTS = ("dataset", "model", "attack", "defense")
_GROUP = [*(name for part in _PARTS for name in (part, f"{part}_parameters")), "oracles", "budget"]
# column -> path in the record
_NUMBERS = {
    "ca_before": ("before", "clean_accuracy"),
    "asr_before": ("before", "attack_success_rate"),
    "ra_before": ("before", "robust_accuracy"),
    "auroc": ("detection", "auroc"),
    "ap": ("detection", "average_precision"),
    "tpr_at_budget": ("detection", "tpr_at_budget"),
    "fpr_at_budget": ("detection", "fpr_at_budget"),
    "tpr_at_1pct_fpr": ("detection", "tpr_at_1pct_fpr"),
    "ca_after": ("after", "clean_accuracy"),
    "asr_after": ("after", "attack_success_rate"),
    "ra_after": ("after", "robust_accuracy"),
    "der": ("derived", "defense_effectiveness_rating"),
}
_HEADINGS = {
    "attack": "attack",
    "defense": "defense",
    "oracles": "oracles",
    "seeds": "seeds",
    "ca_before": "CA",
    "asr_before": "ASR",
    "auroc": "AUROC",
    "tpr_at_budget": "TPR at budget",
    "tpr_at_1pct_fpr": "TPR at 1 % FPR",
    "ca_after": "CA after",
    "asr_after": "ASR after",
    "defense_seconds": "seconds",
    "models_trained": "models",
}


def build(folder: Path) -> list[Path]:
    """Write ``table.csv`` and ``README.md`` in ``folder`` from its records; returns their paths.

    Raises BdbenchError if there are no records, one is not valid, or the folder cannot be written.
    """
    paths = []
    for name, text in render(folder).items():
        path = folder / name
        write_file(path, text)
        paths.append(path)
    return paths


def stale(folder: Path) -> list[Path]:
    """The built files in ``folder`` that are missing or differ from what its records give."""
    return [
        folder / name
        for name, text in render(folder).items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode()
    ]


def render(folder: Path) -> dict[str, str]:
    """The text of each built file."""
    table = summarise(load(folder))
    return {
        "table.csv": table.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        "README.md": _markdown(folder, table),
    }


def load(folder: Path) -> pd.DataFrame:
    """One row for each record of ``folder/records/*.json``, sorted. Raises BdbenchError."""
    files = sorted((folder / "records").glob("*.json"))
    if not files:
        raise BdbenchError(f"no records in {folder / 'records'}: expected *.json files, copies of record.json")
    frame = pd.DataFrame([_row(record.read(file).to_dict()) for file in files])
    repeated = frame[frame.duplicated([*_GROUP, "seed"])]
    if len(repeated):
        raise BdbenchError(f"two records in {folder} are of the same cell and seed: {repeated['id'].iloc[0]} is one")
    return frame.sort_values([*_GROUP, "seed"], kind="stable", ignore_index=True)


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell: the mean over seeds of every number, and half its 95 % interval.

    The interval is Student's t over the seeds; with one seed there is none. Empty where nothing applies.
    """
    from scipy.stats import t

    numbers = [*_NUMBERS, "defense_seconds", "models_trained"]
    rows: list[dict[str, Any]] = []
    for key, cell in frame.groupby(_GROUP, sort=True, dropna=False):
        row: dict[str, Any] = dict(zip(_GROUP, key, strict=True))
        row["seeds"] = len(cell)
        for name in numbers:
            values = cell[name].dropna().to_numpy(float)
            row[name] = values.mean() if len(values) else np.nan
            if name in _NUMBERS:
                error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
                row[f"{name}_ci95"] = error * t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _row(data: dict[str, Any]) -> dict[str, Any]:
    config = data["config"]
    row: dict[str, Any] = {"id": data["id"], "seed": data["seed"], "budget": config["budget"]}
    for part in _PARTS:
        row[part] = config[part]["name"]
        parameters = {k: v for k, v in config[part].items() if k != "name" and v is not None}
        row[f"{part}_parameters"] = json.dumps(parameters, sort_keys=True)
    row["oracles"] = " ".join(data["oracles"]) or "none"
    for name, (part, key) in _NUMBERS.items():
        row[name] = (data[part] or {}).get(key)
    seconds = data["cost"]["seconds"]
    row["defense_seconds"] = sum(seconds.get(s, 0.0) for s in ("score", "retrain", "repair"))
    row["models_trained"] = data["cost"]["models_trained"]
    return row


def _markdown(folder: Path, table: pd.DataFrame) -> str:
    title = folder.resolve().name
    shown = table.copy()
    for name in _NUMBERS:
        shown[name] = [_with_interval(v, e, name) for v, e in zip(table[name], table[f"{name}_ci95"], strict=True)]
    shown["attack"] = _labels(table, "attack", always=("rate",))
    shown["defense"] = _labels(table, "defense")
    shown["defense_seconds"] = [f"{s:.0f}" for s in table["defense_seconds"]]
    shown["models_trained"] = [f"{m:.0f}" for m in table["models_trained"]]
    parts = [f"# {title}", _NOTE]
    shown["dataset"] = _labels(table, "dataset", always=("subset",))
    shown["model"] = _labels(table, "model")
    for (dataset, model, budget), group in shown.groupby(["dataset", "model", "budget"], sort=True):
        parts.append(f"## {dataset}, {model}, budget {100 * float(str(budget)):g} %")
        rows = group[list(_HEADINGS)].to_numpy().tolist()
        parts.append(tabulate(rows, list(_HEADINGS.values()), "github", disable_numparse=True))
    return "\n\n".join(parts) + "\n"


def _labels(table: pd.DataFrame, part: str, always: tuple[str, ...] = ()) -> list[str]:
    names, parameters = table[part], table[f"{part}_parameters"]
    components = [{"name": n, **json.loads(p)} for n, p in zip(names, parameters, strict=True)]
    return record.labels(components, always)


_NOTE = """\
Made from `records/*.json` by `bdbench leaderboard build`; do not edit. Accuracies and rates in percent.
Mean over seeds, and half the 95 % interval (Student's t) after ±; without ± there was one seed, or a number
applies to one alone. `none` as attack is the control: the same defense on the clean set. Seconds and models
are the defense's own, its retraining included."""


def _with_interval(value: float, interval: float, name: str) -> str:
    if np.isnan(value):
        return "-"
    scale, digits = (1, 3) if name in ("auroc", "ap", "der") else (100, 1)
    text = f"{scale * value:.{digits}f}"
    return text if np.isnan(interval) else f"{text} ± {scale * interval:.{digits}f}"
