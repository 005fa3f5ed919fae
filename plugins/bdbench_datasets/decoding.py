"""Image files of any format and size as arrays of one shape."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from bdbench import BdbenchError


def decoded(file: Path | BinaryIO, where: str, size: int | None, mode: Literal["RGB", "L"] = "RGB") -> np.ndarray:
    """One image, uint8 (H, W, 3 or 1), resized to size x size unless that is None.

    Raises BdbenchError, which says ``where`` the image is, for one that does not read.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            image = opened.convert(mode)
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(image)
            return pixels[..., None] if mode == "L" else pixels
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BdbenchError(f"cannot read the image {where}: {error}") from None


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
