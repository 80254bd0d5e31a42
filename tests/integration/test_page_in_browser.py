"""The page in a real browser: nothing is fetched, nothing fails, and what is chosen is what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detdistill.jobs.page import write_page
from in_a_browser import background, opened, seen
from page_by_hand import finished, hostile_data

DRAWN = True


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    truth = hostile_data(folder / "data")
    write_page(folder / "run", truth=truth, looks=finished(folder / "run", folder / "data", truth))
    return folder / "run" / "report.html"


def test_the_page_in_a_browser(html: Path, browser: Any) -> None:
    with opened(browser, html) as page:
        # Who is shown, by which class, and from which score on.
        assert seen(page, '.panel-of[data-who="teacher"]') == 0
        page.check('[data-who="teacher"]')
        assert seen(page, '.panel-of[data-who="teacher"]') > 0
        labels = seen(page, ".box.label")
        page.uncheck('[data-class="0"]')
        assert 0 < seen(page, ".box.label") < labels
        page.check('[data-class="0"]')
        page.uncheck('[data-who="labels"]')
        assert seen(page, ".box.label") == 0
        before, told = seen(page, ".box[data-s]"), page.inner_text(".panel-of .count")
        # By keyboard alone, from the first box to the slider.
        page.focus('[data-who="labels"]')
        page.keyboard.press("Space")
        assert seen(page, ".box.label") == labels
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.type") == "range":
                break
        page.keyboard.press("End")
        assert page.inner_text("output") == "0.95"
        assert (before > 0, seen(page, ".box[data-s]")) == (True, 0)
        assert page.inner_text(".panel-of .count") != told
        page.keyboard.press("Home")
        assert seen(page, ".box[data-s]") > before
        # Light and dark.
        light = background(page)
        page.focus("#theme")
        page.keyboard.press("Enter")
        assert background(page) != light
        assert page.inner_text("#theme") == "Light"
        page.emulate_media(color_scheme="dark")
        dark = background(page)
        page.click("#theme")
        assert background(page) == light != dark
