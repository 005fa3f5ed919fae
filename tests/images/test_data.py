from __future__ import annotations

import numpy as np
import pytest

from bdbench import PoisonedData
from bdbench.images.data import fingerprint


def test_a_view_is_a_read_only_copy() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    poisoned = PoisonedData(images, np.zeros(2, np.int64), np.zeros(2, np.int8), np.zeros(2, np.int64))
    view = poisoned.view(2)
    assert not np.shares_memory(view.images, images)
    with pytest.raises(ValueError, match="read-only"):
        view.images[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        view.labels[0] = 1


def test_fingerprint_sees_contents_shape_and_type() -> None:
    a = np.arange(6, dtype=np.int64)
    prints = {fingerprint(x) for x in (a, a.reshape(2, 3), a.astype(np.int32), a[::-1], a + 1)}
    assert len(prints) == 5
    assert fingerprint(a) == fingerprint(a.copy())
    assert fingerprint(a[::2]) == fingerprint(a[::2].copy())
