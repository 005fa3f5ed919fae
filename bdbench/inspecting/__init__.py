"""``bdbench inspect``: is there a backdoor in this model? Of a checkpoint, without the data that it was trained on."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdbench.components.defenses import Defense
from bdbench.display.words import counted
from bdbench.host import machine
from bdbench.inspecting import detectors, foresight, given, images, page, result, subject, verdict
from bdbench.inspecting import inputs as scoring
from bdbench.inspecting.foresight import Foresight
from bdbench.inspecting.inputs import Scorer
from bdbench.inspecting.result import Inspection
from bdbench.inspecting.subject import Asked, Subject
from bdbench.progress import Progress, Silent
from bdbench.storage.files import check_outside
from bdbench.storage.store import STAGES, Store

__all__ = ["Inspection", "Prepared", "inspect", "prepared"]

PLAN_SCHEMA = "bdbench.inspect-plan/1"


@dataclass(frozen=True)
class Prepared:
    """What was read, and who is to be asked: foresight: the detectors, and what they will take; scorers: those of
    inputs; inputs: the folder of images to score, None without one; files: those in it; out: where finished pieces are
    kept, and what is found is written, None: nowhere; since: when reading began, by time.perf_counter.
    """

    subject: Subject
    foresight: Foresight
    scorers: Sequence[Scorer]
    inputs: Path | None
    files: Sequence[Path]
    out: Path | None
    since: float

    def lines(self) -> Iterator[str]:
        """What there is to say before work."""
        for name, value in page.facts(self.subject):
            yield f"{name}: {value}"
        if self.inputs is not None:
            yield f"inputs: {counted(len(self.files), 'image file')} in {self.inputs}"
        yield from self.foresight.lines()

    def to_dict(self) -> dict[str, Any]:
        """The same for programs; ``model``, ``clean`` and ``estimate`` are as in inspect.json."""
        reasons = {one.asked.name: one.reason for one in self.foresight.of_inputs}
        return {
            "schema": PLAN_SCHEMA,
            "model": result.model_of(self.subject),
            "clean": result.clean_of(self.subject),
            "inputs": None
            if self.inputs is None
            else {
                "folder": str(self.inputs),
                "files": len(self.files),
                "not_run": {k: v for k, v in reasons.items() if v},
            },
            "estimate": self.foresight.to_dict(),
        }

    def run(self) -> Inspection:
        """Ask them."""
        found = self.subject
        findings, until = [], time.perf_counter()
        for expected in self.foresight.each:
            # Who needs less leaves the rest to those that come after.
            until += math.inf if self.foresight.limit is None else expected.allotted or 0
            findings.append(detectors.inspect(found, expected, until))
        scored = None if self.inputs is None else scoring.score(found, self.scorers, self.inputs, self.files)
        conclusion = verdict.concluded(found, findings)
        made = Inspection(found, self.foresight, findings, scored, conclusion, time.perf_counter() - self.since)
        if self.out is not None:
            made.write(self.out)
        return made


@contextmanager
def prepared(
    checkpoint: str | Path,
    *,
    defenses: Sequence[str | Defense] = (),
    inputs: str | Path | None = None,
    clean: str | Path | None = None,
    out: str | Path | None = None,
    seconds: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Iterator[Prepared]:
    """A model read, and nothing asked of it yet; the rest as ``inspect``. What is saved without ``out`` is not kept."""
    since = time.perf_counter()
    file, asked = given.path(checkpoint, "checkpoint"), given.checked(asked)
    root, folder, examples = (
        None if value is None else given.path(value, name)
        for name, value in (("inputs", inputs), ("out", out), ("clean", clean))
    )
    machine.use_threads(threads)
    limit = foresight.checked_limit(seconds)
    models, of_inputs = detectors.chosen(given.several(defenses, "defenses"), root is not None)
    said = Asked(clean=examples, **asked)
    with tempfile.TemporaryDirectory() as aside:
        found = subject.of(file, said, Store(Path(aside)), progress or Silent())
        for read, what in ((examples, "of clean images"), (root, "of inputs")):
            if read is not None and folder is not None:
                # Its pictures would be read as of theirs.
                check_outside(folder, read, what)
        files = [] if root is None else images.below(root)
        if folder is not None:
            # Only now: what is refused leaves nothing.
            found = found.kept_in(Store(folder / STAGES))
        scorers = [Scorer.of(found, one) for one in of_inputs]
        taken = scoring.expected(found, scorers, files)
        reasons = [found.why_not(one) or "" for one in of_inputs]
        told = [foresight.Scoring(*one) for one in zip(of_inputs, taken, reasons, strict=True)]
        yield Prepared(found, foresight.foresee(found, models, limit, told), scorers, root, files, folder, since)


def inspect(
    checkpoint: str | Path,
    *,
    defenses: Sequence[str | Defense] = (),
    inputs: str | Path | None = None,
    clean: str | Path | None = None,
    out: str | Path | None = None,
    seconds: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Inspection:
    """Look for a backdoor in a model; what ``bdbench inspect`` does.

    checkpoint: a safetensors file, or a state dict that torch.save wrote; defenses: detectors of models or of inputs
    (of a stage of which none is named, the defaults); inputs: a folder of images to score; clean: a folder of clean
    ones; out: where the report and the files go, and where finished pieces are kept (none: nothing is written);
    seconds: for the detectors of models, which do less in it if they have to, or are left out (none: all they need);
    asked: what the file does not say, as ``subject.Asked`` has it: model, classes, size, channels, normalise, mean,
    std, seed, device. Raises BdbenchError for what the caller can mend.
    """
    with prepared(
        checkpoint,
        defenses=defenses,
        inputs=inputs,
        clean=clean,
        out=out,
        seconds=seconds,
        threads=threads,
        progress=progress,
        **asked,
    ) as ready:
        return ready.run()
