"""The errors a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BdbenchError(Exception):
    """A mistake in the input, said in one line that names the bad value and the allowed ones.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(kind: str, value: str, allowed: Iterable[str]) -> BdbenchError:
    """The error for a name that does not exist: the nearest known name first, then all of them."""
    names = sorted(allowed)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return BdbenchError(f"unknown {kind} {value!r}: {hint}known: {', '.join(names) or 'none'}")
