"""Every attack on images of 224 x 224 in colour, where most are 28 or 32 pixels wide elsewhere in the tests."""

from __future__ import annotations

import numpy as np
import pytest

from bdbench import Attack, ImageData, Role
from bdbench.registry.plugins import installed
from bdbench.testing.samples import split
from bdbench.testing.trials import tried
from tests.test_conformance import SMALL

CLASSES, SHAPE = 4, (224, 224, 3)
IN_SHORT = {spec.partition(":")[0]: spec for spec in SMALL} | {
    # Of so few images their own rate is none.
    "adaptive-blend": "adaptive-blend:rate=0.1,cover_rate=0.1",
    "adaptive-patch": "adaptive-patch:rate=0.1,cover_rate=0.1",
}
# Those that need another project's record, and the one that changes nothing.
LEFT_OUT = ("backdoorbench", "backdoorbench-victim", "none")
NAMES = [r.name for r in installed().registered("attack") if r.name not in LEFT_OUT]


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_on_large_images(name: str) -> None:
    """Poisons and challenges are whole images of the same size, unlike those they were made of."""
    attack = installed().component("attack", IN_SHORT.get(name, name))
    assert isinstance(attack, Attack)
    images = ImageData(split(SHAPE, CLASSES, 80), split(SHAPE, CLASSES, 12, seed=1), tuple("abcd"))
    with tried(attack, images) as trial:
        made, challenge = trial.poison(), trial.challenge()
    clean = np.asarray(images.train.images)
    assert made.images.shape == clean.shape and made.images.dtype == np.uint8
    differ = (made.images != clean).reshape(len(clean), -1).any(1) | (made.labels != images.train.labels)
    assert np.array_equal(differ, made.roles != Role.CLEAN)
    assert challenge is not None and challenge.images.shape[1:] == SHAPE
    assert (challenge.images != np.asarray(images.test.images)[challenge.index]).any((1, 2, 3)).mean() > 0.9
