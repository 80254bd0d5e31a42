"""Rows of the table of remedies about detectors of one's own."""

from __future__ import annotations

from pathlib import Path

from remedy_words import Row, train

EXAMPLE = f"{Path(__file__).resolve().parents[1] / 'examples' / 'own_detector.py'}:CenterNet"
WIDTH = ("--detector-args", "width")


def own(text: str, *words: str) -> str:
    return train("--detector", text, *words).replace("--detector fcos/tiny ", "")


OWN = (
    Row(
        own(EXAMPLE, "--detector-args", "width"),
        "Write for example width=24.",
        own(EXAMPLE, "--detector-args", "width=24"),
    ),
    Row(own(f"{EXAMPLE}(24)"), "Write for example width=24.", own(f"{EXAMPLE}(width=24)")),
    Row(own(f"{EXAMPLE}(widht=24)"), "Did you mean 'width'?", own(f"{EXAMPLE}(width=24)")),
    Row(
        own(f"{EXAMPLE}=runs/own"),
        "Leave =runs/own out; --init takes weights to start from.",
        own(EXAMPLE),
    ),
    Row(
        own(EXAMPLE, "student.score_threshold=0.2"),
        "Leave it out, or give its __init__ the parameter settings.",
        own(EXAMPLE),
    ),
)
