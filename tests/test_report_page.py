"""The report in a browser: nothing overflows, every arm is there, sorting, hiding, colours and values work, printing fits the sheet."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import write_many

from lab.report.select_runs import choose
from lab.report.write import write_comparison, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = os.environ.get("LAB_PICTURES")
"""A folder for what the browser saw, which CI keeps; without, none are taken."""
NUM_ARMS = 9
WIDTHS = (1600, 1280, 420)
SHEET = 1039
"""CSS pixels between the margins of A4 in landscape."""
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A report of more arms than colours, and the comparison of this sweep with itself."""
    folder = tmp_path_factory.mktemp("page")
    write_many(folder / "runs", NUM_ARMS, 70, 35)
    selection = choose(folder / "runs")
    reports = {"report": write_report(selection, folder / "out"), "versus": write_comparison(selection, selection, folder / "out")}
    return {name: (path / "report.html").as_uri() for name, path in reports.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser: Any, address: str, width: int = 1280, **options: Any) -> Any:
    """A page, whose `complaints` are what the console says."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(address)
    return page


def first_cells(page: Any) -> list[str]:
    """The arms in the order of the main table, as far as they are shown."""
    return [cell.strip() for cell in page.locator(".tools + .scroll tbody tr:visible td:first-child").all_inner_texts()]


def test_it_reads_at_every_width(browser: Any, addresses: dict[str, str]) -> None:
    """No overflow, no complaint, every arm in the table and in the figure of the size that fits, no number broken over lines.

    The report is opened dark, the comparison light; each is then looked at in the other way too.
    """
    for (name, address), schemes in zip(addresses.items(), (("dark", "light"), ("light", "dark")), strict=True):
        page = opened(browser, address, WIDTHS[0], color_scheme=schemes[0])
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                require_readable(page, width)
                if PICTURES:
                    page.screenshot(path=Path(PICTURES) / f"{name}-{width}-{scheme}.png", full_page=True)
        page.context.close()


def require_readable(page: Any, width: int) -> None:
    """What a page holds at a width."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide, narrow = page.locator(".wide svg").first, page.locator(".narrow svg").first
    assert (wide.is_visible(), narrow.is_visible()) == (width > 760, width <= 760)
    assert all(each <= width for each in page.locator("svg:visible").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)"))
    arms = set(page.locator("tbody tr[data-runs] td:first-child a").all_inner_texts())
    figure = " ".join(page.locator("figure:first-of-type svg:visible").first.locator("text").all_text_contents())
    assert len(arms) >= NUM_ARMS and all(part in figure for arm in arms for part in arm.split() if arm.startswith("lora"))
    wrap = page.locator("td.n").evaluate_all("cells => cells.map(cell => getComputedStyle(cell).whiteSpace)")
    assert set(wrap) == {"nowrap"}
    assert page.complaints == []


def test_arms_are_sorted_and_hidden_by_a_click(browser: Any, addresses: dict[str, str]) -> None:
    page = opened(browser, addresses["report"])
    head = page.locator(".tools + .scroll th", has_text="accuracy")
    column = page.locator(".tools + .scroll th").all_inner_texts().index(head.inner_text())
    for descending in (True, False):
        head.locator("button").click()
        rows = page.locator(f".tools + .scroll tbody tr[data-runs] td:nth-child({column + 1})").all_inner_texts()
        values = [float(re.match(r"[\d.]+", text)[0]) for text in rows]
        assert len(values) == NUM_ARMS and values == sorted(values, reverse=descending)
        assert head.get_attribute("aria-sort") == ("descending" if descending else "ascending")
        assert first_cells(page)[-1].startswith("always")
    run = page.locator("tbody tr[data-runs]").first.get_attribute("data-runs")
    elsewhere = page.locator(f'svg [data-runs="{run}"]:visible, h2#provenance ~ .scroll tr[data-runs="{run}"]:visible')
    assert elsewhere.count() > 3
    page.locator(f'tr[data-runs="{run}"] input').click()
    assert elsewhere.count() == 0 and "8 of 9 arms shown" in page.locator(".tools").inner_text()
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_role("searchbox").fill("lora.r=8")
    assert first_cells(page)[:-1] and all("lora.r=8" in cell for cell in first_cells(page)[:-1])
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="none", exact=True).click()
    assert page.locator("svg [data-runs]:visible").count() == 0 and len(first_cells(page)) == NUM_ARMS + 1
    page.context.close()


def test_a_mark_says_its_values(browser: Any, addresses: dict[str, str]) -> None:
    page = opened(browser, addresses["report"])
    mark = page.locator("svg:visible g[data-tip]:has(use)").first
    mark.locator("use").first.hover(force=True)
    assert re.search(r"lora\.r=\d+.*\naccuracy, % \d+\.\d \[\d", page.locator(".tip").inner_text())
    page.context.close()


def test_it_is_whole_without_a_script_and_on_paper(browser: Any, addresses: dict[str, str]) -> None:
    page = opened(browser, addresses["report"], java_script_enabled=False)
    assert page.locator("tbody").first.locator("tr:visible").count() == NUM_ARMS + 1
    page.context.close()
    background = "getComputedStyle(document.body).backgroundColor"
    page = opened(browser, addresses["report"], SHEET)
    light = page.evaluate(background)
    page.locator("#dark").check()
    dark = page.evaluate(background)
    assert light == "rgb(255, 255, 255)" and max(map(int, re.findall(r"\d+", dark))) < 60
    page.emulate_media(media="print")
    assert page.evaluate(background) == light and not page.locator("nav").is_visible() and not page.locator(".tools").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= SHEET
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.context.close()
