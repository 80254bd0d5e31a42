"""KITTI's 2D AP on cases whose answer is worked out by hand.

With fewer than 41 objects a recall position k / 40 takes the first score at which ceil(k / 40 * objects) are found.
AP40 is the mean over k = 1..40, AP11 over k = 0, 4, ..., 40.
"""

from __future__ import annotations

import pytest

from detdistill.evaluation.kitti import KittiMetrics, evaluate_kitti
from kitti_by_hand import NAMES, guesses, labels, visible


def place(column: int, *, height: float = 100, width: float = 100) -> tuple[float, float, float, float]:
    """Boxes of different columns do not meet."""
    return (300.0 * column, 0.0, 300.0 * column + width, height)


def measure(truths, detections, *, points=40) -> KittiMetrics:
    return evaluate_kitti(truths, detections, class_names=NAMES, points=points)


def levels(metrics: KittiMetrics, name: str = "Car") -> list[float | None]:
    return [metrics.ap[name][level] for level in ("easy", "moderate", "hard")]


def one(objects, found, *, points=40, name="Car") -> list[float | None]:
    """AP of a single image at the three difficulties."""
    return levels(measure({7: labels(*objects)}, [guesses(7, *found)], points=points), name)


@pytest.mark.parametrize("points", [40, 11])
@pytest.mark.parametrize("count", [1, 3, 40, 41, 300])
def test_perfect_detections_give_100(count, points):
    truths = {i: labels(*(visible(name, place(k)) for k, name in enumerate(NAMES))) for i in range(count)}
    found = [guesses(i, *((name, place(k), (i + 1) / 2000) for k, name in enumerate(NAMES))) for i in range(count)]
    metrics = measure(truths, found, points=points)
    for name in NAMES:
        assert levels(metrics, name) == [pytest.approx(100.0)] * 3
        assert metrics.objects[name] == {"easy": count, "moderate": count, "hard": count}
    assert metrics.mean("hard") == pytest.approx(100.0)


def test_half_of_a_hundred_objects():
    """50 of 100 are found, none wrongly: recall 0, 1/40, ..., 20/40 is reached, that is 20 of the 40 positions,
    and of the eleven 0, 0.1, ..., 0.5."""
    truths = {i: labels(visible("Car", place(0))) for i in range(100)}
    found = [guesses(i, ("Car", place(0), 1 - i / 1000)) for i in range(50)]
    assert levels(measure(truths, found)) == [pytest.approx(50.0)] * 3
    assert levels(measure(truths, found, points=11)) == [pytest.approx(600 / 11)] * 3


def test_the_last_found_object_takes_a_position_of_its_own():
    """With a 51st, position 20/40 is taken by the 50th as before, and the benchmark gives the last score the next
    position, 21/40, although recall is 0.51 alone: 21 of 40."""
    truths = {i: labels(visible("Car", place(0))) for i in range(100)}
    found = [guesses(i, ("Car", place(0), 1 - i / 1000)) for i in range(51)]
    assert levels(measure(truths, found)) == [pytest.approx(52.5)] * 3


def test_van_beside_car():
    """Without the van's pardon the better scored detection would be wrong, and precision 1/2 at every recall."""
    found = [("Car", place(0), 0.5), ("Car", place(1), 0.9)]
    assert one([visible("Car", place(0)), visible("Van", place(1))], found) == [pytest.approx(100.0)] * 3
    assert one([visible("Car", place(0)), visible("Truck", place(1))], found) == [pytest.approx(50.0)] * 3


def test_person_sitting_beside_pedestrian():
    found = [("Pedestrian", place(0), 0.5), ("Pedestrian", place(1), 0.9)]
    objects = [visible("Pedestrian", place(0)), visible("Person_sitting", place(1))]
    assert one(objects, found, name="Pedestrian") == [pytest.approx(100.0)] * 3
    found = [("Cyclist", place(0), 0.5), ("Cyclist", place(1), 0.9)]
    objects = [visible("Cyclist", place(0)), visible("Person_sitting", place(1))]
    assert one(objects, found, name="Cyclist") == [pytest.approx(50.0)] * 3


@pytest.mark.parametrize(("share", "expected"), [(0.71, 100.0), (0.70, 50.0)])
def test_dont_care_pardons_a_car_of_which_more_than_seven_tenths_lie_in_it(share, expected):
    """The region covers `share` of the wrong detection's area, however large the region is beside it."""
    region = (300.0, -900.0, 300.0 + 100 * share, 900.0)
    objects = [visible("Car", place(0)), ("DontCare", -1, -1, region)]
    assert one(objects, [("Car", place(0), 0.5), ("Car", place(1), 0.9)]) == [pytest.approx(expected)] * 3


def test_dont_care_pardons_a_pedestrian_from_a_half_on():
    objects = [visible("Pedestrian", place(0)), ("DontCare", -1, -1, (300.0, 0.0, 360.0, 100.0))]
    found = [("Pedestrian", place(0), 0.5), ("Pedestrian", place(1), 0.9)]
    assert one(objects, found, name="Pedestrian") == [pytest.approx(100.0)] * 3


def test_an_object_in_a_dont_care_region_is_still_found():
    objects = [visible("Car", place(0)), ("DontCare", -1, -1, place(0))]
    assert one(objects, [("Car", place(0), 0.5)]) == [pytest.approx(100.0)] * 3


