"""Progress: bars on a terminal, lines elsewhere, nothing in a library."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from detdistill import progress as module
from detdistill.progress import ScreenProgress, Silence, counted, duration, in_bytes


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (754, "12:34"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_come_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    pipe = io.StringIO()
    progress = ScreenProgress(Console(file=pipe, force_terminal=False, width=20, markup=False, soft_wrap=True))
    progress.start("student", 40, done=10)
    for at, done in ((5.0, 15), (20.0, 30)):
        now[0] = at
        progress.advance(done, "loss 0.500")
    progress.say("[a] line that is longer than the width")
    now[0] = 30.0
    progress.advance(40)
    progress.finish()
    assert pipe.getvalue().splitlines() == [
        "student: 40 steps, going on after 10",
        "student: 30 of 40 steps, 1.0/s, 0:10 left, loss 0.500",
        "[a] line that is longer than the width",
        "student: 40 steps in 0:30",
    ]


def test_every_line_names_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    pipe = io.StringIO()
    progress = ScreenProgress(Console(file=pipe, force_terminal=False, width=20, markup=False, soft_wrap=True))
    for what, total, unit, done in (("check train", 24, "image", 24), ("read", 1, "round", 1), ("look", 2, "MB", 1)):
        progress.start(what, total, unit=unit)
        progress.advance(done)
    progress.finish()
    assert pipe.getvalue().splitlines() == [
        "check train: 24 images",
        "check train: 24 images in 0:00",
        "read: 1 round",
        "read: 1 round in 0:00",
        "look: 2 MB",
        "look: 1 of 2 MB in 0:00",
    ]


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (1, "step", "1 step"),
        (0, "image", "0 images"),
        (2000, "process", "2,000 processes"),
        (1.0, "epoch", "1 epoch"),
        (0.5, "epoch", "0.5 epochs"),
        (2, "MB", "2 MB"),
    ],
)
def test_one_is_singular(number: float, unit: str, text: str) -> None:
    assert counted(number, unit) == text


def test_a_terminal_gets_a_bar() -> None:
    screen = io.StringIO()
    bar = ScreenProgress(Console(file=screen, force_terminal=True, width=100))
    bar.start("check", 4, unit="image")
    bar.say("hello")
    bar.advance(2, "loss 1.000")
    bar.finish()
    assert "2/4" in screen.getvalue()
    assert " images " in screen.getvalue()
    assert "loss 1.000" in screen.getvalue()
    assert "hello" in screen.getvalue()


def test_silence_takes_everything() -> None:
    progress = Silence()
    progress.start("x", 1)
    progress.advance(1)
    progress.say("x")
    progress.finish()


def test_sizes_are_told_in_three_figures() -> None:
    told = {
        0: "0 bytes",
        9999: "9999 bytes",
        20480: "20.5 kB",
        123456: "0.123 MB",
        9.99e9: "9,990 MB",
        3e12: "3,000 GB",
    }
    assert {size: in_bytes(size) for size in told} == told
