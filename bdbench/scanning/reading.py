"""A listing decoded to one size, image by image, so that only small images are ever held; what was odd is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bdbench.display.words import counted
from bdbench.errors import BdbenchError, one_line
from bdbench.host import machine, memory
from bdbench.images.listing import Listing
from bdbench.images.preparation import stratified
from bdbench.progress import Track
from bdbench.scanning import likeness
from bdbench.seeds import Streams

# Of fewer images in a class nothing can be told; detectors need some on either side.
FEWEST = 8
# Larger images are brought to this size unless one is asked for.
LARGEST = 64
_LEAST_SIZE = 8
# Images that are looked at to choose a size, and those that are decoded before the next are asked for.
_LOOK, _AT_ONCE = 64, 256
# Copies of one group that are named.
_NAMED = 4


@dataclass(frozen=True)
class Odd:
    """An image or a file that was left out, and why. unread: whether it was to be an image, and did not read."""

    name: str
    reason: str
    unread: bool = False


@dataclass(frozen=True)
class Copies:
    """Images that are copies of each other. names: of all; labels: the different classes that they are filed under."""

    names: tuple[str, ...]
    labels: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.names[:_NAMED])}{' ...' if len(self.names) > _NAMED else ''}"


@dataclass(frozen=True)
class Read:
    """What was read. The arrays of what is scanned, in random order:

    images: uint8 (n, size, size, 1 or 3), read-only; labels: int64 (n,), into ``classes``, those that are judged;
    places: int64 (n,), in ``listing``. copies_of: exact copies that are scanned once, (k, 2): a place and the row that
    stands for it. unjudged: places of classes that are too small; left_out: places that --subset left out;
    skipped: what did not read, and what was passed over; small: classes with too few images, and how many they have;
    exact, near: groups of copies; sizes: smallest, median and largest (width, height); resized, shrunk, grey: how many
    (shrunk: those with a side longer than the working size); longest: pixels of the longest side of any;
    fingerprint: a hash of names, labels and pixels of all that was read, whatever the order and the working size.
    """

    listing: Listing
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    places: np.ndarray
    copies_of: np.ndarray
    unjudged: np.ndarray
    left_out: np.ndarray
    skipped: tuple[Odd, ...]
    small: dict[str, int]
    exact: tuple[Copies, ...]
    near: tuple[Copies, ...]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    resized: int
    shrunk: int
    longest: int
    grey: int
    fingerprint: str

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.images.shape[1])

    @property
    def standing(self) -> np.ndarray:
        """How many images each row stands for, int64 (n,): itself and its exact copies."""
        return 1 + np.bincount(self.copies_of[:, 1].astype(np.int64), minlength=len(self.labels))

    def count(self, rows: np.ndarray) -> int:
        """How many images some rows, bool (n,) or int64 (k,), stand for."""
        return int(self.standing[rows].sum())

    @property
    def decoded(self) -> int:
        """How many images were read."""
        return len(self.places) + len(self.copies_of) + len(self.unjudged)


@dataclass
class _Facts:
    """Of the images that were asked for, in random order. places: in the listing; ok: whether it was read."""

    places: np.ndarray
    pixels: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    shapes: np.ndarray
    grey: np.ndarray
    ok: np.ndarray
    odd: list[Odd]


def read(
    listing: Listing,
    *,
    size: int | None,
    subset: int | None,
    strict: bool,
    streams: Streams,
    track: Track,
    fits: Callable[[int, tuple[int, int, int], int], None] = lambda count, shape, classes: None,
) -> Read:
    """Decode what is listed. strict: what does not read is an error; fits: raises BdbenchError for too many images of
    a shape (H, W, C) and so many classes, before any is read.

    Raises BdbenchError if there are no images, or none of a second class, or if they need more memory than there is.
    """
    if strict and listing.passed_over:
        name, reason = listing.passed_over[0]
        left = f"{len(listing.passed_over)} left out, such as {name} ({reason})"
        raise BdbenchError(f"{left}: expected nothing but images with --strict")
    asked = _asked(listing, subset, streams)
    size, grey = _looked_at(listing, asked, size, streams)
    facts = None
    while facts is None:
        channels = 1 if grey else 3
        _check_memory(len(asked), size, channels)
        fits(len(asked), (size, size, channels), len(np.unique(listing.labels[asked])))
        facts = _decoded(listing, asked, size, grey, strict, streams("order").permutation(len(asked)), track)
        if grey and not facts.grey[facts.ok].all():
            grey, facts = False, None  # there is a coloured one after all
    if not facts.ok.any():
        first = facts.odd[0]
        raise BdbenchError(f"none of {len(asked)} images reads, such as {first.name}: {first.reason}")
    return _sorted_out(listing, asked, facts, track)


def _asked(listing: Listing, subset: int | None, streams: Streams) -> np.ndarray:
    passed = len(listing.passed_over)
    left = f"; {counted(passed, 'other thing')} {'is' if passed == 1 else 'are'} there" if passed else ""
    if not len(listing):
        raise BdbenchError(f"there are no images to scan{left}: expected some of each of at least 2 classes")
    if len(set(listing.classes)) < len(listing.classes):
        twice = next(name for name in listing.classes if listing.classes.count(name) > 1)
        raise BdbenchError(f"two classes are called {twice!r}: expected different names")
    for what, names in (("class", listing.classes), ("image", listing.names)):
        if not _is_text("".join(names)):
            odd = next(name for name in names if not _is_text(name))
            raise BdbenchError(
                f"the name of {'an' if what == 'image' else 'a'} {what}, {odd!r}, is no text: expected Unicode"
            )
    if len(np.unique(listing.labels)) < 2:
        only = listing.classes[listing.labels[0]]
        raise BdbenchError(
            f"{counted(len(listing), 'image')}, all of class {only!r}{left}: expected at least 2 classes"
        )
    if subset is None:
        return np.arange(len(listing))
    if subset >= len(listing):
        raise BdbenchError(f"--subset {subset} is not allowed: expected less than the {len(listing)} images there are")
    return stratified(listing.labels, subset, streams("subset"))


def _is_text(name: str) -> bool:
    """Whether it can be written down; names of files that are no text can, as they are."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _looked_at(listing: Listing, asked: np.ndarray, size: int | None, streams: Streams) -> tuple[int, bool]:
    """The size to bring images to, and whether all that were looked at are grey."""
    chosen = streams("look").permutation(asked)[:_LOOK]
    shapes, grey = [], True
    for place in np.sort(chosen):
        try:
            pixels = listing.open(int(place))
        except BdbenchError:
            continue
        shapes.append(pixels.shape[:2])
        grey &= _is_grey(pixels)
    if size is not None:
        return size, grey and bool(shapes)
    if not shapes:
        return LARGEST, False
    # Small square images of one size keep it.
    return int(np.clip(np.median(np.min(shapes, axis=1)), _LEAST_SIZE, LARGEST)), grey


