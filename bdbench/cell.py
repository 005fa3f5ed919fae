"""One cell of the benchmark: poison, train, detect, remove, retrain, measure, record."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bdbench import data, environment, metrics, record, sources, training
from bdbench.data import ImageData, PoisonedData
from bdbench.errors import BdbenchError
from bdbench.interfaces import (
    Architecture,
    Attack,
    Dataset,
    Defense,
    Detector,
    Measured,
    Mitigation,
    Oracle,
    Source,
)
from bdbench.plugins import installed
from bdbench.progress import Progress
from bdbench.record import Cost, Derived, Detection, Performance, Record
from bdbench.seeds import Streams
from bdbench.store import Stage, Store, key_of
from bdbench.tools import HarnessTools, Spread
from bdbench.training import Victim


def read_images(dataset: Dataset, source: Source, seed: int, progress: Progress) -> ImageData:
    """A data set, decoded and checked, its subset taken. Raises BdbenchError if it is not there or not fit."""
    return data.pick(dataset.read(source), dataset.subset, Streams(seed)("subset"), progress.track)


@dataclass
class Cell:
    """The part of a cell that its defenses share, and the walk through it: ``open``, ``train_victim``, then each."""

    dataset: Dataset
    model: Architecture
    attack: Attack
    seed: int
    budget: float
    device: str
    out: Path
    source: Source
    store: Store
    progress: Progress
    spread: Spread | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, defenses: Sequence[Defense]) -> Iterator[Record | Exception]:
        """Every defense in turn: its record, or the error it failed with."""
        twice = [d.name for i, d in enumerate(defenses) if d in defenses[:i]]
        if twice:
            raise BdbenchError(f"defense {twice[0]!r} is given twice with the same parameters: expected once")
        self.open()
        n = len(self.images.train.labels)
        if self.budget and not 1 <= round(self.budget * n) < n:
            asked = f"budget={self.budget:g} removes {round(self.budget * n)} of {n} training examples"
            raise BdbenchError(f"{asked}: expected at least 1, and not all")
        runs = [(defense, self._describe(defense)) for defense in defenses]
        ids = [run_id(config, self.seed, self.device) for _, config in runs]
        self._announce(ids[0], runs[0][1])
        self._finished(ids[0], "data", self.seconds["data"], False)
        self._finished(ids[0], "poison", self.seconds["poison"], False)
        stage = self.train_victim()
        self._finished(ids[0], "victim", stage.seconds, stage.reused)
        self.before = self._measure(self.victim)
        for i, (defense, config) in enumerate(runs):
            if i:
                self._announce(ids[i], config)
            try:
                made = self._one(ids[i], defense, config)
            except Exception as error:
                yield error
            else:
                yield made

    def _describe(self, defense: Defense) -> dict[str, Any]:
        parts = {"dataset": self.dataset, "model": self.model, "attack": self.attack, "defense": defense}
        files = self._files(defense)
        return {
            **{kind: part.config() for kind, part in parts.items()},
            "budget": self.budget,
            "recipe": asdict(self.model.recipe(self.dataset.name, self.images.shape)),
            "data": self.data_config(),
            **({"files": files} if files else {}),
        }

    @staticmethod
    def _files(defense: Defense) -> dict[str, str]:
        """A hash of what each file holds that the defense reads."""
        found = {}
        for path in defense.files():
            if not path.is_file():
                raise BdbenchError(f"defense {defense.name!r} reads {str(path)!r}, which is not there: expected a file")
            found[str(path)] = sources.digest_of(path)
        return found

    def data_config(self) -> dict[str, Any]:
        """What the record says of the clean data."""
        train, test = self.images.train, self.images.test
        arrays = [train.images, train.labels, test.images, test.labels]
        return {
            "train": len(train.labels),
            "test": len(test.labels),
            "classes": self.images.num_classes,
            "shape": list(self.images.shape),
            "fingerprint": data.fingerprint(*map(np.asarray, arrays)),
        }

    def _announce(self, run: str, config: dict[str, Any]) -> None:
        installed().call("bdbench_run_started", run_id=run, config=config)

    def _finished(self, run: str, stage: str, seconds: float, reused: bool) -> None:
        installed().call("bdbench_stage_finished", run_id=run, stage=stage, seconds=seconds, reused=reused)

    def open(self) -> None:
        """The data and the poisoned set, which all defenses share."""
        self.streams = Streams(self.seed)
        start = time.perf_counter()
        self.images = read_images(self.dataset, self.source, self.seed, self.progress)
        self.seconds["data"] = time.perf_counter() - start
        start = time.perf_counter()
        self.poisoned = self._poison()
        self.seconds["poison"] = time.perf_counter() - start
        self.recipe = self.model.recipe(self.dataset.name, self.images.shape)
        build = functools.partial(self.model.build, self.images.shape, self.images.num_classes)
        self.trainer = training.Trainer(build, self.recipe, self.device, self.progress.track)
        self.view = self.poisoned.view(self.images.num_classes)
        self.made_from = {
            "set": data.fingerprint(self.poisoned.images, self.poisoned.labels),
            "classes": self.images.num_classes,
            "seed": self.seed,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "code": sources.code_of(self.model),
        }

    def train_victim(self) -> Stage:
        """The victim, which all defenses share: the attacker's own, if there is one."""
        given = self.attack.victim(self.model)
        if given is not None:
            # What is found with another victim is another result.
            self.made_from["victim"] = data.fingerprint(*given.values())
            self.victim = self._given(given)
            self.seconds["victim"] = 0.0
            return Stage({}, 0.0, reused=True)
        self.victim, stage = self._train_stage(np.arange(len(self.view.labels)), "victim", "train the victim")
        self.seconds["victim"] = stage.seconds
        return stage

    def _given(self, arrays: Mapping[str, np.ndarray]) -> Victim:
        try:
            return self.trainer.restore(arrays)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise BdbenchError(
                f"attack {self.attack.name!r} brings weights that do not fit model {self.model.name!r}: {reason}"
            ) from None

    def tools(self, defense: Defense) -> HarnessTools:
        """What the harness hands to ``defense``."""
        return HarnessTools(
            defense=defense.name,
            # A copy of its own: a defense may prune or fine-tune it in place.
            victim=self.trainer.restore(self.victim.arrays()),
            streams=self.streams,
            store=self.store,
            made_from=key_of(self.made_from),
            trainer=self.trainer,
            oracles=self._oracles(defense),
            progress=self.progress,
            spread=self.spread,
        )

    def _poison(self) -> PoisonedData:
        train, classes = self.images.train, self.images.num_classes
        poisoned = self.attack.poison(train, classes, self.streams.child("attack"))
        n = len(poisoned.images)
        self._check_images(poisoned.images, (n, *self.images.shape))
        columns = {"labels": np.int64, "roles": np.int8, "original_labels": np.int64}
        for name, dtype in columns.items():
            array = getattr(poisoned, name)
            if array.shape != (n,) or array.dtype != dtype:
                found = f"{array.dtype} {array.shape}"
                raise BdbenchError(
                    f"attack {self.attack.name!r} returned {name} of {found}: expected {np.dtype(dtype)} ({n},)"
                )
        if not 0 <= poisoned.labels.min() <= poisoned.labels.max() < classes:
            raise BdbenchError(f"attack {self.attack.name!r} returned labels outside 0..{classes - 1}")
        return poisoned

    def _check_images(self, images: np.ndarray, shape: tuple[int, ...]) -> None:
        if images.dtype != np.uint8 or images.shape != shape:
            found = f"{images.dtype} {images.shape}"
            raise BdbenchError(f"attack {self.attack.name!r} returned images of {found}: expected uint8 {shape}")

    def _train_stage(self, kept: np.ndarray, stream: str, label: str) -> tuple[Victim, Stage]:
        """A model trained on the kept part (indices) of the poisoned set, from the store if it is there."""
        config = {
            "stage": "train",
            **self.made_from,
            "kept": data.fingerprint(kept),
            "model": self.model.config(),
            "recipe": asdict(self.recipe),
            "stream": stream,
        }
        seed = self.streams.integer(stream)

        def make() -> tuple[Mapping[str, np.ndarray], float]:
            start = time.perf_counter()
            victim = self.trainer.train(self.view.images[kept], self.view.labels[kept], seed, label)
            return victim.arrays(), time.perf_counter() - start

        stage = self.store.stage(config, make)
        return self.trainer.restore(stage.arrays), stage

    def _measure(self, victim: Victim) -> Performance:
        test = self.images.test
        assert isinstance(test.images, np.ndarray)
        goal = self.attack.goal(test.labels)
        triggered = None
        if goal is not None:
            stamped = self.attack.trigger(test.images, self.streams.child("attack"))
            self._check_images(stamped, test.images.shape)
            triggered = victim.predict(stamped)
        return metrics.performance(victim.predict(test.images), triggered, test.labels, goal)

    def _one(self, run: str, defense: Defense, config: dict[str, Any]) -> Record:
        """The defense's own part: score or repair, remove, retrain, measure, record."""
        roles = self.poisoned.roles
        tools = self.tools(defense)
        seconds = dict(self.seconds)
        arrays: dict[str, np.ndarray] = {"roles": roles}
        found: Detection | None = None
        if isinstance(defense, Mitigation):
            stage = self._defense_stage(defense, config, tools, lambda: defense.repair(self.view, tools).arrays())
            repaired = {k: v for k, v in stage.arrays.items() if k not in ("models_trained", "p_value")}
            after = self._measure(self.trainer.restore(repaired))
            seconds["repair"] = stage.seconds
            self._finished(run, "repair", stage.seconds, stage.reused)
            models = int(stage.arrays["models_trained"])
        elif isinstance(defense, Detector):
            stage = self._defense_stage(defense, config, tools, lambda: {"scores": self._scores(defense, tools)})
            seconds["score"] = stage.seconds
            self._finished(run, "score", stage.seconds, stage.reused)
            scores = stage.arrays["scores"]
            ranking = metrics.rank(scores, self.streams("ties"))
            kept = ~metrics.flagged(ranking, self.budget)
            after, models = self.before, int(stage.arrays["models_trained"])
            if not kept.all():
                retrained, again = self._train_stage(np.flatnonzero(kept), "retrain", f"{defense.name}: retrain")
                seconds["retrain"] = again.seconds
                self._finished(run, "retrain", again.seconds, again.reused)
                after, models = self._measure(retrained), models + 1
            p_value = float(stage.arrays["p_value"])
            found = metrics.detection(scores, ranking, roles, self.budget)
            found = replace(found, p_value=None if np.isnan(p_value) else p_value)
            arrays |= {"scores": scores, "kept": kept}
        else:
            raise BdbenchError(f"defense {defense.name!r} is neither a Detector nor a Mitigation")
        result = Record(
            id=run,
            seed=self.seed,
            config={**config, "data": {**config["data"], "poisons": int((roles == data.Role.POISON).sum())}},
            oracles=list(defense.oracles),
            environment=environment.describe(self.device, self.dataset, self.model, self.attack, defense),
            before=self.before,
            detection=found,
            after=after,
            derived=Derived(metrics.defense_effectiveness_rating(self.before, after)),
            cost=Cost(seconds, models, environment.peak_memory_mb()),
            extra=self._extra(roles, arrays, after),
        )
        record.write(self.out / run, result, arrays)
        installed().call("bdbench_run_finished", run_id=run, record=result.to_dict())
        return result

    def _defense_stage(
        self,
        defense: Defense,
        described: Mapping[str, Any],
        tools: HarnessTools,
        make: Callable[[], Mapping[str, np.ndarray]],
    ) -> Stage:
        config = {
            "stage": "defense",
            **self.made_from,
            "model": self.model.config(),
            "recipe": asdict(self.recipe),
            "defense": defense.config(),
            "defense_code": sources.code_of(defense),
            "oracles": self._oracles(defense),
            "files": described.get("files", {}),
        }

        def timed() -> tuple[Mapping[str, np.ndarray], float]:
            start = time.perf_counter()
            arrays = dict(make())
            arrays["models_trained"] = np.array(tools.models_trained)
            arrays["p_value"] = np.array(np.nan if tools.p_value is None else tools.p_value)
            return arrays, time.perf_counter() - start + tools.reused_seconds

        return self.store.stage(config, timed)

    def _scores(self, defense: Detector, tools: HarnessTools) -> np.ndarray:
        scores = np.asarray(defense.score(self.view, tools), np.float64)
        if scores.shape != self.view.labels.shape or not np.isfinite(scores).all():
            n = len(self.view.labels)
            raise BdbenchError(
                f"defense {defense.name!r} returned scores of shape {scores.shape}, "
                f"{np.count_nonzero(~np.isfinite(scores))} of them not finite: expected ({n},), all finite"
            )
        return scores

    def _oracles(self, defense: Defense) -> dict[Oracle, Any]:
        """The attacker's knowledge that the defense declares, and no more."""
        poisons = self.poisoned.roles == data.Role.POISON
        goal = self.attack.goal(np.zeros(1, np.int64))
        known: dict[Oracle, Any] = {
            "poison_rate": float(poisons.mean()),
            "target_label": None if goal is None else int(goal[0]),
        }
        return {name: known[name] for name in defense.oracles}

    def _extra(
        self, roles: np.ndarray, arrays: Mapping[str, np.ndarray], after: Performance
    ) -> dict[str, float | None]:
        measured = Measured(roles, arrays.get("scores"), arrays.get("kept"), asdict(self.before), asdict(after))
        return {r.name: installed().compute(r, measured) for r in installed().registered("metric")}


def run_id(config: Mapping[str, Any], seed: int, device: str) -> str:
    """A name a person can read and a hash that makes it unique: the id of a cell's run."""
    names = [config[kind]["name"] for kind in ("dataset", "model", "attack", "defense")]
    return "-".join([*names, f"s{seed}", key_of({"seed": seed, "device": device, **config})[:8]])
