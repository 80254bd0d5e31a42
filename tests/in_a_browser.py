"""A page in a real browser, which is asked to say whatever goes wrong, and what is fetched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_BYTES, MOST_SECONDS = 8e6, 2.0


@contextmanager
def opened(browser: Any, html: Path) -> Iterator[Any]:
    """The page, loaded in less than 2 s from less than 8 MB; nothing fails in it, and nothing is fetched."""
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
    # Nothing is wider than the page.
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    yield page
    assert {url for url in asked if not url.startswith(("about:", "data:"))} == {html.as_uri()}
    assert wrong == []
    page.close()


def seen(page: Any, selector: str) -> int:
    """How many of such there are to see."""
    return int(
        page.evaluate(
            "s => [...document.querySelectorAll(s)].filter(e => e.getBoundingClientRect().width > 0).length", selector
        )
    )


def background(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
