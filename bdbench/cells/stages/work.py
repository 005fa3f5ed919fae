"""What a stage of defense is handed, what it hands back, and how a defense's own work is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bdbench.cells import returned
from bdbench.cells.bench import Bench
from bdbench.cells.models import Models
from bdbench.cells.scene import Scene, contents
from bdbench.cells.tools import HarnessTools
from bdbench.components import guard, sources
from bdbench.components.defenses import Defense, Model
from bdbench.components.workshop import State
from bdbench.networks.training import Victim
from bdbench.storage.record import Decision, Derived, Detection, Inputs, Judgement, Performance
from bdbench.storage.store import Stage

# Under these names what speaks against each class is kept beside a defense's own arrays.
_JUDGED, _EVIDENCE = "evidence labels", "evidence"


@dataclass(frozen=True)
class Outcome:
    """What the record holds of a defense. arrays: what is kept beside the record."""

    after: Performance | None = None
    detection: Detection | None = None
    decision: Decision | None = None
    inputs: Inputs | None = None
    verdict: Judgement | None = None
    derived: Derived = field(default_factory=lambda: Derived(None))
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Work:
    """One defense at work in a cell.

    finished: called with the name of a stage, its seconds, and whether it was reused; seconds, models_trained, p_value:
    what came of it so far, for the record.
    """

    defense: Defense
    scene: Scene
    models: Models
    tools: HarnessTools
    finished: Callable[[str, float, bool], None]
    seconds: dict[str, float] = field(default_factory=dict)
    models_trained: int = 0
    p_value: float | None = None

    def kept(self, name: str, make: Callable[[], State], *, asked: bool = False) -> dict[str, np.ndarray]:
        """The arrays that the defense gives, computed once; what it concludes is kept with them.

        asked: they are of the test set, the challenge or the reserve, and no other's.
        """
        stage = concluded(
            self.defense,
            self.scene.bench,
            self.tools,
            {"stage": "defense", "kept": name, "asked": self.scene.asked if asked else ""},
            make,
            lambda: self.scene.check_untouched(self.defense),
        )
        conclusion, arrays = Conclusion.of(stage)
        self.models_trained += conclusion.models_trained
        self.p_value = conclusion.p_value
        self.done(name, stage)
        return arrays

    def done(self, name: str, stage: Stage) -> None:
        """Note and tell that a stage is done."""
        self.seconds[name] = stage.seconds
        self.finished(name, stage.seconds, stage.reused)

    def reference(self) -> Performance:
        """What plain training on the whole poisoned set gives; told when it is first made."""
        known = "reference" in self.scene.seconds
        performance, stage = self.models.reference_stage
        if not known:
            self.finished("reference", stage.seconds, stage.reused)
        return performance

    def retrained(self, kept: np.ndarray, name: str) -> Performance:
        """What a model does that is trained on the kept part, bool (n,), of the poisoned set."""
        model, stage = self.models.trained(kept, "retrain", f"{self.defense.name}: {name}")
        self.done(name, stage)
        self.models_trained += 1
        return self.models.performance(model)

    def modelled(self, name: str, make: Callable[[], Model]) -> Performance:
        """What the model does that the defense makes. Kept are its predictions, and its weights if it is a Victim."""

        def arrays() -> State:
            model = returned.model(self.defense, make())
            classes = self.scene.images.num_classes
            clean, challenged = self.models.predictions(
                model, lambda said, count: returned.predictions(self.defense, said, count, classes)
            )
            weights = model.arrays() if isinstance(model, Victim) else {}
            return {"clean": clean, **({} if challenged is None else {"challenged": challenged}), **weights}

        made = self.kept(name, arrays, asked=True)
        return self.models.measured(made["clean"], made.get("challenged"))


@dataclass(frozen=True)
class Conclusion:
    """What a defense spent and said of what it saw, beside the arrays that it gave."""

    models_trained: int
    p_value: float | None
    evidence: dict[int, float] | None = None

    @classmethod
    def of(cls, stage: Stage) -> tuple[Conclusion, dict[str, np.ndarray]]:
        """Out of a stage that ``concluded`` made, with the other arrays in it; flagged is one of these."""
        arrays = dict(stage.arrays)
        models, p_value = int(arrays.pop("models_trained")), float(arrays.pop("p_value"))
        labels, values = arrays.pop(_JUDGED, None), arrays.pop(_EVIDENCE, None)
        evidence = None
        if labels is not None and values is not None:
            evidence = dict(zip(labels.tolist(), values.tolist(), strict=True))
        return cls(models, None if np.isnan(p_value) else p_value, evidence), arrays


def concluded(
    defense: Defense,
    bench: Bench,
    tools: HarnessTools,
    known_by: Mapping[str, Any],
    make: Callable[[], State],
    check: Callable[[], None],
) -> Stage:
    """The arrays that a defense gives, with its conclusion, computed once; ``check`` raises if it misbehaved.

    known_by: what tells this piece of its work from others on the same set.
    """
    config = {
        **bench.made_from,
        **tools.made_from,
        "defense": defense.config(),
        "defense_code": sources.code_of(defense),
        "files": contents(defense),
        **known_by,
    }

    def timed() -> tuple[State, float]:
        start = time.perf_counter()
        with guard.call(defense):
            arrays = returned.arrays(f"defense {defense.name!r}", make())
            check()
        arrays["models_trained"] = np.array(tools.models_trained)
        arrays["p_value"] = np.array(np.nan if tools.p_value is None else tools.p_value)
        if tools.flagged is not None:
            arrays["flagged"] = tools.flagged
        if tools.evidence is not None:
            arrays[_JUDGED] = np.array(list(tools.evidence), np.int64)
            arrays[_EVIDENCE] = np.array(list(tools.evidence.values()), np.float64)
        return arrays, time.perf_counter() - start + tools.reused_seconds

    return bench.store.stage(config, timed)
