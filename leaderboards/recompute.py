#!/usr/bin/env python3
"""Recompute what is published, with nothing of bdbench: only Python, and numpy for the scores of runs.

    python leaderboards/recompute.py                 every record and table beside this file
    python leaderboards/recompute.py --runs runs     also the runs in a folder, from their scores

A record has a digest of all else that it holds, and says how many examples of each kind there were. So each of its
shares must be a whole number of them, what was removed must add up, and what is made of other numbers must follow from
them. A table's means and intervals are made again from the records (Student's t over the seeds, Wilson's reach over the
pooled examples). Of a run's own scores the AUROC is counted over all pairs, average precision summed over its
thresholds, and the rest counted.

Prints what was checked; every disagreement is one line, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLOSE = 1e-9
# The mean over what is drawn among equal scores: no share of so many where some are equal.
OVER_DRAWS = ("inputs.tpr_at_1pct_fpr", "inputs.tpr_at_5pct_fpr")
# Student's t, two-sided 95 %, by degrees of freedom (printed tables).
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
Z95 = 1.959964
# Columns of a table: where they are in a record, and what they are shares of ("" where there is no interval to check).
COLUMNS = {
    "ca_before": ("before.clean_accuracy", "test"),
    "asr_before": ("before.attack_success_rate", "attacked"),
    "ra_before": ("before.robust_accuracy", "attacked"),
    "asr_floor": ("floor.attack_success_rate", "attacked"),
    "worst_goal_before": ("before.worst_goal", ""),
    "bystanders_before": ("before.bystander_accuracy", "bystanders"),
    "spill_before": ("before.spill", ""),
    "psnr": ("stealth.psnr", ""),
    "ssim": ("stealth.ssim", ""),
    "largest_change": ("stealth.largest_change", ""),
    "ca_base": ("base.clean_accuracy", "test"),
    "asr_base": ("base.attack_success_rate", "attacked"),
    "ca_reference": ("reference.clean_accuracy", "test"),
    "asr_reference": ("reference.attack_success_rate", "attacked"),
    "auroc": ("detection.auroc", "side"),
    "ap": ("detection.average_precision", "side"),
    "tpr_at_budget": ("detection.tpr_at_budget", "poisons"),
    "fpr_at_budget": ("detection.fpr_at_budget", "clean"),
    "tpr_at_1pct_fpr": ("detection.tpr_at_1pct_fpr", "poisons"),
    "cover_flagged": ("detection.cover_flagged", "covers"),
    "ca_after": ("after.clean_accuracy", "test"),
    "asr_after": ("after.attack_success_rate", "attacked"),
    "ra_after": ("after.robust_accuracy", "attacked"),
    "worst_goal_after": ("after.worst_goal", ""),
    "bystanders_after": ("after.bystander_accuracy", "bystanders"),
    "spill_after": ("after.spill", ""),
    "der": ("derived.defense_effectiveness_rating", ""),
    "signed": ("derived.signed", ""),
    "flagged": ("decision.flagged", "train"),
    "flagged_tpr": ("decision.tpr", "poisons"),
    "flagged_fpr": ("decision.fpr", "clean"),
    "flagged_covers": ("decision.cover_flagged", "covers"),
    "flagged_precision": ("decision.precision", "flagged"),
    "flagged_signed": ("decision.signed", ""),
    "flagged_ca_after": ("decision.after.clean_accuracy", "test"),
    "flagged_asr_after": ("decision.after.attack_success_rate", "attacked"),
    "input_auroc": ("inputs.auroc", ""),
    "input_auroc_obeyed": ("inputs.auroc_obeyed", ""),
    "input_tpr_at_1pct_fpr": ("inputs.tpr_at_1pct_fpr", "attacked"),
    "input_tpr_at_5pct_fpr": ("inputs.tpr_at_5pct_fpr", "attacked"),
    "input_bystander_fpr": ("inputs.bystander_fpr", "bystanders"),
    "input_tpr": ("inputs.tpr", "attacked"),
    "input_fpr": ("inputs.fpr", "test"),
}
# Columns that are sums of others, each with its weight, and between what they lie.
_GAIN = {"asr_base": 0.5, "asr_after": -0.5, "ca_base": -0.5, "ca_after": 0.5}
_OWN = {"asr_base": 0.5, "flagged_asr_after": -0.5, "ca_base": -0.5, "flagged_ca_after": 0.5}
SUMS: dict[str, tuple[dict[str, float], float, float]] = {
    "ca_cost": ({"ca_base": 1.0, "ca_after": -1.0}, -1.0, 1.0),
    "der": (_GAIN, 0.0, 1.0),
    "signed": (_GAIN, -0.5, 1.5),
    "flagged_signed": (_OWN, -0.5, 1.5),
}


def at(record: dict[str, Any], path: str) -> Any:
    """The value at a dotted path, None where it ends early."""
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def value_of(record: dict[str, Any], name: str) -> Any:
    """A column's number in a record; where the budget is auto, after is after what the defense flags."""
    if name == "ca_cost":
        base, after = value_of(record, "ca_base"), value_of(record, "ca_after")
        return None if base is None or after is None else base - after
    path = COLUMNS[name][0]
    if path.startswith("base."):
        base = "before" if record["stage"] in ("repair", "inputs", "model") else "reference"
        path = path.replace("base", base, 1)
    if record["config"]["budget"] == "auto":
        path = path.replace("derived.", "decision.")
        path = f"decision.{path}" if path.startswith("after.") else path
    return at(record, path)


