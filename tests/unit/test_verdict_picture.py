"""The picture of a verdict: differences with their intervals by seed, figure and class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detdistill.evaluation.coco import FIGURES
from detdistill.proof.differences import Difference, Differences, difference_of
from detdistill.proof.verdict import judge
from detdistill.report import differences as report
from detdistill.report.differences import draw_verdict


def made_up(mean: float, *, seeds: int, classes: int) -> Differences:
    random = np.random.default_rng(0)

    def one(centre: float) -> Difference:
        whole = centre + random.normal(0, 0.3, seeds)
        return difference_of(whole, whole[:, None] + random.normal(0, 0.5, (seeds, 50)))

    named = {f"class {number}": one(number / 10) for number in range(classes)}
    return Differences(tuple(range(seeds)), 30, {name: one(mean) for name in FIGURES}, named)


@pytest.mark.parametrize(
    ("seeds", "classes", "titles", "rows"),
    [
        (3, 2, ["AP by seed", "COCO's figures", "AP by class"], [["seed 0", "seed 1", "seed 2", "all"], [*FIGURES]]),
        (1, 50, ["COCO's figures", "AP by class, the 40 of 50 that differ most"], [[*FIGURES]]),
        (2, 0, ["AP by seed", "COCO's figures"], [["seed 0", "seed 1", "all"], [*FIGURES]]),
    ],
)
def test_every_interval_is_drawn(
    monkeypatch: pytest.MonkeyPatch, seeds: int, classes: int, titles: list[str], rows: list[list[str]]
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(report, "write_figure", lambda figure, out: drawn.append(figure))
    steps, time = (made_up(mean, seeds=seeds, classes=classes) for mean in (3.0, 1.0))
    draw_verdict(judge(steps, time, worth=0.5), Path("verdict.png"))
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == titles
    labels = [[label.get_text() for label in panel.get_yticklabels()] for panel in panels]
    assert labels[: len(rows)] == rows
    if classes:
        assert len(labels[-1]) == min(classes, 40)
    figures = panels[titles.index("COCO's figures")]
    ends = [tuple(line.get_xdata()) for line in figures.lines]
    for found in (steps, time):
        for one in found.figures.values():
            assert (one.low, one.high) in ends
            assert ((tuple(one.per_seed) in ends) is (seeds > 1)) or seeds == 1