def _check_memory(count: int, size: int, channels: int) -> None:
    def needed(examples: int) -> int:
        return examples * size * size * channels

    most = memory.most(needed, count)
    if most < count:
        memory.check_memory(
            needed(count),
            f"{count} images of {size} x {size}",
            f"--subset {most}, or a smaller --size" if most > 1 else "a smaller --size",
        )


def _decoded(
    listing: Listing, asked: np.ndarray, size: int, grey: bool, strict: bool, rows: np.ndarray, track: Track
) -> _Facts:
    """Everything that is asked for; rows: where each goes."""
    n = len(asked)
    facts = _Facts(
        places=np.empty(n, np.int64),
        pixels=np.zeros((n, size, size, 1 if grey else 3), np.uint8),
        digests=np.zeros((n, 16), np.uint8),
        hashes=np.zeros((n, likeness.BYTES), np.uint8),
        shapes=np.zeros((n, 2), np.int32),
        grey=np.zeros(n, bool),
        ok=np.zeros(n, bool),
        odd=[],
    )
    facts.places[rows] = asked
    advance = track(n, "read images")

    def one(i: int) -> Odd | None:
        name = listing.names[asked[i]]
        try:
            pixels = listing.open(int(asked[i]))
        except BdbenchError as error:
            return Odd(name, one_line(error), unread=True)
        row = rows[i]
        facts.digests[row] = np.frombuffer(likeness.digest(pixels), np.uint8)
        facts.shapes[row], facts.grey[row] = pixels.shape[:2], _is_grey(pixels)
        small = resized(pixels, size, facts.pixels.shape[-1])
        facts.hashes[row] = likeness.difference_hash(small)
        facts.pixels[row], facts.ok[row] = small, True
        return None

    # Decoders of files let other threads run; more of them than cores only wait.
    with ThreadPoolExecutor(machine.allowed_cores() if listing.parallel else 1) as pool:
        for start in range(0, n, _AT_ONCE):
            stop = min(start + _AT_ONCE, n)
            for odd in pool.map(one, range(start, stop)):
                if odd is not None and strict:
                    raise BdbenchError(f"{odd.reason}; expected images alone with --strict")
                facts.odd += [odd] if odd else []
                advance(1)
    return facts


