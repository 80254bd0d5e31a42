"""Recipes between detectors of different families, strides and layouts: what works, and what is refused how."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from detdistill.distillation.term import pairing_note
from detdistill.distillation.view import CLEAN
from detdistill.errors import CapabilityError
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.frs import FRSSettings
from detdistill.types import Need
from every_method import OBJECTS_ALONE, PYRAMID_ONLY, aligned_by, both_wrappers
from pairs_in_memory import (
    known_pair,
    pair_of,
    require_paired_by_stride,
    require_useful,
    student_of,
    teacher_of,
    with_twins,
)
from scenes_in_memory import FAMILIES, STUDENT_CHANNELS, TEACHER_CHANNELS, scene_batch, tiny_student, tiny_teacher
from thorough import covering

CROSS = [(student, teacher) for student in FAMILIES for teacher in FAMILIES if student != teacher]
DENSE_ALIKE = ("fcos", "gfl")  # sigmoid scores of the same classes, one anchor a cell


@pytest.mark.parametrize(
    ("name", "student", "teacher"), covering((name, *cross) for name in PYRAMID_ONLY for cross in CROSS)
)
def test_pyramid_recipes_work_across_families(name: str, student: str, teacher: str) -> None:
    pair = known_pair(student, teacher)
    recipe = pair.awake_recipe(PYRAMID_ONLY[name])
    assert recipe.student_needs(CLEAN) == {Need.PYRAMID}
    require_useful(recipe, pair, sparse=OBJECTS_ALONE)


@pytest.mark.parametrize(("outermost", "families"), covering(itertools.product((0, 1), CROSS)))
def test_wrappers_work_across_families(outermost: int, families: tuple[str, str]) -> None:
    pair = known_pair(*families)
    recipe = pair.recipe(both_wrappers("hint + ssim")[outermost])
    assert [term.name for term in recipe.terms] == ["hint.features", "ssim.features", "ikd.adversarial"]
    require_useful(recipe, pair, sparse=OBJECTS_ALONE)


@pytest.mark.parametrize(("student", "teacher"), [DENSE_ALIKE, DENSE_ALIKE[::-1]])
def test_class_scores_cross_families_of_one_layout(student: str, teacher: str) -> None:
    pair = known_pair(student, teacher)
    recipe = pair.recipe("frs")
    assert [term.name for term in recipe.terms] == ["frs.features", "frs.classes"]
    require_useful(recipe, pair, sparse=OBJECTS_ALONE)


@pytest.mark.parametrize("name", PYRAMID_ONLY)
def test_only_shared_strides_are_paired(name: str) -> None:
    """The teacher is finer on one side, coarser on the other, and its grids do not divide: pairing is by stride."""
    student = tiny_student("fcos", strides=(8, 16, 32, 64)).eval()
    teacher = tiny_teacher("faster_rcnn", strides=(4, 8, 16))
    batch = with_twins(scene_batch(sizes=((70, 101), (50, 80), (33, 20)), grid=(70, 101)), teacher)
    pair = pair_of(student, teacher, batch)
    method = PYRAMID_ONLY[name]
    assert pair.shared() == [8, 16]
    require_useful(pair.awake_recipe(method), pair, sparse=OBJECTS_ALONE)
    require_paired_by_stride(pair.awake_recipe(method), pair)
    note = pairing_note(student.spec, teacher.spec)
    assert note == "levels paired by stride: 8, 16; not paired: student: 32, 64; teacher: 4"
    assert pairing_note(student.spec, student.spec) == "levels paired by stride: 8, 16, 32, 64; none left over"


def test_weights_and_twins_meet_by_stride_too() -> None:
    """AID's weight of a shared stride is the teacher's own of that stride, though it stands elsewhere."""
    student = tiny_student("fcos", strides=(8, 16, 32, 64)).eval()
    teacher = tiny_teacher("faster_rcnn", strides=(4, 8, 16))
    batch = with_twins(scene_batch(sizes=((70, 101), (50, 80), (33, 20)), grid=(70, 101)), teacher)
    pair = pair_of(student, teacher, batch)
    recipe = pair.recipe(both_wrappers("hint")[0])
    require_useful(recipe, pair, sparse=OBJECTS_ALONE)
    require_paired_by_stride(recipe, pair)
    weighted, taught = recipe.terms[0], pair.seen.teachers[CLEAN]
    assert weighted.weigh is not None
    whole = weighted.weigh(taught, teacher.spec.pyramid.strides, knowledge=weighted.term.knowledge)
    shared = weighted.weigh(taught, (8, 16), knowledge=weighted.term.knowledge)
    assert shared.tolist() == whole[:, 1:].tolist()
    assert shared.tolist() != whole[:, :2].tolist()


@pytest.mark.parametrize("name", PYRAMID_ONLY)
def test_no_shared_stride_is_refused_with_the_remedy(name: str) -> None:
    student, teacher = tiny_student("fcos", strides=(16, 32)), tiny_teacher("retinanet", strides=(4, 8))
    with pytest.raises(CapabilityError) as caught:
        build_recipe(PYRAMID_ONLY[name], student.spec, teacher.spec)
    assert str(caught.value) == (
        "Student and teacher must share at least one stride, got [16, 32] (fcos/test_resnet) and [4, 8] "
        "(retinanet/test_efficientnet). Build the student with the teacher's strides, for example "
        "student.strides=[4,8]."
    )


def test_frs_refuses_other_classes_and_names_the_way_out() -> None:
    student = student_of("fcos")
    for classes in (("car", "truck"), ("truck", "car", "pedestrian")):
        teacher = tiny_teacher("fcos", classes=classes)
        with pytest.raises(CapabilityError) as caught:
            build_recipe("frs", student.spec, teacher.spec)
        assert str(caught.value) == (
            "The class logits for the recipe 'frs' must have the same classes on both sides, got "
            f"['car', 'truck', 'pedestrian'] (fcos/test_resnet) and {list(classes)} (fcos/test_efficientnet). "
            "Write frs(class_gain=0) to imitate features only."
        )
        # It knows too few classes for a loss on these labels, which nobody asks for.
        pair = pair_of(student, teacher, known_pair("fcos", "fcos").seen.batch, taught=frozenset({Need.CLASS_LOGITS}))
        require_useful(pair.recipe(FRSSettings(class_gain=0)), pair, sparse=OBJECTS_ALONE)


@pytest.mark.parametrize(
    ("student", "teacher", "what"),
    [
        ("fcos", "retinanet", "anchors a cell on both sides, got 1 (fcos/test_resnet) and 3"),
        ("retinanet", "fcos", "anchors a cell on both sides, got 3 (retinanet/test_resnet) and 1"),
        ("gfl", "retinanet", "anchors a cell on both sides, got 1 (gfl/test_resnet) and 3"),
        ("fcos", "faster_rcnn", "kind on both sides, got sigmoid classes (fcos/test_resnet) and RPN objectness"),
        ("faster_rcnn", "retinanet", "kind on both sides, got RPN objectness (faster_rcnn/test_resnet) and sigmoid"),
        ("faster_rcnn", "gfl", "kind on both sides, got RPN objectness (faster_rcnn/test_resnet) and sigmoid"),
    ],
)
@pytest.mark.parametrize("method", ["frs", *both_wrappers("frs")])
def test_frs_refuses_other_layouts_and_names_the_way_out(method: str, student: str, teacher: str, what: str) -> None:
    with pytest.raises(CapabilityError) as caught:
        build_recipe(method, student_of(student).spec, teacher_of(teacher).spec)
    assert f"must have the same {what}" in str(caught.value)
    assert str(caught.value).endswith("Write frs(class_gain=0) to imitate features only.")


def test_frs_refuses_a_student_without_class_logits_and_names_the_way_out() -> None:
    student, teacher = replace(student_of("fcos").spec, class_logits=None), teacher_of("fcos").spec
    remedy = r"Write frs\(class_gain=0\) to imitate features only\."
    with pytest.raises(CapabilityError, match=rf"from both detectors, got none from {student.name}\. {remedy}"):
        build_recipe("frs", student, teacher)
    assert [term.name for term in build_recipe("frs(class_gain=0)", student, teacher).terms] == ["frs.features"]


@pytest.mark.parametrize("method", ["frs", "frs(class_gain=0)"])
def test_frs_refuses_a_teacher_without_class_logits_and_names_the_way_out(method: str) -> None:
    """Its mask is made of them, so that no gain helps."""
    student, teacher = student_of("fcos").spec, replace(teacher_of("fcos").spec, class_logits=None)
    remedy = r"Take a method on features alone, such as hint\."
    with pytest.raises(CapabilityError, match=rf"from the teacher, got none from {teacher.name}\. {remedy}"):
        build_recipe(method, student, teacher)
    assert build_recipe("hint", student, teacher).terms


@pytest.mark.parametrize("method", ["ld", *both_wrappers("ld"), "frs(class_gain=0) + ld"])
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize("teacher", FAMILIES)
def test_ld_refuses_detectors_without_distributions_and_names_the_way_out(
    method: str, student: str, teacher: str
) -> None:
    ours, theirs = student_of(student).spec, teacher_of(teacher).spec
    if student == teacher == "gfl":
        assert "ld.boxes" in [term.name for term in build_recipe(method, ours, theirs).terms]
        return
    lacking = ours if student != "gfl" else theirs
    with pytest.raises(CapabilityError) as caught:
        build_recipe(method, ours, theirs)
    assert str(caught.value) == (
        f"The recipe 'ld' must get box distributions from both detectors, got none from {lacking.name}. "
        "Take the family gfl on both sides, or imitate features, as with hint."
    )


@pytest.mark.parametrize("name", PYRAMID_ONLY)
def test_the_identity_aligner_refuses_other_channels(name: str) -> None:
    student = student_of("retinanet").spec
    with pytest.raises(CapabilityError) as caught:
        build_recipe(aligned_by(PYRAMID_ONLY[name], "identity"), student, teacher_of("retinanet").spec)
    assert str(caught.value) == (
        f"The identity aligner must get equal channels on both sides, got {STUDENT_CHANNELS} (student) and "
        f"{TEACHER_CHANNELS} (teacher). Choose a convolution as aligner (kernel 1 or 3)."
    )
    build_recipe(aligned_by(PYRAMID_ONLY[name], "identity"), student, student)