def sizes(record: dict[str, Any]) -> dict[str, int]:
    """How many examples there were of each kind."""
    data = record["config"]["data"]
    clean = data["train"] - data["poisons"] - data["covers"]
    tpr, fpr = ((at(record, f"decision.{rate}") or 0) for rate in ("tpr", "fpr"))
    flagged = round(tpr * data["poisons"] + fpr * clean)
    return {**data, "clean": clean, "side": min(data["poisons"], clean), "flagged": flagged}


def digest(record: dict[str, Any]) -> str:
    """By which a record tells that it is as it was written."""
    rest = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def faults(record: dict[str, Any]) -> Iterator[str]:
    """What does not add up in one record."""
    if record.get("digest") != digest(record):
        yield f"digest = {record.get('digest')}, of what it holds it is {digest(record)}"
    size = sizes(record)
    shares = {path: kind for path, kind in COLUMNS.values() if kind not in ("", "side")}
    size["test"] = tested(record, size["test"], [path for path, kind in shares.items() if kind == "test"])
    for path in shares:
        value, count = at(record, path), size[shares[path]]
        if value is None or near_whole(value * count):
            continue
        if path not in OVER_DRAWS or not 0 <= value <= 1:
            yield f"{path} = {value} is no share of {count}"
    low, high = (at(record, path) for path in OVER_DRAWS)
    if low is not None and low > high + CLOSE:
        yield f"{OVER_DRAWS[0]} = {low} is more than {OVER_DRAWS[1]} = {high}"
    for part in ("detection", "decision"):
        removed = Counter(
            {"clean": at(record, f"{part}.fpr_at_budget"), "poisons": at(record, f"{part}.tpr_at_budget")}
        )
        if part == "decision":
            removed = Counter({"clean": at(record, "decision.fpr"), "poisons": at(record, "decision.tpr")})
        removed["covers"] = at(record, f"{part}.cover_flagged")
        if all(value is None for value in removed.values()):
            continue
        total = sum((value or 0) * size[kind] for kind, value in removed.items())
        budget = at(record, "detection.budget") if part == "detection" else at(record, "decision.flagged")
        expected = round(budget * size["train"])
        if abs(total - expected) > 1e-6:
            yield f"{part}: {total:g} of {size['train']} examples are removed, not {expected}"
        precision = at(record, "decision.precision") if part == "decision" else None
        hits, alarms = (removed["poisons"] or 0) * size["poisons"], (removed["clean"] or 0) * size["clean"]
        if precision is not None and abs(precision - hits / (hits + alarms)) > CLOSE:
            yield f"decision.precision = {precision}, not {hits / (hits + alarms)}"
    pairs, auroc = 2 * size["poisons"] * size["clean"], at(record, "detection.auroc")
    if auroc is not None and not near_whole(auroc * pairs, 1e-4):
        yield f"detection.auroc = {auroc} is no share of {pairs} half pairs"
    base = record["before"] if record["stage"] in ("repair", "inputs") else record["reference"] or record["before"]
    for after, rating in (("after", "derived"), ("decision.after", "decision")):
        yield from rating_faults(base, at(record, after), at(record, rating) or {}, rating)
    for name in ("before", "reference", "after"):
        goals, worst = at(record, f"{name}.by_goal"), at(record, f"{name}.worst_goal")
        if goals and abs(max(goals.values()) - worst) > CLOSE:
            yield f"{name}.worst_goal = {worst}, not {max(goals.values())}"
        obeyed, right = at(record, f"{name}.attack_success_rate"), at(record, f"{name}.robust_accuracy")
        if obeyed is not None and obeyed + right > 1 + CLOSE:
            yield f"{name}: {obeyed} obey and {right} are right"


