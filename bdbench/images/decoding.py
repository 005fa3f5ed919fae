"""Image files: of any format, as a person sees them, and written as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from bdbench.errors import BdbenchError
from bdbench.host.memory import check_memory

if TYPE_CHECKING:
    from PIL.Image import Image as Opened

IMAGE_SUFFIXES = {
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"),
    *(".tif", ".tiff", ".webp"),
}
"""By which names, in small letters, a file is taken for an image."""

# Pillow goes by what is in a file and not by its name, and hands PostScript, which is a program, to Ghostscript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")

# Images of so many pixels and more are weighed before they are read; and what a pixel of them takes meanwhile.
_LARGE, _BYTES = 10_000_000, 16
# The tag of a TIFF file that says whether 0 is white (0) or black (1).
_PHOTOMETRIC = 262
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


def decoded(
    file: Path | BinaryIO,
    where: str,
    size: int | None = None,
    mode: Literal["RGB", "L"] = "RGB",
    resampling: Literal["bicubic", "bilinear"] = "bicubic",
) -> np.ndarray:
    """One image, uint8 (H, W, 3 or 1), resized to size x size unless that is None.

    It is what viewers show: turned as its EXIF data say, the first of several frames, 16 bits scaled to 8, and what is
    transparent laid on white. Raises BdbenchError, which says ``where`` the image is, for one that does not read.
    """
    from PIL import Image

    try:
        with _opened(file) as opened:
            _check_size(*opened.size)
            image = _seen(opened).convert(mode)
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling[resampling.upper()])
            pixels = np.asarray(image)
            return pixels[..., None] if mode == "L" else pixels
    except Exception as error:  # Pillow's readers raise anything on damaged files
        told = str(error) or type(error).__name__
        raise BdbenchError(f"cannot read the image {where}: {told}") from None


def check_plain(path: Path) -> None:
    """Raise BdbenchError for an image file whose colours are not, taken as they are, what one sees.

    Whoever opens one with Pillow and converts it has white for 16 bits, the colours of what is transparent, and what a
    camera held upright lying on its side.
    """
    shown = decoded(path, str(path))
    with _opened(path) as opened:
        taken = np.asarray(opened.convert("RGB"))
    if not np.array_equal(taken, shown):
        raise BdbenchError(
            f"{path} is not the picture that it shows (16 bits, transparent, or turned by EXIF data): expected a plain "
            "one; saved again as an 8-bit RGB PNG it is"
        )


def is_image(path: Path) -> bool:
    """Whether something is, by its name, a file of an image, and not a hidden one."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def encoded(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 1 or 3) as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def seen(opened: Opened) -> np.ndarray:
    """An opened image as ``decoded`` gives it, uint8 (H, W, 3). Raises anything for one that does not read."""
    return np.asarray(_seen(opened).convert("RGB"))


def _opened(file: Path | BinaryIO) -> Opened:
    """A file opened as one of the formats that hold pixels alone."""
    from PIL import Image

    Image.init()  # else it knows five of them, and whatever others have used
    return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])


def _seen(opened: Opened) -> Opened:
    """The image in a mode whose conversion to RGB or L loses nothing that one sees."""
    from PIL import Image

    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
    image = _turned(opened)
    if deep and opened.format == "TIFF" and getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        image = Image.fromarray(65535 - np.asarray(image))  # white is 0, which Pillow minds in 8 bits only
    if deep or image.mode in ("I", "F"):
        return _eight_bits(image, 257 if deep else 1)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB") if image.mode == "CMYK" else image


def _check_size(width: int, height: int) -> None:
    """Raise BdbenchError for an image that would not fit into memory: a small file can hold a very large one."""
    if width * height > _LARGE:
        check_memory(width * height * _BYTES, f"an image of {width} x {height}", "smaller images")


def _turned(image: Opened) -> Opened:
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data; the pixels are there
        return image


def _eight_bits(image: Opened, scale: int) -> Opened:
    """A grey image of integers in 0..255 ``scale``, divided by that. Raises ValueError for others."""
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    whole = np.issubdtype(values.dtype, np.integer) or bool((values == np.rint(values)).all())
    if not (low >= 0 and high <= 255 * scale and whole):
        raise ValueError(f"its values are {low:g}..{high:g} (mode {image.mode}): expected integers of 8 or 16 bits")
    # To the nearest: no integer lies in the middle, since the scale is odd.
    return Image.fromarray(((values.astype(np.uint32) + scale // 2) // scale).astype(np.uint8))
