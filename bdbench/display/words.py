"""Words for people."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """So many of a thing: ``1 image``, ``2 images``, ``0 classes``."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"
