"""What an inspection leaves: scores, pictures, the report."""

from __future__ import annotations

import csv
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import fastjsonschema
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from bdbench.cells import metrics
from bdbench.inspecting import result
from tests.inspecting.asking import Bright, Place, Says, quickly

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def test_what_it_leaves_is_valid_and_whole(found: tuple[Result, Path]) -> None:
    _, out = found
    told = json.loads((out / "inspect.json").read_text())
    validate = fastjsonschema.compile(result.schema())
    validate(told)
    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate({**told, "verdict": "perhaps"})
    named = [t["file"] for d in told["detectors"] for t in d["triggers"]]
    assert len(named) == 10 * 2 + 10 and sorted(named) == sorted(f"triggers/{p.name}" for p in out.glob("triggers/*"))
    for name in named:
        with Image.open(out / name) as picture:
            assert picture.format == "PNG" and min(picture.size) >= 160


class Page(HTMLParser):
    """The pictures of a page with their texts, and everything it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.pictures += [values.get("alt") or ""] if tag == "img" else []
        self.fetched += [v for k, v in values.items() if k in ("src", "href") and v and not v.startswith("data:")]


def test_the_report_is_one_file_whose_pictures_have_texts(found: tuple[Result, Path]) -> None:
    _, out = found
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.fetched == [] and "url(" not in text
    assert len(page.pictures) == 30 + 12 and all(page.pictures)
    assert page.pictures[0].startswith("3 (suspected): mask, norm ")
    assert "class &#39;3&#39; looks like a target of a backdoor" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, or set CHROMIUM")
def test_the_report_is_readable_on_a_phone(found: tuple[Result, Path]) -> None:
    api = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url[:5]))
        page.goto((found[1] / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("Math.min(...[...document.images].map(i => i.naturalWidth && i.clientWidth))") >= 120
        browser.close()
    assert set(asked) <= {"file:", "data:"}


def test_inputs_are_scored_in_cells_that_no_spreadsheet_computes(place: Place, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    (inputs / "deep").mkdir(parents=True)
    first = next(place.clean.rglob("*.png"))
    shutil.copy(first, inputs / "=1+1.png")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(inputs / "deep" / "bright.png")
    (inputs / "broken.png").write_bytes(b"no image")
    (inputs / "notes.txt").write_text("no image by its name")
    out = tmp_path / "out"
    found = quickly(place.good, defenses=[Says(), Bright()], inputs=inputs, clean=place.clean, out=out)
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [r["image"] for r in rows] == ["'=1+1.png", "deep/bright.png"]
    assert [r["flagged"] for r in rows] == ["false", "true"] and float(rows[1]["score"]) == 255
    assert found.subject.clean is not None and found.inputs is not None
    usual = found.subject.clean.images.mean((1, 2, 3))
    assert found.inputs.by[0].limit == metrics.refusal_threshold(usual).limit
    assert [p.name for p, _ in found.inputs.skipped] == ["broken.png"]
    # Without clean images nothing says what is suspicious; what an earlier inspection left is gone.
    again = quickly(place.good, defenses=[Says(), Bright()], inputs=inputs, out=out).to_dict()
    assert again["inputs"]["detectors"][0]["flagged"] is None
    assert {r["flagged"] for r in csv.DictReader((out / "scores.csv").open())} == {""}
    quickly(place.good, out=out)
    assert not (out / "scores.csv").exists() and not (out / "triggers").exists()


def test_a_detector_asked_twice_is_one_witness_and_leaves_pictures_of_both(place: Place, tmp_path: Path) -> None:
    defenses = [f"mm-bd:images=1,steps={steps},significance=1" for steps in (1, 2)]
    told = quickly(place.good, defenses=defenses, out=tmp_path).to_dict()
    assert [d["flagged"] for d in told["detectors"]] == [True, True] and told["verdict"] == "cannot tell"
    files = [t["file"] for d in told["detectors"] for t in d["triggers"]]
    assert len(set(files)) == 20 == len(list(tmp_path.glob("triggers/*.png")))


def test_bti_dbf_shows_images_as_its_generator_changes_them(place: Place) -> None:
    quick = "bti-dbf:clean=8,mask_steps=2,steps=2,width=2"
    (finding,) = quickly(place.good, defenses=[quick], clean=place.clean).findings
    assert finding.how == "ran" and len(finding.triggers) == 16
    clean, made = finding.triggers[:2]
    assert clean.label == made.label and clean.picture.shape == made.picture.shape == (8, 8, 1)
    assert "as the generator changes it" in made.title
