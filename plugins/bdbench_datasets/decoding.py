"""Images that are decoded one by one as one array."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bdbench import BdbenchError


def gathered(images: Iterable[tuple[int, str, np.ndarray]], count: int, dataset: str) -> np.ndarray:
    """``count`` images, uint8 (count, H, W, C), of (place, where it is, image), in any order.

    Raises BdbenchError, which names two of them, unless they have one shape.
    """
    first: tuple[str, tuple[int, ...]] | None = None
    out: np.ndarray | None = None
    for place, where, image in images:
        if first is None or out is None:
            first, out = (where, image.shape), np.empty((count, *image.shape), np.uint8)
        if image.shape != first[1]:
            shapes = f"{first[0]} is {first[1][:2]}, {where} is {image.shape[:2]}"
            raise BdbenchError(f"images differ in size: {shapes}; expected one size: set {dataset}:size=N")
        out[place] = image
    return np.empty((0, 1, 1, 1), np.uint8) if out is None else out
