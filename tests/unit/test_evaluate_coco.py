from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError, MissingDependencyError
from detdistill.evaluation.coco import CocoMetrics, ImageDetections, coco_dict, evaluate_coco
from thorough import cases

BACKENDS = ("hotcoco", "faster", "pycocotools")
NAMES = ("car", "truck", "person")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def split(images: list[list[tuple]], *, category_ids=(7, 3, 90), names=NAMES) -> Annotations:
    """Annotations of images given as lists of (box, label, ignored); image ids are 100, 90, 80, ..."""
    objects = [one for image in images for one in image]
    boxes = np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4)
    file_names = [f"{i}.png".encode() for i in range(len(images))]
    return Annotations(
        images_dir=Path("images"),
        class_names=names,
        category_ids=np.array(category_ids, dtype=np.int64),
        image_ids=np.array([100 - 10 * i for i in range(len(images))], dtype=np.int64),
        sizes=np.full((len(images), 2), 400, dtype=np.int32),
        name_bytes=np.frombuffer(b"".join(file_names), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, file_names)]).astype(np.int64),
        offsets=np.cumsum([0, *map(len, images)]).astype(np.int64),
        boxes=boxes,
        labels=np.array([one[1] for one in objects], dtype=np.int32),
        ignored=np.array([one[2] for one in objects], dtype=np.bool_),
        areas=((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32),
    )


def found(image_id: int, *objects: tuple) -> ImageDetections:
    """Detections of one image given as (box, label, score)."""
    return ImageDetections(
        image_id=image_id,
        boxes=np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4),
        scores=np.array([one[2] for one in objects], dtype=np.float32),
        labels=np.array([one[1] for one in objects], dtype=np.int64),
    )


def random_case(seed: int) -> tuple[Annotations, list[ImageDetections]]:
    """Crowds, score ties, absent classes, images without boxes or without detections, all three sizes."""
    draw = np.random.default_rng(seed)
    present = draw.permutation(3)[: draw.integers(1, 4)]

    def box(side: float) -> np.ndarray:
        corner = draw.uniform(0, 150, size=2)
        return np.concatenate([corner, corner + draw.uniform(0.5, 1.0, size=2) * side])

    images, detections = [], []
    for index in range(int(draw.integers(1, 6))):
        truth = [
            (box(draw.choice([20, 70, 200])), int(draw.choice(present)), bool(draw.random() < 0.2))
            for _ in range(draw.integers(0, 6))
        ]
        images.append(truth)
        guesses = []
        for one, label, _ in truth:
            for _ in range(draw.integers(0, 3)):
                shake = draw.normal(size=4) * 0.08 * (one[2] - one[0]) * draw.integers(0, 2)
                moved = one + shake
                moved = np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
                right = draw.random() < 0.8
                guesses.append((moved, label if right else int(draw.integers(3)), draw.integers(1, 6) / 5))
        guesses += [(box(60), int(draw.integers(3)), float(draw.random())) for _ in range(draw.integers(0, 4))]
        if draw.random() < 0.9:
            detections.append(found(100 - 10 * index, *guesses))
    return split(images), detections


def oracle(annotations: Annotations, detections: list[ImageDetections]) -> CocoMetrics:
    """Straight through pycocotools: its own summary, and its summary for every class alone."""
    results = [
        {
            "image_id": one.image_id,
            "category_id": int(annotations.category_ids[label]),
            "bbox": [float(b[0]), float(b[1]), float(b[2]) - float(b[0]), float(b[3]) - float(b[1])],
            "score": float(score),
        }
        for one in detections
        for b, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_dict(annotations)
        truth.createIndex()
        guesses = truth.loadRes(results)

        def summary(category_ids: list[int]) -> list[float | None]:
            evaluation = COCOeval(truth, guesses, "bbox")
            evaluation.params.catIds = category_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            return [100 * float(x) if x > -1 else None for x in evaluation.stats[:6]]

        ids = annotations.category_ids.tolist()
        per_class = {name: summary([i])[0] for name, i in zip(annotations.class_names, ids, strict=True)}
        return CocoMetrics(*summary(sorted(ids)), per_class=per_class)


def assert_same(actual: CocoMetrics, expected: CocoMetrics) -> None:
    one, other = actual.as_dict(), expected.as_dict()
    for name, value in {**one.pop("per_class"), **one}.items():
        want = {**other["per_class"], **other}[name]
        assert (value is None) == (want is None), name
        if want is not None:
            assert abs(value - want) <= 1e-6, (name, value, want)


@each_backend
@settings(max_examples=cases(12, 60), deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9))
def test_random_cases_equal_pycocotools(backend, seed):
    annotations, detections = random_case(seed)
    if sum(len(one.boxes) for one in detections):
        assert_same(evaluate_coco(annotations, detections, backend=backend), oracle(annotations, detections))


