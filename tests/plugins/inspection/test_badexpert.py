from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bdbench import Record, Reopened
from bdbench_inspection.badexpert import BaDExpert, doubt


def test_the_score_by_hand() -> None:
    expert = np.array([0.9, 0.9, 0.1, 0.8, 0.0, 1.0])
    tuned = np.array([0.1, 0.9, 0.9, 0.3, 1.0, 1.0])
    # min(y / .5 x, (1 - x) / (.5 - y)); no second where y > .5, however sure x is, no first where x = 0.
    expected = [min(0.1 / 0.45, 0.1 / 0.4), 0.9 / 0.45, 0.9 / 0.05, min(0.3 / 0.4, 0.2 / 0.2), 1e8, 2]
    assert doubt(expert, tuned, 0.5) == pytest.approx(expected)


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
