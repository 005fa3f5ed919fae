"""Records as BackdoorBench v2 itself writes them, for tests; written from its format, not by our exporter."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

Core = Literal["numpy.core", "numpy._core"]
# What the numpy that is installed calls it: the tests read some of the records by torch.
OWN_CORE: Core = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"


def pickle_module(core: Core) -> Any:
    """For torch.save: numpy's builders under the name that numpy 1 or numpy 2 gives them."""

    class Pickler(pickle.Pickler):
        def __init__(self, file: Any, protocol: int) -> None:
            self.file, self.buffer = file, io.BytesIO()
            super().__init__(self.buffer, protocol)

        def dump(self, value: Any) -> None:
            super().dump(value)
            data = self.buffer.getvalue()
            for name in (b"numpy._core", b"numpy.core"):
                data = data.replace(b"c" + name + b".multiarray\n", b"c" + core.encode() + b".multiarray\n")
            self.file.write(data)

    return SimpleNamespace(__name__="pickle", Pickler=Pickler)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def state(
    folder: Path,
    name: str,
    poisons: dict[int, tuple[np.ndarray, int, int]],
    size: int,
    index: np.ndarray,
    in_memory: bool,
    counted: bool,
) -> dict[str, Any]:
    """retrieve_state() of a set: ``poisons`` maps a place in the clean set to (pixels, label, original label).

    counted: its attack counts places in batches, in Python's integers; the others take them from an array.
    """
    save_folder = None if in_memory else f"./record/badnet_demo/{name}"
    entries: dict[Any, Any] = {}
    for place, (pixels, label, original) in poisons.items():
        key = int(place) if counted else np.int64(place)
        if in_memory:
            entries[key] = (picture(pixels), label, original)
            continue
        file = folder / name / str(original) / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(pixels).save(file)
        path = f"{save_folder}/{original}/{place}.png"
        entries[key] = {"path": path, "other_info": [label, original]}
    indicator = np.zeros(size)
    indicator[list(poisons)] = 1
    return {
        "bd_data_container": {"save_folder_path": save_folder, "data_dict": entries, "save_file_format": ".png"},
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": index,
        "poison_indicator": indicator,
        "save_folder_path": save_folder,
    }


def write_record(
    folder: Path,
    train: dict[int, tuple[np.ndarray, int, int]] | None,
    test: dict[int, tuple[np.ndarray, int, int]],
    *,
    sizes: tuple[int, int],
    classes: int,
    shape: tuple[int, int, int],
    clean_data: str = "cifar10",
    model_name: str = "preactresnet18",
    weights: dict[str, torch.Tensor] | None = None,
    train_index: np.ndarray | None = None,
    in_memory: bool = False,
    core: Core = OWN_CORE,
    counted: bool = False,
) -> Path:
    """train: None, as of attackers who train the model themselves and save no poisoned set."""
    folder.mkdir(parents=True)
    index = np.arange(sizes[0]) if train_index is None else train_index
    how = (in_memory, counted)
    result = {
        "model_name": model_name,
        "num_classes": classes,
        "model": weights if weights is not None else {"conv1.weight": torch.zeros(2, 3)},
        "data_path": f"./data/{clean_data}",
        "img_size": shape,
        "clean_data": clean_data,
        "bd_train": None if train is None else state(folder, "bd_train_dataset", train, sizes[0], index, *how),
        "bd_test": state(folder, "bd_test_dataset", test, sizes[1], np.array(sorted(test)), *how),
    }
    torch.save(result, folder / "attack_result.pt", pickle_module=pickle_module(core))
    return folder
