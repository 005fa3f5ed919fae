from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import BdbenchError, Streams
from bdbench_datamodel import ensemble, scoring, standout, suspects
from bdbench_datamodel.detector import Datamodel
from bdbench_datamodel.plan import Plan
from bdbench_datamodel.scoring import suspicion
from bdbench_datamodel.separation import Separation, separate
from bdbench_datamodel.suspects import Looked, look


@pytest.mark.parametrize(
    "option",
    [
        "score_by=frequency",
        "score_by=frequency,classes=each",
        "score_by=frequency,classes=ignore",
        "score_by=frequency,classes=ignore,compat=khaddaj2023",
        "score_by=posterior",
        "estimator=all",
        "estimator=covariance",
        "estimator=ridge",
        "estimator=trak,dimension=16",
        "estimator=lasso",
        "estimator=lasso,penalty=0.5",
        "net=mlp",
        "shared_start=false",
        "alpha=0.5,antithetic=true",
    ],
)
def test_every_option_runs(tiny: dict[str, Any], option: str) -> None:
    from tests.conftest import TINY_DATAMODEL

    record = bdbench.run(defense=f"{TINY_DATAMODEL},{option}", **tiny)
    scores = np.load(tiny["out"] / record.id / "scores.npz")["scores"]
    assert np.isfinite(scores).all() and scores.min() >= 0 and len(np.unique(scores)) > 1
    # With a quarter more from which suspect groups are withheld, where there are margins.
    assert record.cost.models_trained == (13 if "score_by" in option or "trak" in option else 16)


def test_the_sharpest_group_is_looked_for_in_every_class_and_believed(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Looked] = []
    believed: list[Sequence[Separation]] = []

    def looked(*arguments: Any) -> list[Looked]:
        found.extend(look(*arguments))
        return found

    def suspected(*arguments: Any) -> np.ndarray:
        believed.append(arguments[2])
        return suspicion(*arguments)

    monkeypatch.setattr(suspects, "look", looked)
    monkeypatch.setattr(scoring, "suspicion", suspected)
    bdbench.run(defense="datamodel:score_by=posterior,models=20,epochs=1,hidden=4,starts=2", **tiny)
    assert len(found) == 10 and len(believed) == 1
    for own, group in zip(found, believed[0], strict=True):
        assert (own.sharpest.members == group.members).all() and own.sharpest.sharpness == group.sharpness