def test_random_cases_are_not_trivial():
    """The property above would be empty if no case had figures between the extremes, or missing classes."""
    metrics = [evaluate_coco(*random_case(seed)) for seed in range(40)]
    assert sum(m.ap is not None and 5 < m.ap < 95 for m in metrics) > 20
    assert sum(None in m.per_class.values() for m in metrics) > 10
    assert sum(m.ap_large is None for m in metrics) > 0


BOX = (10, 10, 60, 60)


@each_backend
def test_no_detections_is_zero(backend):
    annotations = split([[(BOX, 0, False)], []])
    for nothing in ([], [found(100), found(90)]):
        metrics = evaluate_coco(annotations, nothing, backend=backend)
        assert metrics.figures() == {
            "AP": 0.0, "AP50": 0.0, "AP75": 0.0, "APs": None, "APm": 0.0, "APl": None
        }  # fmt: skip
        assert metrics.per_class == {"car": 0.0, "truck": None, "person": None}


@each_backend
def test_class_without_ground_truth_is_left_out_of_the_mean(backend):
    annotations = split([[(BOX, 0, False)]])
    metrics = evaluate_coco(annotations, [found(100, (BOX, 0, 0.9), (BOX, 1, 0.99))], backend=backend)
    assert metrics.ap == pytest.approx(100)
    assert metrics.per_class == {"car": pytest.approx(100), "truck": None, "person": None}


@each_backend
@pytest.mark.parametrize("images", [[], [[]], [[], []], [[(BOX, 0, True)]]], ids=repr)
def test_no_ground_truth_at_all_is_none(backend, images):
    guesses = [found(100, (BOX, 0, 0.9))] if images else []
    for detections in ([], guesses):
        metrics = evaluate_coco(split(images), detections, backend=backend)
        assert set(metrics.figures().values()) == {None}
        assert metrics.per_class == dict.fromkeys(NAMES)


@each_backend
def test_detections_on_an_image_without_boxes_are_false_positives(backend):
    annotations = split([[(BOX, 0, False)], []])
    right = found(100, (BOX, 0, 0.5))
    wrong = found(90, (BOX, 0, 0.9))
    assert evaluate_coco(annotations, [right], backend=backend).ap == pytest.approx(100)
    # One false positive ranks before the only true one: precision is 1/2 at every recall.
    assert evaluate_coco(annotations, [right, wrong], backend=backend).ap == pytest.approx(50)


@each_backend
def test_a_match_with_a_crowd_does_not_count(backend):
    annotations = split([[(BOX, 0, False), ((200, 200, 300, 300), 0, True)]])
    inside = [((200, 200, 230, 230), 0, 0.99), ((240, 240, 290, 290), 0, 0.98)]
    metrics = evaluate_coco(annotations, [found(100, (BOX, 0, 0.5), *inside)], backend=backend)
    assert metrics.ap == pytest.approx(100)


@each_backend
def test_only_the_best_hundred_of_an_image_and_class_count(backend):
    annotations = split([[(BOX, 0, False)]])
    far = [((300, 300, 320, 320), 0, 0.9)] * 99
    assert evaluate_coco(annotations, [found(100, *far, (BOX, 0, 0.1))], backend=backend).ap == pytest.approx(1)
    assert evaluate_coco(annotations, [found(100, *far, far[0], (BOX, 0, 0.1))], backend=backend).ap == 0


