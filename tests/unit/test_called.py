"""A Python function as a detector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.detectors.frozen import digest
from detdistill.errors import CapabilityError, ConfigError
from detdistill.types import Batch, Targets


def find(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    """The bright square and bar of each image."""
    found = []
    for image in images:
        assert image.dtype == np.uint8
        boxes, names = [], []
        for channel, name in enumerate(CLASSES):
            rows, columns = np.nonzero(image[:, :, channel] > 150)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                names.append(name)
        found.append((boxes, [0.5 + 0.1 * place for place in range(len(boxes))], names))
    return found


def two_images() -> Batch:
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Batch(torch.zeros(2, 3, 32, 32), ((32, 24), (20, 32)), ((32, 24), (20, 32)), (none,) * 2, (0, 1), (0, 0))


def test_it_is_taken_wherever_a_detector_is(tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data", train=2, val=12)
    box = detdistill.BlackBox(find, class_names=CLASSES)
    assert detdistill.evaluate(box, data=data).metrics.ap > 90
    assert detdistill.audit_data(data, teacher=box, split="val", out=tmp_path / "audit").images == 12
    outcome = detdistill.predict(box, data / "images", coco=data / "found.json", score=0.1)
    assert {name for one in outcome.found for name in one.labels} == {0, 1}
    assert detdistill.evaluate(data / "found.json", data=data).metrics.ap > 90
    config = detdistill.run_config(
        purpose="distill", teacher=box, student="fcos/tiny", method="boxes", data=data, out=tmp_path / "run"
    )
    opened = detdistill.stages.open_inputs(config)
    assert opened.teacher is not None
    assert opened.teacher.detector is box
    with pytest.raises(ConfigError, match=r"python:none-1 must be a function that this Python process made a det"):
        detdistill.evaluate("python:none-1", data=data)


def test_it_sees_its_own_image_without_the_padding_and_says_what_it_finds_best_first() -> None:
    seen = []

    def watching(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        seen.extend(image.shape for image in images)
        return [([[0, 0, 9, 9], [1, 2, 50, 90]], torch.tensor([0.2, 0.8]), [0, 1], [[0.2, 0.1], [0.1, 0.8]])] * 2

    box = detdistill.BlackBox(watching, CLASSES, image={"short_side": 32, "long_side": 32})
    first, second = box.detect(two_images())
    assert seen == [(32, 24, 3), (20, 32, 3)]
    assert first.boxes.tolist() == [[1, 2, 24, 32], [0, 0, 9, 9]]
    assert second.boxes.tolist() == [[1, 2, 32, 20], [0, 0, 9, 9]]
    assert first.labels.tolist() == [1, 0]
    assert first.probabilities is not None
    assert first.probabilities[0].tolist() == pytest.approx([0.1, 0.8])
    assert box.loaded().image == {"short_side": 32, "long_side": 32}
    assert copy.deepcopy(box) is box
    assert digest(box) != digest(detdistill.BlackBox(find, CLASSES))
    none = detdistill.BlackBox(lambda images: [([], [], [])] * len(images), CLASSES)
    assert none.detect(two_images())[0].boxes.shape == (0, 4)


WRONG = {
    "one image": ([([], [], [])], "a list with boxes, scores and labels of each of 2 images, got 1"),
    "no list": (None, "a list with boxes, scores and labels of each of 2 images, got NoneType"),
    "boxes alone": ([[[1, 2, 3, 4]]] * 2, "boxes, scores and labels of an image, got list"),
    "one score": (
        [([[1, 2, 3, 4]] * 2, [0.5], [0, 1])] * 2,
        r"scores of shape \(2,\), as there are 2 labels, got \(1,\)",
    ),
    "sizes": ([([[9, 9, 3, 4]], [0.5], [0])] * 2, "boxes x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, got"),
    "label": ([([[1, 2, 3, 4]], [0.5], [2])] * 2, "labels from 0 to 1, or square, bar, got 2"),
    "name": ([([[1, 2, 3, 4]], [0.5], ["cat"])] * 2, "labels from 0 to 1, or square, bar, got cat"),
    "nan": (
        [([[float("nan"), 2, 3, 4]], [0.5], [0])] * 2,
        "boxes x1, y1, x2, y2 with x2 >= x1 and y2 >= y1, got .*nan",
    ),
    "shares": ([([[0.1, 0.2, 0.3, 0.4]], [0.5], [0])] * 2, "boxes in pixels, got shares of the image, such as "),
    "score": ([([[1, 2, 3, 4]], [90], [0])] * 2, "scores from 0 to 1, got 90"),
    "nan score": ([([[1, 2, 3, 4]], [float("nan")], [0])] * 2, "scores from 0 to 1, got nan"),
    "class score": ([([[1, 2, 3, 4]], [0.5], [0], [[0.5, -1]])] * 2, "class scores from 0 to 1, got -1"),
    "ragged": ([([[1, 2, 3, 4], [1, 2]], [0.5, 0.5], [0, 0])] * 2, "an array of boxes, .*, got ValueError"),
    "text": ([([[1, 2, 3, 4]], ["high"], [0])] * 2, "an array of scores, .*, got ValueError"),
    "classes": ([([[1, 2, 3, 4]], [0.5], [1], [[0.5]])] * 2, r"class scores of shape \(1, 2\), as there are 1 labels"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_function_cannot_say_is_refused(what: str) -> None:
    said, sentence = WRONG[what]
    with pytest.raises(CapabilityError, match=f"What <lambda> gives must be {sentence}.* Mend the function"):
        detdistill.BlackBox(lambda _: said, CLASSES).detect(two_images())


@pytest.mark.parametrize("error", [KeyError("no such layer"), SystemExit(0)])
def test_a_function_that_fails_is_said_with_its_place(error: BaseException) -> None:
    def failing(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        raise error

    where = r"What failing gives must be what it found in 2 images, got \w+: .*\(.*test_called\.py, line \d+\)"
    with pytest.raises(CapabilityError, match=where):
        detdistill.BlackBox(failing, CLASSES).detect(two_images())


def test_what_is_no_function_or_no_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"find must be a function of a list of images, got a int\. Pass the"):
        detdistill.BlackBox(3, CLASSES)  # type: ignore[arg-type]
    for image in ({"short_sid": 64}, {"short_side": 0}, {"long_side": "9"}):
        with pytest.raises(ConfigError, match=r"image must have short_side, long_side or pad_multiple, in whole pix"):
            detdistill.BlackBox(find, CLASSES, image=image)  # type: ignore[arg-type]


def test_classes_must_be_named_once() -> None:
    with pytest.raises(ConfigError, match="class_names must be different names, at least one, got"):
        detdistill.BlackBox(find, ("a", "a"))
