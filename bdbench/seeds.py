"""One root seed, and a random stream for every stage, drawn by name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """Named random streams of one root seed.

    A stream depends on the seed and on its name alone, so that a new stage changes no other stage's
    numbers. Asking for the same name again gives the same numbers again: an attack that draws its trigger
    from ``streams("trigger")`` finds the same trigger when the test set is stamped.
    """

    seed: int
    path: tuple[str, ...] = ()

    def __call__(self, name: str) -> np.random.Generator:
        """A generator at the start of the stream called ``name``."""
        return np.random.default_rng(self._sequence(name))

    def integer(self, name: str) -> int:
        """A non-negative 63-bit seed from the stream called ``name``, for libraries that want an integer."""
        high, low = self._sequence(name).generate_state(2, np.uint32)
        return (int(high) << 31 ^ int(low)) & (2**63 - 1)

    def child(self, name: str) -> Streams:
        """The streams below ``name``: their names cannot meet those of another child."""
        return Streams(self.seed, (*self.path, name))

    def _sequence(self, name: str) -> np.random.SeedSequence:
        digest = hashlib.sha256("\0".join((*self.path, name)).encode()).digest()
        return np.random.SeedSequence(self.seed, spawn_key=tuple(np.frombuffer(digest, "<u4").tolist()))