@each_backend
def test_source_areas_decide_the_size(backend):
    annotations = split([[(BOX, 0, False)]])
    annotations.areas[:] = 100.0
    metrics = evaluate_coco(annotations, [found(100, (BOX, 0, 0.9))], backend=backend)
    assert (metrics.ap_small, metrics.ap_medium) == (pytest.approx(100), None)


@each_backend
def test_nothing_is_printed(backend, capfd):
    evaluate_coco(*random_case(3), backend=backend)
    assert capfd.readouterr() == ("", "")


def test_coco_dict_keeps_the_ids_of_the_source():
    content = coco_dict(split([[(BOX, 1, False)], [(BOX, 2, True)]]))
    assert [image["id"] for image in content["images"]] == [100, 90]
    assert [one["name"] for one in content["categories"]] == ["car", "truck", "person"]
    assert content["annotations"] == [
        {"id": 1, "image_id": 100, "category_id": 3, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
        {"id": 2, "image_id": 90, "category_id": 90, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 1},
    ]


def test_metrics_survive_a_round_trip_through_a_dict():
    metrics = evaluate_coco(*random_case(1))
    assert CocoMetrics.from_dict(metrics.as_dict()) == metrics
    assert list(metrics.as_dict()) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "per_class"]


@pytest.mark.parametrize(
    ("package", "backend", "install"),
    [
        ("pycocotools.coco", "pycocotools", "pip install pycocotools"),
        ("faster_coco_eval", "faster", "pip install faster-coco-eval"),
        ("hotcoco", "hotcoco", "pip install hotcoco"),
    ],
)
def test_missing_backend_names_what_to_install(monkeypatch, package, backend, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as error:
        evaluate_coco(split([[(BOX, 0, False)]]), [], backend=backend)
    assert str(error.value).endswith(f"Install it: {sys.executable} -m {install}.")


def test_unknown_backend_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"must be one of hotcoco, faster, pycocotools, got 'hotcoc'.*'hotcoco'"):
        evaluate_coco(split([[]]), [], backend="hotcoc")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ([found(5, (BOX, 0, 0.5))], r"image of the data set's.* got 5\."),
        ([found(100), found(100)], r"only entry of it, got 100\."),
        ([found(100, (BOX, 3, 0.5))], r"image 100 must have labels in 0\.\.2, got 3\.\.3\."),
        ([found(100, (BOX, -1, 0.5))], r"got -1\.\.-1\."),
        ([found(100, (BOX, 0, float("nan")))], r"image 100 must be finite, got NaN"),
        ([found(100, ((0, 0, float("inf"), 1), 0, 0.5))], r"image 100 must be finite, got NaN or infinity"),
        ([found(100, ((9, 0, 3, 1), 0, 0.5))], r"image 100 must be boxes x1 <= x2.* negative size"),
        (
            [ImageDetections(100, np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.zeros(2, np.int64))],
            r"image 100 must be boxes \(n, 4\).* got \(2, 4\), \(1,\) and \(2,\)",
        ),
    ],
)  # fmt: skip
def test_wrong_detections_are_refused(detections, message):
    with pytest.raises(DataError, match=message):
        evaluate_coco(split([[(BOX, 0, False)]]), detections)


def test_above_keeps_scores_at_the_threshold():
    kept = found(1, (BOX, 0, 0.5), (BOX, 1, 0.25), (BOX, 2, 0.75)).above(0.5)
    assert kept.labels.tolist() == [0, 2]
    assert kept.boxes.shape == (2, 4)


def test_a_process_that_was_forked_after_an_evaluation_evaluates_too() -> None:
    """hotcoco's threads stay with the first process: a forked one would wait for them forever."""
    annotations, detections = random_case(3)
    expected, fork = evaluate_coco(annotations, detections), multiprocessing.get_context("fork")
    found: SimpleQueue[CocoMetrics] = fork.SimpleQueue()
    other = fork.Process(target=lambda: found.put(evaluate_coco(annotations, detections)))
    other.start()
    other.join(60)
    ended = other.exitcode
    other.kill()
    assert ended == 0
    again = found.get()
    assert again.figures() == pytest.approx(expected.figures(), abs=1e-9)
    assert again.per_class == pytest.approx(expected.per_class, abs=1e-9)
