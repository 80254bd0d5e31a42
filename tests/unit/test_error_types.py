"""Error types: worked out by hand, and beside hotcoco's where it follows TIDE."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, coco_dict, evaluate_coco
from detdistill.evaluation.error_types import (
    BACKGROUND,
    BADLY_LOCALISED,
    BOTH,
    CONFUSED,
    DOUBLE,
    KINDS,
    MISSED,
    error_types,
    mean_errors,
)
from detdistill.report.tables import error_costs
from few_boxes import FAR, LEFT, RIGHT, found, split

CAR, TRUCK = range(2)
# Of the object LEFT so much: IoU 0.4, 0.3 and 0.8.
WEAK, WEAKER, GOOD = (0, 0, 4, 10), (0, 0, 3, 10), (0, 0, 8, 10)
THERE = [(LEFT, CAR, False)]


@pytest.mark.parametrize(
    ("objects", "detections", "ap50", "counts", "costs"),
    [
        # Trucks: wrong at 0.9, right at 0.8, a precision of 1/2; no car. The wrong one is the car.
        (
            [*THERE, (RIGHT, TRUCK, False)],
            [(LEFT, TRUCK, 0.9), (RIGHT, TRUCK, 0.8)],
            25,
            {CONFUSED: 1},
            {CONFUSED: 75},
        ),
        # The car is found already: the truck there vanishes.
        (
            [*THERE, (RIGHT, TRUCK, False)],
            [(LEFT, CAR, 0.9), (LEFT, TRUCK, 0.8), (RIGHT, TRUCK, 0.7)],
            75,
            {CONFUSED: 1},
            {CONFUSED: 25},
        ),
        (THERE, [(WEAK, CAR, 0.9)], 0, {BADLY_LOCALISED: 1}, {BADLY_LOCALISED: 100}),
        # Two for one object: the surer becomes right and the other vanishes. Before, 1/3 up to recall 1/2.
        (
            [*THERE, (RIGHT, CAR, False)],
            [(WEAK, CAR, 0.9), (WEAKER, CAR, 0.8), (RIGHT, CAR, 0.7)],
            100 * 51 / 3 / 101,
            {BADLY_LOCALISED: 2},
            {BADLY_LOCALISED: 100 - 100 * 51 / 3 / 101},
        ),
        # Overlaps of exactly 0.5 and 0.1.
        (THERE, [((0, 0, 5, 10), CAR, 0.9)], 100, {}, {}),
        (THERE, [((0, 0, 1, 10), CAR, 0.9)], 0, {BADLY_LOCALISED: 1}, {BADLY_LOCALISED: 100}),
        # A truck that is near the car; whom it is meant for is not known, so that the car is missed.
        (
            [*THERE, (RIGHT, TRUCK, False)],
            [(WEAK, TRUCK, 0.9), (RIGHT, TRUCK, 0.8)],
            25,
            {BOTH: 1, MISSED: 1},
            {BOTH: 25, MISSED: 25},
        ),
        # 1 up to recall 1/2, then 2/3.
        (
            [*THERE, (RIGHT, CAR, False)],
            [(LEFT, CAR, 0.9), (GOOD, CAR, 0.8), (RIGHT, CAR, 0.7)],
            100 * (51 + 50 * 2 / 3) / 101,
            {DOUBLE: 1},
            {DOUBLE: 100 - 100 * (51 + 50 * 2 / 3) / 101},
        ),
        (THERE, [(FAR, CAR, 0.9), (LEFT, CAR, 0.8)], 50, {BACKGROUND: 1}, {BACKGROUND: 50}),
        (
            [*THERE, (RIGHT, CAR, False)],
            [(LEFT, CAR, 0.9)],
            100 * 51 / 101,
            {MISSED: 1},
            {MISSED: 100 - 100 * 51 / 101},
        ),
        # Nothing is found at all: nothing else is wrong.
        (THERE, [], 0, {MISSED: 1}, {MISSED: 100}),
        # A class without objects has no figure that an error could cost.
        (THERE, [(LEFT, CAR, 0.9), (FAR, TRUCK, 0.8)], 100, {BACKGROUND: 1}, {}),
        # A crowd excuses what half lies in it, of its class alone; near it, there is nothing to be meant for.
        (
            [*THERE, (RIGHT, CAR, True)],
            [((18, 0, 23, 10), CAR, 0.9), (LEFT, CAR, 0.8)],
            100,
            {},
            {},
        ),
        (
            [*THERE, (RIGHT, CAR, True)],
            [((26, 0, 36, 10), CAR, 0.9), (RIGHT, TRUCK, 0.9), (LEFT, CAR, 0.8)],
            50,
            {BACKGROUND: 2},
            {BACKGROUND: 50},
        ),
        # Only 100 of an image and class count.
        (THERE, [*[(FAR, CAR, 0.9)] * 100, (LEFT, CAR, 0.8)], 0, {BACKGROUND: 100, MISSED: 1}, {}),
    ],
)
def test_worked_out_by_hand(objects: list, detections: list, ap50: float, counts: dict, costs: dict) -> None:
    told = error_types(split(objects), [found(0, *detections)])
    assert told.ap50 == pytest.approx(ap50, abs=1e-9)
    assert dict(told.counts) == dict.fromkeys(KINDS, 0) | counts
    assert dict(told.costs) == pytest.approx(dict.fromkeys(KINDS, 0.0) | costs, abs=1e-9)


def test_an_image_without_objects_shows_background_alone() -> None:
    told = error_types(split(THERE, []), [found(1, (LEFT, CAR, 0.9)), found(0, (LEFT, CAR, 0.8))])
    assert (told.ap50, told.counts[BACKGROUND], told.costs[BACKGROUND]) == (50.0, 1, 50.0)


@pytest.mark.parametrize("truth", [split(), split([]), split([(LEFT, CAR, True)])])
def test_without_objects_nothing_has_a_cost(truth: Annotations) -> None:
    told = error_types(truth, [found(0, (FAR, CAR, 0.9))] if len(truth) else [])
    assert told.as_dict() == {"AP50": None} | {
        kind: {"count": int(kind == BACKGROUND and len(truth) > 0), "dAP": None} for kind in KINDS
    }


def drawn(seed: int, *, crowds: float) -> tuple[Annotations, list[ImageDetections]]:
    """Objects, one of each class that is found first of all, and boxes near them and elsewhere, of any class."""
    random = np.random.default_rng(seed)

    def somewhere(number: int) -> NDArray[np.float64]:
        corners = random.uniform(0, 60, (number, 2))
        return np.concatenate([corners, corners + random.uniform(5, 30, (number, 2))], axis=1)

    objects, detections = [], []
    for image in range(8):
        boxes, labels = somewhere(int(random.integers(0, 5))), random.integers(0, 2, 4)
        seen = [(tuple(box), int(label), 0.0) for box, label in zip(boxes, labels, strict=False)]
        near = [(np.array(box) + random.normal(0, 4, 4), label, 0.0) for box, label, _ in seen * 2]
        near += [(box, 0, 0.0) for box in somewhere(2)]
        kinds = np.where(random.random(len(near)) < 0.3, random.integers(0, 2, len(near)), [one[1] for one in near])
        boxes = [np.concatenate([box[:2], np.maximum(box[2:], box[:2])]) for box, *_ in near]
        scores = random.uniform(0, 0.9, len(near))
        objects.append([(box, label, bool(random.random() < crowds)) for box, label, _ in seen])
        detections.append(found(image, *zip(boxes, kinds, scores, strict=True)))
    objects.append([(LEFT, CAR, False), (FAR, TRUCK, False)])
    return split(*objects), [*detections, found(8, (LEFT, CAR, 0.95), (FAR, TRUCK, 0.95))]


@pytest.mark.parametrize("seed", range(20))
def test_the_same_as_hotcoco_where_there_are_no_crowds(seed: int) -> None:
    truth, detections = drawn(seed, crowds=0.0)
    results = [
        {
            "image_id": one.image_id,
            "category_id": int(label),
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "score": float(score),
        }
        for one in detections
        for (x1, y1, x2, y2), label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(coco_dict(truth))
        evaluation = COCOeval(ground, ground.load_res(results), "bbox")
        evaluation.evaluate()
    theirs = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    called = dict(zip(KINDS, ("Miss", "Bkg", "Cls", "Loc", "Both", "Dupe"), strict=True))
    ours = error_types(truth, detections)
    assert ours.ap50 == pytest.approx(100 * theirs["ap_base"], abs=1e-9)
    for kind, name in called.items():
        assert ours.counts[kind] == theirs["counts"][name], kind
        assert ours.costs[kind] == pytest.approx(100 * theirs["delta_ap"][name], abs=1e-9), kind


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_cocos(seed: int) -> None:
    truth, detections = drawn(seed, crowds=0.3)
    assert error_types(truth, detections).ap50 == pytest.approx(evaluate_coco(truth, detections).ap50, abs=1e-9)


def test_models_stand_side_by_side_with_the_change() -> None:
    truth = split([*THERE, (RIGHT, TRUCK, False)])
    alone = error_types(truth, [found(0, (LEFT, TRUCK, 0.9), (RIGHT, TRUCK, 0.8))])
    distilled = error_types(truth, [found(0, (LEFT, CAR, 0.9), (LEFT, TRUCK, 0.8), (RIGHT, TRUCK, 0.7))])
    table = error_costs({"alone": alone, "distilled": distilled}, change=("distilled", "alone"))
    assert table.columns == ("AP50 lost to", "alone", "distilled", "distilled vs alone")
    assert dict(zip(KINDS, table.rows, strict=True))[CONFUSED] == (CONFUSED, 75.0, 25.0, -50.0)
    alone_only = error_costs({"alone": alone}, change=("distilled", "alone"))
    assert alone_only.columns == ("error type", "errors", "AP50 lost")
    assert dict(zip(KINDS, alone_only.rows, strict=True))[CONFUSED] == (CONFUSED, 1, 75.0)


def test_the_mean_over_seeds() -> None:
    truth = split([*THERE, (RIGHT, CAR, False)])
    fine, nothing = (error_types(truth, [found(0, *boxes)]) for boxes in ([(LEFT, CAR, 0.9), (RIGHT, CAR, 0.9)], []))
    both = mean_errors([fine, nothing])
    assert (both.ap50, both.counts[MISSED], both.costs[MISSED], both.costs[DOUBLE]) == (50.0, 1, 50.0, 0.0)
