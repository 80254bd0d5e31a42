"""The page in a real browser: nothing is fetched, nothing fails, and what is chosen is what is shown."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detdistill.jobs.page import write_page
from page_by_hand import finished, hostile_data

DRAWN = True
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright"),
]
MOST_BYTES, MOST_SECONDS = 8e6, 2.0


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    truth = hostile_data(folder / "data")
    write_page(folder / "run", truth=truth, looks=finished(folder / "run", folder / "data", truth))
    return folder / "run" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_the_page_in_a_browser(html: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme="light")
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(html.as_uri(), wait_until="load")
    assert time.perf_counter() - began < MOST_SECONDS
    assert html.stat().st_size < MOST_BYTES
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
    # Nothing is wider than the page.
    assert page.evaluate("document.documentElement.scrollWidth") == 400

    def seen(selector: str) -> int:
        return int(
            page.evaluate(
                "s => [...document.querySelectorAll(s)].filter(e => e.getBoundingClientRect().width > 0).length",
                selector,
            )
        )

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    # Who is shown, by which class, and from which score on.
    assert seen('.panel-of[data-who="teacher"]') == 0
    page.check('[data-who="teacher"]')
    assert seen('.panel-of[data-who="teacher"]') > 0
    labels = seen(".box.label")
    page.uncheck('[data-class="0"]')
    assert 0 < seen(".box.label") < labels
    page.check('[data-class="0"]')
    page.uncheck('[data-who="labels"]')
    assert seen(".box.label") == 0
    before, told = seen(".box[data-s]"), page.inner_text(".panel-of .count")
    # By keyboard alone, from the first box to the slider.
    page.focus('[data-who="labels"]')
    page.keyboard.press("Space")
    assert seen(".box.label") == labels
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            break
    page.keyboard.press("End")
    assert page.inner_text("output") == "0.95"
    assert (before > 0, seen(".box[data-s]")) == (True, 0)
    assert page.inner_text(".panel-of .count") != told
    page.keyboard.press("Home")
    assert seen(".box[data-s]") > before
    # Light and dark.
    light = background()
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert background() != light
    assert page.inner_text("#theme") == "Light"
    page.emulate_media(color_scheme="dark")
    dark = background()
    page.click("#theme")
    assert background() == light != dark
    assert wrong == []
    page.close()
