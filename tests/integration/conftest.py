"""Figures and pages of whole runs are written, but not drawn; detectors are counted once and timed briefly."""

from __future__ import annotations

import io
import multiprocessing
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image


def _blank() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (1, 1)).save(file, format="PNG")
        return file.getvalue()


BLANK = _blank()


COUNTED: dict[str, Any] = {}


def counted_once(detector: Any, **size: int) -> Any:
    """What torch's counter says of a detector of these settings, classes and size, which are all that decides it."""
    from detdistill.detectors.complexity import complexity

    settings = getattr(detector, "settings", None)
    key = f"{settings} {detector.spec.class_names} {size}"
    if settings is None or key not in COUNTED:
        COUNTED[key] = complexity(detector, **size)
    return COUNTED[key]


@pytest.fixture(scope="module", autouse=True)
def brief(request: pytest.FixtureRequest) -> Iterator[None]:
    """Most of a tiny run's time goes into drawing its figures and timing its detectors, which others test.

    A module may have its figures `DRAWN`, all of them or those of what comes before it asks for `blank`.
    """
    from detdistill.detectors import complexity
    from detdistill.jobs import profile, run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_ROUNDS", 1)
        patch.setattr(complexity, "_WARM_UP", 0)
        patch.setattr(profile, "complexity", counted_once)
        if not getattr(request.module, "DRAWN", False):
            request.getfixturevalue("blank")
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    place, playwright = shutil.which("chromium"), pytest.importorskip("playwright.sync_api")
    if place is None:
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def blank(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures and pages are written, but not drawn.

    A module may have `CURVES` laid out. Sheets and matrices are laid out, but for a module that looks at its `SHEETS`
    their pixels are not packed into the PNG.
    """
    # Not before the tests' own checks of shapes are set up.
    from detdistill import demo
    from detdistill.files import write_bytes
    from detdistill.jobs import given_runs, measuring, prove, run
    from detdistill.report import confusion, palette, sheet
    from detdistill.report.page.render import MADE
    from detdistill.store.layout import RunFolder

    def blank_page(path: Path, **_: object) -> None:
        write_bytes(RunFolder(path).page, MADE)

    def blank_curves(_runs: object, out: Path, **_: object) -> None:
        write_bytes(out, BLANK)

    def blank_picture(picture: Image.Image, kind: str) -> bytes:
        """One pixel whose colour is a checksum: other pictures are other files."""
        colour = zlib.crc32(picture.tobytes()).to_bytes(4)[1:]
        return palette.png_of(Image.new("RGB", (1, 1), tuple(colour)), kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda _figure, _renderer: None)
        for picture in (confusion, sheet) if not getattr(request.module, "SHEETS", False) else ():
            patch.setattr(picture, "png_of", blank_picture)
        for job in (demo, given_runs, prove, run):
            patch.setattr(job, "write_page", blank_page)
        if not getattr(request.module, "CURVES", False):
            patch.setattr(measuring, "learning_curves", blank_curves)
        yield


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs side by side are forks, brief as all runs here are; those of users begin afresh, which takes seconds."""
    from detdistill.jobs import side_by_side

    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(side_by_side.multiprocessing, "get_context", lambda _: context)
