"""Words for people."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """So many of a thing: ``1 image``, ``2 images``, ``0 classes``, ``3 files or folders``."""
    plural = " or ".join(f"{one}es" if one.endswith("s") else f"{one}s" for one in thing.split(" or "))
    return f"{number} {thing if number == 1 else plural}"
