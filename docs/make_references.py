"""Fill the tables of results in docs/defenses.md from the records of leaderboards/references and leaderboards/stages.

    python docs/make_references.py

A row is of the defense whose spec, short as on the command line, is its first cell; a column of results is one whose
heading ``COLUMNS`` names. What nobody has run is shown as a dash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bdbench import Defense
from bdbench.components import configs
from bdbench.grids.board import Board
from bdbench.grids.grid import read

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "defenses.md"
MISSING = "\N{EN DASH}"

# A heading's board, data set and attack. Of several seeds it is the first.
COLUMNS = {
    "BadNets": ("references", "digits", "badnets:rate=0.1"),
    "BadNets, 2 %": ("references", "digits", "badnets:rate=0.02"),
    "Blend": ("references", "digits", "blend:rate=0.1"),
    "Blend, 2 %": ("references", "digits", "blend:rate=0.02"),
    "BadNets, mnist5k": ("stages", "mnist5k", "badnets:target=seed"),
    "control": ("references", "digits", "none"),
}


def spec(defense: Defense) -> str:
    """A defense as the page writes it: what is switched on is ``true``, as users type it."""
    return configs.short_spec(defense).lower()


def percent(rate: float) -> str:
    """A rate in percent, to the tenth: 97, .3, 0."""
    return f"{100 * rate:.1f}".removesuffix(".0").lstrip("0") or "0"


def detected(record: Mapping[str, Any]) -> str:
    """How a detector ranks, AUROC, and TPR and FPR of its own decision if it takes one."""
    decision = record["decision"]
    if record["control"]:
        return f"{percent(decision['fpr'])} %" if decision else MISSING
    own = f" ({percent(decision['tpr'])}, {percent(decision['fpr'])})" if decision else ""
    return f"{record['detection']['auroc']:.3f}".lstrip("0") + own


def left(record: Mapping[str, Any]) -> str:
    """ASR and clean accuracy of the model that a defense hands over; of the victim where it hands over none."""
    after = record["after"] or record["before"]
    rates = ("clean_accuracy",) if record["control"] else ("attack_success_rate", "clean_accuracy")
    return ", ".join(percent(after[rate]) for rate in rates)


def refused(record: Mapping[str, Any]) -> str:
    """AUROC of triggered inputs against clean ones; where nothing is attacked, the clean ones that are refused."""
    inputs = record["inputs"]
    return f"{percent(inputs['fpr'])} %" if record["control"] else f"{inputs['auroc']:.3f}".lstrip("0")


def suspected(record: Mapping[str, Any]) -> str:
    """Whether a model is called backdoored, and for the right label."""
    verdict = record["verdict"]
    if not verdict["flagged"]:
        return "not flagged"
    return "flagged" if record["control"] else f"flagged, target {'right' if verdict['hit'] else 'wrong'}"


SHOWN: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "training set": detected,
    "training time": left,
    "repair": left,
    "inputs": refused,
    "model": suspected,
}


def results() -> dict[tuple[str, str], str]:
    """What each cell says, by the heading of its column and the defense's short spec."""
    found: dict[tuple[str, str], str] = {}
    for heading, (name, dataset, attack) in COLUMNS.items():
        folder = ROOT / "leaderboards" / name
        cells = dict[str, tuple[int, str]]()
        for job in sorted(read(folder / "grid.toml").jobs(), key=lambda job: -job.seed):
            if (configs.short_spec(job.dataset), configs.short_spec(job.attack)) == (dataset, attack):
                cells |= {configs.key_of(job.config(d)): (job.seed, spec(d)) for d in job.defenses}
        by_cell = {}
        for record in Board.read(folder).records.values():
            by_cell[configs.key_of(configs.cell_of(record["config"])), record["seed"]] = record
        for key, (seed, defense) in cells.items():
            if (key, seed) in by_cell:
                record = by_cell[key, seed]
                found[heading, defense] = SHOWN[record["stage"]](record)
    return found


def filled(text: str, cells: Mapping[tuple[str, str], str]) -> str:
    """A page with its columns of results as ``cells`` has them."""
    lines, headings = [], list[str]()
    for line in text.splitlines():
        row = [cell.strip() for cell in line.split("|")[1:-1]]
        if row and row[0] == "defense":
            headings = row
        elif defense := row and re.fullmatch(r"`(\S+)`.*", row[0]):
            own = [
                cells.get((heading, defense[1]), MISSING) if heading in COLUMNS else cell
                for heading, cell in zip(headings, row, strict=True)
            ]
            line = f"| {' | '.join(own)} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/defenses.md as it should be."""
    return filled(PAGE.read_text(), results())


if __name__ == "__main__":
    PAGE.write_text(page())
