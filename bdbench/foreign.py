"""Text from strangers made harmless for where it is shown: names, paths and errors in records are anybody's.

Each function takes any text and gives what shows the same to a person and does nothing else. Imports nothing heavy.
"""

from __future__ import annotations

import re
import unicodedata

# Control characters, which terminals obey, parts of characters, and what ends a line.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
# What turns the direction of text around.
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What Markdown or the HTML in it reads as more than itself, wherever it stands.
_MARKS = re.compile(
    r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|(?<=\w):(?=//)|(?<=www)\.(?=\w)|(?<=[\w.+-])@(?=\w)", re.IGNORECASE
)
# And what begins a heading, a list or a quotation.
_BEGINNING = re.compile(r"^(?:[#+=-]|\d+(?=[.)]))")
# By these a spreadsheet knows a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def line(text: object) -> str:
    """One line without control characters: terminals obey none of it. What is left out is shown as ``\\x1b``."""
    return "".join(_visible(c) if c in _TURNING or unicodedata.category(c) in _HIDDEN else c for c in str(text))


def markup(text: object) -> str:
    """For rich's console markup: brackets are brackets."""
    from rich.markup import escape

    return escape(line(text))


def figure(text: object) -> str:
    """For a text in a matplotlib figure: no formula."""
    return line(text).replace("$", r"\$")


def markdown(text: object) -> str:
    """For Markdown, in a paragraph, a list, a heading or a cell of a table: no markup, no HTML, no links."""
    escaped = _MARKS.sub(lambda found: f"\\{found[0]}", line(text))
    return _BEGINNING.sub(lambda found: f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\", escaped)


def cell(value: object) -> object:
    """For a cell of a CSV file: a text that a spreadsheet would compute gets an apostrophe before it."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _visible(character: str) -> str:
    code = ord(character)
    return " " if character in "\n\t\r" else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
