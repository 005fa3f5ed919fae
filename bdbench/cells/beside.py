"""What lies beside a run's record, scores.npz: written with it, and checked to be its own when it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bdbench.cells import metrics
from bdbench.errors import BdbenchError
from bdbench.images.data import fingerprint
from bdbench.storage.files import read_arrays
from bdbench.storage.record import ARRAYS, Record
from bdbench.storage.store import key_of

if TYPE_CHECKING:
    from bdbench.cells.scene import Scene

# How far a figure may be from the one that its scores give: sums of other orders.
_CLOSE = 1e-9


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A hash of arrays by their names: of contents, types and shapes, however they are packed."""
    return key_of({name: fingerprint(array) for name, array in arrays.items()})


def read(folder: Path, record: Record, scene: Scene) -> dict[str, np.ndarray]:
    """The arrays in a run's folder; none if they are not there. scene: the run's, made again.

    Raises BdbenchError for what does not read, or is not what the record was made with: by its digest, and of an older
    record, which has none, by the roles of the examples and the figures that follow from scores.
    """
    file = folder / ARRAYS
    try:
        arrays = read_arrays(file)
    except FileNotFoundError:
        return {}
    _check_form(file, arrays, scene)
    if record.arrays is not None:
        other = [] if digest(arrays) == record.arrays else ["its digest is of other arrays"]
    else:
        other = list(_differences(arrays, record, scene))
    if other:
        raise BdbenchError(
            f"{file} is not of {record.id}: {other[0]}: expected the file that was written with the record; run its "
            "cell again, or remove the file to do without scores"
        )
    return arrays


def _check_form(file: Path, arrays: Mapping[str, np.ndarray], scene: Scene) -> None:
    """Raise BdbenchError unless what was kept beside a record is finite, and of as many examples as the run has."""
    counts = {name: len(scene.view.labels) for name in ("roles", "scores", "kept", "flagged")}
    counts |= {"clean_scores": len(scene.images.test.labels), "challenge_scores": len(scene.attacked)}
    for name in counts.keys() & arrays.keys():
        array = arrays[name]
        if array.shape != (counts[name],):
            raise BdbenchError(f"{file}: {name} have shape {array.shape}: expected ({counts[name]},), as the run")
        if array.dtype.kind not in "bif" or not np.isfinite(array).all():
            raise BdbenchError(f"{file}: {name} are {array.dtype}, not all finite: expected finite numbers")


def _differences(arrays: Mapping[str, np.ndarray], record: Record, scene: Scene) -> Iterator[str]:
    """What the arrays say otherwise than a record without their digest."""
    roles, told = scene.poisoned.roles, record.detection
    if "roles" in arrays and not np.array_equal(arrays["roles"], roles):
        yield "its roles are those of another training set"
    found: list[tuple[str, float | None, float | None]] = []
    if "scores" in arrays:
        scores = arrays["scores"]
        made = metrics.detection(scores, np.argsort(-scores, kind="stable"), roles, None)
        found += [
            ("AUROC", made.auroc, told.auroc if told else None),
            ("average precision", made.average_precision, told.average_precision if told else None),
        ]
    if "kept" in arrays:
        share = told.budget if told is not None and told.budget else 0.0
        found.append(("share removed", float(np.mean(arrays["kept"] == 0)), round(share * len(roles)) / len(roles)))
    if {"clean_scores", "challenge_scores"} <= arrays.keys():
        given = arrays["clean_scores"], arrays["challenge_scores"], scene.attacked, scene.attacked
        auroc = metrics.inputs(*given, refused=None, seconds_per_input=0.0).auroc
        found.append(("AUROC of inputs", auroc, record.inputs.auroc if record.inputs else None))
    for name, here, there in found:
        if (here is None) != (there is None) or not math.isclose(here or 0, there or 0, abs_tol=_CLOSE):
            yield f"its {name} is {_shown(here)}, and the record's {_shown(there)}"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
