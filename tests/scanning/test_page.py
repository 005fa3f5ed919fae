"""The report in a browser: nothing wider than a phone, every picture with a text, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bdbench
from tests.leaderboard.test_page import CHROMIUM, browser
from tests.scanning.conftest import MODEL, STAMPED, Patch, Ranks, arrays

__all__ = ["browser"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, or set CHROMIUM")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, labels = arrays()
    long = "a class with a very long name that does not end " * 4 + "x" * 200
    options = {"defenses": [Patch(), Ranks()], "model": MODEL, "device": "cpu"}
    folder = tmp_path_factory.mktemp("report")
    bdbench.scan(images, labels, classes=[long, "dog", "<b>ship</b>"], report=folder, **options)
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1400])
def test_the_report_can_be_read_on_a_phone(browser: Any, report: Path, width: int) -> None:
    requests: list[str] = []
    errors: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.evaluate("[...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0])")
    assert len(pictures) > STAMPED and all(text and loaded for text, loaded in pictures)
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()] and errors == []
    assert page.locator("b").count() == 0
    assert page.locator(".verdict.bad").inner_text().startswith("Found: 6 suspicious images")
    page.close()
