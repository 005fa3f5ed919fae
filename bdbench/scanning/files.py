"""The files that a scan leaves: scan.json, four lists of images and report.html; all of them or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdbench import foreign
from bdbench.components.configs import spec
from bdbench.errors import BdbenchError
from bdbench.scanning import page, verdict
from bdbench.scanning.identifiers import IDENTIFIERS
from bdbench.scanning.outcome import Scan
from bdbench.scanning.reading import Copies, Read
from bdbench.storage import schemas
from bdbench.storage.files import read_json
from bdbench.storage.store import sweep, written_whole

SCHEMA = "bdbench-scan-1"
# Of names that may be as many as the images are.
_MOST = 1000
# What editors of Windows put before the first line.
_MARK = "\ufeff"


def tidy(folder: Path) -> None:
    """Remove what scans that were killed left unfinished in ``folder``, and beside it."""
    for place in (folder, folder.absolute().parent):
        sweep(place)


def check_unedited(folder: Path) -> None:
    """Raise BdbenchError if a list in ``folder`` is newer than the report beside it: somebody's work would be lost."""
    report = folder / "report.html"
    for file in (folder / "keep.txt", folder / "quarantine.txt"):
        if file.exists() and not (report.exists() and file.stat().st_mtime_ns <= report.stat().st_mtime_ns):
            raise BdbenchError(
                f"{file} was edited, and would be written anew: expected another --report, or {file.name} moved away"
            )


def write(folder: Path, scan: Scan) -> None:
    """Write all files into ``folder``; what else lies there stays. Raises BdbenchError if that cannot be."""
    told = to_dict(scan)
    validate(told)
    content = {
        "scan.json": schemas.dumps(told),
        "suspects.csv": _table(scan),
        "skipped.csv": foreign.csv_text(["path", "reason"], ((_name(o.name), o.reason) for o in scan.read.skipped)),
        "keep.txt": _lines(scan.keep),
        "quarantine.txt": _lines(scan.quarantine),
        "report.html": page.render(scan),
    }
    with written_whole(folder, keep_others=True) as aside:
        for name, text in content.items():
            # Names of files may be no text at all; here they are as the system gives them.
            (aside / name).write_bytes(text.encode("utf-8", "surrogateescape"))


def to_dict(scan: Scan) -> dict[str, Any]:
    """What scan.json holds."""
    read, judged = scan.read, scan.verdict
    able = sum(verdict.decides(one) for one in scan.said)
    return {
        "schema": SCHEMA,
        "verdict": {
            "outcome": judged.outcome,
            "sentence": judged.sentence,
            "p_value": judged.p_value,
            "level": verdict.LEVEL,
            "images": read.count(judged.flagged),
            "classes": judged.classes,
        },
        "limits": scan.limits,
        "detectors": [
            {
                "spec": spec(one.detector.config()),
                "says": verdict.of_one(read, one, able),
                "p_value": one.p_value,
                "flagged": None if one.flagged is None else verdict.marked(read, one),
                "assumption": one.detector.assumption,
                "seconds": round(one.seconds, 3),
                "models_trained": one.models_trained,
                "models_usual": one.usual,
                "evidence": None
                if one.evidence is None
                else {read.classes[label]: value for label, value in one.evidence.items()},
                "error": one.error,
            }
            for one in scan.said
        ],
        "agreement": [
            {"detectors": [one, other], "both": both, "either": either}
            for one, other, both, either in verdict.agreement(read, scan.said)
        ],
        "groups": [
            {
                "class": group.name,
                "images": read.count(group.rows),
                "resembles": None if group.resembled is None else read.classes[group.resembled],
                "look_like_others": group.resembling,
            }
            for group in scan.groups
        ],
        "data": data(scan.read, scan.source, scan.given),
        "settings": dict(scan.settings),
        "environment": dict(scan.environment),
        "cost": {"seconds": {k: round(v, 3) for k, v in scan.seconds.items()}, "peak_memory_mb": scan.peak_memory_mb},
        "identifiers": [dict(one) for one in IDENTIFIERS],
    }


def data(read: Read, source: str, given: Sequence[str]) -> dict[str, Any]:
    """What was read; source, given: as ``Scan`` has them."""
    return {
        "source": source,
        "given": list(given),
        "root": None if read.listing.root is None else str(read.listing.root.absolute()),
        "fingerprint": read.fingerprint,
        "listed": len(read.listing),
        "read": read.decoded,
        "scanned": len(read.labels),
        "classes": list(read.classes),
        "size": read.size,
        "channels": int(read.images.shape[-1]),
        "sizes": {name: list(size) for name, size in zip(("smallest", "median", "largest"), read.sizes, strict=True)},
        "resized": read.resized,
        "grey": read.grey,
        "skipped": {"count": len(read.skipped), "first": [[odd.name, odd.reason] for odd in read.skipped[:_MOST]]},
        "left_out": len(read.left_out),
        "not_judged": read.small,
        "exact_copies": _copies(read.exact),
        "near_copies": _copies(read.near),
    }


def _copies(groups: Sequence[Copies]) -> dict[str, Any]:
    first = [{"names": list(group.names[:_MOST]), "classes": list(group.labels)} for group in groups[:100]]
    return {"groups": len(groups), "images": sum(len(group.names) for group in groups), "first": first}


def validate(told: Any, where: str = "scan") -> None:
    """Raise BdbenchError unless ``told`` is what scan.json may hold."""
    schemas.check(told, "scan.schema.1.json", "scan", where)


def read(folder: Path) -> dict[str, Any]:
    """The scan.json in a folder. Raises BdbenchError if there is none, or it is not valid."""
    file = folder / "scan.json"
    try:
        told = read_json(file)
    except FileNotFoundError:
        raise BdbenchError(
            f"no scan at {folder}: expected a folder with a scan.json, as bdbench scan leaves it"
        ) from None
    validate(told, str(file))
    return told


def names_in(file: Path) -> list[str]:
    """The names in keep.txt or quarantine.txt. Raises BdbenchError if it does not read."""
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape").removeprefix(_MARK)
        lines = text.replace("\r\n", "\n").split("\n")
        return [str(json.loads(line)) if line.startswith('"') else line for line in lines if line]
    except (OSError, ValueError) as error:
        raise BdbenchError(f"cannot read {file}: {error}: expected a name a line") from None


def _lines(names: Sequence[str]) -> str:
    """A name a line; those that a line cannot hold as JSON strings."""
    odd = [name.startswith(('"', _MARK)) or not name or name.splitlines() != [name] for name in names]
    return "".join(f"{json.dumps(name) if o else name}\n" for name, o in zip(names, odd, strict=True))


def _table(scan: Scan) -> str:
    rows = [(_name(one.name), one.label, f"{one.score:.6g}", int(one.flagged), one.group) for one in scan.suspects()]
    return foreign.csv_text(["path", "label", "score", "flagged", "group"], rows)


def _name(name: str) -> str:
    """For a cell: what a cell would not hold as it is stands as a JSON string."""
    return name if foreign.line(name) == name and not name.startswith('"') else json.dumps(name)
