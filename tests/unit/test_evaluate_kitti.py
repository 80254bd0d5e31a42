from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detdistill.data.formats.kitti import read_kitti_labels
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.kitti import evaluate_kitti, recall_thresholds
from kitti_by_hand import NAMES, guesses, labels, visible

BOX = (10.0, 10.0, 110.0, 110.0)
TRUTH = {3: labels(visible("Car", BOX))}


@pytest.mark.parametrize(
    "truths", [{}, {3: labels()}, {3: labels(("DontCare", -1, -1, BOX))}], ids=["none", "empty", "dc"]
)
def test_nothing_to_find_is_none(truths):
    found = [guesses(3, ("Car", BOX, 0.9))] if truths else []
    for detections in ([], found):
        metrics = evaluate_kitti(truths, detections, class_names=NAMES)
        assert {value for by_level in metrics.ap.values() for value in by_level.values()} == {None}
        assert metrics.mean("easy") is None


def test_no_detections_is_zero():
    for detections in ([], [guesses(3)]):
        assert evaluate_kitti(TRUTH, detections, class_names=NAMES).ap["Car"]["easy"] == 0.0


def test_classes_go_by_name_in_any_case_and_others_do_no_harm():
    names = ("truck", "CAR", "dog")
    found = [guesses(3, ("CAR", BOX, 0.5), ("dog", BOX, 0.9), ("truck", BOX, 0.8), names=names)]
    truths = {3: labels(visible("car", BOX))}
    assert evaluate_kitti(truths, found, class_names=names).ap["Car"]["hard"] == pytest.approx(100.0)


def test_detections_on_an_image_without_objects_are_wrong():
    truths = {**TRUTH, 4: labels()}
    found = [guesses(3, ("Car", BOX, 0.5)), guesses(4, ("Car", BOX, 0.9))]
    assert evaluate_kitti(truths, found, class_names=NAMES).ap["Car"]["hard"] == pytest.approx(50.0)


def test_the_order_of_images_plays_no_part():
    draw = np.random.default_rng(0)
    truths = {i: labels(visible("Car", BOX)) for i in range(60)}
    found = [guesses(i, ("Car", np.array(BOX) + draw.normal(size=4) * 12, draw.random())) for i in range(60)]
    one = evaluate_kitti(truths, found, class_names=NAMES)
    other = evaluate_kitti(dict(reversed(truths.items())), found[::-1], class_names=NAMES)
    assert one == other
    assert 5 < one.ap["Car"]["easy"] < 95


def test_as_text_and_as_a_dict():
    metrics = evaluate_kitti(TRUTH, [guesses(3, ("Car", BOX, 0.9))], class_names=NAMES, points=11)
    assert metrics.text().splitlines() == [
        "2D AP11         easy  moderate      hard",
        "Car           100.00    100.00    100.00",
        "Pedestrian         –         –         –",
        "Cyclist            –         –         –",
        "mean          100.00    100.00    100.00",
    ]
    content = metrics.as_dict()
    assert content["AP"]["Car"] == {"easy": 100.0, "moderate": 100.0, "hard": 100.0}
    assert content["mean"]["easy"] == 100.0
    assert content["objects"]["Cyclist"] == {"easy": 0, "moderate": 0, "hard": 0}
    assert content["points"] == 11


def test_thresholds_of_no_score_at_all():
    assert recall_thresholds([], 5).shape == recall_thresholds([], 500).shape == (0,)


@pytest.mark.parametrize(
    ("objects", "found"), [(1, 1), (40, 40), (41, 41), (41, 40), (80, 80), (3000, 3000), (999, 500)]
)
def test_there_are_at_most_41_thresholds(objects, found):
    scores = list(np.linspace(0.1, 0.9, found))
    thresholds = recall_thresholds(scores, objects)
    assert len(thresholds) <= 41
    assert (np.diff(thresholds) <= 0).all()
    assert thresholds[-1] == (min(scores) if found == objects else pytest.approx(min(scores), abs=0.1))


def test_real_labels_found_perfectly_give_100(real_data):
    folder = real_data / "kitti33" / "native_kitti" / "training" / "label_2"
    truths = {int(path.stem): read_kitti_labels(path) for path in sorted(folder.glob("*.txt"))}
    found = [
        guesses(image_id, *(
            (kind, box, 0.5) for kind, box in zip(one.types, one.boxes, strict=True) if kind in NAMES
        ))
        for image_id, one in truths.items()
    ]  # fmt: skip
    metrics = evaluate_kitti(truths, found, class_names=NAMES)
    assert metrics.objects["Car"]["hard"] > 41
    values = [value for by_level in metrics.ap.values() for value in by_level.values() if value is not None]
    assert values == [pytest.approx(100.0)] * len(values)


@pytest.mark.parametrize("points", [41, 10, 0])
def test_points_are_40_or_11(points):
    with pytest.raises(ConfigError, match=rf"KITTI's recall points must be 40 or 11, got {points}\. 40 is"):
        evaluate_kitti(TRUTH, [], class_names=NAMES, points=points)


def test_foreign_classes_are_refused():
    with pytest.raises(ConfigError, match=r"must include one of Car, Pedestrian, Cyclist, got \['dog'\]\. Evaluate"):
        evaluate_kitti(TRUTH, [], class_names=("dog",))


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ([guesses(5)], r"image of the data set's.* got 5\."),
        ([guesses(3), guesses(3)], r"only entry of it, got 3\."),
        ([guesses(3, ("Car", (0, 0, float("nan"), 1), 0.5))], "image 3 must be finite"),
    ],
)
def test_wrong_detections_are_refused(detections, message):
    with pytest.raises(DataError, match=message):
        evaluate_kitti(TRUTH, detections, class_names=NAMES)


def test_wrong_labels_are_refused():
    short = replace(TRUTH[3], occluded=np.zeros(2, dtype=np.int64))
    with pytest.raises(
        DataError, match=r"labels of image 3 must be types \(n,\).* got \(1,\), \(1,\), \(2,\) and \(1, 4\)\."
    ):
        evaluate_kitti({3: short}, [], class_names=NAMES)
    broken = replace(TRUTH[3], boxes=np.full((1, 4), np.nan))
    with pytest.raises(DataError, match=r"boxes of image 3 must be finite, got NaN or infinity\. Correct"):
        evaluate_kitti({3: broken}, [], class_names=NAMES)
