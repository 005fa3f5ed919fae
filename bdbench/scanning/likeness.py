"""Copies: exact ones by their pixels, near ones by a difference hash that the pixels then confirm.

The hash is dHash (N. Krawetz, "Kind of Like That", 2013) in both directions: an image is reduced to grey of 9 x 9
cells by averaging, and each of 128 bits says whether a cell is brighter than its neighbour, to the right for half of
them and below for the others. It outlives another size, another compression and small changes of colour. Two images of
which few bits differ are near copies if their pixels at the working size correlate as well; so digits, whose hashes
are much alike, are none of each other.

Candidates are neighbours in sorted order (M. Charikar, "Similarity estimation techniques from rounding algorithms",
STOC 2002, section 3): of all hashes turned by each whole number of bytes, those of a pair with few differences have a
long beginning in common in some.
"""

from __future__ import annotations

import hashlib

import numpy as np

from bdbench.progress import Track, quiet

CELLS = 9
BYTES = 2 * (CELLS - 1) ** 2 // 8
_BITS = 20  # that may differ; between images that have nothing to do with each other about 64 do
_NEXT = 2  # in each order an image is compared with so many
_CORRELATION = 0.985
# In a channel whose grey levels vary by less, in the mean of their squares, there is nothing to be alike.
_FLAT = 1e-3
_AT_ONCE = 2**22  # numbers of images that are compared together


def digest(pixels: np.ndarray) -> bytes:
    """What exact copies share, 16 bytes: a hash of the shape and the pixels, uint8 (H, W, C)."""
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()[:16]


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """What near copies nearly share, uint8 (16,), of uint8 (H, W, C) of any size."""
    from PIL import Image

    grey = Image.fromarray(pixels.mean(2, dtype=np.float32))
    cells = np.asarray(grey.resize((CELLS, CELLS), Image.Resampling.BOX))
    bits = np.concatenate([(cells[:-1, 1:] > cells[:-1, :-1]).ravel(), (cells[1:, :-1] > cells[:-1, :-1]).ravel()])
    return np.packbits(bits)


def exact(digests: np.ndarray) -> np.ndarray:
    """The place of the first image with the same digest, int64 (n,), of digests uint8 (n, 16)."""
    _, first, inverse = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def near(hashes: np.ndarray, images: np.ndarray, track: Track = quiet) -> np.ndarray:
    """The place of the first image of the same group of near copies, int64 (n,).

    hashes: uint8 (n, 16); images: uint8 (n, H, W, C); track: for a bar. In each order an image is compared with the
    next two alone, so that the time is about that of so many comparisons also where all are alike; a few pairs are
    missed for that.
    """
    n = len(hashes)
    leader = np.arange(n)
    pairs = _candidates(hashes)
    part = max(1, _AT_ONCE // max(1, images[:1].size))
    advance = track(-(-len(pairs) // part), "look for copies")
    for start in range(0, len(pairs), part):
        some = pairs[start : start + part]
        some = some[[_root(leader, one) != _root(leader, two) for one, two in some.tolist()]]
        if len(some):
            for one, two in some[_alike(images, some)].tolist():
                _join(leader, one, two)
        advance(1)
    return np.array([_root(leader, place) for place in range(n)], np.int64)


def _candidates(hashes: np.ndarray) -> np.ndarray:
    """Pairs of rows (m, 2), each once, that are neighbours in some order and differ in few bits."""
    n = len(hashes)
    found = [np.empty(0, np.int64)]
    for turn in range(BYTES):
        keys = np.ascontiguousarray(np.roll(hashes, turn, axis=1)).view(f"V{BYTES}").ravel()
        order = np.argsort(keys, kind="stable")
        for step in range(1, _NEXT + 1):
            one, two = order[:-step], order[step:]
            close = np.unpackbits(hashes[one] ^ hashes[two], axis=1).sum(1, dtype=np.int64) <= _BITS
            found.append(np.minimum(one, two)[close] * n + np.maximum(one, two)[close])
    return np.stack(np.divmod(np.unique(np.concatenate(found)), max(1, n)), 1)


def _alike(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which pairs (m, 2) correlate, channel by channel and over all of them, bool (m,)."""
    one, two = (images[side].reshape(len(side), -1, images.shape[-1]).astype(np.float32) for side in pairs.T)
    for each in (one, two):
        # In single precision the sum over a large image is so far off that flat ones would vary alike.
        each -= each.mean(1, keepdims=True, dtype=np.float64)
    scale = np.sqrt((one**2).sum((1, 2)) * (two**2).sum((1, 2)))
    return (scale > _FLAT * one[0].size) & ((one * two).sum((1, 2)) >= _CORRELATION * scale)


def _root(leader: np.ndarray, place: int) -> int:
    while leader[place] != place:
        leader[place] = leader[leader[place]]
        place = int(leader[place])
    return place


def _join(leader: np.ndarray, one: int, two: int) -> None:
    one, two = _root(leader, one), _root(leader, two)
    leader[max(one, two)] = min(one, two)
