"""Starting from another detector: what a student takes over, and class by class in the class layers."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from detdistill.detectors.base import BACKGROUND_ROW, Detector
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.frozen import FrozenTeacher, digest
from detdistill.detectors.inherit import initialise
from detdistill.detectors.torchvision_teachers import untrained_torchvision
from detdistill.errors import ConfigError
from detdistill.types import Need
from scenes_in_memory import FAMILIES, scene_batch, tiny_student

EVERYTHING = {"score_threshold": 0.0, "nms_threshold": 0.99, "detections_per_image": 60}
OLD, NEW = ("car", "truck", "tram"), ("bus", "tram", "car", "truck")


def tensors(detector: Detector) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def awake(family: str, classes: tuple[str, ...], *, seed: int) -> Detector:
    """A detector that scores its classes differently."""
    detector = tiny_student(family, classes=classes, seed=seed, **EVERYTHING)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name in detector.class_rows():
            detector.state_dict()[name].normal_(std=0.3)
    return detector


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_classes_in_another_order_find_the_same(family: str) -> None:
    """The proof that rows are where the family says."""
    source = awake(family, OLD, seed=1).eval()
    student = tiny_student(family, classes=("tram", "car", "truck"), seed=2, **EVERYTHING)
    report = initialise(student, source, name="runs/a")
    assert {one.name for one in report.by_class} == set(source.class_rows()) != set()
    assert {(one.taken, one.drawn, one.left) for one in report.by_class} == {(("tram", "car", "truck"), (), ())}
    assert report.wanted == len(report.matched) + len(report.by_class)
    batch, needs = scene_batch(), frozenset({Need.CLASS_LOGITS})
    with torch.no_grad():
        if source.spec.two_stage:
            expected, found = source.detect(batch), student.eval().detect(batch)
            for one, other in zip(expected, found, strict=True):
                torch.testing.assert_close(other.boxes, one.boxes)
                torch.testing.assert_close(other.scores, one.scores)
                assert [OLD[label] for label in one.labels] == [student.spec.class_names[k] for k in other.labels]
            assert len(torch.cat([one.labels for one in expected]).unique()) > 1
        else:
            expected, found = (one(batch, needs).class_logits.levels for one in (source, student.eval()))
            for one, other in zip(expected, found, strict=True):
                torch.testing.assert_close(other, one[:, :, [2, 0, 1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_other_classes_are_drawn_and_all_else_is_taken(family: str) -> None:
    source, student = awake(family, OLD, seed=1), tiny_student(family, classes=NEW, seed=2)
    theirs, fresh = tensors(source), tensors(student)
    report = initialise(student, source, name="runs/a")
    now = tensors(student)
    rows, others = student.class_rows(), source.class_rows()
    assert set(report.matched) == set(now) - set(rows)
    assert all(torch.equal(now[name], theirs[name]) for name in report.matched)
    assert {one.name: (one.taken, one.drawn, one.left) for one in report.by_class} == dict.fromkeys(
        rows, (("tram", "car", "truck"), ("bus",), ())
    )
    for name, labels in rows.items():
        for label, kind in enumerate(NEW):
            here = [row for row, said in enumerate(labels) if said == label]
            there = [row for row, said in enumerate(others[name]) if kind in OLD and said == OLD.index(kind)]
            expected = fresh[name][here] if kind == "bus" else theirs[name][there]
            assert torch.equal(now[name][here], expected), (name, kind)
        background = [
            [row for row, said in enumerate(some) if said == BACKGROUND_ROW] for some in (labels, others[name])
        ]
        assert torch.equal(now[name][background[0]], theirs[name][background[1]])
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in source.state_dict().items())
    said = report.text().splitlines()
    assert said[-1] == f"  by class ({len(rows)}): taken over tram, car, truck; drawn anew bus"
    written = json.loads(json.dumps(report.as_dict()))
    assert written["by_class"][next(iter(rows))] == {"taken": ["tram", "car", "truck"], "drawn": ["bus"], "left": []}
    assert sorted(written["matched"]) == sorted(report.matched)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_detector_is_taken_whole(family: str) -> None:
    source, student = (tiny_student(family, seed=seed) for seed in (1, 2))
    report = initialise(student, source, name="runs/a")
    assert (report.fraction, report.by_class, report.unexpected) == (1.0, (), ())
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in student.state_dict().items())
    assert digest(student) == digest(source) == FrozenTeacher(source).digest()


def test_classes_that_are_gone_are_left_behind() -> None:
    report = initialise(tiny_student("gfl", classes=("tram",)), tiny_student("gfl", classes=OLD), name="runs/a")
    assert report.text().endswith("by class (2): taken over tram; left behind car, truck")


def test_another_number_of_anchors_is_another_shape() -> None:
    source = tiny_student("retinanet", classes=OLD, anchor_octaves=2)
    student = tiny_student("retinanet", classes=NEW)
    fresh = tensors(student)
    report = initialise(student, source, name="runs/a")
    names = set(student.class_rows())
    assert names <= {bad.name for bad in report.mismatched}
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in student.state_dict().items() if name in names)
    shapes = report.as_dict()["other_shape"]["model.head.classification_head.cls_logits.bias"]
    assert shapes == {"source": [18], "student": [12]}


def test_another_family_gives_its_backbone_and_neck() -> None:
    student = tiny_student("gfl", classes=NEW)
    report = initialise(student, tiny_student("fcos", classes=OLD, seed=3), name="runs/a")
    assert {name for name in student.state_dict() if name.startswith("backbone.")} <= set(report.matched)
    assert "head.classes.weight" in report.missing
    assert "model.head.classification_head.cls_logits.weight" in report.unexpected


@pytest.mark.parametrize("backbone", ["test_efficientnet", "resnet10t"])
def test_another_backbone_is_refused(backbone: str) -> None:
    said = (
        r"The detector to start from, runs/a, must have the student's backbone and at least half of its tensors, got "
        rf"fcos/{backbone} with \d+ of \d+ for fcos/test_resnet\. Give the student the same "
        r"architecture, or leave out --init\."
    )
    with pytest.raises(ConfigError, match=said):
        initialise(tiny_student("fcos"), tiny_student("fcos", backbone=backbone), name="runs/a")


def test_a_deeper_backbone_whose_names_match_is_refused_too() -> None:
    """Every tensor of the student's has one of its name and shape there."""
    student, source = (tiny_student("fcos", backbone=backbone) for backbone in ("resnet18", "resnet34"))
    with pytest.raises(ConfigError, match=r"got fcos/resnet34 with (\d+) of \1 for fcos/resnet18"):
        initialise(student, source, name="runs/a")


def test_torchvisions_detectors_are_sources_by_class_name() -> None:
    source = untrained_torchvision("torchvision:fasterrcnn_resnet50_fpn")
    with torch.no_grad():
        source.state_dict()["model.roi_heads.box_predictor.bbox_pred.bias"].copy_(torch.arange(364.0))
    student = build_detector(parse_detector("faster_rcnn/resnet50.a1_in1k"), ("bus", "tram"), seed=0)
    report = initialise(student, source, name="torchvision")
    assert {(one.taken, one.drawn) for one in report.by_class} == {(("bus",), ("tram",))}
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert len(report.by_class) == 4
    # COCO's bus is slot 6 of torchvision's 91, the background slot 0.
    bias = student.state_dict()["model.roi_heads.box_predictor.bbox_pred.bias"]
    assert bias[:8].tolist() == [0.0, 1.0, 2.0, 3.0, 24.0, 25.0, 26.0, 27.0]
    assert bias[8:].abs().max() < 1
    assert report.by_class[0].left[:2] == ("person", "bicycle")
