"""The three words of a verdict, for people and for pipelines."""

from __future__ import annotations

from typing import Literal

Word = Literal["found", "nothing found", "cannot tell"]
EXIT_CODES: dict[Word, int] = {"nothing found": 0, "found": 1, "cannot tell": 3}
"""What a command ends with."""
TONES: dict[Word, str] = {"found": "bad", "nothing found": "good", "cannot tell": "plain"}
"""How a page shows it."""
