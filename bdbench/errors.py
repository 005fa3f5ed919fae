"""The errors a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Letters of an error's line: more than any of ours has, but for lists of what is known.
_LONGEST = 4_000


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


def one_line(error: BaseException) -> str:
    """An error in one line: bdbench's own are sentences, others need their type to be understood.

    Its text is foreign: it may be empty, or of many lines, or of millions of letters, or raise itself.
    """
    try:
        text = next(iter(str(error)[: 10 * _LONGEST].splitlines()), "")
    except BaseException:  # it may try to end the program, too
        text = "(its text cannot be read)"
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if isinstance(error, BdbenchError):
        return text
    name = type(error).__name__
    return f"{name}: {text}" if text else name


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn an OSError met inside into the one-line error for a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise BdbenchError(f"cannot write to {folder}: {error.strerror}: expected a writable folder") from None
    except ValueError as error:  # a null character in the name
        raise BdbenchError(f"cannot write to {str(folder)!r}: {error}: expected a writable folder") from None
