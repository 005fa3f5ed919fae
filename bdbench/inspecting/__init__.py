"""``bdbench inspect``: is there a backdoor in this model? Of a checkpoint, without the data that it was trained on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdbench import machine
from bdbench.defenses import Defense
from bdbench.inspecting import detectors, images, subject, verdict
from bdbench.inspecting.result import Inspection
from bdbench.inspecting.subject import Asked
from bdbench.progress import Progress, Silent
from bdbench.store import STAGES, Store

__all__ = ["Inspection", "inspect"]


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
    start = time.perf_counter()
    machine.use_threads(threads)
    progress = progress or Silent()
    models, of_inputs = detectors.chosen(defenses, inputs is not None)
    said = Asked(clean=None if clean is None else Path(clean), **asked)
    with tempfile.TemporaryDirectory() as aside:
        found = subject.of(Path(checkpoint), said, Store(Path(aside)), progress)
        files = [] if inputs is None else images.below(Path(inputs))
        if out is not None:
            # Only now: what is refused leaves nothing.
            found = found.kept_in(Store(Path(out) / STAGES))
        findings = [detectors.inspect(found, defense) for defense in models]
        scored = None if inputs is None else detectors.score(found, of_inputs, Path(inputs), files)
        conclusion = verdict.concluded(found, findings)
    made = Inspection(found, findings, scored, conclusion, time.perf_counter() - start)
    if out is not None:
        made.write(Path(out))
    return made
