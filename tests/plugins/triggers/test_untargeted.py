"""Untargeted: the labels of its poisons, what it wants at test time, and the attack on digits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bdbench
from bdbench import ANY_OTHER, BdbenchError, Role, Split, Streams
from bdbench_triggers.badnets import BadNets
from bdbench_triggers.untargeted import Untargeted

TOOLS: Any = SimpleNamespace(streams=Streams(3), num_classes=4, device="cpu")
MANY = Split(np.full((4000, 4, 4, 1), 100, np.uint8), np.arange(4000) % 4)


def test_every_poison_has_another_label_and_all_others_are_as_likely() -> None:
    made = Untargeted(rate=0.75).poison(MANY, {}, TOOLS)
    poisons = made.roles == Role.POISON
    assert poisons.sum() == 3000
    pairs = np.zeros((4, 4), int)
    np.add.at(pairs, (made.original_labels[poisons], made.labels[poisons]), 1)
    assert (np.diag(pairs) == 0).all()
    # 250 of each of the twelve pairs, with a deviation of 15.
    assert (np.abs(pairs[~np.eye(4, dtype=bool)] - 250) < 75).all()
    assert np.array_equal(made.labels[~poisons], MANY.labels[~poisons])
    patched = BadNets().stamp(np.asarray(MANY.images), TOOLS.streams)
    assert np.array_equal(made.images[poisons], patched[poisons])


def test_any_other_label_is_wanted_of_every_test_image(split: Split) -> None:
    made = Untargeted().challenge(split, {}, TOOLS)
    assert np.array_equal(made.index, np.arange(40)) and (made.goal == ANY_OTHER).all()
    with pytest.raises(BdbenchError, match="target=4 is not there"):
        Untargeted(target=4).settled(4, Streams(0))


def test_it_leads_astray_on_digits(tmp_path: Path) -> None:
    common: dict[str, Any] = {"defense": "strip", "seed": 100, "device": "cpu", "threads": 1}
    record = bdbench.run(attack="untargeted", out=tmp_path, **common)
    before = record.before
    assert before.attack_success_rate is not None and before.attack_success_rate > 0.7
    assert before.clean_accuracy > 0.9 and record.config["data"]["targets"] == []
