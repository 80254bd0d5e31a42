from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections, evaluate_coco
from detdistill.evaluation.voc import evaluate_voc
from detdistill.papers.protocols import AID, AID_CLASSES, AID_MERGED

NAMES = ("car", "truck", "person")
BOX, FAR = (10, 10, 60, 60), (200, 200, 260, 260)


def split(images: list[list[tuple]], names=NAMES) -> Annotations:
    """Annotations of images given as lists of (box, label, ignored); image ids are 100, 110, 120, ..."""
    objects = [one for image in images for one in image]
    boxes = np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4)
    return Annotations(
        images_dir=Path("images"),
        class_names=names,
        category_ids=np.arange(len(names), dtype=np.int64) + 1,
        image_ids=np.array([100 + 10 * i for i in range(len(images))], dtype=np.int64),
        sizes=np.full((len(images), 2), 400, dtype=np.int32),
        name_bytes=np.zeros(0, dtype=np.uint8),
        name_offsets=np.zeros(len(images) + 1, dtype=np.int64),
        offsets=np.cumsum([0, *map(len, images)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([one[1] for one in objects], dtype=np.int32),
        ignored=np.array([one[2] for one in objects], dtype=np.bool_),
        areas=np.ones(len(objects), dtype=np.float32),
    )


def found(image_id: int, *objects: tuple) -> ImageDetections:
    """Detections of one image given as (box, label, score)."""
    return ImageDetections(
        image_id=image_id,
        boxes=np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4),
        scores=np.array([one[2] for one in objects], dtype=np.float32),
        labels=np.array([one[1] for one in objects], dtype=np.int64),
    )


def overlap(one, other) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (both - width * height)


def slow(images, detections, label, *, iou, points) -> float | None:
    """VOC's rules as loops over all detections of a class, best first."""
    objects = sum(kind == label and not ignored for image in images for _, kind, ignored in image)
    if objects == 0:
        return None
    listed = [
        (i, box, score)
        for i, guesses in enumerate(detections)
        for box, kind, score in guesses
        if kind == label
    ]  # fmt: skip
    listed.sort(key=lambda one: -one[2])
    taken, right, wrong, curve = set(), 0, 0, []
    for i, box, _ in listed:
        own = [(k, overlap(box, other)) for k, (other, kind, _) in enumerate(images[i]) if kind == label]
        best, value = max(own, key=lambda one: one[1], default=(None, 0.0))
        if best is not None and value >= iou:
            if images[i][best][2]:
                continue
            if (i, best) in taken:
                wrong += 1
            else:
                taken.add((i, best))
                right += 1
        else:
            wrong += 1
        curve.append((right, right / (right + wrong)))
    if points == 11:
        return 100 / 11 * sum(max((p for r, p in curve if 10 * r >= t * objects), default=0.0) for t in range(11))
    total = 0.0
    for step in range(1, objects + 1):
        total += max((p for r, p in curve if r >= step), default=0.0)
    return 100 * total / objects


def random_case(seed: int):
    """Difficult objects, equal scores, doubles, crowded places, wrong classes, empty images."""
    draw = np.random.default_rng(seed)
    images, detections = [], []
    for _ in range(int(draw.integers(1, 6))):
        image, guesses = [], []
        for _ in range(int(draw.integers(0, 6))):
            x, y, w, h = draw.integers(0, 60), draw.integers(0, 60), draw.integers(20, 60), draw.integers(20, 60)
            box = np.array([x, y, x + w, y + h], dtype=np.float64)
            label = int(draw.integers(3))
            image.append((tuple(box), label, bool(draw.random() < 0.2)))
            for _ in range(int(draw.integers(0, 3))):
                moved = box + draw.integers(0, 2) * np.round(draw.normal(size=4) * 6)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                kind = label if draw.random() < 0.8 else int(draw.integers(3))
                guesses.append((tuple(moved), kind, int(draw.integers(1, 17)) / 16))
        images.append(image)
        detections.append(guesses)
    return images, detections


@pytest.mark.parametrize("points", ["area", 11])
def test_200_random_cases_equal_the_slow_reference(points):
    between = 0
    for seed in range(200):
        images, detections = random_case(seed)
        listed = [found(100 + 10 * i, *guesses) for i, guesses in enumerate(detections)][::-1]
        iou = (0.3, 0.5, 0.75)[seed % 3]
        metrics = evaluate_voc(split(images), listed, iou=iou, points=points)
        expected = {
            name: slow(images, detections, label, iou=iou, points=points) for label, name in enumerate(NAMES)
        }  # fmt: skip
        assert metrics.per_class == {
            name: None if value is None else pytest.approx(value, abs=1e-9) for name, value in expected.items()
        }
        known = [value for value in expected.values() if value is not None]
        assert metrics.map == (pytest.approx(sum(known) / len(known)) if known else None)
        between += sum(1 < value < 99 for value in known)
    assert between > 200


def test_apart_from_each_other_the_area_is_near_cocos_mean_over_101_recalls():
    draw = np.random.default_rng(4)
    images, guesses = [], []
    for i in range(40):
        image, listed = [], []
        for cell in range(9):
            x, y = 100.0 * (cell % 3), 100.0 * (cell // 3)
            image.append(((x, y, x + 60, y + 60), cell % 3, False))
            moved = np.array([x, y, x + 60, y + 60]) + draw.normal(size=4) * 10
            listed.append((tuple(moved), cell % 3, float(draw.random())))
        images.append(image)
        guesses.append(found(100 + 10 * i, *listed))
    ours, cocos = evaluate_voc(split(images), guesses), evaluate_coco(split(images), guesses)
    assert 20 < ours.map < 99
    assert ours.map == pytest.approx(cocos.ap50, abs=1.0)


def test_area_and_eleven_points_by_hand():
    """Three cars; scores: right 0.9, wrong 0.8, right 0.7; the third car is missed. Precision 1 at recall 1/3, and
    2/3 at 2/3. Area: 1/3 * 1 + 1/3 * 2/3 = 5/9. Eleven points: 0, .1, .2, .3 at 1; .4, .5, .6 at 2/3: 6/11."""
    annotations = split([[(BOX, 0, False), (FAR, 0, False)], [(BOX, 0, False)]])
    guesses = [found(100, (BOX, 0, 0.9), ((300, 0, 350, 50), 0, 0.8), (FAR, 0, 0.7))]
    assert evaluate_voc(annotations, guesses).per_class == {
        "car": pytest.approx(500 / 9),
        "truck": None,
        "person": None,
    }
    assert evaluate_voc(annotations, guesses, points=11).map == pytest.approx(600 / 11)


def test_recall_of_exactly_a_tenth_counts():
    """Three of ten: recall 0.3 reaches 0, .1, .2 and .3, whatever 0.1 * 3 is in floating point."""
    annotations = split([[(BOX, 0, False)] for _ in range(10)])
    guesses = [found(100 + 10 * i, (BOX, 0, 0.9)) for i in range(3)]
    assert evaluate_voc(annotations, guesses, points=11).map == pytest.approx(400 / 11)


def test_difficult_objects_do_not_count():
    annotations = split([[(BOX, 0, False), (FAR, 0, True)]])
    assert evaluate_voc(annotations, [found(100, (BOX, 0, 0.5), (FAR, 0, 0.9), (FAR, 0, 0.8))]).map == pytest.approx(
        100
    )
    assert evaluate_voc(split([[(FAR, 0, True)]]), [found(100, (FAR, 0, 0.9))]).map is None


def test_a_double_detection_is_wrong_even_beside_a_free_object():
    """Both detections overlap A most; the second is wrong although it overlaps B by 0.6 too."""
    a, b = (0, 0, 100, 100), (0, 25, 100, 125)
    annotations = split([[(a, 0, False), (b, 0, False)]])
    guesses = [found(100, (a, 0, 0.9), ((0, 1, 100, 101), 0, 0.8))]
    assert evaluate_voc(annotations, guesses).map == pytest.approx(50)


def test_overlap_at_the_limit_is_a_hit():
    annotations = split([[((0, 0, 100, 100), 0, False)]])
    assert evaluate_voc(annotations, [found(100, ((0, 0, 100, 50), 0, 0.9))]).map == pytest.approx(100)
    assert evaluate_voc(annotations, [found(100, ((0, 0, 100, 49), 0, 0.9))]).map == 0


@pytest.mark.parametrize("images", [[], [[]], [[], []]], ids=repr)
def test_nothing_to_find_is_none(images):
    metrics = evaluate_voc(split(images), [found(100, (BOX, 0, 0.9))] if images else [])
    assert metrics.map is None
    assert set(metrics.per_class.values()) == {None}


def test_as_text_and_as_a_dict():
    metrics = evaluate_voc(split([[(BOX, 0, False), (FAR, 2, False)]]), [found(100, (BOX, 0, 0.9))])
    assert metrics.text().splitlines() == [
        "class   AP@0.5 (area)",
        "car             100.0",
        "truck               –",
        "person            0.0",
        "mean             50.0",
    ]
    per_class = {"car": pytest.approx(100), "truck": None, "person": 0.0}
    assert metrics.as_dict() == {"mAP": pytest.approx(50), "per_class": per_class, "iou": 0.5, "points": "area"}


KITTI = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")


def test_aids_protocol_in_both_class_modes():
    """One of each type in a row, all found as what they would be merged into; the tram and the misc thing too.

    Ignored: Van, Truck, Tram, Person_sitting and Misc do not count, so every class is at 100. Merged: four cars and
    two pedestrians to find, all found; Misc does not count. Where only Car, Pedestrian and Cyclist themselves are
    found, merged recall is 1/4 and 1/2 with precision 1."""
    boxes = [(50 * k, 0, 50 * k + 40, 40) for k in range(len(KITTI))]
    annotations = split([[(box, label, False) for label, box in enumerate(boxes)]], names=KITTI)
    merged_label = (0, 0, 0, 1, 1, 2, 0, 0)
    everything = found(100, *((box, merged_label[k], 0.9 - k / 100) for k, box in enumerate(boxes)))
    aid, merged = (rules.prepare(annotations, AID_CLASSES, "hotcoco") for rules in (AID, AID_MERGED))
    for measure in (aid, merged):
        assert measure([everything]).per_class == {name: pytest.approx(100) for name in AID_CLASSES}
    themselves = found(100, (boxes[0], 0, 0.9), (boxes[3], 1, 0.9), (boxes[5], 2, 0.9))
    assert aid([themselves]).map == pytest.approx(100)
    assert merged([themselves]).per_class == {
        "Car": pytest.approx(25), "Pedestrian": pytest.approx(50), "Cyclist": pytest.approx(100)
    }  # fmt: skip


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.5, float("nan")])
def test_overlap_limits_that_cannot_be_used(iou):
    with pytest.raises(ConfigError, match=rf"above 0 and at most 1, got {iou}\. 0\.5 is usual"):
        evaluate_voc(split([[]]), [], iou=iou)


def test_points_are_area_or_11():
    with pytest.raises(ConfigError, match=r"must be 'area' or 11, got 101\. 'area' is"):
        evaluate_voc(split([[]]), [], points=101)


def test_wrong_detections_are_refused():
    with pytest.raises(DataError, match=r"image of the data set's.* got 5\."):
        evaluate_voc(split([[]]), [found(5)])
