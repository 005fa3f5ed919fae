"""index.html in a real browser: Debian's chromium, or the one that CHROMIUM names."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdbench import leaderboard
from bdbench.components import configs
from bdbench.storage import record
from tests.records import attack, keep, made, make_board

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, or set CHROMIUM")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with a seed of blend against random missing, with sig not run, and with a stage more."""
    folder = make_board(tmp_path_factory.mktemp("site") / "made")
    first = record.load(folder / "records" / "blend-spectral-0.json")["config"]
    parts = {kind: first[kind] for kind in ("dataset", "model")}
    code = {"code": first["code"]}
    weak = {**parts, **attack("weak"), "defense": {"name": "tuning"}}
    for seed in range(3):
        keep(folder, made(seed, stage="repair", parts=weak, before=(0.9, 0.1), config=code))
    (folder / "records" / "blend-random-1.json").unlink()
    lists = {"datasets": ["digits"], "models": ["convnet"], "attacks": ["blend", "sig"], "defenses": ["random"]}
    (folder / "grid.toml").write_text("".join(f"{k} = {v}\n" for k, v in lists.items()) + 'seeds = "0-1"\n')
    leaderboard.build(folder)
    return folder


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else errors.append(request.url))
    page.goto((site / "index.html").as_uri())
    yield page
    assert errors == []
    page.close()


def column(page: Any, heading: str) -> list[str]:
    """Of the first table."""
    return page.locator(
        f"table.cells >> nth=0 >> tbody:not([hidden]) > tr.cell > td[data-heading='{heading}']"
    ).all_inner_texts()


def test_every_cell_is_there(page: Any, site: Path) -> None:
    # Two stages, and the two attacks.
    assert page.locator("table.cells").count() == 3
    assert page.locator("tbody > tr.cell").count() == 8 + 2
    assert column(page, "AUROC").count("not run") == 1
    # One rival shares too few seeds for bold.
    assert page.locator("td.best").count() == 0
    assert page.locator("tr.fails").count() == 1 + 1
    assert page.locator("svg circle").count() == 2 * 3


def test_a_click_on_a_heading_sorts_and_a_second_one_reverses(page: Any) -> None:
    def values() -> list[float]:
        return [float(t.split(" ")[0]) for t in column(page, "AUROC") if re.match(r"\d", t)]

    button = page.get_by_role("button", name="AUROC")
    button.click()
    down = values()
    assert len(down) == 3 and down == sorted(down, reverse=True)
    assert column(page, "AUROC")[-1] in ("-", "not run")
    button.click()
    assert values() == down[::-1]
    assert column(page, "AUROC")[-1] in ("-", "not run")
    repair = page.locator("table.cells").nth(1)
    assert repair.locator("th[aria-sort]").count() == 0
    page.get_by_role("button", name="ASR after", exact=True).first.click()
    least = [float(t.split(" ")[0]) for t in column(page, "ASR after") if re.match(r"\d", t)]
    assert least == sorted(least)
    page.get_by_role("button", name="defense").first.click()
    assert column(page, "defense") == sorted(column(page, "defense"))


def test_filters_by_choice_by_words_and_by_what_was_run(page: Any) -> None:
    page.locator("[name=attack]").select_option("none")
    assert set(column(page, "attack")) == {"none"}
    assert page.locator("#count").inner_text() == "3 of 10 cells"
    page.locator("[name=attack]").select_option("")
    page.locator("[name=words]").fill("LOSS blend")
    assert column(page, "defense") == ["low-loss"]
    page.locator("[name=words]").fill("")
    page.locator("[name=empty]").uncheck()
    assert page.locator("#count").inner_text() == "9 of 10 cells"


def test_a_number_leads_to_its_records_and_the_command(page: Any, site: Path) -> None:
    cell = page.locator("tbody", has=page.locator("td", has_text="blend rate=0.05")).filter(has_text="random")
    assert not cell.locator("tr.detail").is_visible()
    cell.locator("td[data-heading='AUROC'] a").click()
    detail = cell.locator("tr.detail")
    assert detail.is_visible()
    links = [link.get_attribute("href") for link in detail.locator("a").all()]
    assert len(links) == 2 and all((site / link).is_file() for link in links)
    data = record.load(site / links[0])
    assert detail.locator("code").inner_text() == configs.command(data["config"], data["seed"])
    assert "Not run: seeds 1." in detail.inner_text()
    cell.locator("td[data-heading='AUROC'] a").click()
    assert not detail.is_visible()


def test_it_is_readable_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    first = page.locator("tbody > tr.cell").first
    heading = first.locator("td").first.evaluate("e => getComputedStyle(e, '::before').content")
    assert heading == '"attack"'
    assert first.bounding_box()["width"] <= 360
    page.locator("[name=sort]").select_option(label="AUROC")
    values = [t for t in column(page, "AUROC") if re.match(r"\d", t)]
    assert values == sorted(values, reverse=True)
    first.locator("td[data-heading='AUROC'] a").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_works_without_scripts(browser: Any, site: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "index.html").as_uri())
    page.locator("td[data-heading='AUROC'] a").first.click()
    assert page.locator("tr.detail:visible").count() == 1
    page.close()
