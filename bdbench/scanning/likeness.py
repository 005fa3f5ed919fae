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

CELLS = 9
BYTES = 2 * (CELLS - 1) ** 2 // 8
_BITS = 20  # that may differ; between images that have nothing to do with each other about 64 do
_NEXT = 2  # in each order an image is compared with so many
_CORRELATION = 0.985
_AT_ONCE = 4096


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


def near(hashes: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The place of the first image of the same group of near copies, int64 (n,).

    hashes: uint8 (n, 16); images: uint8 (n, H, W, C). Each image is compared with as many others however alike all
    are, so that this takes no longer for sets of flat images; a few pairs are missed for that.
    """
    leader = np.arange(len(hashes))
    for turn in range(BYTES):
        keys = np.ascontiguousarray(np.roll(hashes, turn, axis=1)).view(f"V{BYTES}").ravel()
        order = np.argsort(keys, kind="stable")
        for step in range(1, _NEXT + 1):
            pairs = np.stack([order[:-step], order[step:]], 1)
            for one, two in pairs[_alike(hashes, images, pairs)]:
                _join(leader, int(one), int(two))
    return np.array([_root(leader, place) for place in range(len(leader))], np.int64)


def _alike(hashes: np.ndarray, images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which pairs (m, 2) are near copies, bool (m,)."""
    found = np.zeros(len(pairs), bool)
    bits = np.unpackbits(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]], axis=1).sum(1) if len(pairs) else np.zeros(0)
    close = np.flatnonzero(bits <= _BITS)
    for start in range(0, len(close), _AT_ONCE):
        part = close[start : start + _AT_ONCE]
        one, two = (images[pairs[part, side]].reshape(len(part), -1).astype(np.float32) for side in (0, 1))
        one, two = (x - x.mean(1, keepdims=True) for x in (one, two))
        scale = np.sqrt((one**2).sum(1) * (two**2).sum(1))
        found[part] = (one * two).sum(1) >= _CORRELATION * np.maximum(scale, np.finfo(np.float32).tiny)
        found[part] &= scale > 0
    return found


def _root(leader: np.ndarray, place: int) -> int:
    while leader[place] != place:
        leader[place] = leader[leader[place]]
        place = int(leader[place])
    return place


def _join(leader: np.ndarray, one: int, two: int) -> None:
    one, two = _root(leader, one), _root(leader, two)
    leader[max(one, two)] = min(one, two)
