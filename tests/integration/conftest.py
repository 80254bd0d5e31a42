"""Figures and pages of whole runs are written, but not drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from detdistill import demo
from detdistill.files import write_bytes
from detdistill.jobs import given_runs, prove, run
from detdistill.report.page.render import MADE
from detdistill.store.layout import RunFolder


def _blank(path: Path, **_: object) -> None:
    write_bytes(RunFolder(path).page, MADE)


@pytest.fixture(scope="module", autouse=True)
def blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most of a tiny run's time goes into drawing its figures, which others test; a module may have them `DRAWN`."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWN", False):
            patch.setattr(Figure, "draw", lambda _figure, _renderer: None)
            for job in (demo, given_runs, prove, run):
                patch.setattr(job, "write_page", _blank)
        yield