def test_the_p_value_is_of_what_the_strongest_groups_grow_to(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown: list[float] = []
    asked: list[tuple[np.ndarray, np.ndarray]] = []

    def separated(*arguments: Any) -> Separation:
        made = separate(*arguments)
        grown.append(made.sharpness)
        return made

    def answered(strengths: np.ndarray, sharpness: np.ndarray) -> float:
        asked.append((strengths, sharpness))
        return 0.123

    monkeypatch.setattr(suspects, "separate", separated)
    monkeypatch.setattr(standout, "p_value", answered)
    record = bdbench.run(defense="datamodel:score_by=posterior,models=20,epochs=1,hidden=4,starts=2", **tiny)
    assert record.p_value == 0.123
    assert len(asked) == 1 and asked[0][1].tolist() == grown and len(asked[0][0]) == 10


def test_a_time_budget_sets_the_number_of_networks(tiny: dict[str, Any]) -> None:
    small = "chunk=10,epochs=1,hidden=4,starts=2"
    fewest, more = (
        bdbench.run(defense=f"datamodel:seconds={seconds},{small}", **tiny).cost.models_trained - 1
        for seconds in (0.001, 1)
    )
    assert fewest == 50 + 12
    assert more > fewest


@pytest.mark.parametrize(
    "option", ["sizes=0.001", "score_by=frequency,sizes=0.001", "score_by=frequency,classes=each,sizes=0.99"]
)
def test_sizes_that_leave_nothing_to_search_for_are_refused_before_networks_are_trained(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(Plan, "train", lambda *_: pytest.fail("networks were trained"))
    with pytest.raises(BdbenchError, match="leave no group of at least 2 examples, and as many beside it, among the"):
        bdbench.run(defense=f"datamodel:{option}", **tiny)


def test_a_subset_is_known_by_its_place_whatever_was_trained_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chunk of more networks than the default number, and a time budget that goes on after them, a fifth apart."""
    view = bdbench.TrainingView(np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 3, 3)
    made: dict[int, np.ndarray] = {}

    def trained(self: Plan, parts: Sequence[np.ndarray], seeds: Sequence[list[int]], tensors: Any, i: int) -> Any:
        made.update(zip(seeds[i], parts[i], strict=True))
        return {"margins": np.zeros(parts[i].shape, np.float32), "seconds": np.array(0.001 * len(parts[i]))}

    monkeypatch.setattr(Plan, "_piece", trained)
    tools: Any = SimpleNamespace(
        shared_streams=Streams(0), device="cpu", precision="float32", track=lambda total, label: lambda steps: None,
        saved_each=lambda configs, make, shared: map(make, range(len(configs))), count_models=lambda number: None,
    )  # fmt: skip
    ensembles = []
    for options in ({"models": 1300, "chunk": 200}, {"seconds": 1.625, "chunk": 1100}):
        masks, _ = Plan.of(Datamodel(shared_start=False, **options), view, tools.precision).train(view, tools)
        assert all((masks[row] == made[min(made) + row]).all() for row in range(len(masks)))
        ensembles.append(masks)
    assert len(ensembles[0]) == len(ensembles[1]) and (ensembles[0] == ensembles[1]).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"models": 5, "seconds": 1.0}, "models=5 is not allowed with seconds=1: expected auto"),
        ({"seconds": 60.0, "estimator": "trak"}, "seconds=60 is not allowed with estimator=trak: expected an ensemble"),
        ({"seconds": 60.0, "matrix": "w.npy"}, "seconds=60 is not allowed with matrix=w.npy: expected an ensemble"),
        ({"score_by": "withheld", "matrix": "w.npy"}, "score_by=withheld is not allowed with matrix=w.npy"),
        ({"estimator": "lasso", "penalty": 1.0}, "penalty=1 is not allowed with estimator=lasso"),
        (
            {"penalty": 0.5},
            "penalty=0.5 is not allowed with estimator=out-of-sample: expected one of ridge, lasso, trak",
        ),
        ({"estimator": "ridge", "matrix": "w.npy", "penalty": 0.5}, "penalty=0.5 is not allowed with matrix=w.npy"),
        # What nothing would come of
        (
            {"score_by": "posterior", "withheld": 0.5},
            "withheld=0.5 is not allowed here, .*: expected score_by=withheld",
        ),
        ({"classes": "each"}, "classes=each is not allowed here, where it does nothing: expected score_by=frequency"),
        ({"rows": "sources"}, "rows=sources is not allowed here, where it does nothing: expected matrix=PATH"),
        ({"dimension": 7}, "dimension=7 is not allowed here, where it does nothing: expected estimator=trak"),
        ({"matrix": "w.npy", "alpha": 0.5}, "alpha=0.5 is not allowed here, where it does nothing: expected no matrix"),
        ({"matrix": "w.npy", "shared_start": False}, "shared_start=false is not allowed here, .*: expected no matrix"),
        ({"estimator": "trak", "shared_start": False}, "shared_start=false is not allowed here, .*: expected an ens"),
        ({"compat": "khaddaj2023"}, "compat=khaddaj2023 is not allowed: expected with score_by=frequency"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_anything_is_trained(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(BdbenchError, match=message):
        Datamodel(**parameters)


def test_it_finds_a_backdoor_and_the_retrained_model_is_free_of_it(tmp_path: Any) -> None:
    record = bdbench.run(out=tmp_path, seed=100, device="cpu")
    assert record.detection is not None and record.detection.auroc is not None
    assert record.before.attack_success_rate is not None and record.before.attack_success_rate > 0.8
    assert record.before.clean_accuracy > 0.95
    assert record.detection.auroc > 0.95
    assert record.after.attack_success_rate is not None and record.after.attack_success_rate < 0.1
    assert record.p_value is not None and record.p_value < 0.05
    assert record.decision is not None and record.decision.tpr is not None and record.decision.tpr > 0.9
    assert record.decision.fpr < 0.01


def test_large_images_meet_the_patch_networks(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 16, 16, 3)).astype(np.uint8)
    np.savez(
        tmp_path / "d.npz", x_train=images, y_train=np.arange(80) % 4, x_test=images[:20], y_test=np.arange(20) % 4
    )
    record = bdbench.run(
        attack="badnets:rate=0.1", defense="datamodel:models=6,chunk=4,epochs=1,starts=2", dataset="npz:path=d.npz",
        model="convnet:width=4,epochs=1", data_root=tmp_path, out=tmp_path / "runs", device="cpu",
    )  # fmt: skip
    assert record.cost.models_trained == 9


def _bench(monkeypatch: pytest.MonkeyPatch, n: int, classes: int) -> tuple[bdbench.TrainingView, Any]:
    """A set of noise and tools for it, where networks are not trained but say noise."""
    rng = np.random.default_rng(0)
    view = bdbench.TrainingView(rng.integers(0, 256, (n, 8, 8, 1)).astype(np.uint8), np.arange(n) % classes, classes)

    def margins(masks: np.ndarray) -> np.ndarray:
        return rng.standard_normal(masks.shape, np.float32) + 3

    def train(self: Plan, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        masks = ensemble.draw_subsets(n, self.models, 0.2, np.random.default_rng(1))
        return masks, margins(masks)

    monkeypatch.setattr(Plan, "train", train)

    def withhold(self: Plan, masks: np.ndarray, **_: Any) -> tuple[np.ndarray, np.ndarray]:
        return margins(masks), np.zeros(masks.shape, np.int16)

    monkeypatch.setattr(Plan, "withhold", withhold)
    tools = SimpleNamespace(
        streams=Streams(1), shared_streams=Streams(2), device="cpu", precision="float32",
        track=lambda total, label: lambda steps: None, count_models=lambda number: None, conclude=lambda *_: None,
        victim=SimpleNamespace(predict=lambda images: np.zeros(len(images), np.int64)),
    )  # fmt: skip
    return view, tools


@pytest.mark.parametrize(
    ("options", "n", "classes"),
    [
        ({}, 1200, 10),
        ({}, 1200, 2),
        ({"estimator": "ridge"}, 1500, 10),
        ({"estimator": "covariance"}, 1500, 10),
        ({"score_by": "frequency"}, 1000, 10),
        ({"matrix": "w.npy"}, 1500, 10),
    ],
)
def test_it_needs_about_as_much_memory_as_it_says(
    options: dict[str, Any], n: int, classes: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allocated by numpy at most, and what ``needs`` said before."""
    if "matrix" in options:
        options = {"matrix": str(tmp_path / "w.npy")}
        np.save(options["matrix"], np.random.default_rng(0).standard_normal((n, n), np.float32))
    else:
        options = {"models": 300, **options}
    defense = Datamodel(starts=2, **options)
    view, tools = _bench(monkeypatch, n, classes)
    defense.score(view, tools)  # what is imported and compiled is no part of it
    tracemalloc.start()
    defense.score(view, tools)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 1.3 < defense.needs(n, (8, 8, 1), classes).memory < peak * 2.5


@pytest.mark.parametrize("shared", [True, False])
def test_networks_without_suspects_begin_as_the_ensemble_does_or_each_by_itself(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = bdbench.TrainingView(np.zeros((60, 8, 8, 1), np.uint8), np.arange(60) % 3, 3)
    seeds: dict[bool, list[Any]] = {True: [], False: []}

    def margins(
        self: Any, inputs: Any, labels: Any, masks: np.ndarray, seed: int | list[int], rivals: Any = None
    ) -> np.ndarray:
        seeds[rivals is not None] += [seed] * len(masks) if isinstance(seed, int) else seed
        return np.zeros(masks.shape, np.float32)

    monkeypatch.setattr(ensemble.BatchedTrainer, "margins", margins)
    tools: Any = SimpleNamespace(
        shared_streams=Streams(0), device="cpu", precision="float32", track=lambda total, label: lambda steps: None,
        saved_each=lambda configs, make, shared: map(make, range(len(configs))), count_models=lambda number: None,
    )  # fmt: skip
    plan = Plan.of(Datamodel(models=6, chunk=4, shared_start=shared), view, "float32")
    masks, _ = plan.train(view, tools)
    plan.withhold(masks, view, tools)
    both = seeds[False] + seeds[True]
    assert len(both) == 12 and len(set(both)) == (1 if shared else 12)
