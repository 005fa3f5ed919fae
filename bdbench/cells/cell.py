"""One cell of the benchmark: poison, train the victim, let each defense at it, measure, record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import numpy as np

from bdbench.cells import beside, environment, forecast, scene, stages
from bdbench.cells.events import Deaf, Events
from bdbench.cells.forecast import Forecast, Ground
from bdbench.cells.models import Models
from bdbench.cells.scene import Scene, Setting
from bdbench.cells.stages import Outcome, Work
from bdbench.components import guard, sources
from bdbench.components.applicable import why_not
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense, check_distinct
from bdbench.components.interfaces import Measured
from bdbench.errors import BdbenchError
from bdbench.host import timeout
from bdbench.storage import record
from bdbench.storage.record import Cost, Record
from bdbench.storage.store import key_of


class Cell:
    """One poisoned set and one victim, for any number of defenses. Nothing is computed before it is asked for."""

    def __init__(self, setting: Setting, events: Events | None = None, seconds: float | None = None) -> None:
        """seconds: how long what its defenses share may take, and then each of them; None: as long as it takes."""
        self.setting = setting
        self._seconds = seconds
        self._events = events or Deaf()
        self._scene: Scene | None = None
        self._models: Models | None = None
        self._told = False

    @property
    def scene(self) -> Scene:
        """The data, the poisoned set and the challenge. Raises BdbenchError for what does not fit."""
        if self._scene is None:
            self._scene = scene.made(self.setting)
        return self._scene

    @property
    def models(self) -> Models:
        """The victim and the others that its defenses share."""
        if self._models is None:
            self._models = Models(self.scene)
        return self._models

    def forecast(self, defenses: Sequence[Defense]) -> Forecast:
        """What it would take; nothing is trained or kept. Raises BdbenchError for what does not fit together: all that
        a run would refuse, unless the attack has to craft something first.
        """
        setting = self.setting
        for defense in defenses:
            self._check_applies(defense)
        if type(setting.attack).craft is Attack.craft:
            self._check(defenses)
            return forecast.forecast(Ground.of(self.scene), setting, defenses)
        images = scene.read_images(setting.dataset, setting.source, setting.seed, setting.reserve, setting.progress)
        trainer = scene.trainer_for(setting, images)
        ground = Ground(setting.model, trainer, np.asarray(images.train.images), images.num_classes)
        return forecast.forecast(ground, setting, defenses)

    def prepare(self, defenses: Sequence[Defense]) -> None:
        """Make what all defenses share. Raises BdbenchError for what can be known before anything is trained."""
        with self._limited():
            self._check(defenses)
            self._share(defenses)

    def _limited(self) -> AbstractContextManager[None]:
        return timeout.at_most(self._seconds, timeout.CELL_SECONDS)

    def _share(self, defenses: Sequence[Defense]) -> None:
        fitting = [defense for defense in defenses if self._fits(defense)]
        if fitting:
            _ = self.models.before
        # Else the first of the defenses would pay for them.
        if fitting and self.setting.floor:
            _ = self.models.floor
        if any(forecast.compares(defense, self.setting.budget) for defense in fitting):
            _ = self.models.reference_stage

    def _share_if_it_can_be(self, defenses: Sequence[Defense]) -> None:
        try:
            self._share(defenses)
        except timeout.OutOfTime:
            raise
        except Exception:
            pass  # said when a defense's turn comes

    def _fits(self, defense: Defense) -> bool:
        try:
            self._check_defense(defense)
        except timeout.OutOfTime:
            raise
        except Exception:
            return False  # said when the defense's turn comes
        return True

    def _check_defense(self, defense: Defense) -> None:
        """Raise BdbenchError for what of one defense can be known before anything is trained for it."""
        self._check_applies(defense)
        forecast.check_defense(Ground.of(self.scene), defense)
        with guard.call(defense):
            told = tuple(defense.told)
        if "clean_set" in told and self.scene.images.reserve is None:
            asked = f"reserve={self.setting.reserve:g} sets no example apart that is in neither training nor test set"
            raise BdbenchError(f"defense {defense.name!r} needs clean examples, but {asked}: expected a larger share")

    def _check_applies(self, defense: Defense) -> None:
        """Raise BdbenchError if a defense does not apply; that takes no data."""
        reason = self._why_not(defense)
        if reason:
            attack = self.setting.attack.name
            raise BdbenchError(f"defense {defense.name!r} does not apply to attack {attack!r}: {reason}")

    def _why_not(self, defense: Defense) -> str | None:
        return why_not(defense, self.setting.attack, self.setting.reserve)

    def run(self, defenses: Sequence[Defense]) -> Iterator[Record | Exception]:
        """Every defense in turn: its record, or the error it failed with; of each the same if time ran out before."""
        try:
            with self._limited():
                # Of data that no defense is to see nothing is made.
                if not all(map(self._why_not, defenses)):
                    self._check(defenses)
                if self._seconds is not None:
                    self._share_if_it_can_be(defenses)
        except timeout.OutOfTime as error:
            yield from [error] * len(defenses)
            return
        for defense in defenses:
            try:
                with self._limited():
                    made = self._one(defense)
            except Exception as error:
                yield error
            else:
                yield made

    def _tell_shared(self, run: str) -> None:
        """Make what all defenses share, and tell of it, under the first of their runs."""
        for stage in ("data", "craft", "poison"):
            if stage in self.scene.seconds:
                self._events.stage_finished(run, stage, self.scene.seconds[stage], False)
        trained = self.models.victim_stage
        self._events.stage_finished(run, "victim", trained.seconds, trained.reused)
        if "reference" in self.scene.seconds:
            _, trained = self.models.reference_stage
            self._events.stage_finished(run, "reference", trained.seconds, trained.reused)

    def config(self, defense: Defense) -> dict[str, Any]:
        """What the record says it was made of."""
        setting = self.setting
        parts = {"dataset": setting.dataset, "model": setting.model, "attack": setting.attack, "defense": defense}
        return {
            **{kind: part.config() for kind, part in parts.items()},
            "budget": setting.budget if defense.stage == "training set" else None,
            "reserve": setting.reserve,
            "recipe": asdict(self.scene.bench.trainer.recipe),
            "data": dict(self.scene.facts),
            "files": {path: held for part in parts.values() for path, held in scene.contents(part).items()},
            "code": {kind: sources.own_code_of(part) for kind, part in parts.items() if kind != "dataset"},
        }

    def _check(self, defenses: Sequence[Defense]) -> None:
        """Raise BdbenchError for what can be known before anything is trained."""
        with guard.call():
            check_distinct(defenses)
        n, budget = len(self.scene.view.labels), self.setting.budget
        removes = any(defense.stage == "training set" for defense in defenses)
        if removes and budget != "auto" and budget and not 1 <= round(budget * n) < n:
            asked = f"budget={budget:g} removes {round(budget * n)} of {n} training examples"
            raise BdbenchError(f"{asked}: expected at least 1, and not all")
        forecast.check_training(Ground.of(self.scene))

    def _one(self, defense: Defense) -> Record:
        """The defense's own part, measured and recorded."""
        self._check_defense(defense)
        config = self.config(defense)
        run = run_id(config, self.setting.seed, self.setting.device)
        self._events.started(run, config)
        if not self._told:
            self._tell_shared(run)
            self._told = True
        environment.reset_peak_memory()
        work = Work(
            defense,
            self.scene,
            self.models,
            self.scene.tools(defense, self.models.victim),
            lambda stage, seconds, reused: self._events.stage_finished(run, stage, seconds, reused),
        )
        outcome = stages.run(work)
        arrays = {"roles": self.scene.poisoned.roles, **outcome.arrays}
        made = self._recorded(run, config, work, outcome, beside.digest(arrays))
        record.write(self.setting.out / run, made, arrays)
        self._events.finished(run, made.to_dict())
        return made

    def _recorded(self, run: str, config: dict[str, Any], work: Work, outcome: Outcome, arrays: str) -> Record:
        """What was measured. arrays: the digest of what is kept beside it."""
        setting, defense, before = self.setting, work.defense, self.models.before
        kept, after = outcome.arrays.get("kept"), outcome.after
        if setting.budget == "auto" and outcome.decision is not None:
            kept, after = ~outcome.arrays["flagged"], outcome.decision.after
        measured = Measured(
            self.scene.poisoned.roles,
            outcome.arrays.get("scores"),
            kept,
            asdict(before),
            asdict(after) if after else {},
        )
        against = forecast.compares(defense, setting.budget)
        # What was made for others of its company is none of its own.
        shared = {k: v for k, v in self.scene.seconds.items() if against or k != "reference"}
        versions = self._events.versions(setting.dataset, setting.model, setting.attack, defense)
        return Record(
            id=run,
            seed=setting.seed,
            stage=defense.stage,
            control=setting.attack.control,
            config=config,
            oracles=list(defense.told),
            access=list(defense.access),
            environment=environment.describe(setting.device, setting.precision, versions),
            before=before,
            reference=self.models.reference_stage[0] if against else None,
            after=outcome.after,
            detection=outcome.detection,
            decision=outcome.decision,
            inputs=outcome.inputs,
            verdict=outcome.verdict,
            stealth=self.scene.stealth,
            floor=self.models.floor if setting.floor else None,
            arrays=arrays,
            p_value=work.p_value,
            derived=outcome.derived,
            cost=Cost({**shared, **work.seconds}, work.models_trained, environment.peak_memory_mb()),
            extra=self._events.extra(measured),
        )


def run_id(config: dict[str, Any], seed: int, device: str) -> str:
    """A name a person can read and a hash that makes it unique: the id of a cell's run."""
    names = [config[kind]["name"] for kind in ("dataset", "model", "attack", "defense")]
    return "-".join([*names, f"s{seed}", key_of({"seed": seed, "device": device, **config})[:8]])
