"""report.html: one file that needs no other, to be read on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bdbench import foreign
from bdbench.display import templates
from bdbench.display.verdicts import TONES
from bdbench.display.words import counted
from bdbench.host import pace
from bdbench.scanning import pictures, telling, verdict
from bdbench.scanning.detecting import Said
from bdbench.scanning.groups import SHOWN, Group
from bdbench.scanning.identifiers import IDENTIFIERS
from bdbench.scanning.outcome import Scan

# Groups that are shown in full, classes of which a bar is drawn, and of each the highest scores that count.
_GROUPS, _CLASSES, _HIGHEST = 12, 30, 10


def render(scan: Scan) -> str:
    """The page."""
    able = sum(verdict.decides(one) for one in scan.said)
    working = [one for one in scan.said if one.error is None]
    return templates.load("scan.html").render(
        title=foreign.line(f"Scan of {scan.source}"),
        tone=TONES[scan.verdict.outcome],
        sentence=scan.verdict.sentence,
        limits=scan.limits,
        detectors=[(one.detector.name, verdict.of_one(scan.read, one, able)) for one in scan.said],
        agreement=[
            f"{one} and {other}: both mark {both} of the {either} images that either marks."
            for one, other, both, either in verdict.agreement(scan.read, scan.said)
        ],
        groups=[_group(scan, group) for group in scan.groups[:_GROUPS]],
        more=len(scan.groups) - _GROUPS,
        histograms=[
            (one.detector.name, pictures.histogram(one.scores, one.flagged, one.detector.name)) for one in working
        ],
        classes=_classes(scan),
        read=[*telling.lines(scan.read), *_copies(scan)],
        facts=list(_facts(scan)),
        identifiers=IDENTIFIERS,
    )


def _group(scan: Scan, group: Group) -> dict[str, Any]:
    read = scan.read
    picture, gain = pictures.amplified(group.difference)
    galleries = [("Suspicious", "suspicious", group.rows[:SHOWN]), ("Ordinary, same class", "ordinary", group.ordinary)]
    resembled = None if group.resembled is None else read.classes[group.resembled]
    if resembled is not None:
        galleries.append((f"Ordinary, of {resembled!r}", "ordinary", group.others))
    return {
        "name": foreign.line(group.name),
        "text": _told(group, read.count(group.rows), resembled),
        "difference": picture,
        "gain": f"{gain:.1f}",
        "agreement": pictures.heat(group.agreement),
        "galleries": [
            (title, [(pictures.image(read.images[row]), f"{kind}: {_name(scan, row)}") for row in rows])
            for title, kind, rows in galleries
            if len(rows)
        ],
    }


def _told(group: Group, images: int, resembled: str | None) -> str:
    count = len(group.rows)
    filed = f"{counted(images, 'image')}{f', {count} of them different,' if count < images else ''} filed under"
    if group.resembling is None:
        return f"{filed} {group.name!r}."
    seen = f"To a model that never saw them, {group.resembling} of {count} look like another class"
    most = f", most often {resembled!r}" if resembled is not None else ""
    natural = (
        " Their labels look right, so this may be a natural group, such as the pictures of another camera, or a "
        "trigger that changes no label."
    )
    return f"{filed} {group.name!r}. {seen}{most}.{natural if resembled is None else ''}"


def _name(scan: Scan, row: int) -> str:
    return foreign.line(scan.read.listing.names[int(scan.read.places[row])])


def _classes(scan: Scan) -> tuple[str, str] | None:
    """What speaks against the most suspicious classes, and what that is."""
    ranking = scan.ranking
    if ranking is None or not len(scan.read.classes):
        return None
    strengths = _strengths(scan, ranking)
    shown = dict(sorted(strengths.items(), key=lambda item: -item[1])[:_CLASSES])
    what = f"evidence of {ranking.detector.name}" if ranking.evidence else f"mean of the {_HIGHEST} highest scores"
    return pictures.classes(shown, set(scan.verdict.classes), what), what


def _strengths(scan: Scan, ranking: Said) -> dict[str, float]:
    labels = scan.read.labels
    if ranking.evidence:
        return {scan.read.classes[label]: value for label, value in ranking.evidence.items()}
    own = {name: ranking.scores[labels == label] for label, name in enumerate(scan.read.classes)}
    return {name: float(np.sort(scores)[-_HIGHEST:].mean()) for name, scores in own.items()}


def _copies(scan: Scan) -> Iterator[str]:
    for title, groups in (("Exact copies", scan.read.exact), ("Near copies", scan.read.near)):
        for group in groups[:5]:
            apart = f", filed under {' and '.join(group.labels)}" if len(group.labels) > 1 else ""
            yield foreign.line(f"{title}{apart}: {group}")


def _facts(scan: Scan) -> Iterator[tuple[str, str]]:
    yield "fingerprint of the data", scan.read.fingerprint
    for name, seconds in scan.seconds.items():
        yield f"time: {name}", pace.clock(seconds)
    for one in scan.said:
        yield f"networks trained by {one.detector.name}", str(one.models_trained)
    yield "peak memory", f"{scan.peak_memory_mb:.0f} MB"
    yield "settings", ", ".join(f"{name} {value}" for name, value in scan.settings.items() if value is not None)
    where = scan.environment
    yield "where", f"{where.get('device')}, {where.get('processor')}, {where.get('threads')} threads"
