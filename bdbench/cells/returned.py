"""What components hand back, checked where it is taken: each function returns it, or raises BdbenchError."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from bdbench.cells.metrics import REFUSED
from bdbench.components.attacks import Attack
from bdbench.components.defenses import Defense, Model, Verdict
from bdbench.components.workshop import State
from bdbench.errors import BdbenchError
from bdbench.images.data import ANY_OTHER, Challenge, ImageData, PoisonedData, Role, Split, TrainingView, fingerprint_of
from bdbench.networks.training import Victim

# What numpy's savez takes for its own arguments.
_NO_NAMES = ("file", "allow_pickle")
# Of a member of an archive: numpy takes a name with its ending for that without, and zip files end a name at a null.
_NAME = re.compile(r"(?!.*\.npy$)[^\x00-\x1f\x7f\ud800-\udfff]+")


def poisoned(attack: Attack, images: ImageData, made: PoisonedData) -> PoisonedData:
    """A poisoned set of arrays of the declared types, every POISON of which is changed or relabelled."""
    who = f"attack {attack.name!r}"
    _check_kind(who, made, PoisonedData)
    for part in dataclasses.fields(made):
        if getattr(made, part.name) is not None or part.name != "index":
            _check_array(who, f"for {part.name}", getattr(made, part.name))
    n = len(made.images)
    _check_images(who, made.images, (n, *images.shape))
    columns = {"labels": np.int64, "roles": np.int8, "original_labels": np.int64}
    for name, dtype in columns.items():
        array = getattr(made, name)
        if array.shape != (n,) or array.dtype != dtype:
            found = f"{array.dtype} {array.shape}"
            raise BdbenchError(f"{who} returned {name} of {found}: expected {np.dtype(dtype)} ({n},)")
    if n < 2:
        raise BdbenchError(f"{who} returned {n} training examples: expected at least 2")
    if not 0 <= made.labels.min() <= made.labels.max() < images.num_classes:
        raise BdbenchError(f"{who} returned labels outside 0..{images.num_classes - 1}")
    if not 0 <= made.original_labels.min() <= made.original_labels.max() < images.num_classes:
        raise BdbenchError(f"{who} returned original labels outside 0..{images.num_classes - 1}")
    if not np.isin(made.roles, list(Role)).all():
        raise BdbenchError(f"{who} returned roles {sorted(set(made.roles.tolist()))}: expected {list(map(int, Role))}")
    _check_origin(who, images, made)
    if (attack.control or not attack.plants) and (made.roles == Role.POISON).any():
        told = "is a control" if attack.control else "plants nothing"
        raise BdbenchError(f"{who} {told} and returned poisons: expected none")
    if not attack.control and attack.plants and not (made.roles == Role.POISON).any():
        raise BdbenchError(f"{who} plants something and returned no poison: expected some, or plants = False")
    _check_truth(who, images, made)
    untouched = untouched_poisons(images, made)
    if untouched:
        poisons = int((made.roles == Role.POISON).sum())
        raise BdbenchError(f"{who} leaves {untouched} of {poisons} poisons as they were: expected them changed")
    return made


def untouched_poisons(images: ImageData, made: PoisonedData) -> int:
    """How many poisons are neither changed nor relabelled; a detector would be asked to find what is not there."""
    train, chosen = images.train, np.flatnonzero(made.roles == Role.POISON)
    origin = chosen if made.index is None else made.index[chosen]
    same = (np.asarray(train.images)[origin] == made.images[chosen]).all((1, 2, 3))
    return int((same & (made.labels[chosen] == train.labels[origin])).sum())


def challenge(attack: Attack, images: ImageData, made: Challenge | None) -> Challenge | None:
    """A challenge of arrays of the declared types with an attacked row; None from a control, and only from one."""
    who, n = f"attack {attack.name!r}", len(images.test.labels)
    if attack.control != (made is None):
        told = "a control and challenges" if attack.control else "no control and challenges nothing"
        raise BdbenchError(f"{who} is {told}: expected control = True exactly where nothing is attacked")
    if made is None:
        return None
    _check_kind(who, made, Challenge)
    for part in dataclasses.fields(made):
        _check_array(who, f"for {part.name} of a challenge", getattr(made, part.name))
    m = len(made.images)
    _check_images(who, made.images, (m, *images.shape))
    for name, low, top in (("index", 0, n), ("goal", ANY_OTHER, images.num_classes)):
        array = getattr(made, name)
        if array.shape != (m,) or array.dtype != np.int64 or (m and not low <= array.min() <= array.max() < top):
            found = f"{array.dtype} {array.shape}"
            raise BdbenchError(f"{who} challenges with {name} of {found}: expected int64 ({m},) in {low}..{top - 1}")
    if not (made.goal != images.test.labels[made.index]).any():
        raise BdbenchError(f"{who} attacks none of the {n} test images: expected a goal that is not their own label")
    if made.shown(images.test).all():
        raise BdbenchError(f"{who} shows all {n} test images as they are: expected some left for clean accuracy")
    return made


def settled(attack: Attack, made: object) -> Attack:
    """An attack with nothing left to be drawn."""
    if not isinstance(made, type(attack)):
        raise BdbenchError(f"attack {attack.name!r} is settled as {_told(made)}: expected a {type(attack).__name__}")
    return made


def victim(attack: Attack, made: object) -> Victim | None:
    """The model that an attacker trained, if he does."""
    if attack.trains and made is None:
        raise BdbenchError(f"attack {attack.name!r} trains the victim and returned nothing: expected a Victim")
    if made is not None and not isinstance(made, Victim):
        raise BdbenchError(f"attack {attack.name!r} returned {_told(made)} for a victim: expected a Victim")
    return made


def scores(defense: Defense, made: np.ndarray, count: int) -> np.ndarray:
    """``count`` finite scores, float64."""
    try:
        found = None if np.iscomplexobj(made) else np.asarray(made, np.float64)
    except (TypeError, ValueError):
        found = None
    if made is None or found is None:
        raise BdbenchError(f"defense {defense.name!r} returned {_told(made)} for scores: expected numbers ({count},)")
    if found.shape != (count,) or not np.isfinite(found).all():
        broken = np.count_nonzero(~np.isfinite(found))
        raise BdbenchError(
            f"defense {defense.name!r} returned scores of shape {found.shape}, {broken} of them not finite: "
            f"expected ({count},), all finite"
        )
    return found


def model(defense: Defense, made: Model) -> Model:
    """Something that predicts."""
    if not callable(getattr(made, "predict", None)):
        raise BdbenchError(
            f"defense {defense.name!r} returned {_told(made)} for a model: expected a Victim, or what has a predict"
        )
    return made


def predictions(defense: Defense, made: np.ndarray, count: int, classes: int) -> np.ndarray:
    """``count`` labels, int64, or -1 for refusals."""
    found = np.asarray(made)
    fits = found.shape == (count,) and np.issubdtype(found.dtype, np.integer)
    if not fits or (count and not REFUSED <= found.min() <= found.max() < classes):
        raise BdbenchError(
            f"the model of defense {defense.name!r} predicts {found.dtype} {found.shape}: "
            f"expected integers ({count},) in -1..{classes - 1}"
        )
    return found.astype(np.int64)


def verdict(defense: Defense, made: Verdict, classes: int) -> Verdict:
    """A verdict with a finite score and targets that are labels."""
    fits = (
        isinstance(made, Verdict)
        and np.isfinite(made.score)
        and isinstance(made.flagged, bool | np.bool_)
        and all(isinstance(t, int | np.integer) and not isinstance(t, bool) for t in made.targets)
        and set(made.targets) <= set(range(classes))
    )
    if not fits or (made.p_value is not None and not 0 <= made.p_value <= 1):
        raise BdbenchError(
            f"defense {defense.name!r} returned {made}: expected a Verdict, its score finite, flagged a bool, its "
            f"targets in 0..{classes - 1}, and its p_value, if there is one, in 0..1"
        )
    return made


def arrays(who: str, made: State) -> dict[str, np.ndarray]:
    """Arrays by name that can be kept: not of objects, and under names that numpy's archives have."""
    if not isinstance(made, Mapping):
        raise BdbenchError(f"{who} returned {_told(made)} to be kept: expected arrays by name")
    found = {}
    for name, value in made.items():
        array = np.asarray(value)
        if not isinstance(name, str) or name in _NO_NAMES or not _NAME.fullmatch(name) or array.dtype.hasobject:
            raise BdbenchError(
                f"{who} keeps {type(value).__name__} {name!r}: expected arrays of numbers by names that can be "
                f"printed, other than {', '.join(map(repr, _NO_NAMES))} and such as end in .npy"
            )
        found[name] = array
    return found


