"""Likely label errors: each kind by itself, their ranking, what is proposed, and what a person gets and is refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detdistill
from coco_by_hand import CLASSES, draw_data
from detdistill.cli import main
from detdistill.data.annotations import Annotations
from detdistill.errors import DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.label_errors import (
    BOX_OFF,
    KINDS,
    MISSING,
    NOTHING_THERE,
    WRONG_CLASS,
    LabelError,
    find_label_errors,
)
from detdistill.jobs.audit import FINDINGS, PICTURES, PROPOSALS, known_labels, proposals
from few_boxes import FAR, LEFT, RIGHT, found, split

CAR, TRUCK = range(2)
# IoU 0.4 and 0.6 with LEFT.
WEAK, LOOSE = (0, 0, 4, 10), (0, 0, 6, 10)
# Images in which the teacher is right, so that it counts as sure.
USUAL = 20


def seen(objects: list, detections: list) -> list[LabelError]:
    """Findings of the first image, beside many in which all is well."""
    fine = [(LEFT, CAR, False), (RIGHT, TRUCK, False)]
    truth = split(objects, *[fine] * USUAL)
    right = [found(image, (LEFT, CAR, 0.9), (RIGHT, TRUCK, 0.9), (FAR, CAR, 0.1)) for image in range(1, USUAL + 1)]
    return [error for error in find_label_errors(truth, [found(0, *detections), *right]) if error.image == 0]


@pytest.mark.parametrize(
    ("objects", "detections", "kind", "row", "box", "label"),
    [
        ([], [(FAR, CAR, 0.9)], MISSING, None, FAR, CAR),
        ([(LEFT, CAR, False)], [(LEFT, CAR, 0.9), (FAR, TRUCK, 0.9)], MISSING, None, FAR, TRUCK),
        # The class is the teacher's, the box stays the label's.
        ([(LEFT, TRUCK, False)], [((0, 0, 9, 10), CAR, 0.9)], WRONG_CLASS, 0, LEFT, CAR),
        ([(LEFT, CAR, False)], [(WEAK, CAR, 0.9)], BOX_OFF, 0, WEAK, CAR),
        ([(LEFT, CAR, False)], [(LOOSE, CAR, 0.9)], BOX_OFF, 0, LOOSE, CAR),
        ([(FAR, CAR, False)], [], NOTHING_THERE, 0, FAR, CAR),
        ([(LEFT, CAR, False), (FAR, TRUCK, False)], [(LEFT, CAR, 0.9)], NOTHING_THERE, 1, FAR, TRUCK),
    ],
)
def test_each_kind_by_itself(
    objects: list, detections: list, *, kind: str, row: int | None, box: tuple[int, ...], label: int
) -> None:
    error = seen(objects, detections)[0]
    assert (error.kind, error.row, error.label) == (kind, row, label)
    assert error.box == tuple(map(float, box))
    assert 0.2 < error.score <= 1
    assert all(other.score < 0.05 for other in seen(objects, detections)[1:])


@pytest.mark.parametrize(
    ("objects", "detections"),
    [
        ([(LEFT, CAR, False)], [(LEFT, CAR, 0.9)]),
        # What half lies in an ignored region is excused, and the region is no label.
        ([(LEFT, CAR, True)], [((5, 0, 15, 10), TRUCK, 0.9)]),
        ([(LEFT, CAR, True)], []),
        # The teacher doubts as much as it claims.
        ([(LEFT, CAR, False)], [(LEFT, CAR, 0.9), (LEFT, TRUCK, 0.9)]),
    ],
)
def test_where_they_agree_nothing_is_found(objects: list, detections: list) -> None:
    assert [error for error in seen(objects, detections) if error.score > 0.05] == []


def test_one_place_and_one_label_are_told_once() -> None:
    # The box near the open label could be a missing one, and the label nothing; two boxes lie on the missing object.
    errors = seen([(LEFT, CAR, False)], [(WEAK, CAR, 0.9), (FAR, CAR, 0.9), ((50, 50, 60, 59), TRUCK, 0.8)])
    assert sorted(error.kind for error in errors) == [BOX_OFF, MISSING]


def test_the_surer_teacher_and_the_clearer_difference_come_first() -> None:
    scores = [seen([], [(FAR, CAR, sure)])[0].score for sure in (0.5, 0.7, 0.9)]
    assert scores == sorted(scores)
    doubted = seen([(LEFT, TRUCK, False)], [(LEFT, CAR, 0.9), (LEFT, TRUCK, 0.4)])[0]
    assert doubted.score < seen([(LEFT, TRUCK, False)], [(LEFT, CAR, 0.9)])[0].score


def test_a_teacher_that_misses_much_says_little_of_labels_that_it_misses() -> None:
    truth = split(*[[(LEFT, CAR, False)]] * USUAL)
    often, seldom = (
        find_label_errors(truth, [found(image, (LEFT, CAR, 0.9)) for image in range(count)])[0].score
        for count in (USUAL - 1, USUAL // 2)
    )
    assert seldom < 0.5 * often


@pytest.mark.parametrize("truth", [split(), split([]), split([(LEFT, CAR, False)])])
def test_a_teacher_that_finds_nothing(truth: Annotations) -> None:
    assert all(error.kind == NOTHING_THERE and error.score < 0.2 for error in find_label_errors(truth, []))


def wrong_labels(seed: int) -> tuple[Annotations, list[ImageDetections], set[tuple[int, str]]]:
    """Labels of which some are wrong, a teacher that is nearly right, and the image and kind of each error."""
    random, images, detections, errors = np.random.default_rng(seed), [], [], set()
    for image in range(80):
        boxes, objects, guesses = [LEFT, RIGHT, FAR], [], []
        for box in boxes:
            label, sure = int(random.integers(0, 2)), float(random.uniform(0.5, 0.95))
            guesses.append((tuple(np.array(box) + random.normal(0, 0.3, 4)), label, sure))
            objects.append((box, label, False))
        guesses.append(((70, 10, 80, 20), 0, float(random.uniform(0.05, 0.3))))
        if image % 4 == 0:
            kind = KINDS[image // 4 % 4]
            box, label, _ = objects.pop()
            if kind == WRONG_CLASS:
                objects.append((box, 1 - label, False))
            elif kind == BOX_OFF:
                objects.append(((55, 50, 65, 60), label, False))
            elif kind == NOTHING_THERE:
                objects += [(box, label, False), ((80, 80, 95, 95), label, False)]
            errors.add((image, kind))
        images.append(objects)
        detections.append(found(image, *guesses))
    return split(*images), detections, errors


def test_planted_errors_come_first() -> None:
    truth, detections, errors = wrong_labels(0)
    first = find_label_errors(truth, detections)[: len(errors)]
    assert len({(error.image, error.kind) for error in first} & errors) >= 0.9 * len(errors)


def test_classes_that_the_teacher_does_not_know_are_not_judged() -> None:
    known = known_labels(split([(LEFT, CAR, False), (RIGHT, TRUCK, False)]), ["car"])
    assert known.ignored.tolist() == [False, True]


def test_what_is_proposed_stands_in_the_labels() -> None:
    truth = replace(split([(LEFT, CAR, False), (RIGHT, CAR, False), (FAR, CAR, False)]), category_ids=np.array([7, 3]))
    errors = [
        LabelError(MISSING, 0.9, 0, None, (1.0, 2.0, 4.0, 6.0), TRUCK),
        LabelError(WRONG_CLASS, 0.8, 0, 0, LEFT, TRUCK),
        LabelError(BOX_OFF, 0.7, 0, 1, (21.0, 0.0, 31.0, 12.0), CAR),
        LabelError(NOTHING_THERE, 0.6, 0, 2, FAR, CAR),
    ]
    first, second, third, fourth = proposals(truth, errors)["annotations"]
    assert (first["category_id"], first["bbox"]) == (3, [0, 0, 10, 10])
    assert first["proposal"] == {"rank": 2, "kind": WRONG_CLASS, "score": 0.8, "category_id": 7}
    assert (second["category_id"], second["bbox"], second["area"]) == (7, [21, 0, 10, 12], 120)
    assert second["proposal"] == {"rank": 3, "kind": BOX_OFF, "score": 0.7, "bbox": [20, 0, 10, 10]}
    assert (third["bbox"], third["proposal"]) == ([50, 50, 10, 10], {"rank": 4, "kind": NOTHING_THERE, "score": 0.6})
    assert fourth == {
        **{"id": 4, "image_id": 0, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
        "proposal": {"rank": 1, "kind": MISSING, "score": 0.9},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of ten images, and a detector of its classes that knows nothing."""
    folder = tmp_path_factory.mktemp("audit")
    draw_data(folder / "data")
    for name, classes in (("teacher", CLASSES), ("stranger", ("boat",)), ("half", CLASSES[:1])):
        detector = detdistill.build_detector("fcos/tiny", classes, seed=1)
        detdistill.save_detector(detector, folder / name, image={"short_side": 32, "long_side": 48})
    return folder


