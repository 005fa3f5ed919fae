from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bdbench import Record, Reopened
from bdbench_baselines.abl_isolation import AblIsolation


def test_what_is_learnt_at_once_are_poisons(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    record = on_digits("badnets:rate=.1", "abl-isolation", seed=101)
    found, decision = record.detection, record.decision
    assert record.access == ["training_set"] and record.cost.models_trained == 1
    assert found is not None and found.auroc is not None and found.auroc > 0.9
    assert decision is not None and decision.precision is not None and decision.precision > 0.7
    assert decision.flagged == pytest.approx(0.01, abs=1e-3)
    run, seen = again(record), []
    tools = run.tools()
    train = tools.train

    def watched(images: np.ndarray, labels: np.ndarray, name: str, **options: Any) -> Any:
        seen.append(options)
        return train(images, labels, name, **options)

    tools.train = watched  # type: ignore[method-assign]
    scores = AblIsolation().score(run.view, tools)
    assert np.array_equal(scores, run.scores) and tools.flagged is not None
    assert scores[tools.flagged].min() >= scores[~tools.flagged].max()
    # A fifth of the recipe's 20 epochs, and what the model says, by torch.
    recipe, loss = seen[0]["recipe"], seen[0]["loss"]
    assert (recipe.epochs, recipe.flip, recipe.crop_padding) == (4, False, 0)
    victim = run.victim()
    x, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    batch: Any = type("Batch", (), {"network": victim.network.eval(), "x": x, "labels": labels})
    value = cross_entropy(victim.network(x), labels).item()
    for gamma in (value - 0.1, value + 0.1):
        assert AblIsolation(gamma=gamma)._ascent(batch).item() == pytest.approx(np.sign(value - gamma) * value)
    assert AblIsolation()._ascent(batch).item() == loss(batch).item()
