"""Text from strangers made harmless for where it is shown: names, paths and errors in records are anybody's.

Each function takes any text and gives what shows the same to a person and does nothing else. Imports nothing heavy.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable

# Control characters, which terminals obey, parts of characters, and what ends a line.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
# What turns the direction of text around.
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What Markdown or the HTML in it reads as more than itself, wherever it stands.
_MARKS = re.compile(
    r"[\\`*\[\]|~$#]|<(?=[a-z/!?])|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|(?<=\w):(?=//)|(?<=www)\.(?=\w)|(?<=[\w.+-])@(?=\w)",
    re.IGNORECASE,
)
# And what begins a heading, a list or a quotation.
_BEGINNING = re.compile(r"^(\s*\d*)([+=>-]|(?<=\d)[.)])")
# Where rich takes two backslashes for one: before what it takes for a tag.
_BRACKET = re.compile(r"(\\*)\[(?=([a-z#/@][^\[]*?\])?)")
# By these a spreadsheet knows a formula.
_FORMULA = ("=", "+", "-", "@")


def line(text: object) -> str:
    """One line without control characters: terminals obey none of it. What is left out is shown as ``\\x1b``."""
    return "".join(_visible(c) if c in _TURNING or unicodedata.category(c) in _HIDDEN else c for c in str(text))


def page(text: str) -> str:
    """For a page whose template escapes markup: lines stay lines, and what else a person does not see is shown."""
    return "\n".join(map(line, text.split("\n")))


def markup(text: object) -> str:
    """For rich's console markup: brackets are brackets."""
    # rich.markup.escape leaves brackets that begin no tag alone, and rich then takes the backslash before one.
    return _BRACKET.sub(lambda found: found[1] * (2 if found[2] else 1) + "\\[", re.sub(r"(\\+)$", r"\1\1", line(text)))


def figure(text: object) -> str:
    """For a text in a matplotlib figure: no formula."""
    return line(text).replace("$", r"\$")


def markdown(text: object) -> str:
    """For Markdown, in a paragraph, a list, a heading or a cell of a table: no markup, no HTML, no links."""
    escaped = _MARKS.sub(lambda found: f"\\{found[0]}", line(text))
    return _BEGINNING.sub(r"\1\\\2", escaped)


def cell(value: object) -> object:
    """For a cell of a CSV file: one line, with an apostrophe before it if a spreadsheet would compute it."""
    if not isinstance(value, str):
        return value
    text = line(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV file of a head and rows, each value a ``cell``; None is an empty one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(cell, row) for row in (columns, *rows))
    return text.getvalue()


def _visible(character: str) -> str:
    code = ord(character)
    return " " if character in "\n\t\r" else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