def test_a_person_gets_files_and_a_table(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (home / "data/train.json").read_bytes()
    out, told = tmp_path / "audit", tmp_path / "told.json"
    words = ["data", "audit", str(home / "data"), "--teacher", str(home / "teacher"), "--out", str(out)]
    assert main([*words, "--score", "0.01", "--images", "2", "--json", str(told)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(told.read_text())
    assert (home / "data/train.json").read_bytes() == before
    with (out / FINDINGS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["findings"]) == sum(content["counts"].values()) > 0
    assert [row["kind"] for row in rows] == [one["kind"] for one in content["findings"]]
    assert f"{len(rows)} finding" in printed
    with Image.open(out / PICTURES) as picture:
        assert picture.height > 300
    # The proposals are a data set with the same images.
    shutil.copytree(home / "data/images", tmp_path / "proposed/images")
    shutil.copy(out / PROPOSALS, tmp_path / "proposed/train.json")
    checked = detdistill.check_data(tmp_path / "proposed/train.json")
    assert sum(one.images for one in checked.splits.values()) == content["images"]
    # What it wrote it may write anew, and without findings there is no picture.
    assert main([*words, "--score", "1"]) == 0
    assert "0 findings" in capsys.readouterr().out
    assert not (out / PICTURES).exists()


def test_a_teacher_of_some_classes_says_what_it_does_not_judge(home: Path, tmp_path: Path) -> None:
    outcome = detdistill.audit_data(home / "data", teacher=home / "half", out=tmp_path, score=0)
    labels = json.loads((home / "data/train.json").read_text())["annotations"]
    assert outcome.labels == sum(one["category_id"] == 1 for one in labels) < len(labels)
    assert {one.labelled for one in outcome.findings} | {one.proposed for one in outcome.findings} <= {"square", None}


def test_what_cannot_be_audited_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str, data: Path = home / "data", out: Path = tmp_path / "out") -> str:
        assert main(["data", "audit", str(data), "--teacher", str(home / "teacher"), "--out", str(out), *words]) == 2
        return capsys.readouterr().err

    assert "--score must be between 0 and 1, got 2" in said("--score", "2")
    assert "--images must be at least 0, got -1. Leave it out for 20." in said("--images", "-1")
    (tmp_path / "own").mkdir()
    shutil.copytree(home / "data/images", tmp_path / "own/images")
    shutil.copy(home / "data/train.json", tmp_path / "own" / PROPOSALS)
    assert "--out must be a folder other than that of the data" in said(
        data=tmp_path / "own" / PROPOSALS, out=tmp_path / "own"
    )
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / FINDINGS).write_text("name,age\n")
    assert f"--out's {FINDINGS} must be a new file" in said(out=tmp_path / "theirs")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="boat"):
        detdistill.audit_data(home / "data", teacher=home / "stranger", out=tmp_path / "out")