def tested(record: dict[str, Any], whole: int, paths: list[str]) -> int:
    """Of how many test images the shares are: of fewer than all where the challenge shows some of them as they are.

    A record does not say how many these are; but all its shares are of one number, and few numbers will do.
    """
    values = [value for path in (*paths, "floor.clean_accuracy") if (value := at(record, path)) is not None]
    likely = range(whole, int(0.9 * whole), -1)
    return next((count for count in likely if all(near_whole(value * count) for value in values)), whole)


def rating_faults(base: Any, after: Any, rating: dict[str, Any], where: str) -> Iterator[str]:
    """DER with and without its clips, from the accuracies before and after."""
    told = rating.get("signed")
    if told is None or after is None:
        return
    gain = base["attack_success_rate"] - after["attack_success_rate"]
    loss = base["clean_accuracy"] - after["clean_accuracy"]
    expected = {"signed": (gain - loss + 1) / 2, "defense_effectiveness_rating": (max(0, gain) - max(0, loss) + 1) / 2}
    for name, value in expected.items():
        if abs(rating[name] - value) > CLOSE:
            yield f"{where}.{name} = {rating[name]}, not {value}"


def near_whole(value: float, off: float = 1e-6) -> bool:
    """Whether rounding alone keeps a value from being an integer."""
    return abs(value - round(value)) <= off


