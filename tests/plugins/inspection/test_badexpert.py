from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bdbench import Recipe, Record, Reopened, Split
from bdbench_inspection.badexpert import BaDExpert, doubt


def test_the_score_by_hand() -> None:
    expert = np.array([0.9, 0.9, 0.1, 0.8, 0.0, 1.0])
    tuned = np.array([0.1, 0.9, 0.9, 0.3, 1.0, 1.0])
    # min(y / .5 x, (1 - x) / (.5 - y)); no second where y > .5, however sure x is, no first where x = 0.
    expected = [min(0.1 / 0.45, 0.1 / 0.4), 0.9 / 0.45, 0.9 / 0.05, min(0.3 / 0.4, 0.2 / 0.2), 1e8, 2]
    assert doubt(expert, tuned, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(("options", "used"), [({}, 80), ({"clean": 30}, 30)])
def test_a_fifth_of_the_clean_examples_is_left_for_the_threshold_and_tuning_is_as_long_as_asked_for(
    options: dict[str, Any], used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = np.zeros((100, 2, 2, 1), np.uint8), np.arange(100) % 2
    recipe, trained = Recipe(epochs=1, batch_size=8, lr=0.1), list[Any]()
    arrays = SimpleNamespace(arrays=lambda: {"w": np.ones(1)})
    monkeypatch.setattr(
        BaDExpert, "_unlearnt", lambda self, images, labels, tools: trained.append(len(labels)) or arrays
    )
    tools: Any = SimpleNamespace(
        oracle=lambda name: Split(images, labels),
        clean_examples=lambda count: Split(images[:count], labels[:count]),
        saved=lambda config, make: make(),
        recipe=recipe,
        victim="it",
        train=lambda images, labels, name, **told: (trained.extend([len(labels), told]), arrays)[1],
    )
    state = BaDExpert(steps=320, tune=0.5, **options).fit(tools)
    # 80 images are two batches of 64, 30 are one.
    epochs = 320 // (2 if used > 64 else 1)
    tuned = {"start": "it", "recipe": replace(recipe, epochs=epochs, batch_size=64, lr=0.05)}
    assert trained == [used, used, tuned] and set(state) == {"B.w", "M.w"}


def test_a_score_is_of_the_victims_labels_and_its_own_alpha() -> None:
    sure = {"B": [[0.9, 0.1], [0.2, 0.8]], "M": [[0.3, 0.7], [0.1, 0.9]]}
    models = {name: SimpleNamespace(logits=lambda images, p=p: np.log(np.array(p))) for name, p in sure.items()}
    tools: Any = SimpleNamespace(
        victim=SimpleNamespace(predict=lambda images: np.array([0, 1])),
        restore=lambda state: models["B" if state["w"] == 0 else "M"],
    )
    scores = BaDExpert(alpha=0.25).score(np.zeros((2, 1, 1, 1)), {"B.w": np.zeros(1), "M.w": np.ones(1)}, tools)
    assert scores == pytest.approx(-doubt(np.array([0.9, 0.8]), np.array([0.3, 0.9]), 0.25))


@pytest.mark.parametrize("attack", ["badnets:rate=.1", "blend:rate=.1"])
def test_it_finds_triggered_digits(attack: str, on_digits: Callable[..., Record]) -> None:
    found = on_digits(attack, "badexpert").inputs
    assert found is not None and found.auroc is not None and found.auroc > 0.9


def test_the_expert_forgot_the_task_and_knows_the_trigger(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    run = again(on_digits("badnets:rate=.1", "badexpert"))
    tools, defense, challenge = run.tools(), run.defense, run.challenge
    assert isinstance(defense, BaDExpert) and challenge is not None
    state = defense.fit(tools)
    models = {n: tools.restore({k[2:]: v for k, v in state.items() if k.startswith(f"{n}.")}) for n in "BM"}
    test, triggered = np.asarray(run.clean.test.images), challenge.images[run.attacked]
    right = {name: np.mean(model.predict(test) == run.clean.test.labels) for name, model in models.items()}
    obeyed = {name: np.mean(model.predict(triggered) == 0) for name, model in models.items()}
    # On the few clean examples themselves B is right in a fifth.
    assert right["B"] < 0.6 < 0.9 < right["M"]
    assert obeyed["B"] > 0.7
