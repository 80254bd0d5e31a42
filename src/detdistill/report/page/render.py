"""The page as one HTML file: text from runs is escaped, style and script are its own, and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from markupsafe import Markup

from detdistill.files import PACKAGE
from detdistill.report.page.charts import key, style_of
from detdistill.report.page.content import Page, named
from detdistill.report.palette import CLASS_COLOURS, text_on

MADE = f'<meta name="generator" content="{PACKAGE} report">'.encode()
"""Stands in the beginning of every page of ours, so that its like may take its place."""


def render(page: Page) -> str:
    """The file's text. The same page gives the same text."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"named": named, "style": style_of, "key": key}
    style, script = _own("page.css") + _class_colours(), _own("page.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_allowed(style)}; script-src {_allowed(script)}"
    )
    return environment.from_string(_own("page.html.j2")).render(
        page=page,
        made=Markup(MADE.decode()),
        policy=Markup(policy),
        style=Markup(style),
        script=Markup(script),
    )


def _class_colours() -> str:
    """The colours of classes, as in every picture, each with a rim that it stands out from."""
    rules = []
    for at, colour in enumerate(CLASS_COLOURS):
        red, green, blue = text_on(colour)
        rules.append(f".c{at} .edge, .c{at} .swatch {{ color: #{bytes(colour).hex()}; }}\n")
        rules.append(f".c{at} .under {{ stroke: rgb({red}, {green}, {blue}); }}\n")
    return "".join(rules)


@cache
def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _allowed(text: str) -> str:
    """How a policy names a style or a script by what it is."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