def digest_of(arrays: dict[str, Any]) -> str:
    """Of arrays by their names, as a record has it."""
    hashes = {
        name: hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode() + array.tobytes(), digest_size=16).hexdigest()
        for name, array in arrays.items()
    }
    return hashlib.sha256(json.dumps(hashes, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def run_faults(record: dict[str, Any], folder: Path) -> Iterator[str]:
    """What a run's scores, roles and choices say otherwise than its record."""
    import numpy as np

    with np.load(folder / "scores.npz") as arrays:
        found = {name: arrays[name] for name in arrays.files}
    if record.get("arrays") not in (None, digest_of(found)):
        yield "arrays: scores.npz is not the one that was written with the record"
    if "scores" not in found or "detection" not in record:
        return
    scores, roles = found["scores"], found["roles"]
    poison, clean, cover = scores[roles == 1], scores[roles == 0], scores[roles == 2]
    told: dict[str, float | None] = {}
    if len(poison) and len(clean):
        above = sum(int((one > clean).sum()) + 0.5 * int((one == clean).sum()) for one in poison)
        told["detection.auroc"] = above / (len(poison) * len(clean))
        recall_before, precision_sum = 0.0, 0.0
        for limit in sorted(set(poison.tolist()), reverse=True):
            hits, alarms = int((poison >= limit).sum()), int((clean >= limit).sum())
            precision_sum += (hits / len(poison) - recall_before) * hits / (hits + alarms)
            recall_before = hits / len(poison)
        told["detection.average_precision"] = precision_sum
    for name, part, keys in (
        ("kept", "detection", ("tpr_at_budget", "fpr_at_budget", "cover_flagged")),
        ("flagged", "decision", ("tpr", "fpr", "cover_flagged")),
    ):
        if name in found and record.get(part):
            out = ~found[name] if name == "kept" else found[name]
            for key, role, group in zip(keys, (1, 0, 2), (poison, clean, cover), strict=True):
                told[f"{part}.{key}"] = float(out[roles == role].mean()) if len(group) else None
    for path, value in told.items():
        recorded = at(record, path)
        if (value is None) != (recorded is None) or (value is not None and abs(value - recorded) > 1e-9):
            yield f"{path} = {recorded}, not {value} by its scores"


def parameters(part: dict[str, Any]) -> str:
    """A component's parameters as a table has them: those that are given, in order of name."""
    return json.dumps(given({name: value for name, value in part.items() if name != "name"}))


def given(value: Any) -> Any:
    """A value without the parameters in it that are not given, in order of name."""
    if isinstance(value, list):
        return [given(one) for one in value]
    if isinstance(value, dict):
        return {name: given(value[name]) for name in sorted(value) if value[name] is not None}
    return value


def row_of(record: dict[str, Any]) -> tuple[str, ...]:
    """Which row a record belongs to."""
    config = record["config"]
    removes = record["stage"] == "training set"
    budget = config["budget"] if removes else ""
    key = [config["data"]["source"][:8], budget if isinstance(budget, str) else f"{budget:g}"]
    for kind in ("dataset", "model", "attack", "defense"):
        key += [config[kind]["name"], parameters(config[kind])]
    return (*key, *(config["code"][kind][:8] for kind in ("model", "attack", "defense")))


def row_in(table: dict[str, str]) -> tuple[str, ...]:
    """The same of a table's line."""
    key = [json.loads(table["dataset_made"])["data"], table["budget"]]
    for kind in ("dataset", "model", "attack", "defense"):
        key += [table[kind], table[f"{kind}_parameters"]]
    return (*key, *(json.loads(table[f"{kind}_made"])["code"] for kind in ("model", "attack", "defense")))


def table_faults(file: Path, records: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """How many numbers of each line were made again, and what is told otherwise."""
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        grouped[row_of(record)].append(record)
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            if not line["seeds"] or line["seeds"] == "0":
                continue
            where = f"{line['attack']} against {line['defense']}"
            own = grouped.pop(row_in(line), [])
            if len(own) != int(line["seeds"]):
                yield 0, f"{where}: {line['seeds']} seeds, and {len(own)} records"
                continue
            for name in ("ca_cost", *COLUMNS):
                having = [record for record in own if value_of(record, name) is not None]
                if line.get(name) and having:
                    yield 1, number_fault(f"{where}: {name}", line, name, having)
                elif line.get(name):
                    yield 1, f"{where}: {name} = {line[name]}, of which no record says anything"
            worst = [value for record in own if (value := value_of(record, "asr_after")) is not None]
            if worst and abs(float(line["worst_asr_after"]) - max(worst)) > 1e-5:
                yield 1, f"{where}: worst_asr_after = {line['worst_asr_after']}, not {max(worst):g}"
    for key in grouped:
        yield 0, f"{key[6]} against {key[8]}: {len(grouped[key])} records in no line"


def number_fault(where: str, line: dict[str, str], name: str, records: list[dict[str, Any]]) -> str:
    """What is wrong with a mean and its interval, "" if nothing is."""
    values = [value_of(record, name) for record in records]
    mean = statistics.fmean(values)
    if not math.isclose(float(line[name]), mean, rel_tol=2e-5, abs_tol=2e-6):
        return f"{where} = {line[name]}, not {mean:g}"
    terms, lowest, highest = SUMS.get(name, ({}, 0.0, 1.0))
    reach = reach_of(records, name) if not terms else math.hypot(*(w * reach_of(records, t) for t, w in terms.items()))
    if not (terms or COLUMNS[name][1]) or not line[f"{name}_low"]:
        return ""
    half = max(student(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5, reach)
    for side, expected in (("low", max(lowest, mean - half)), ("high", min(highest, mean + half))):
        # Tables have six digits.
        if abs(float(line[f"{name}_{side}"]) - expected) > max(1e-3 * max(half, 1e-3), 1e-5 * abs(expected)):
            return f"{where}: {side} end {line[f'{name}_{side}']}, not {expected:g}"
    return ""


def reach_of(records: list[dict[str, Any]], name: str) -> float:
    """How far the farther end of Wilson's interval is from the mean share, 0 where it is of nothing that is counted."""
    having = [record for record in records if value_of(record, name) is not None]
    count = sum(sizes(record).get(COLUMNS[name][1], 0) for record in having)
    if not count:
        return 0.0
    mean = statistics.fmean(value_of(record, name) for record in having)
    low, high = wilson(mean, count)
    return max(mean - low, high - mean)


def student(freedom: int) -> float:
    """Student's t, two-sided 95 %: by the table, and beyond it by Cornish and Fisher's expansion."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share of ``count``, 95 %."""
    square = Z95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = Z95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return middle - reach, middle + reach


def main() -> int:
    """Check all; 1 if something disagrees."""
    options = argparse.ArgumentParser(description="Recompute what is published.")
    options.add_argument("boards", nargs="*", type=Path, default=sorted(p.parent for p in HERE.glob("*/table.csv")))
    options.add_argument("--runs", type=Path, help="a folder of runs, with their scores")
    asked = options.parse_args()
    wrong: list[str] = []
    for board in asked.boards:
        files = sorted((board / "records").glob("*.json"))
        records = [json.loads(file.read_text()) for file in files]
        wrong += [f"{file}: {fault}" for file, r in zip(files, records, strict=True) for fault in faults(r)]
        told = list(table_faults(board / "table.csv", records))
        wrong += [f"{board / 'table.csv'}: {fault}" for _, fault in told if fault]
        print(f"{board.name}: {len(records)} records, {sum(n for n, _ in told)} numbers of the table made again")
    folders = [file.parent for file in sorted(asked.runs.glob("[!.]*/scores.npz"))] if asked.runs else []
    for folder in folders:
        record = json.loads((folder / "record.json").read_text())
        wrong += [f"{folder}: {fault}" for fault in (*faults(record), *run_faults(record, folder))]
    if asked.runs:
        print(f"{asked.runs}: {len(folders)} runs made again from their scores")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong or not (asked.boards or folders) else 0


if __name__ == "__main__":
    sys.exit(main())
