"""``bdbench inspect``: is there a backdoor in this model? Of a checkpoint, without the data that it was trained on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdbench import machine
from bdbench.defenses import Defense, InputDetector, ModelDetector
from bdbench.inspecting import detectors, given, images, page, subject, verdict
from bdbench.inspecting.result import Inspection
from bdbench.inspecting.subject import Asked, Subject
from bdbench.progress import Progress, Silent
from bdbench.store import STAGES, Store

__all__ = ["Inspection", "Prepared", "inspect", "prepared"]


@dataclass(frozen=True)
class Prepared:
    """What was read, and who is to be asked: models and of_inputs, detectors of the two stages; inputs: the folder of
    images to score, None without one; files: those in it; out: where finished pieces are kept, and what is
    found is written, None: nowhere; since: when reading began, by time.perf_counter.
    """

    subject: Subject
    models: Sequence[ModelDetector]
    of_inputs: Sequence[InputDetector]
    inputs: Path | None
    files: Sequence[Path]
    out: Path | None
    since: float

    def lines(self) -> Iterator[str]:
        """What there is to say before work."""
        for name, value in page.facts(self.subject):
            yield f"{name}: {value}"
        if self.inputs is not None:
            yield f"inputs: {len(self.files)} image files in {self.inputs}"
        for defense in (*self.models, *self.of_inputs):
            reason = self.subject.why_not(defense)
            yield f"{defense.name}: {'is to run' if reason is None else f'is not run: {reason}'}"

    def run(self) -> Inspection:
        """Ask them."""
        found = self.subject
        findings = [detectors.inspect(found, defense) for defense in self.models]
        scored = None if self.inputs is None else detectors.score(found, self.of_inputs, self.inputs, self.files)
        conclusion = verdict.concluded(found, findings)
        made = Inspection(found, findings, scored, conclusion, time.perf_counter() - self.since)
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
    models, of_inputs = detectors.chosen(given.several(defenses, "defenses"), root is not None)
    said = Asked(clean=examples, **asked)
    with tempfile.TemporaryDirectory() as aside:
        found = subject.of(file, said, Store(Path(aside)), progress or Silent())
        files = [] if root is None else images.below(root)
        if folder is not None:
            # Only now: what is refused leaves nothing.
            found = found.kept_in(Store(folder / STAGES))
        yield Prepared(found, models, of_inputs, root, files, folder, since)


def inspect(
    checkpoint: str | Path,
    *,
    defenses: Sequence[str | Defense] = (),
    inputs: str | Path | None = None,
    clean: str | Path | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> Inspection:
    """Look for a backdoor in a model; what ``bdbench inspect`` does.

    checkpoint: a safetensors file, or a state dict that torch.save wrote; defenses: detectors of models or of inputs
    (of a stage of which none is named, the defaults); inputs: a folder of images to score; clean: a folder of clean
    ones; out: where the report and the files go, and where finished pieces are kept (none: nothing is written);
    asked: what the file does not say, as ``subject.Asked`` has it: model, classes, size, channels, normalise, mean,
    std, seed, device. Raises BdbenchError for what the caller can mend.
    """
    with prepared(
        checkpoint, defenses=defenses, inputs=inputs, clean=clean, out=out, threads=threads, progress=progress, **asked
    ) as ready:
        return ready.run()
