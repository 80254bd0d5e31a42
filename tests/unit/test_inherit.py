"""The inheriting strategy: what a student takes over, what stays its own, and what is told about it."""

from __future__ import annotations

import json

import pytest
import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.inherit import inherit
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import ConfigError
from scenes_in_memory import FAMILIES, tiny_settings

CLASSES = ("a", "b", "c")


def small(family: str, backbone: str = "test_resnet", **changes: object) -> DetectorSettings:
    return tiny_settings(family, backbone=backbone, **changes)


def detector(settings: DetectorSettings, *, seed: int, classes: tuple[str, ...] = CLASSES) -> Detector:
    return build_detector(settings, classes, seed=seed)


def in_body(name: str) -> bool:
    return ".body." in name


@pytest.mark.parametrize("family", FAMILIES)
def test_neck_and_heads_are_the_teachers_and_the_backbone_stays(family: str) -> None:
    """The teacher's backbone has tensors of the student's names and shapes; they are not taken either."""
    student, teacher = (detector(small(family), seed=seed) for seed in (0, 1))
    own = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    theirs = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    report = inherit(student, teacher, source="runs/t")
    now = student.state_dict()
    assert all(torch.equal(now[name], own[name]) for name in now if in_body(name))
    assert all(torch.equal(now[name], theirs[name]) for name in now if not in_body(name))
    assert any(not torch.equal(own[name], theirs[name]) for name in now if in_body(name))
    assert any(not torch.equal(own[name], theirs[name]) for name in now if not in_body(name))
    assert [name for name, _ in report.inherited] == [name for name in now if not in_body(name)]
    assert (report.other_shape, report.not_in_teacher) == ((), ())
    assert report.body == sum(map(in_body, now))
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, theirs[name])
        assert tensor.data_ptr() != now[name].data_ptr() or not tensor.numel()


def test_what_differs_stays_the_students_own_and_is_told() -> None:
    student = detector(small("fcos", head_depth=2), seed=0, classes=(*CLASSES, "d"))
    teacher = detector(small("fcos", "test_efficientnet", head_norm="none"), seed=1)
    own = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    report = inherit(student, teacher, source="runs/t")
    taken = dict(report.inherited)
    classes = "model.head.classification_head.cls_logits.weight"
    (mismatch,) = [bad for bad in report.other_shape if bad.name == classes]
    assert (mismatch.in_file, mismatch.in_model) == ((3, 16, 3, 3), (4, 16, 3, 3))
    assert "model.head.classification_head.conv.4.weight" in report.not_in_teacher
    assert taken["model.backbone.fpn.layer_blocks.0.0.weight"] == (16, 16, 3, 3)
    for name, tensor in student.state_dict().items():
        assert (name in taken) == torch.equal(tensor, teacher.state_dict().get(name, torch.tensor(0))) or in_body(name)
        assert name in taken or torch.equal(tensor, own[name])
    lines = report.lines()
    wanted = len(report.inherited) + len(report.other_shape) + len(report.not_in_teacher)
    assert lines[0] == (
        f"inherited {len(taken)} of {wanted} tensors of neck and heads from runs/t; the backbone's {report.body} stay "
        "the student's own"
    )
    assert len(lines) == 1 + wanted
    assert "  inherited: model.backbone.fpn.layer_blocks.0.0.weight (16, 16, 3, 3)" in lines
    assert f"  other shape: {classes} (3, 16, 3, 3) in the teacher, (4, 16, 3, 3) here" in lines
    assert "  not in the teacher: model.head.classification_head.conv.4.weight" in lines
    written = json.loads(json.dumps(report.as_dict()))
    assert written["inherited"]["model.backbone.fpn.layer_blocks.0.0.weight"] == [16, 16, 3, 3]
    assert written["other_shape"][classes] == {"teacher": [3, 16, 3, 3], "student": [4, 16, 3, 3]}
    assert (written["source"], written["body"]) == ("runs/t", report.body)


def test_nothing_to_inherit_is_refused() -> None:
    student, teacher = detector(small("fcos"), seed=0), detector(small("faster_rcnn", fpn_channels=24), seed=1)
    with pytest.raises(ConfigError) as caught:
        inherit(student, teacher, source="runs/t")
    assert str(caught.value) == (
        "The teacher runs/t must share a tensor of neck or heads with the student to inherit it, by name and shape, "
        "got none: faster_rcnn/test_resnet has 24 channels in the neck, fcos/test_resnet has 16. Take a student of the "
        "same family with student.fpn_channels=24, or leave out --inherit."
    )


def test_necks_of_different_families_match() -> None:
    student, teacher = detector(small("gfl"), seed=0), detector(small("fcos"), seed=1)
    report = inherit(student, teacher, source="runs/t")
    taken = [name for name, _ in report.inherited]
    neck = [name for name in student.state_dict() if ".fpn." in f".{name}"]
    assert neck
    assert set(neck) <= set(taken)
    theirs = {name.removeprefix("model."): tensor for name, tensor in teacher.state_dict().items()}
    for name in taken:
        assert torch.equal(student.state_dict()[name], theirs[name])


def test_as_many_other_classes_are_refused() -> None:
    student, teacher = detector(small("fcos"), seed=0, classes=("b", "a", "c")), detector(small("fcos"), seed=1)
    with pytest.raises(ConfigError) as caught:
        inherit(student, teacher, source="runs/t")
    assert str(caught.value) == (
        "The classes of the teacher runs/t must be the student's, in the same order, to inherit its heads, got a, b, c "
        "and here b, a, c. Leave out --inherit."
    )