def resized(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """An image, uint8 (H, W, 1 or 3), brought to (size, size, channels) by bicubic resampling, as a whole."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels)


def _is_grey(pixels: np.ndarray) -> bool:
    # Most coloured images show it in a few rows.
    some = pixels[:: max(1, len(pixels) // 4)]
    return all((part[..., :1] == part).all() for part in (some, pixels))


def _sorted_out(listing: Listing, asked: np.ndarray, facts: _Facts, track: Track) -> Read:
    """What is scanned set apart from what is not, in place: a large set is not held twice."""
    ok = np.flatnonzero(facts.ok)
    labels = listing.labels[facts.places]
    # Copies under one label would make a group that no attacker made.
    known = np.concatenate([facts.digests, labels.astype("<i8")[:, None].view(np.uint8)], axis=1)
    leader = np.arange(len(labels))
    leader[ok] = ok[likeness.exact(known[ok])] if len(ok) else ok
    single = facts.ok & (leader == np.arange(len(labels)))
    counts = np.bincount(labels[single], minlength=len(listing.classes))
    listed = np.unique(listing.labels[asked])
    judged = np.flatnonzero(counts >= FEWEST)
    scanned = np.flatnonzero(single & np.isin(labels, judged))
    row_of = np.full(len(labels), -1)
    row_of[scanned] = np.arange(len(scanned))
    copies = np.flatnonzero(facts.ok & ~single & np.isin(labels, judged))
    _move_up(facts.pixels, scanned)
    images = facts.pixels[: len(scanned)]
    images.flags.writeable = False
    shapes = facts.shapes[ok]
    return Read(
        listing=listing,
        images=images,
        labels=np.searchsorted(judged, labels[scanned]).astype(np.int64),
        classes=tuple(listing.classes[label] for label in judged),
        places=facts.places[scanned],
        copies_of=np.stack([facts.places[copies], row_of[leader[copies]]], 1),
        unjudged=facts.places[np.flatnonzero(facts.ok & ~np.isin(labels, judged))],
        left_out=np.setdiff1d(np.arange(len(listing)), asked),
        skipped=(*facts.odd, *(Odd(*each) for each in (*listing.passed_over, *listing.beside))),
        small={listing.classes[label]: int(counts[label]) for label in listed if counts[label] < FEWEST},
        exact=_groups(listing, facts.places[ok], likeness.exact(facts.digests[ok])) if len(ok) else (),
        near=_near(listing, facts, scanned, images, track),
        sizes=_sizes(shapes),
        resized=int((shapes != images.shape[1]).any(1).sum()),
        shrunk=int((shapes > images.shape[1]).any(1).sum()),
        longest=int(shapes.max(initial=0)),
        grey=int(facts.grey[ok].sum()),
        fingerprint=_fingerprint(listing, facts.places[ok], facts.digests[ok]),
    )


def _move_up(pixels: np.ndarray, rows: np.ndarray) -> None:
    """Let the first rows be those at ``rows``, ascending. No image moves down, so none is lost."""
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        pixels[start : start + len(part)] = pixels[part]


def _groups(listing: Listing, places: np.ndarray, leader: np.ndarray) -> tuple[Copies, ...]:
    """The groups of more than one, each in the order of the listing."""
    found = []
    order = np.argsort(leader, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(leader[order])) + 1):
        if len(group) > 1:
            own = np.sort(places[group])
            labels = dict.fromkeys(listing.classes[label] for label in listing.labels[own])
            found.append(Copies(tuple(listing.names[place] for place in own), tuple(labels)))
    return tuple(sorted(found, key=lambda copies: (-len(copies.labels), -len(copies.names), copies.names)))


def _near(listing: Listing, facts: _Facts, scanned: np.ndarray, images: np.ndarray, track: Track) -> tuple[Copies, ...]:
    """The groups of near copies, less those of one picture filed under several labels: these are exact copies."""
    if not len(scanned):
        return ()
    leader = likeness.near(facts.hashes[scanned], images, track)
    same = likeness.exact(facts.digests[scanned])
    pictures = np.unique(np.stack([leader, same], 1), axis=0)[:, 0]
    several = np.bincount(pictures, minlength=len(leader)) > 1
    return _groups(listing, facts.places[scanned], np.where(several[leader], leader, np.arange(len(leader))))


def _sizes(shapes: np.ndarray) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Smallest, median and largest image by area, as (width, height)."""
    if not len(shapes):
        return (0, 0), (0, 0), (0, 0)
    order = np.argsort(shapes.prod(1, dtype=np.int64), kind="stable")
    low, middle, high = (shapes[order[place]] for place in (0, len(order) // 2, -1))
    return tuple((int(shape[1]), int(shape[0])) for shape in (low, middle, high))  # type: ignore[return-value]


def _fingerprint(listing: Listing, places: np.ndarray, digests: np.ndarray) -> str:
    told = hashlib.sha256()
    for i in np.argsort(places).tolist():
        name, label = listing.names[places[i]], listing.classes[listing.labels[places[i]]]
        told.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape") + digests[i].tobytes())
    return told.hexdigest()[:32]
