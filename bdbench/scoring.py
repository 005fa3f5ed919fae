"""Scores of a detector on anybody's training set, outside a run: no attack, no truth, no retraining."""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.cells import metrics, returned
from bdbench.cells.bench import Bench
from bdbench.cells.tools import HarnessTools
from bdbench.components import guard
from bdbench.components.defenses import Detector
from bdbench.components.interfaces import Architecture
from bdbench.components.workshop import Oracle
from bdbench.errors import BdbenchError, unknown
from bdbench.host import machine
from bdbench.images import data
from bdbench.networks import training
from bdbench.networks.training import Victim
from bdbench.progress import Progress, Silent
from bdbench.registry.plugins import installed
from bdbench.seeds import Streams
from bdbench.storage.store import Store

# More than any data set has; a network with as many outputs would not fit anywhere.
_MOST_CLASSES = 1_000_000


def detector(spec: str | Detector) -> Detector:
    """The detector of that name and those parameters. Raises BdbenchError if there is none such."""
    found = installed().component("defense", spec)
    if not isinstance(found, Detector):
        known = [r.name for r in installed().registered("defense") if issubclass(r.component, Detector)]
        raise unknown("detector", found.name, known)
    return found


def detect(
    defense: str | Detector,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    model: str | Architecture = "convnet",
    victim: Victim | Mapping[str, np.ndarray] | None = None,
    dataset: str = "",
    seed: int = 0,
    device: str = "auto",
    oracles: Mapping[Oracle, Any] | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Suspicion of each example, float64 (n,), higher = more suspicious.

    images: uint8 (n, H, W, C); labels: integers (n,), as trained on; victim: the model under inspection, or its
    ``Victim.arrays()``; None: one is trained; model: the architecture of what is trained; dataset: whose recipe to
    use; oracles: what the detector declares that it needs; folder: where its pieces are kept, so that an interrupted
    call goes on (none: kept nowhere). Raises BdbenchError for anything the caller can mend.
    """
    chosen = detector(defense)
    if not isinstance(oracles or {}, Mapping):
        raise BdbenchError(f"oracles={oracles!r} is not allowed: expected a mapping of names to values")
    missing = [o for o in chosen.told if o not in (oracles or {})]
    if missing:
        raise BdbenchError(f"detector {chosen.name!r} needs the oracle {missing[0]!r}: expected it in oracles")
    num_classes, seed = _whole(num_classes, "num_classes", 1, _MOST_CLASSES), _whole(seed, "seed", 0)
    if not (victim is None or isinstance(victim, Mapping) or callable(getattr(victim, "predict", None))):
        raise BdbenchError(f"victim={victim!r} is not allowed: expected a Victim, or the arrays of one")
    view = data.view_of(images, labels, num_classes)
    architecture = installed().component("model", model)
    height, width, channels = view.images.shape[1:]
    device = training.pick_device(device)
    streams = Streams(seed)
    told = {name: (oracles or {})[name] for name in chosen.told}
    with tempfile.TemporaryDirectory() as aside:
        bench = Bench.of(
            architecture,
            dataset,
            (height, width, channels),
            num_classes,
            contents=data.fingerprint(view.images, view.labels),
            seed=seed,
            device=device,
            precision=machine.precision("auto", device),
            store=Store(Path(folder or aside)),
            progress=progress or Silent(),
        )
        if victim is None:
            own = streams.integer("victim")
            victim = bench.trainer.train(view.images, view.labels, own, "train the victim")
        elif isinstance(victim, Mapping):
            victim = bench.restore(dict(victim), "victim")
        tools = HarnessTools(chosen.name, bench, streams, victim=victim, oracles=told, examples=len(view.labels))
        before = data.fingerprint_of(view)
        with guard.call(chosen):
            scores = returned.scores(chosen, chosen.score(view, tools), len(view.labels))
            returned.untouched(f"detector {chosen.name!r}", [view], [before])
        return scores


def _whole(value: Any, name: str, low: int, high: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise BdbenchError(f"{name}={value!r} is not allowed: expected an integer >= {low}") from None
    if number < low:
        raise BdbenchError(f"{name}={number} is not allowed: expected an integer >= {low}")
    if high is not None and number > high:
        raise BdbenchError(f"{name}={number} is not allowed: expected at most {high}")
    return number


def most_suspicious(scores: np.ndarray, budget: float, seed: int = 0) -> np.ndarray:
    """Indices of the ``round(budget * n)`` highest of scores (n,), the highest first; ties in random order.

    A stable sort would favour low indices, which may well say where an example came from. Raises BdbenchError for a
    budget outside 0..1 and for scores that are no finite numbers.
    """
    if not 0 <= budget <= 1:
        raise BdbenchError(f"budget={budget} is not allowed: expected a share in 0..1")
    if np.ndim(scores) != 1 or not np.isfinite(scores).all():
        raise BdbenchError(f"scores of shape {np.shape(scores)}, or not finite: expected finite ones of shape (n,)")
    return metrics.rank(scores, Streams(seed)("ties"))[: round(budget * len(scores))]