def count(who: str, number: int) -> int:
    """How many models somebody says that he trained."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
        raise BdbenchError(f"{who} counts {number!r} models: expected an integer >= 0")
    return int(number)


def untouched(who: str, given: Sequence[Split | TrainingView], before: Sequence[str]) -> None:
    """Raise BdbenchError if what somebody was given, read-only, is no longer what it was, by fingerprints."""
    if [fingerprint_of(part) for part in given] != list(before):
        raise BdbenchError(f"{who} wrote to the images or labels that it was given: expected copies of them")


def _told(made: object) -> str:
    name = type(made).__name__
    return "nothing" if made is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _check_kind(who: str, made: object, wanted: type) -> None:
    if not isinstance(made, wanted):
        raise BdbenchError(f"{who} returned {_told(made)}: expected a {wanted.__name__}")


def _check_origin(who: str, images: ImageData, made: PoisonedData) -> None:
    n, train = len(made.images), len(images.train.labels)
    if made.index is None and n != train:
        raise BdbenchError(f"{who} returned {n} examples of {train} and no index: expected what each was made of")
    index = np.arange(n) if made.index is None else made.index
    if index.shape != (n,) or index.dtype != np.int64 or not 0 <= index.min() <= index.max() < train:
        raise BdbenchError(
            f"{who} returned an index of {index.dtype} {index.shape}: expected int64 ({n},) in 0..{train - 1}"
        )


def _check_truth(who: str, images: ImageData, made: PoisonedData) -> None:
    """Raise BdbenchError where the truth that an attack returns is not that of the clean training set."""
    train = images.train
    index = np.arange(len(made.images)) if made.index is None else made.index
    if not np.array_equal(made.original_labels, train.labels[index]):
        raise BdbenchError(f"{who} returned original labels that are not those of the clean set, by its index")
    clean = np.flatnonzero(made.roles == Role.CLEAN)
    kept = (made.images[clean] == np.asarray(train.images)[index[clean]]).all((1, 2, 3))
    changed = int((~(kept & (made.labels[clean] == train.labels[index[clean]]))).sum())
    if changed:
        raise BdbenchError(f"{who} changed {changed} examples that it calls CLEAN: expected POISON or COVER")


def _check_array(who: str, what: str, made: object) -> None:
    if not isinstance(made, np.ndarray):
        raise BdbenchError(f"{who} returned {_told(made)} {what}: expected an array")


def _check_images(who: str, images: np.ndarray, shape: tuple[int, ...]) -> None:
    if images.dtype != np.uint8 or images.shape != shape:
        raise BdbenchError(f"{who} returned images of {images.dtype} {images.shape}: expected uint8 {shape}")
