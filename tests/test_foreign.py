"""Text from strangers is shown as it is, and does nothing, in each medium."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.text import Text

from bdbench import foreign
from bdbench import leaderboard as boards
from bdbench.cli import cli
from bdbench.components import configs
from bdbench.display.pictures import examples, rendered
from bdbench.grids import board
from bdbench.storage import schemas
from tests.records import made

HOSTILE = (
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "http://evil.example www.evil.example me@evil.example",
    "# heading",
    "a|b `c` *d* _e_ ~~f~~ &lt; \\",
    "\x1b[31mred\x1b]0;title\x07",
    "=1+2",
    "[/x]\\[red]",
    "> quoted",
    "1. listed",
    "one\n\n# two",
    "\u202egpj.exe",
    "$\\frac{$",
)
TEXTS = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.sampled_from("a1 _*[]()<>/!&;#=+-|`~\\:.$@x\n\x1b"), max_size=20)
)
PAGE = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def seen(page: str) -> str:
    return html.unescape(re.sub(r"</?(p|h2|ul|li|table|thead|tbody|tr|th|td)>", "", page)).strip()


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    made, wanted = foreign.markdown(f"x{text}"), foreign.line(f"x{text}").strip()
    for around in ("{}", "- {}", "## {}", "| a |\n|---|\n| {} |"):
        page = PAGE.render(around.format(made))
        assert "".join(seen(page).split()) == "".join((("a" if "|" in around else "") + wanted).split()), page
    alone = foreign.markdown(text)
    assert not re.search(r"<(h\d|ol|blockquote|hr|ul|pre)", PAGE.render(alone.strip()))


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_a_terminal_and_a_spreadsheet_are_told_nothing(text: str) -> None:
    line = foreign.line(text)
    assert line.isprintable() and len(line.splitlines()) <= 1
    # What rich prints after it is not to be taken for part of it; it doubles backslashes at the end.
    shown = Text.from_markup(foreign.markup(text) + "[bold]z[/bold]").plain
    assert shown.rstrip("\\z") == f"{line}z".rstrip("\\z") and shown.endswith("z")
    cell = str(foreign.cell(text))
    assert cell[:1] not in ("=", "+", "-", "@") or float(cell) is not None


def test_numbers_and_plain_names_stay_as_they_are() -> None:
    assert [foreign.cell(v) for v in ("-0.5", -0.5, "adaptive-blend", None)] == ["-0.5", -0.5, "adaptive-blend", None]
    plain = "tiny-imagenet size=32, 2 < frequency_x < 8 & c/d (ä)"
    assert foreign.line(plain) == foreign.markdown(plain) == foreign.markup(plain) == plain


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with a record for each text, in every place that a record has for one, and a failure of each."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "records").mkdir()
    for i, text in enumerate(HOSTILE):
        data = json.loads(schemas.dumps(made(0)))
        for kind in configs.KINDS:
            data["config"][kind] |= {"name": text, "subset": None, "pattern": text}
        data |= {"id": str(i), "access": ["training_set", text]}
        data["environment"] |= {"device": text, "processor": text}
        (folder / "records" / f"{i}.json").write_text(json.dumps(data))
    lists = {"datasets": ["digits"], "models": ["convnet"], "attacks": ["blend"], "defenses": ["random"]}
    (folder / "grid.toml").write_text("".join(f"{k} = {v}\n" for k, v in lists.items()))
    known = board.Board.read(folder)
    assert known.grid is not None
    (job,) = known.grid.jobs()
    known.fail(job.config(job.defenses[0]), 0, " ".join(HOSTILE))
    return folder


def test_boards_obey_no_record(hostile: Path) -> None:
    made = boards.render(hostile)
    assert made.keys() >= {"README.md", "table.csv", "index.html"}
    page = PAGE.render(made["README.md"])
    for tag in ("<script", "<em>d", "javascript:", 'src="http', 'href="http', "<del", "<code>c", "<blockquote", "<ol"):
        assert tag not in (page if tag != "javascript:" else "".join(re.findall('href="[^"]*"', page))), tag
    assert "<script>alert" not in made["index.html"]
    assert not any(character in text for text in made.values() for character in ("\x1b", "\x07", "\u202e"))
    for row in csv.reader(io.StringIO(made["table.csv"])):
        for cell in row:
            assert cell[:1] not in ("=", "+", "@") and (cell[:1] != "-" or cell == "-" or float(cell) <= 0)


@pytest.mark.parametrize("text", HOSTILE)
def test_show_prints_names_as_they_are(text: str, hostile: Path) -> None:
    file = hostile / "records" / f"{HOSTILE.index(text)}.json"
    result = CliRunner().invoke(cli, ["show", str(file)])
    assert result.exit_code == 0, result.output
    assert foreign.line(text) in result.stdout.replace("\n", "") or len(text) > 20
    assert "\x1b" not in result.stdout and "\u202e" not in result.stdout


def test_errors_are_one_line_whatever_they_quote(hostile: Path) -> None:
    result = CliRunner().invoke(cli, ["leaderboard", "show", str(hostile), "--where", "attack=\x1b[31m\nx"])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "\x1b" not in result.stderr


def test_a_name_is_no_formula_in_a_picture() -> None:
    import numpy as np

    images: Any = np.zeros((2, 4, 4, 3), np.uint8)
    assert rendered(examples(images, images, ["$\\frac{$ as a$b", "$"]))
