"""What several detectors amount to: found, nothing found, or cannot tell; and what could not have been found.

Only a detector that says how likely a clean set would look like this, and which images it means, can find something or
find nothing. Where several do, the probability is held against their number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bdbench.display.verdicts import Word
from bdbench.display.words import counted
from bdbench.images.decoding import IMAGE_SUFFIXES
from bdbench.scanning.detecting import Said
from bdbench.scanning.reading import FEWEST, Odd, Read

LEVEL = 0.05
"""A clean set is called poisoned this often, over all detectors of a scan, if their probabilities are right."""


# Files that are pictures to people, read or not.
_PICTURES = IMAGE_SUFFIXES | {".avif", ".heic", ".heif", ".jp2", ".jxl"}


@dataclass(frozen=True)
class Verdict:
    """outcome; sentence: it for a person; classes: of what was flagged, with how many images each; flagged: bool (n,),
    what the verdict is about: of the detectors that found something, else, where nothing can be told, of any;
    p_value: how likely a clean set would look like this to any of the detectors, None if none can tell.
    """

    outcome: Word
    sentence: str
    classes: dict[str, int]
    flagged: np.ndarray
    p_value: float | None


def judge(found: Read, said: Sequence[Said]) -> Verdict:
    """The verdict on what was read."""
    able = [one for one in said if decides(one)]
    smallest = min((one.p_value for one in able if one.p_value is not None), default=None)
    p_value = None if smallest is None else min(1.0, smallest * len(able))
    finding = [one for one in able if _finds(one, len(able))]
    if finding:
        flagged = _any(finding, len(found.labels))
        return Verdict("found", _found(found, flagged, finding, p_value), _classes(found, flagged), flagged, p_value)
    flagged = _any(said, len(found.labels))
    unsure = [one for one in able if one.flagged is not None and (one.flagged.any() or (one.p_value or 0) <= LEVEL)]
    if not able or unsure or any(one.error for one in said):
        return Verdict("cannot tell", _unsure(found, said, unsure), _classes(found, flagged), flagged, p_value)
    share = f"of clean sets {_percent(p_value or 0)} look at least as suspicious"
    images, classes = counted(int(found.standing.sum()), "image"), counted(len(found.classes), "class")
    sentence = f"Nothing found in {images} of {classes}{_in_haste(able)}: {share}."
    return Verdict("nothing found", sentence, {}, np.zeros(len(found.labels), bool), p_value)


def _in_haste(said: Sequence[Said]) -> str:
    """That a detector had too little time for its usual models: then nothing found says less."""
    hasty = [one for one in said if one.usual and one.models_trained < one.usual]
    if not hasty:
        return ""
    shares = {one.detector.name: one.models_trained / one.usual for one in hasty if one.usual}
    told = ", ".join(f"{name} with {_percent(share)} of its usual networks" for name, share in shares.items())
    return f" in the time there was ({told})"


def decides(one: Said) -> bool:
    """Whether a detector can find something or find nothing, and not only rank."""
    return one.error is None and one.p_value is not None and one.flagged is not None


def ranking(said: Sequence[Said]) -> Said | None:
    """The detector whose scores order the images: the first that decides, else the first that did not fail."""
    working = [one for one in said if one.error is None]
    return next((one for one in working if decides(one)), working[0] if working else None)


def marked(found: Read, one: Said) -> int:
    """How many images a detector marks, exact copies among them; none if it has no rule of its own."""
    return 0 if one.flagged is None else found.count(one.flagged)


def of_one(found: Read, one: Said, able: int) -> str:
    """What a single detector says, in words; able: how many can decide."""
    if one.error is not None:
        return f"failed: {one.error}"
    count = marked(found, one)
    if one.flagged is None:
        return "ranks the images and has no rule of its own to call any suspicious"
    if one.p_value is None:
        return f"marks {counted(count, 'image')} and cannot say how often it does so in a clean set"
    outcome = "finds" if _finds(one, able) else "is not sure of" if count else "finds nothing:"
    return f"{outcome} {counted(count, 'image')}, p = {one.p_value:.2g}"


def limits(found: Read, said: Sequence[Said]) -> Iterator[str]:
    """What could not have been found."""
    for one in said:
        if one.error is None and one.detector.assumption:
            yield f"{one.detector.name} rests on this: {one.detector.assumption} What is not so, it may miss."
    for one in said:
        if one.usual and one.error is None and one.models_trained < one.usual:
            share = one.models_trained / one.usual
            noise = 1 / share**0.5
            yield (
                f"{one.detector.name} trained {one.models_trained} networks in the time it had, of the {one.usual} "
                f"that it trains otherwise: what it measures is {noise:.1f} times as noisy, and weaker backdoors stay "
                "below that."
            )
    yield (
        "A handful of poisoned images in a class may be too few to stand out, and a trigger that changes no label "
        "(clean-label) is weaker than one that does."
    )
    if found.small:
        small, images = counted(len(found.small), "class"), counted(len(found.unjudged), "image")
        yield f"Not judged: {small} of fewer than {FEWEST} different images ({images})."
    if len(found.left_out):
        yield f"Left out by --subset: {counted(len(found.left_out), 'image')}, of which nothing is said."
    if found.shrunk:
        yield (
            f"{counted(found.shrunk, 'image')} of up to {found.longest} pixels a side were brought to {found.size}: a "
            f"trigger smaller than about {round(2 * found.longest / found.size)} of their pixels is blurred away "
            "(--size)."
        )
    if missed := sum(map(_may_hold_images, found.skipped)):
        yield f"Left out: {counted(missed, 'file or folder')}, of which nothing is said."


def _may_hold_images(odd: Odd) -> bool:
    # A list of labels or a read-me beside the classes was never a part of the set.
    return not odd.reason.startswith("files") or odd.unread or Path(odd.name).suffix.lower() in _PICTURES


def agreement(found: Read, said: Sequence[Said]) -> list[tuple[str, str, int, int]]:
    """Of each two detectors that mark images: their names, how many both mark, and how many either does."""
    marking = [one for one in said if one.error is None and one.flagged is not None and one.flagged.any()]
    told = []
    for place, one in enumerate(marking):
        for other in marking[place + 1 :]:
            assert one.flagged is not None and other.flagged is not None
            both, either = map(found.count, (one.flagged & other.flagged, one.flagged | other.flagged))
            told.append((one.detector.name, other.detector.name, both, either))
    return told


def _finds(one: Said, able: int) -> bool:
    if not decides(one) or one.flagged is None or one.p_value is None:
        return False
    return bool(one.flagged.any()) and one.p_value * able <= LEVEL


def _any(said: Sequence[Said], count: int) -> np.ndarray:
    flagged = np.zeros(count, bool)
    for one in said:
        if one.flagged is not None and one.error is None:
            flagged |= one.flagged
    return flagged


def _classes(found: Read, flagged: np.ndarray) -> dict[str, int]:
    counts = np.bincount(found.labels[flagged], found.standing[flagged], len(found.classes)).astype(int)
    return {found.classes[label]: int(counts[label]) for label in np.argsort(-counts, kind="stable") if counts[label]}


def _found(found: Read, flagged: np.ndarray, finding: Sequence[Said], p_value: float | None) -> str:
    classes = _classes(found, flagged)
    told = ", ".join(f"{count} of {_size(found, name)} in {name!r}" for name, count in list(classes.items())[:5])
    more = f" and {counted(len(classes) - 5, 'more class')}" if len(classes) > 5 else ""
    by = " and ".join(one.detector.name for one in finding)
    chance = f"p = {p_value:.2g}, about one clean set in {round(1 / max(p_value or 0, 1e-9)):,} looks like this"
    return f"Found: {counted(sum(classes.values()), 'suspicious image')}: {told}{more} ({by}; {chance})."


def _size(found: Read, name: str) -> int:
    return found.count(found.labels == found.classes.index(name))


def _unsure(found: Read, said: Sequence[Said], unsure: Sequence[Said]) -> str:
    if len(found.classes) < 2:
        return (
            f"Cannot tell: {counted(len(found.classes), 'class')} of {FEWEST} different images or more, expected at "
            "least 2 to compare."
        )
    if unsure:
        one = unsure[0]
        images, often = counted(marked(found, one), "image"), _percent(one.p_value or 0)
        return f"Cannot tell: {one.detector.name} marks {images}, but {often} of clean sets look like this to it."
    able = [one for one in said if decides(one)]
    failed = [one for one in said if one.error is not None]
    if failed:
        others = f"; {', '.join(one.detector.name for one in able)} found nothing" if able else ""
        return f"Cannot tell: {failed[0].detector.name} failed ({failed[0].error}){others}."
    names = ", ".join(one.detector.name for one in said)
    return f"Cannot tell: {names} cannot say how often a clean set looks like this one; their ranking is kept."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