def test_difficulty_levels():
    """Car 0 counts everywhere; 1 (partly hidden) from moderate on; 2 (40 % outside) for hard; 3 never."""
    objects = [
        visible("Car", place(0)),
        ("Car", 0.0, 1, place(1)),
        ("Car", 0.4, 0, place(2)),
        ("Car", 0.0, 3, place(3)),
    ]
    everything = [("Car", place(k), 0.5 + k / 10) for k in range(4)]
    metrics = measure({7: labels(*objects)}, [guesses(7, *everything)])
    assert levels(metrics) == [pytest.approx(100.0)] * 3
    assert metrics.objects["Car"] == {"easy": 1, "moderate": 2, "hard": 3}
    # Only car 1 is found: 0 of 1; 1 of 2, which reaches k = 1..20; 1 of 3, which reaches k = 1..13 (13/40 <= 1/3).
    assert one(objects, everything[1:2]) == [0.0, pytest.approx(50.0), pytest.approx(32.5)]


def test_low_boxes():
    """An object exactly 40 high is ignored for easy, one of 25 everywhere; a detection of 40 is not low for easy."""
    metrics = measure({7: labels(visible("Car", place(0, height=40)), visible("Car", place(1, height=25)))}, [])
    assert metrics.objects["Car"] == {"easy": 0, "moderate": 1, "hard": 1}
    assert levels(metrics) == [None, 0.0, 0.0]
    objects = [visible("Car", place(0))]
    right = ("Car", place(0), 0.5)
    assert one(objects, [right, ("Car", place(1, height=39.5), 0.9)]) == [100.0, 50.0, 50.0]
    assert one(objects, [right, ("Car", place(1, height=40), 0.9)]) == [50.0, 50.0, 50.0]
    assert one(objects, [right, ("Car", place(1, height=24), 0.9)]) == [100.0, 100.0, 100.0]


def test_a_low_detection_takes_an_object_out_of_the_counting():
    """For easy the detection is too low: the object is not found; from moderate on it is."""
    objects = [visible("Car", place(0, height=41))]
    assert one(objects, [("Car", place(0, height=39), 0.9)]) == [0.0, 100.0, 100.0]


def test_a_low_detection_of_another_class_does_so_too():
    """For easy the object goes to the low car of score 0.9, which is taken first, and no recall is reached."""
    objects = [visible("Pedestrian", place(0, height=41))]
    found = [("Pedestrian", place(0, height=41), 0.5), ("Car", place(0, height=39), 0.9)]
    assert one(objects, found, name="Pedestrian") == [0.0, 100.0, 100.0]


def test_a_double_detection_is_wrong():
    """Scores: first car 0.9, again 0.8, second car 0.7. Recall up to 1/2 is reached at 0.9 with precision 1, the rest
    at 0.7 with 2 right and 1 wrong. AP40: (20 * 1 + 20 * 2/3) / 40; AP11: (6 * 1 + 5 * 2/3) / 11."""
    objects = [visible("Car", place(0)), visible("Car", place(1))]
    found = [("Car", place(0), 0.9), ("Car", place(0, width=90), 0.8), ("Car", place(1), 0.7)]
    assert one(objects, found) == [pytest.approx(100 * (20 + 40 / 3) / 40)] * 3
    assert one(objects, found, points=11) == [pytest.approx(100 * (6 + 10 / 3) / 11)] * 3


@pytest.mark.parametrize("order", [1, -1])
def test_equal_scores_stand_and_fall_together(order):
    """Right and wrong have one score: at the only threshold both are there, whichever is listed first."""
    found = [("Car", place(0), 0.8), ("Car", place(1), 0.8)][::order]
    assert one([visible("Car", place(0))], found) == [pytest.approx(50.0)] * 3


def test_at_equal_scores_the_first_detection_decides_where_recall_is_sampled():
    """Two detections of one score on one object: one is right, the other wrong, precision is 1/2."""
    found = [("Car", place(0), 0.8), ("Car", place(0), 0.8)]
    assert one([visible("Car", place(0))], found) == [pytest.approx(50.0)] * 3


def test_overlap_must_exceed_the_limit():
    """Intersection over union 0.7 exactly is no hit for a car, 0.5 exactly none for a pedestrian."""
    objects = [visible("Car", place(0)), visible("Pedestrian", place(1))]
    exact = [("Car", place(0, height=70), 0.9), ("Pedestrian", place(1, height=50), 0.9)]
    more = [("Car", place(0, height=71), 0.9), ("Pedestrian", place(1, height=51), 0.9)]
    for name in ("Car", "Pedestrian"):
        assert one(objects, exact, name=name) == [0.0] * 3
        assert one(objects, more, name=name) == [pytest.approx(100.0)] * 3


def test_the_greatest_overlap_is_taken_when_counting():
    """Cars A (100 high) and B (80 high) at one place; detections: 0.9 like B, 0.6 like A, 0.5 also like A. At 0.5,
    A takes the first detection like A, B the one like B, and the third is wrong: 2 right of 3, reached only from
    recall 1 on if nothing better was there before: at 0.6 both are right, precision 1 everywhere."""
    objects = [visible("Car", place(0)), visible("Car", place(0, height=80))]
    found = [("Car", place(0, height=80), 0.9), ("Car", place(0), 0.6), ("Car", place(0), 0.5)]
    assert one(objects, found) == [pytest.approx(100.0)] * 3
