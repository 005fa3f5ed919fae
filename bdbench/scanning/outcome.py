"""All that a scan found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bdbench.display.verdicts import EXIT_CODES
from bdbench.scanning import verdict
from bdbench.scanning.detecting import Said
from bdbench.scanning.foresight import Foresight
from bdbench.scanning.groups import Group
from bdbench.scanning.reading import Read
from bdbench.scanning.verdict import Verdict


@dataclass(frozen=True)
class Suspect:
    """One image. flagged: whether the verdict is about it; group: the class of the group it belongs to, or ""."""

    name: str
    label: str
    score: float
    flagged: bool
    group: str


@dataclass(frozen=True)
class Scan:
    """What ``bdbench.scan`` gives.

    verdict: what it amounts to; said: what each detector says; groups: of what was marked, by class; read: what was
    read; source: what was given, in words; given: the paths or the name that it was, none for objects; seconds: of each
    part of the work, when it was done.
    """

    verdict: Verdict
    said: Sequence[Said]
    groups: Sequence[Group]
    read: Read
    source: str
    given: Sequence[str]
    settings: Mapping[str, object]
    environment: Mapping[str, object]
    seconds: Mapping[str, float]
    peak_memory_mb: float
    foresight: Foresight | None = None

    @property
    def outcome(self) -> str:
        """ "found", "nothing found" or "cannot tell"."""
        return self.verdict.outcome

    @property
    def exit_code(self) -> int:
        """What ``bdbench scan`` ends with."""
        return EXIT_CODES[self.verdict.outcome]

    @property
    def ranking(self) -> Said | None:
        """The detector whose scores order the images: the first that decides, else the first that did not fail."""
        return verdict.ranking(self.said)

    @property
    def scores(self) -> np.ndarray:
        """Suspicion of what was scanned, float64 (n,), in the order of ``read``."""
        return np.zeros(len(self.read.labels)) if self.ranking is None else self.ranking.scores

    @property
    def limits(self) -> list[str]:
        """What could not have been found."""
        return list(verdict.limits(self.read, self.said))

    def suspects(self) -> list[Suspect]:
        """Every image that was judged, the most suspicious first; exact copies follow what stands for them."""
        read, scores, flagged = self.read, self.scores, self.verdict.flagged
        places = np.concatenate([read.places, read.copies_of[:, 0]]).astype(np.int64)
        rows = np.concatenate([np.arange(len(read.places)), read.copies_of[:, 1]]).astype(np.int64)
        order = np.lexsort((places, -scores[rows], ~flagged[rows]))
        found = []
        for place, row in zip(places[order].tolist(), rows[order].tolist(), strict=True):
            label = read.classes[read.labels[row]]
            marked = bool(flagged[row])
            found.append(Suspect(read.listing.names[place], label, float(scores[row]), marked, label if marked else ""))
        return found

    @property
    def quarantine(self) -> list[str]:
        """The names of the images that were found; none unless something was."""
        return [one.name for one in self.suspects() if one.flagged] if self.outcome == "found" else []

    @property
    def keep(self) -> list[str]:
        """The names of all other images that were read, those of classes that were not judged among them."""
        bad = set(self.quarantine)
        read = self.read
        places = np.sort(np.concatenate([read.places, read.copies_of[:, 0], read.unjudged]).astype(np.int64))
        names = (read.listing.names[place] for place in places.tolist())
        return [name for name in names if name not in bad]
