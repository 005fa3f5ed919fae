from __future__ import annotations

import pytest

from bdbench.display.words import counted


@pytest.mark.parametrize(
    ("number", "thing", "told"),
    [
        (1, "image", "1 image"),
        (2, "image", "2 images"),
        (0, "class", "0 classes"),
        (1, "class", "1 class"),
        (2, "file or class", "2 files or classes"),
    ],
)
def test_things_are_counted(number: int, thing: str, told: str) -> None:
    assert counted(number, thing) == told
