"""A hundred characters in the fonts that come with matplotlib: many classes of few images, with no download."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bdbench import BdbenchError, Dataset, ImageData, Source, Split

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Without small letters that are their capitals' likes, and Greek and Cyrillic ones that are Latin ones'.
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijlmnqrtyΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφψωБДЖИЛЦЧШЭЮЯ&@#%?!+=$€"  # noqa: RUF001 - likes of Latin letters are meant
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
_TRAIN, _TEST = 60, 20
_EACH = _TRAIN + _TEST
_SIDE, _LARGE, _POINTS = 28, 112, 72
# Of a quarter turn to either side; of the width; of 1; of the side.
_TURN, _SHEAR, _STRETCH, _SHIFT = 10 / 90, 0.15, 0.15, 0.06
_NOISE = 8.0


@dataclass(frozen=True, kw_only=True)
class Characters(Dataset):
    """6,000 + 2,000 grey images of 28 x 28: 100 letters, digits and signs in 16 fonts, turned, sheared and noisy.

    Drawn by Pillow from matplotlib's DejaVu and STIX fonts, always the same for the same versions of both. Models are
    trained by their recipes for MNIST.
    """

    name = "characters"
    recipes_of = "mnist"

    def read(self, source: Source) -> ImageData:
        """The images, drawn anew. Raises BdbenchError if matplotlib has other fonts than expected."""
        import matplotlib
        from PIL import ImageFont

        folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
        try:
            fonts = [ImageFont.truetype(str(folder / f"{face}.ttf"), _POINTS) for face in FACES]
        except OSError as error:
            raise BdbenchError(f"cannot read a font in {folder}: {error}: expected those of matplotlib") from None
        rng = np.random.default_rng(0)
        images = np.stack(
            [_drawn(character, fonts[rng.integers(len(fonts))], rng) for character in CHARACTERS for _ in range(_EACH)]
        )[..., None]
        labels = np.repeat(np.arange(len(CHARACTERS)), _EACH)
        test = np.tile(np.arange(_EACH) >= _TRAIN, len(CHARACTERS))
        train, tested = (Split(images[part], labels[part]) for part in (~test, test))
        return ImageData(train, tested, tuple(CHARACTERS))


def _drawn(character: str, font: FreeTypeFont, rng: np.random.Generator) -> np.ndarray:
    """White on black, its own box in the middle, uint8 (28, 28): drawn four times as large, moved, and made smaller."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (_LARGE, _LARGE))
    middle = _LARGE / 2
    left, top, right, bottom = font.getbbox(character)
    ImageDraw.Draw(canvas).text((middle - (left + right) / 2, middle - (top + bottom) / 2), character, 255, font)
    turn, shear, wide, high = rng.uniform(-1, 1, 4) * (_TURN * math.pi / 2, _SHEAR, _STRETCH, _STRETCH)
    shift = rng.uniform(-1, 1, 2) * _SHIFT * _LARGE
    cos, sin = math.cos(turn), math.sin(turn)
    # From places in the image that is made to places on the canvas.
    back = np.array([[cos, sin], [-sin, cos]]) @ np.array([[1 + wide, shear], [0, 1 + high]])
    offset = middle - back @ (middle + shift)
    moved = canvas.transform(
        canvas.size, Image.Transform.AFFINE, (*back[0], offset[0], *back[1], offset[1]), Image.Resampling.BILINEAR
    )
    small = np.asarray(moved.resize((_SIDE, _SIDE), Image.Resampling.BOX), float)
    return np.clip(np.rint(small + rng.normal(0, _NOISE, small.shape)), 0, 255).astype(np.uint8)
