"""What an attack does to images, seen before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from bdbench.cells.scene import Scene
from bdbench.display import pictures
from bdbench.errors import BdbenchError
from bdbench.images.data import ANY_OTHER, Role
from bdbench.storage.store import write_file

_FORMATS = (".png", ".svg", ".pdf")
# Pairs of each: poisons and covers of the training set, and rows of the challenge.
_EACH = 4


def write(scene: Scene, path: Path) -> None:
    """A picture of clean images, the same after the attack, and the difference amplified.

    Raises BdbenchError for an attack that changes nothing, or a name that is no picture's.
    """
    check_name(path)
    pairs = [*_training(scene), *_challenge(scene)]
    if not pairs:
        raise BdbenchError(f"attack {scene.attack.name!r} changes no image: there is nothing to see")
    before, after, titles = zip(*pairs, strict=True)
    write_file(path, pictures.rendered(pictures.examples(np.stack(before), np.stack(after), titles), path.suffix[1:]))


def write_all(scenes: Mapping[str, Callable[[], Scene]], path: Path) -> dict[str, str]:
    """One picture of what every attack makes of a test image; returns why those are left out that show nothing.

    Raises BdbenchError if none shows anything.
    """
    pairs, left_out = {}, {}
    for name, scene in scenes.items():
        try:
            shown = _challenge(scene())
            if not shown:
                raise BdbenchError("nothing is attacked")
            pairs[name] = shown[0][:2]
        except BdbenchError as error:
            left_out[name] = str(error)
    if not pairs:
        reasons = list(dict.fromkeys(left_out.values()))
        # What is wrong with the setting is so for every attack.
        raise BdbenchError(reasons[0] if len(reasons) == 1 else f"no attack shows anything: {'; '.join(reasons)}")
    write_file(path, pictures.rendered(pictures.gallery(pairs), path.suffix[1:]))
    return left_out


def check_name(path: Path) -> None:
    """Raises BdbenchError for a name that is no picture's."""
    if path.suffix not in _FORMATS:
        raise BdbenchError(f"{str(path)!r} is no picture: expected a name that ends in {', '.join(_FORMATS)}")


def _training(scene: Scene) -> list[tuple[np.ndarray, np.ndarray, str]]:
    poisoned, clean, names = scene.poisoned, np.asarray(scene.images.train.images), scene.images.classes
    origin = np.arange(len(clean)) if poisoned.index is None else poisoned.index
    found = []
    for role in (Role.POISON, Role.COVER):
        # The first ones are as good as any: the set is shuffled.
        for i in np.flatnonzero(poisoned.roles == role)[:_EACH]:
            was, label = names[poisoned.original_labels[i]], names[poisoned.labels[i]]
            title = f"{role.name.lower()}\n{was}" + (f" as {label}" if label != was else "")
            found.append((clean[origin[i]], poisoned.images[i], title))
    return found


def _challenge(scene: Scene) -> list[tuple[np.ndarray, np.ndarray, str]]:
    challenge, test, names = scene.challenge, scene.images.test, scene.images.classes
    if challenge is None:
        return []
    clean, found = np.asarray(test.images), []
    for what, rows in (("test", scene.attacked), ("bystander", ~scene.attacked)):
        for i in np.flatnonzero(rows)[:_EACH]:
            was, wanted = names[test.labels[challenge.index[i]]], challenge.goal[i]
            goal = "another" if wanted == ANY_OTHER else names[wanted]
            title = f"{what}\n{was}" + (f" to be {goal}" if goal != was else "")
            found.append((clean[challenge.index[i]], challenge.images[i], title))
    return found
