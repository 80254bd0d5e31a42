"""Figures and pages of whole runs are written, but not drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image


def _blank() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (1, 1)).save(file, format="PNG")
        return file.getvalue()


BLANK = _blank()


@pytest.fixture(scope="module", autouse=True)
def blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most of a tiny run's time goes into drawing its figures, which others test.

    A module may have them `DRAWN`, or its `CURVES` laid out.
    """
    # Not before the tests' own checks of shapes are set up.
    from detdistill import demo
    from detdistill.files import write_bytes
    from detdistill.jobs import given_runs, measuring, prove, run
    from detdistill.report.page.render import MADE
    from detdistill.store.layout import RunFolder

    def blank_page(path: Path, **_: object) -> None:
        write_bytes(RunFolder(path).page, MADE)

    def blank_curves(_runs: object, out: Path, **_: object) -> None:
        write_bytes(out, BLANK)

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWN", False):
            patch.setattr(Figure, "draw", lambda _figure, _renderer: None)
            for job in (demo, given_runs, prove, run):
                patch.setattr(job, "write_page", blank_page)
            if not getattr(request.module, "CURVES", False):
                patch.setattr(measuring, "learning_curves", blank_curves)
        yield
