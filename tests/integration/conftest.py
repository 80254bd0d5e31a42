"""Figures and pages of whole runs are written, but not drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from detdistill.files import write_bytes
from detdistill.jobs import page


def _blank(*_: object, out: Path, **__: object) -> page.ReportOutcome:
    write_bytes(out, page.MADE)
    return page.ReportOutcome(out, "", 0, len(page.MADE))


@pytest.fixture(scope="module", autouse=True)
def blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most of a tiny run's time goes into drawing its figures, which others test; a module may have them `DRAWN`."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWN", False):
            patch.setattr(Figure, "draw", lambda _figure, _renderer: None)
            patch.setattr(page, "_written", _blank)
        yield
