"""Readers of foreign files and texts, fed with what a fuzzer makes of good ones: they read it, or refuse it.

    pip install atheris
    python tests/reliability/fuzz.py TARGET SECONDS [FOLDER]

TARGET is one of ``TARGETS``. What is no BdbenchError is a fault: atheris then leaves the input in the folder (a new one
of the system's unless given) and exits with 77; inputs that take more than 20 s or 2 GiB are faults as well.
"""

from __future__ import annotations

import io
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["bdbench", "bdbench_backdoorbench", "bdbench_datasets"]):
    import torch

    import bdbench_backdoorbench.unpickling
    from bdbench import BdbenchError, Source, foreign
    from bdbench.grids import grid
    from bdbench.images import decoding, preparation
    from bdbench.networks import checkpoint
    from bdbench.registry import plugins
    from bdbench.seeds import Streams
    from bdbench.storage import files, record
    from bdbench_datasets.npz import Npz
    from bdbench_datasets.parquet import Parquet

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 0, 1])


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _image(kind: str, mode: str = "RGB") -> bytes:
    return _bytes(lambda file: Image.fromarray(PIXELS[0]).convert(mode).save(file, kind))


def _npz() -> bytes:
    arrays = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS}
    return _bytes(lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _parquet() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    images = [{"bytes": _image("PNG"), "path": None}] * len(LABELS)
    return _bytes(lambda file: parquet.write_table(pa.table({"image": images, "label": LABELS}), file))


def _weights() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.zeros(2, 3, 3, 3), "conv.bias": torch.ones(2)}


def _safetensors() -> bytes:
    from safetensors.torch import save

    return save(_weights(), {"bdbench": '{"classes": ["a", "b"]}'})


def _npz_set(path: Path) -> None:
    preparation.prepare(Npz(path=path.name).read(Source(path.parent, False)), streams=Streams(0))


def _parquet_set(path: Path) -> None:
    for part in ("train", "test"):
        shutil.copy(path, path.with_name(f"{part}.parquet"))
    preparation.prepare(Parquet().read(Source(path.parent, False)), streams=Streams(0))


def _spec(path: Path) -> None:
    plugins.installed().component("attack", path.read_bytes().decode(errors="replace"))


def _texts(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(ROOT.glob(pattern))[:3]]


# What is read, and good inputs to begin with.
TARGETS: dict[str, tuple[Callable[[Path], object], Callable[[], list[bytes]]]] = {
    "record": (record.read, lambda: _texts("leaderboards/digits/records/*-datamodel-*.json")),
    "grid": (grid.read, lambda: _texts("leaderboards/*/grid.toml")),
    "spec": (_spec, lambda: [b"badnets:rate=0.05,target=seed", b"blend:pattern='a,b',alpha=.2", b"natural"]),
    "arrays": (files.read_arrays, lambda: [_npz()]),
    "image": (
        lambda path: decoding.decoded(path, "x", 8),
        lambda: (
            [_image(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
            + [_image("PNG", mode) for mode in ("P", "LA", "1")]
        ),
    ),
    "pickle": (bdbench_backdoorbench.unpickling.load, lambda: [_bytes(lambda f: torch.save(_weights(), f))]),
    "checkpoint": (checkpoint.read, lambda: [_bytes(lambda f: torch.save(_weights(), f)), _safetensors()]),
    "npz": (_npz_set, lambda: [_npz()]),
    "parquet": (_parquet_set, lambda: [_parquet()]),
}


def main() -> None:
    """Feed one target for some seconds."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    read, seeds = TARGETS[name]
    found = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp())
    corpus = found / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds()):
        (corpus / f"seed{i}").write_bytes(seed)
    logging.disable()
    with tempfile.TemporaryDirectory() as place:

        def one(data: bytes) -> None:
            file = Path(place) / "file"
            file.write_bytes(data)
            try:
                read(file)
            except BdbenchError as error:
                # As the command line says it: what was given may have line breaks in it.
                assert "\n" not in foreign.line(error) and foreign.line(error).strip(), str(error)
            finally:
                for left in Path(place).iterdir():
                    left.unlink()

        limits = [
            f"-max_total_time={seconds}",
            "-timeout=20",
            "-rss_limit_mb=2048",
            f"-artifact_prefix={found}/{name}-",
        ]
        atheris.Setup([sys.argv[0], *limits, str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
