"""Which files are images, and what is seen in them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bdbench import BdbenchError, decoded

PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def test_a_program_is_no_image_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would have Ghostscript run it."""
    started: list[Any] = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **_: started.append(command))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", shutil.which("true"))
    (tmp_path / "evil.png").write_bytes(PROGRAM)
    for file in (tmp_path / "evil.png", io.BytesIO(PROGRAM)):
        with pytest.raises(BdbenchError, match="cannot read the image x: cannot identify"):
            decoded(file, "x")
    assert not started


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
def test_the_usual_formats_are_read_by_what_is_in_them(form: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(file, form)
    file.seek(0)
    assert np.abs(decoded(file, "x").astype(int) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize("white", [0, 1])
def test_sixteen_bits_are_seen_whichever_end_is_white(white: int) -> None:
    # A pixel's eight bits, in the file's sixteen; photometric interpretation 0: the least is white.
    seen = np.arange(64, dtype=np.uint8).reshape(8, 8)
    held = seen.astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(held if white else 65535 - held).save(file, "TIFF", tiffinfo={262: white})
    file.seek(0)
    assert np.array_equal(decoded(file, "x", mode="L")[..., 0], seen)
