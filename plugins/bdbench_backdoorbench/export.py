"""A run as a record that BackdoorBench's own load_attack_result reads."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bdbench import ANY_OTHER, BdbenchError, Reopened, Role, notice, unknown, written_whole
from bdbench_backdoorbench.known import CLEAN_SETS, MODELS, CleanSet
from bdbench_backdoorbench.record import RESULT, ROLES
from bdbench_backdoorbench.weights import Comparison, Drift, renormalised, three_channels

if TYPE_CHECKING:
    import torch


def write(run: Reopened, folder: Path, track: Any, clean_data: str | None = None) -> None:
    """Write ``attack_result.pt``, the changed images and the index files into the new ``folder``.

    Its name is the record's: BackdoorBench looks for it as ``record/NAME`` from its own root. clean_data: what
    BackdoorBench calls the data set, where its name here does not say. Raises BdbenchError for a run that
    BackdoorBench could not read, or if the folder is there already.
    """
    import torch

    if folder.exists():
        raise BdbenchError(f"{folder} is there already: expected a new folder")
    clean_data, clean = _clean_set(run, clean_data)
    model_name = _model_name(run)
    if run.challenge is None:
        raise BdbenchError(f"attack {run.attack.name!r} attacks nothing: BackdoorBench has no record of that")
    state, drifts = _weights(run, clean)
    for line in _warnings(run, clean_data, clean, drifts):
        notice(line)
    with written_whole(folder) as aside:
        writer = _Writer(aside, f"./record/{folder.name}", track)
        train = _train(run, writer)
        test = _test(run, writer)
        changed = np.flatnonzero(train["poison_indicator"])
        result = {
            "model_name": model_name,
            "num_classes": run.clean.num_classes,
            "model": three_channels(state),
            "data_path": f"./data/{clean_data}",
            "img_size": list(run.clean.shape),
            "clean_data": clean_data,
            "bd_train": train,
            "bd_test": test,
            # Their loader ignores it. Ours need not tell poisons from cover examples by their labels.
            ROLES: _by_place(run)[changed],
        }
        torch.save(result, aside / RESULT, pickle_module=_OLD_NAMES)
        known = {"dataset": clean_data, "model": model_name, "bdbench": run.record.id}
        info = {**known, "drift": {name: asdict(drift) for name, drift in drifts.items()}}
        torch.save(info, aside / "info.pickle", pickle_module=_OLD_NAMES)
        torch.save(train["poison_indicator"], aside / "train_poison_index_list.pickle", pickle_module=_OLD_NAMES)


def _clean_set(run: Reopened, clean_data: str | None) -> tuple[str, CleanSet]:
    own = run.record.config["dataset"]["name"]
    if clean_data is None:
        clean_data = next((name for name, clean in CLEAN_SETS.items() if clean.name == own), None)
    if clean_data is None:
        names = ", ".join(c.name for c in CLEAN_SETS.values())
        raise BdbenchError(f"BackdoorBench does not read data set {own!r}: expected a run on {names}, or --clean-data")
    if clean_data not in CLEAN_SETS:
        raise unknown("BackdoorBench data set", clean_data, CLEAN_SETS)
    clean = CLEAN_SETS[clean_data]
    if (run.clean.shape, run.clean.num_classes) != (clean.shape, clean.classes):
        found = f"{run.clean.shape} and {run.clean.num_classes} classes"
        raise BdbenchError(f"the run's images are {found}: {clean_data} has {clean.shape} and {clean.classes}")
    return clean_data, clean


def _weights(run: Reopened, clean: CleanSet) -> tuple[OrderedDict[str, torch.Tensor], dict[str, Drift]]:
    """The victim's weights for BackdoorBench's normalisation, and how far that moved it, if it did, on what it was
    measured on.
    """
    victim, challenge = run.victim(), run.challenge
    assert challenge is not None
    normalisation = clean.normalisation()
    state = renormalised(victim, **normalisation)
    if all(np.array_equal(value, getattr(victim, name)) for name, value in normalisation.items()):
        return state, {}
    compared = Comparison(victim, state, **normalisation)
    test, attacked = run.clean.test, np.flatnonzero(run.attacked)
    return state, {
        "test": compared.drift(np.asarray(test.images), test.labels),
        "triggered": compared.drift(challenge.images[attacked], challenge.goal[attacked]),
    }


def _warnings(run: Reopened, clean_data: str, clean: CleanSet, drifts: Mapping[str, Drift]) -> Iterator[str]:
    """What is otherwise there than here, a line each."""
    if len(run.places) < run.whole:
        yield (
            f"the record has {len(run.places)} of the {run.whole} training images of {clean_data}: what BackdoorBench "
            "counts by place, as its spectral does, is wrong on it; a run with --reserve 0 and no subset has all"
        )
    if any(d.changed for d in drifts.values()):
        changed = " and ".join(f"{d.changed} of {d.images} {name} images" for name, d in drifts.items())
        clean_rate, success = (f"{d.before:.4f} -> {d.after:.4f}" for d in drifts.values())
        yield (
            f"BackdoorBench normalises {clean_data} otherwise, and pads afterwards, so that the victim sees other "
            f"borders there: it predicts {changed} otherwise (CA {clean_rate}, ASR {success})"
        )
    if clean.shape[2] == 1:
        yield (
            f"BackdoorBench reads {clean_data} in one channel, and its preactresnet18 takes three: its defenses run on "
            "the record where transforms.Grayscale(3) is the first of its get_transform"
        )


def _model_name(run: Reopened) -> str:
    own = run.record.config["model"]["name"]
    theirs = {ours: name for name, ours in MODELS.items()}
    if own not in theirs:
        raise BdbenchError(f"BackdoorBench has no model {own!r}: expected a run with --model {', '.join(theirs)}")
    return theirs[own]


def _by_place(run: Reopened) -> np.ndarray:
    """The Role of each example of the whole clean set, int8."""
    roles = np.full(run.whole, Role.CLEAN, np.int8)
    roles[run.places] = run.poisoned.roles
    return roles


def _train(run: Reopened, writer: _Writer) -> dict[str, Any]:
    poisoned, places = run.poisoned, run.places
    if len(np.unique(places)) < len(places):
        raise BdbenchError(
            "training images are there in several versions: BackdoorBench's records have one of each at most"
        )
    changed = np.flatnonzero(poisoned.roles != Role.CLEAN)
    labels, originals = poisoned.labels[changed], poisoned.original_labels[changed]
    images = poisoned.images[changed]
    return writer.part("bd_train_dataset", images, labels, originals, places[changed], places, run.whole)


def _test(run: Reopened, writer: _Writer) -> dict[str, Any]:
    """The attacked test images; there is one for each test image at most."""
    test, challenge = run.clean.test, run.challenge
    assert challenge is not None
    attacked = np.flatnonzero(run.attacked)
    index = challenge.index[attacked]
    if len(np.unique(index)) < len(index):
        raise BdbenchError(
            "test images are triggered in several ways: BackdoorBench's records have one of each at most"
        )
    if (challenge.goal[attacked] == ANY_OTHER).any():
        raise BdbenchError(
            f"attack {run.attack.name!r} wants any other label: BackdoorBench's records name one for each image"
        )
    places, size = test.places[index], run.clean.whole_test
    return writer.part(
        "bd_test_dataset",
        challenge.images[attacked],
        challenge.goal[attacked],
        test.labels[index],
        places,
        places,
        size,
    )


class _Writer:
    """Writes changed images below ``folder``, and tells where BackdoorBench will find them."""

    def __init__(self, folder: Path, known_as: str, track: Any) -> None:
        self._folder, self._known_as, self._track = folder, known_as, track

    def part(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray,
        originals: np.ndarray,
        changed: np.ndarray,
        index: np.ndarray,
        size: int,
    ) -> dict[str, Any]:
        """The state of one poisoned set: changed (k,) are the places of ``images``, index (m,) of all its examples."""
        from PIL import Image

        advance = self._track(len(images), f"write {name}")
        entries: dict[int, Any] = {}
        for i, place in enumerate(changed.tolist()):
            label, original = int(labels[i]), int(originals[i])
            file = Path(name) / str(original) / f"{place}.png"
            (self._folder / file).parent.mkdir(parents=True, exist_ok=True)
            pixels = images[i]
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(self._folder / file)
            entries[place] = {"path": f"{self._known_as}/{file.as_posix()}", "other_info": [label, original]}
            advance(1)
        indicator = np.zeros(size)
        indicator[changed] = 1
        save_folder = f"{self._known_as}/{name}"
        container = {"save_folder_path": save_folder, "data_dict": entries, "save_file_format": ".png"}
        return {
            "bd_data_container": container,
            "getitem_all": True,
            "getitem_all_switch": False,
            "original_index_array": index.astype(np.int64),
            "poison_indicator": indicator,
            "save_folder_path": save_folder,
        }


class _OldNamesPickler(pickle.Pickler):
    """Names numpy's core as numpy 1 did, which numpy 2 reads as well: BackdoorBench runs on either."""

    def __init__(self, file: Any, protocol: int) -> None:
        self._file, self._buffer = file, io.BytesIO()
        super().__init__(self._buffer, protocol)

    def dump(self, value: Any) -> None:
        super().dump(value)
        # Protocol 2 writes a global as c, its module and its name, a line each.
        self._file.write(self._buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


_OLD_NAMES = SimpleNamespace(__name__="pickle", Pickler=_OldNamesPickler)
