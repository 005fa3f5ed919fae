from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bdbench import BdbenchError, Record, Reopened
from bdbench_mitigations.fine_tuning import FineTuning


def test_it_weakens_a_backdoor_and_keeps_the_accuracy(on_digits: Callable[..., Record]) -> None:
    record = on_digits("blend:rate=.1", "fine-tuning")
    before, after = record.before, record.after
    assert after is not None and record.oracles == ["clean_set"] and record.access == ["clean_set"]
    assert before.attack_success_rate is not None and after.attack_success_rate is not None
    assert before.attack_success_rate > 0.95 and after.attack_success_rate < before.attack_success_rate - 0.1
    assert after.clean_accuracy > before.clean_accuracy - 0.05
    assert record.cost.models_trained == 1


def test_it_goes_on_from_the_victim_with_the_clean_examples_it_asks_for(
    on_digits: Callable[..., Record], again: Callable[[Record], Reopened]
) -> None:
    record = on_digits("blend:rate=.1", "fine-tuning:clean=20,epochs=1,lr=1e-6")
    run = again(record)
    tools, images = run.tools(), np.asarray(run.clean.test.images)
    repaired = FineTuning(clean=20, epochs=1, lr=1e-6).repair(tools)
    # Hardly a step: but for its batch statistics it is the victim still.
    victim = run.victim()
    for (name, was), now in zip(victim.network.named_parameters(), repaired.network.parameters(), strict=True):
        assert np.allclose(was.detach(), now.detach(), atol=1e-6), name
    assert repaired.mean == pytest.approx(victim.mean)
    assert (repaired.predict(images) == victim.predict(images)).mean() > 0.9
    with pytest.raises(BdbenchError, match="clean=1000 is not allowed: expected at most the 72 examples"):
        FineTuning(clean=1000).repair(tools)
