"""Differences of twins: their parts of variance, what the images are, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from detdistill.errors import DataError
from detdistill.evaluation.matches import match
from detdistill.progress import Silence
from detdistill.proof.differences import Twins, difference_of, differences
from detdistill.proof.quantile import half_width, t_quantile
from scored_scenes import scene


@pytest.mark.parametrize(
    ("freedom", "wanted"),
    [(1, 12.7062), (2, 4.30265), (2.5, 3.57465), (4, 2.77645), (10, 2.22814), (120, 1.97993), (math.inf, 1.95996)],
)
def test_students_t_is_the_tables(freedom: float, wanted: float) -> None:
    assert t_quantile(freedom) == pytest.approx(wanted, abs=1e-4)


def test_the_parts_of_the_variance_are_found_and_counted_once() -> None:
    random = np.random.default_rng(0)
    seeds, images, both = 3.0, 2.0, 1.5
    shape, found = (4000, 3), []
    for shift in random.normal(0, images, shape[0]):
        whole = 5 + random.normal(0, seeds, 3) + shift + (own := random.normal(0, both, 3))
        drawn = whole[:, None] + random.normal(0, images, 100) + random.normal(0, both, (3, 100))
        found.append((difference_of(whole, drawn), own))
    one = [difference for difference, _ in found]
    parts = [np.mean([(getattr(d, part) or 0.0) ** 2 for d in one]) for part in ("of_seeds", "of_images", "of_both")]
    # What seeds and images do together is in the spread of seeds, and taken from it once.
    assert parts == pytest.approx([seeds**2, images**2, both**2], rel=0.12)
    inside = np.mean([d.low <= 5 <= d.high for d in one])
    assert 0.93 <= inside <= 0.97


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("known", [0.0, 0.05, 0.2, 1.0, 3.0, 20.0])
def test_intervals_hold_the_truth_whatever_share_is_estimated(seeds: int, known: float) -> None:
    """The estimated part is 1, by the sample variance of so many values."""
    random, count = np.random.default_rng(seeds), 8000
    errors = random.normal(0, math.sqrt(1 + known), count)
    estimates = random.chisquare(seeds - 1, count) / (seeds - 1)
    inside = [abs(error) <= half_width(one, known, seeds - 1) for error, one in zip(errors, estimates, strict=True)]
    assert 0.93 - 0.006 <= np.mean(inside) <= 0.97 + 0.006  # two standard errors


def test_one_seed_has_an_interval_over_its_images_alone() -> None:
    drawn = np.random.default_rng(1).normal(2, 0.5, (1, 2000))
    found = difference_of(np.array([2.0]), drawn)
    assert found.of_seeds is None
    assert found.of_both is None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5, rel=0.05)


def test_it_streams_and_shows_how_far_it_is() -> None:
    truth, detections = scene(3)
    own, told = match(truth, detections), []

    class Watching:
        say, finish = Silence.say, Silence.finish

        def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
            told.append((what, total, unit))

        def advance(self, done: int, note: str = "") -> None:
            told.append(done)

    differences([Twins(seed, own, own) for seed in (0, 1)], draws=20, progress=Watching())
    steps = 4 * len(truth.class_names)
    assert told == [("intervals", steps, "class"), *range(1, steps + 1)]


def test_classes_in_too_few_images_are_named_and_have_no_interval() -> None:
    truth, detections = scene(3)
    lone = replace(truth, class_names=(*truth.class_names, "lone"), category_ids=np.arange(len(truth.class_names) + 1))
    labels = truth.labels.copy()
    labels[np.flatnonzero(~truth.ignored)[0]] = len(truth.class_names)
    matched = match(replace(lone, labels=labels), detections)
    found = differences([Twins(seed, matched, matched) for seed in (0, 1)], draws=200)
    assert "lone" in found.rare
    assert "lone" not in found.classes
    assert found.figures["AP"].mean == found.figures["AP"].low == found.figures["AP"].high == 0.0


def test_twins_of_other_objects_are_refused() -> None:
    truth, detections = scene(3)
    own = match(truth, detections)
    other = replace(own, objects=own.objects + 1)
    with pytest.raises(DataError, match="student distilled of seed 7 must be measured on the same objects"):
        differences([Twins(7, own, other)], draws=10)
    with pytest.raises(DataError, match="seeds must differ, got 7, 7"):
        differences([Twins(7, own, own), Twins(7, own, own)], draws=10)
    with pytest.raises(DataError, match="at least one pair"):
        differences([], draws=10)
