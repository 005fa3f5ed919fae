"""The numbers of the tables: where they are in a record, what they are shares of, which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bdbench.storage import record


@dataclass(frozen=True)
class Number:
    """A measured number.

    path: in the record, where ``base`` stands for what the stage is measured against; "" if it is made of others alone.
    pool: which examples it is a share of (``pools``), "" if of none. better: +1 or -1, 0 where neither way is. terms:
    the numbers that it is a sum of, each with its weight. within: the values that it can have. digits: as it is shown.
    """

    heading: str
    path: str
    pool: str = ""
    better: int = 0
    percent: bool = True
    terms: Mapping[str, float] | None = None
    within: tuple[float, float] = (0.0, 1.0)
    digits: int = 3

    @property
    def bases(self) -> tuple[str, ...]:
        """Those of its terms that are of what a stage is measured against, which rivals share."""
        return tuple(term for term in self.terms or () if term.endswith("_base"))


NUMBERS = {
    "ca_before": Number("CA before", "before.clean_accuracy", "test"),
    "asr_before": Number("ASR before", "before.attack_success_rate", "attacked"),
    "ra_before": Number("RA before", "before.robust_accuracy", "attacked"),
    "asr_floor": Number("ASR, clean model", "floor.attack_success_rate", "attacked"),
    "worst_goal_before": Number("worst goal's ASR before", "before.worst_goal", "a goal"),
    "bystanders_before": Number("bystanders' accuracy before", "before.bystander_accuracy", "bystanders"),
    "spill_before": Number("spill before", "before.spill", "bystanders"),
    "psnr": Number("PSNR dB", "stealth.psnr", percent=False, within=(0.0, float("inf")), digits=1),
    "ssim": Number("SSIM", "stealth.ssim", percent=False, within=(-1.0, 1.0)),
    "largest_change": Number("largest change", "stealth.largest_change", percent=False, within=(0, 255), digits=0),
    "ca_reference": Number("CA reference", "reference.clean_accuracy", "test"),
    "asr_reference": Number("ASR reference", "reference.attack_success_rate", "attacked"),
    "ca_base": Number("CA measured against", "base.clean_accuracy", "test"),
    "asr_base": Number("ASR measured against", "base.attack_success_rate", "attacked"),
    "auroc": Number("AUROC", "detection.auroc", "ranking", 1, percent=False),
    "ap": Number("AP", "detection.average_precision", "ranking", 1, percent=False),
    "tpr_at_budget": Number("TPR at budget", "detection.tpr_at_budget", "poisons", 1),
    "fpr_at_budget": Number("FPR at budget", "detection.fpr_at_budget", "clean", -1),
    "tpr_at_1pct_fpr": Number("TPR at 1 % FPR", "detection.tpr_at_1pct_fpr", "poisons", 1),
    "cover_flagged": Number("covers at budget", "detection.cover_flagged", "covers"),
    "ca_after": Number("CA after", "after.clean_accuracy", "test", 1),
    "asr_after": Number("ASR after", "after.attack_success_rate", "attacked", -1),
    "ra_after": Number("RA after", "after.robust_accuracy", "attacked", 1),
    "worst_goal_after": Number("worst goal's ASR after", "after.worst_goal", "a goal", -1),
    "bystanders_after": Number("bystanders' accuracy after", "after.bystander_accuracy", "bystanders", 1),
    "spill_after": Number("spill after", "after.spill", "bystanders", -1),
    "ca_cost": Number("CA cost", "", terms={"ca_base": 1.0, "ca_after": -1.0}, within=(-1.0, 1.0)),
    "der": Number(
        "DER", "derived.defense_effectiveness_rating", "", 1, False,
        {"asr_base": 0.5, "asr_after": -0.5, "ca_base": -0.5, "ca_after": 0.5},
    ),
    "signed": Number(
        "DER signed", "derived.signed", "", 1, False,
        {"asr_base": 0.5, "asr_after": -0.5, "ca_base": -0.5, "ca_after": 0.5}, (-0.5, 1.5),
    ),
    "flagged": Number("flags", "decision.flagged", "train"),
    "flagged_tpr": Number("flags TPR", "decision.tpr", "poisons", 1),
    "flagged_fpr": Number("flags FPR", "decision.fpr", "clean", -1),
    "flagged_precision": Number("flags precision", "decision.precision", "flagged", 1),
    "flagged_covers": Number("flags covers", "decision.cover_flagged", "covers"),
    "flagged_ca_after": Number("CA after flags", "decision.after.clean_accuracy", "test", 1),
    "flagged_asr_after": Number("ASR after flags", "decision.after.attack_success_rate", "attacked", -1),
    "flagged_signed": Number(
        "DER signed, flags", "decision.signed", "", 1, False,
        {"asr_base": 0.5, "flagged_asr_after": -0.5, "ca_base": -0.5, "flagged_ca_after": 0.5}, (-0.5, 1.5),
    ),
    "input_auroc": Number("AUROC", "inputs.auroc", "inputs", 1, percent=False),
    "input_auroc_obeyed": Number("AUROC, obeyed", "inputs.auroc_obeyed", "obeyed", 1, percent=False),
    "input_tpr_at_1pct_fpr": Number("TPR at 1 % FPR", "inputs.tpr_at_1pct_fpr", "attacked", 1),
    "input_tpr_at_5pct_fpr": Number("TPR at 5 % FPR", "inputs.tpr_at_5pct_fpr", "attacked", 1),
    "input_tpr": Number("TPR at reserve's threshold", "inputs.tpr", "attacked", 1),
    "input_fpr": Number("FPR at reserve's threshold", "inputs.fpr", "test", -1),
    "input_bystander_fpr": Number("bystanders' FPR", "inputs.bystander_fpr", "bystanders", -1),
}  # fmt: skip
# After a number's name, in the names of the columns of its interval.
ENDS = ("_low", "_high")
# What a row is ranked by.
RANKED_BY = "signed"

# Before the names of metrics that plugins add, which bring numbers of any size.
EXTRA = "extra: "
EXTRA_DIGITS = 3

# The headings of the other columns.
_OTHERS = {
    "attack": "attack",
    "defense": "defense",
    "rank": "rank",
    "access": "access",
    "seeds": "seeds",
    "control_ca": "CA, clean model",
    "craft_seconds": "seconds to craft",
    "poison_seconds": "to poison",
    "worst_asr_after": "worst seed's ASR after",
    "control_ca_cost": "CA cost, clean",
    "control_flagged": "flags, clean",
    "alarms": "p < 0.05",
    "model_auroc": "AUROC against clean models",
    "detections": "detections",
    "false_alarms": "false alarms",
    "hits": "target hits",
    "seconds_per_input": "seconds an input",
    "defense_seconds": "seconds",
    "times_victim": "x victim",
    "models_trained": "models",
    "peak_memory_mb": "memory MB",
    "device": "device",
    "processor": "processor",
}
HEADINGS = {**_OTHERS, **{name: number.heading for name, number in NUMBERS.items()}}

# k of n, each with its n in a column "<name>_of".
COUNTS = ("alarms", "detections", "false_alarms", "hits")

_FIRST = ("attack", "defense", "rank", "access", "seeds", "ca_before", "asr_before")
_REFERENCE = ("ca_reference", "asr_reference")
_AFTER = (
    "ca_after", "asr_after", "worst_asr_after", "worst_goal_after", "bystanders_after", "spill_after", "der",
    "signed", "control_ca_cost",
)  # fmt: skip
_DECISION = (
    "flagged", "flagged_tpr", "flagged_fpr", "flagged_precision", "flagged_covers", "flagged_ca_after",
    "flagged_asr_after", "control_flagged",
)  # fmt: skip
_COST = ("defense_seconds", "times_victim", "models_trained", "peak_memory_mb", "device")
# The columns of each stage's table, in order; those that are empty for a whole table are left out.
SHOWN = {
    "training set": (
        *_FIRST, *_REFERENCE, "auroc", "tpr_at_budget", "tpr_at_1pct_fpr", "cover_flagged", *_AFTER, *_DECISION,
        "alarms", *_COST,
    ),
    "training time": (*_FIRST, *_REFERENCE, *_AFTER, "alarms", *_COST),
    "repair": (*_FIRST, *_AFTER, "alarms", *_COST),
    "inputs": (
        *_FIRST, "input_auroc", "input_auroc_obeyed", "input_tpr_at_1pct_fpr", "input_tpr_at_5pct_fpr", "input_tpr",
        "input_fpr", "input_bystander_fpr", *_AFTER, "alarms", "seconds_per_input", *_COST,
    ),
    "model": (*_FIRST, "model_auroc", "detections", "false_alarms", "hits", "alarms", *_COST),
}  # fmt: skip
STAGES = tuple(SHOWN)
# What there is to say of attacks, whatever the defense.
OF_ATTACKS = (
    "attack", "seeds", "asr_before", "asr_floor", "worst_goal_before", "ca_before", "control_ca", "bystanders_before",
    "spill_before", "psnr", "ssim", "largest_change", "craft_seconds", "poison_seconds",
)  # fmt: skip


def extras(names: Iterable[Any]) -> list[str]:
    """Those of the columns of a frame or a table that are metrics of plugins, in order."""
    found = [name for name in map(str, names) if name.startswith(EXTRA)]
    return [name for name in found if not any(name == f"{other}{end}" for other in found for end in ENDS)]


def value(data: Mapping[str, Any], name: str) -> float | None:
    """A number of a record, as ``record.load`` gives it; None if there is none.

    Where the budget is ``auto``, what is removed is what the defense flags, and after is after that.
    """
    path = NUMBERS[name].path
    if path.startswith("base."):
        path = path.replace("base", record.BASES[data["stage"]], 1)
    if data["config"]["budget"] == "auto":
        path = path.replace("derived.", "decision.") if path.startswith("derived.") else path
        path = f"decision.{path}" if path.startswith("after.") else path
    return record.number(data, path) if path else None


def pools(data: Mapping[str, Any]) -> dict[str, int]:
    """How many examples there are of each kind that a number may be a share of; 0 if it is not known.

    An AUROC or an average precision is of pairs, which are not independent: it counts as a share of the examples of
    that side which has fewer.
    """
    facts = data["config"].get("data", {})
    train, test, poisons = facts.get("train", 0), facts.get("test", 0), facts.get("poisons", 0)
    attacked = facts.get("attacked", 0)
    clean = max(train - poisons - facts.get("covers", 0), 0)
    flagged = [(record.number(data, f"decision.{r}") or 0.0) * n for r, n in (("tpr", poisons), ("fpr", clean))]
    return {
        "train": train,
        "test": test,
        "poisons": poisons,
        "covers": facts.get("covers", 0),
        "clean": clean,
        "flagged": round(sum(flagged)),
        "ranking": min(poisons, clean),
        "attacked": attacked,
        "a goal": attacked // max(len(data["before"].get("by_goal") or facts.get("targets", [])), 1),
        "bystanders": facts.get("bystanders", 0),
        "inputs": min(attacked, test),
        "obeyed": min(round((record.number(data, "before.attack_success_rate") or 0.0) * attacked), test),
    }
