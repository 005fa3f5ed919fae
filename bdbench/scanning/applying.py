"""What is done about a scan: images copied or moved, and models trained with and without the suspects."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdbench.display.words import counted
from bdbench.errors import BdbenchError, writable
from bdbench.host import machine
from bdbench.images.listing import Listing
from bdbench.images.preparation import stratified
from bdbench.networks import training
from bdbench.progress import Progress
from bdbench.registry.plugins import installed
from bdbench.scanning import files, given, reading
from bdbench.scanning.laboratory import Laboratory
from bdbench.seeds import Streams
from bdbench.storage.files import check_outside
from bdbench.storage.store import STAGES, written_whole

_SHOWN, _TEST_SHARE = 5, 0.2


def apply(
    folder: Path,
    copy_kept: Path | None,
    move_suspects: Path | None,
    retrain: bool,
    yes: bool,
    progress: Progress,
) -> Iterator[str]:
    """Do what is asked for with the scan in ``folder``, or only say what would be done; lines for a person.

    Raises BdbenchError before anything is touched if a file is not there, or a new folder is.
    """
    asked = (copy_kept is not None) + (move_suspects is not None)
    if asked > 1 or not (asked or retrain):
        raise BdbenchError(f"{asked} of --copy-kept and --move-suspects are given: expected one of them, or --retrain")
    told = files.read(folder)
    if told["verdict"]["outcome"] != "found":
        yield f"the scan found nothing to remove: {told['verdict']['sentence']}"
    if retrain:
        yield from _compared(folder, told, progress)
    if copy_kept is not None:
        yield from _carried(folder, told, "keep.txt", copy_kept, yes, progress, move=False)
    if move_suspects is not None:
        yield from _carried(folder, told, "quarantine.txt", move_suspects, yes, progress, move=True)


def _carried(
    folder: Path, told: dict[str, Any], list_name: str, new: Path, yes: bool, progress: Progress, move: bool
) -> Iterator[str]:
    root, names = _root(told), files.names_in(folder / list_name)
    scanned = (folder / "scan.json").stat().st_mtime
    # A move that was broken off is gone on with. A list that a person edited may name an image twice.
    done = {name for name in names if move and (new / name).is_file() and not os.path.lexists(root / name)}
    names = [name for name in dict.fromkeys(names) if name not in done]
    paths = [_checked(root, name, scanned) for name in names]
    for path in paths if move else ():
        # A class may be a link to a folder elsewhere, which is not ours to empty.
        if not path.parent.resolve().is_relative_to(root.resolve()):
            raise BdbenchError(
                f"{path} lies in {path.parent.resolve()}, outside of {root}: expected it inside to move it"
            )
    if not names:
        yield f"nothing to {'move' if move else 'copy'}: {'all are moved' if done else 'the list names no image'}"
        return
    if new.exists() and not done:
        raise BdbenchError(f"{new} is there already: expected a new folder")
    for name in names:
        if os.path.lexists(new / name):
            raise BdbenchError(f"{new / name} is there already: expected a new folder, so that nothing is lost")
    check_outside(new, root, "that was scanned")
    verb = "move" if move else "copy"
    if not yes:
        yield f"would {verb} {counted(len(names), 'image')} from {root} to {new}, such as:"
        yield from (f"  {name}" for name in names[:_SHOWN])
        yield "nothing was done; --yes does it"
        return
    advance = progress.track(len(names), verb)
    if move:
        for folder in sorted({path.parent for path in paths}):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise BdbenchError(f"{folder} may not be written to: expected to, since images of it are to be moved")
        # One by one: broken off, it leaves each file in one of the two places.
        with writable(new):
            _carry(paths, names, new, _moved, advance)
    else:
        with written_whole(new) as aside:
            _carry(paths, names, aside, shutil.copy2, advance)
    yield f"{'moved' if move else 'copied'} {counted(len(names), 'image')} to {new}"
    if not move:
        yield "it holds what was scanned and kept: no test part, nothing that a subset left out or that did not read"


def _carry(
    paths: Sequence[Path],
    names: Sequence[str],
    to: Path,
    carry: Callable[[str, str], Any],
    advance: Callable[[int], None],
) -> None:
    for path, name in zip(paths, names, strict=True):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        carry(os.fspath(path), os.fspath(target))
        advance(1)


def _moved(source: str, target: str) -> None:
    """Move a file; of a link what it leads to, since it would lead elsewhere from there. All or nothing."""
    if not os.path.islink(source):
        with contextlib.suppress(OSError):  # another file system
            os.rename(source, target)
            return
    try:
        shutil.copy2(source, target)
        os.unlink(source)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise


def _root(told: dict[str, Any]) -> Path:
    root = told["data"]["root"]
    if root is None:
        raise BdbenchError(
            f"the images of {told['data']['source']} are no files of their own: expected a scan of a folder of images; "
            "suspects.csv says which rows are suspicious"
        )
    if not Path(root).is_dir():
        raise BdbenchError(f"{root} is not there any more: expected the folder that was scanned")
    return Path(root)


def _checked(root: Path, name: str, scanned: float) -> Path:
    """The file of a name. scanned: when its scan was written."""
    path = root / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise BdbenchError(f"{name!r} leads out of {root}: expected a path below it")
    if not path.is_file():
        raise BdbenchError(f"{path} is not there: expected the files that were scanned")
    # Cameras' clocks are wrong: a time to come says nothing.
    if scanned < path.stat().st_mtime <= time.time():
        raise BdbenchError(f"{path} was written after the scan: expected the files that were scanned; scan again")
    return path


def _compared(folder: Path, told: dict[str, Any], progress: Progress) -> Iterator[str]:
    """The accuracy of a model of all images and of one without the suspects, trained by the same stream."""
    settings = told["settings"]
    streams = Streams(int(settings["seed"]))
    if not told["data"]["given"]:
        raise BdbenchError(f"{told['data']['source']} cannot be read again: expected a scan of paths, or of a data set")
    listing = given.of_paths(told["data"]["given"], settings["data_root"])
    size = int(told["data"]["size"])
    found = reading.read(
        listing, size=size, subset=settings["subset"], strict=False, streams=streams, track=progress.track
    )
    if found.fingerprint != told["data"]["fingerprint"]:
        raise BdbenchError(
            f"{told['data']['source']} is not as it was scanned: expected to be told before it is changed"
        )
    machine.use_threads(None)
    device = training.pick_device("auto")
    model = installed().component("model", settings["model"])
    laboratory = Laboratory.of(found, model, streams, device, folder / STAGES, progress)
    bad = _left_out(found, set(files.names_in(folder / "quarantine.txt")))
    left = len(np.unique(found.labels[~bad]))
    if left < 2:
        raise BdbenchError(
            f"{counted(left, 'class')} of those judged has images that are not suspects: expected 2 or more"
        )
    images, labels, usable, what = _test_part(listing, found, bad, size, streams, progress)
    accuracies = []
    for kept in (usable, usable & ~bad):
        network, _ = laboratory.trained(kept, "retrain", "train to compare")
        accuracies.append(float((network.predict(images) == labels).mean()))
    before, after = (f"{100 * share:.1f} %" for share in accuracies)
    yield f"accuracy on {len(labels)} {what}: {before} with the {found.count(bad)} suspects, {after} without them"


def _left_out(found: reading.Read, names: set[str]) -> np.ndarray:
    """The rows of what was scanned, bool (n,), of which every copy is among the names: one that is kept is there."""
    places = np.concatenate([found.places, found.copies_of[:, 0]]).tolist()
    rows = np.concatenate([np.arange(len(found.places)), found.copies_of[:, 1]])
    kept = rows[[found.listing.names[place] not in names for place in places]]
    return ~np.isin(np.arange(len(found.places)), kept)


def _test_part(
    listing: Listing, found: reading.Read, bad: np.ndarray, size: int, streams: Streams, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Images and labels to try models on, and which of what was scanned may be trained on, bool (n,)."""
    usable = np.ones(len(found.labels), bool)
    if listing.test is None or not len(listing.test):
        clean = np.flatnonzero(~bad)
        apart = clean[stratified(found.labels[clean], round(_TEST_SHARE * len(clean)), streams("apart"))]
        usable[apart] = False
        return found.images[apart], found.labels[apart], usable, "images set apart for it"
    test, images, labels = listing.test, [], []
    judged = {name: label for label, name in enumerate(found.classes)}
    advance = progress.track(len(test), "read test images")
    for place in range(len(test)):
        name = test.classes[test.labels[place]]
        advance(1)
        if name not in judged:
            continue
        try:
            images.append(reading.resized(test.open(place), size, found.images.shape[-1]))
        except BdbenchError:
            continue
        labels.append(judged[name])
    if not labels:
        raise BdbenchError("the test part holds no image of a class that was judged: expected some")
    return np.stack(images), np.array(labels), usable, "test images"
