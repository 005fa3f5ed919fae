"""Checks of data sets. The subject is the data set and the Source it may read from."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bdbench.components.interfaces import Dataset, Source
from bdbench.errors import BdbenchError
from bdbench.images.data import ImageData, Split, fingerprint
from bdbench.images.preparation import check_names, prepare
from bdbench.seeds import Streams
from bdbench.testing.checks import NotChecked, check, elsewhere, expect

_SOME = 100
Subject = tuple[Dataset, Source]


def _read(subject: Subject) -> ImageData:
    dataset, source = subject
    try:
        return dataset.read(source)
    except BdbenchError as error:
        raise NotChecked(str(error)) from None


def _some(data: ImageData) -> ImageData:
    """A hundred images of each part, spread over it, decoded and checked as the harness does."""

    def some(split: Split) -> Split:
        index = np.unique(np.linspace(0, len(split.labels) - 1, _SOME).astype(int))
        return Split(split.images[index], split.labels[index])

    return prepare(ImageData(some(data.train), some(data.test), data.classes), streams=Streams(0))


@check("dataset")
def says_what_is_missing(subject: Subject) -> None:
    """Where there are no files, ``read`` either needs none or raises a BdbenchError of one line.

    It becomes ``bdbench: ...`` and tells the user which files to put where; a traceback does not.
    """
    with tempfile.TemporaryDirectory() as empty:
        try:
            data = subject[0].read(Source(Path(empty)))
        except BdbenchError as error:
            expect("\n" not in str(error), f"an error of several lines: {error}")
        else:
            expect(isinstance(data, ImageData), f"{type(data).__name__} instead of ImageData")


@check("dataset")
def takes_nothing_that_it_cannot_browse(subject: Subject) -> None:
    """``takes`` is False for an empty folder and for a text file.

    ``bdbench scan`` asks every data set about whatever path a user gives; one that takes all hides the others.
    """
    with tempfile.TemporaryDirectory() as empty:
        for path in (Path(empty), Path(empty, "notes.txt")):
            if path.suffix:
                path.write_text("no images")
            expect(not subject[0].takes([path]), f"it takes {'a text file' if path.suffix else 'an empty folder'}")


@check("dataset")
def fetches_nothing_unasked(subject: Subject) -> None:
    """Without ``source.download`` nothing is fetched, and nothing is written to the user's data folder.

    Terms of use are for the user to accept, and a cluster without a network should say what is missing at once.
    """

    def connect(*arguments: Any) -> None:
        raise _Connected

    with tempfile.TemporaryDirectory() as empty, mock.patch.object(socket.socket, "connect", connect):
        try:
            subject[0].read(Source(Path(empty)))
        except BdbenchError:
            pass
        except _Connected:
            expect(False, "it opened a connection")
        written = [path.name for path in Path(empty).iterdir()]
        expect(not written, f"it wrote {', '.join(written)}")


class _Connected(Exception):
    pass


@check("dataset")
def images_and_labels_are_usable(subject: Subject) -> None:
    """Images are uint8, or floats in 0..1, of one shape (H, W, 1 or 3); labels are integers in 0..K-1, one each.

    That is what every attack, model and defense is written for.
    """
    data = _read(subject)
    try:
        _some(data)
        check_names(data)
    except BdbenchError as error:
        expect(False, str(error))
    for name, split in (("training", data.train), ("test", data.test)):
        low, high = split.labels.min(), split.labels.max()
        expect(len(split.images) == len(split.labels), f"{len(split.images)} images, {len(split.labels)} labels")
        expect(0 <= low <= high < data.num_classes, f"{name} labels in {low}..{high} where K = {data.num_classes}")


@check("dataset")
def every_class_has_training_examples(subject: Subject) -> None:
    """Every name in ``classes`` has a training example.

    A class that is never seen cannot be predicted; an attack that targets it has nothing to imitate.
    """
    data = _read(subject)
    absent = sorted(set(range(data.num_classes)) - set(np.unique(data.train.labels).tolist()))
    expect(not absent, f"none for {', '.join(data.classes[i] for i in absent)}")


@check("dataset")
def images_are_picked_by_index(subject: Subject) -> None:
    """``images[index]`` gives the images at ``index`` in its order, also where they are decoded only then.

    A subset is picked that way; images in another order would get each other's labels.
    """
    images = _read(subject).train.images
    index = np.array([0, len(images) - 1, len(images) // 2])
    there, back = images[index], images[index[::-1]]
    expect(np.array_equal(there, back[::-1]), "another order gives other images")
    expect(np.array_equal(there[:1], images[index[:1]]), "an image depends on those picked with it")


@check("dataset")
def reads_the_same_every_time(subject: Subject) -> None:
    """Two reads give the same images and labels in the same order, whatever the global seeds and
    the time of day are.

    Run ids and stage results are found by a hash of the data.
    """
    prints = []
    for seed in (1, 2):
        with elsewhere(seed):
            data = _read(subject)
        some = _some(data)
        arrays = (some.train.images, some.test.images, data.train.labels, data.test.labels)
        prints.append(fingerprint(*map(np.asarray, arrays)))
    expect(prints[0] == prints[1], "the second read differs from the first")
