"""Average precision of choices of images equals evaluating them anew, and intervals come of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detdistill.evaluation.coco import CocoMetrics, evaluate_coco
from detdistill.evaluation.intervals import figures_of, image_intervals
from detdistill.evaluation.matches import match
from detdistill.evaluation.resample import average_precisions
from scored_scenes import copied, scene


@pytest.mark.parametrize("seed", range(8))
def test_a_choice_of_images_is_measured_as_if_it_were_evaluated_anew(seed: int) -> None:
    truth, found = scene(seed)
    random, count = np.random.default_rng(seed), len(truth)
    times = random.multinomial(count, np.full(count, 1 / count), size=3)
    times = np.concatenate([np.ones((1, count), dtype=np.int64), times])
    figures = figures_of(average_precisions(match(truth, found), times))
    for row, chosen in enumerate(times):
        anew: CocoMetrics = evaluate_coco(*copied(truth, found, chosen))
        for name, wanted in anew.figures().items():
            value = figures[name][row]
            assert (wanted is None) == bool(np.isnan(value)), name
            assert wanted is None or value == pytest.approx(wanted, abs=1e-9), name


def test_an_interval_holds_the_figure_and_narrows_with_more_images() -> None:
    truth, found = scene(3)
    few = image_intervals(truth, found)
    low, high = few["AP"]
    ap = evaluate_coco(truth, found).ap
    assert ap is not None
    assert 0 <= low < ap < high <= 100
    assert image_intervals(truth, found) == few
    many = image_intervals(*copied(truth, found, np.full(len(truth), 16)))["AP"]
    assert many[1] - many[0] < 0.5 * (high - low)


def test_nothing_is_told_of_what_there_is_too_little_of() -> None:
    truth, found = scene(1)
    empty = replace(truth, ignored=np.ones(len(truth.boxes), dtype=np.bool_))
    assert image_intervals(empty, found) == {}
