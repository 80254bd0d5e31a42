"""Every method on every detector that it works on, with a teacher that sees images of another size."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN
from detdistill.errors import CapabilityError
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Batch, Need
from every_method import (
    ALONE,
    CLOCK,
    OBJECTS_ALONE,
    OPTIONS,
    WRAPPING,
    both_wrappers,
    families_of,
    one_family,
    require_equal_in_any_batch,
    require_equal_without_padding,
)
from pairs_in_memory import Couple, require_paired_by_stride, require_useful, student_of, teacher_of
from scenes_in_memory import FAMILIES, leaves_of, map_levels, scene_batch, tiny_student, tiny_teacher
from thorough import covering

# A wrapper leaves the terms inside as they are: each is here once on every detector.
CASES = [(name, family) for name in ALONE for family in families_of(name)]
CASES += [(f"{wrapper}(hint{OPTIONS.get(wrapper, '')})", family) for wrapper in WRAPPING for family in FAMILIES]
SOME = [(name, one_family(name, index)) for index, name in enumerate([*ALONE, both_wrappers("hint")[0]])]


@functools.cache
def teacher_at(family: str, ratio: float) -> FrozenTeacher:
    return FrozenTeacher(copy.deepcopy(teacher_of(family)._detector), ratio=ratio)


@functools.cache
def seen_at(ratio: float) -> Batch:
    """Scenes that the teacher sees so many times as large, padded to another grid."""
    batch = scene_batch()
    sizes = [(round(height * ratio), round(width * ratio)) for height, width in batch.sizes]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    grid = (-(-height // 32) * 32 + 32, -(-width // 32) * 32)
    images = torch.rand((len(batch), 3, *grid), generator=torch.Generator().manual_seed(4))
    for index, (old, new) in enumerate(zip(batch.sizes, sizes, strict=True)):
        inside = batch.images[index : index + 1, :, : old[0], : old[1]]
        images[index, :, : new[0], : new[1]] = F.interpolate(inside, new, mode="bilinear")[0]
    targets = tuple(replace(target, boxes=target.boxes * ratio) for target in batch.targets)
    return replace(batch, teacher=replace(batch, images=images, sizes=tuple(sizes), targets=targets))


@functools.cache
def step_at(method: str, family: str, ratio: float) -> DistillationStep:
    student, teacher = copy.deepcopy(student_of(family)), teacher_at(family, ratio)
    return DistillationStep(student, teacher, build_recipe(method, student.spec, teacher.spec, seed=3))


@functools.cache
def couple_at(method: str, family: str, ratio: float) -> Couple:
    step = step_at(method, family, ratio)
    seen = step.see(seen_at(ratio), step.recipe)
    alone = {
        view: map_levels(one, lambda level, stride: level.detach().requires_grad_())
        for view, one in seen.students.items()
    }
    return Couple(step.student, step.teacher, replace(seen, students=alone))


@pytest.mark.parametrize(("method", "family"), covering(CASES))
def test_every_method_learns_from_a_teacher_of_twice_the_size(method: str, family: str) -> None:
    """Costs are finite and reach the student where an image is twice as large for its teacher."""
    couple = couple_at(method, family, 2.0)
    assert couple.shared() == [8, 16]
    for view, ours in couple.seen.students.items():
        for stride, level in zip(ours.pyramid.strides, ours.pyramid.levels, strict=True):
            if stride in couple.shared():
                theirs = couple.seen.teachers[view].pyramid
                assert theirs.levels[theirs.strides.index(stride)].shape[-2:] == level.shape[-2:]
    require_useful(step_at(method, family, 2.0).recipe, couple, sparse=OBJECTS_ALONE)


@pytest.mark.parametrize(("method", "family"), SOME)
def test_levels_meet_by_share_and_no_padding_teaches(method: str, family: str) -> None:
    step, couple = step_at(method, family, 2.0), couple_at(method, family, 2.0)
    require_paired_by_stride(step.recipe, couple)
    require_equal_without_padding(step.recipe, couple.seen, seed=1)


@pytest.mark.parametrize(("method", "family"), SOME)
def test_an_image_costs_the_same_in_any_batch(method: str, family: str) -> None:
    require_equal_in_any_batch(step_at(method, family, 2.0).recipe, couple_at(method, family, 2.0).seen, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "family", "ratio"), covering((*some, ratio) for some in SOME for ratio in (0.5, 1.4))
)
def test_other_sizes_work_or_are_refused_in_one_sentence(method: str, family: str, ratio: float) -> None:
    """A smaller teacher, and cells of another share of the image, whose distances in bins cannot be compared."""
    if ratio == 1.4 and step_at(method, family, 2.0).recipe.teacher_needs(CLEAN) & {Need.BOX_DISTRIBUTIONS, Need.BOXES}:
        with pytest.raises(CapabilityError, match=r"Leave teacher\.image out, or make it twice data\.image"):
            step_at(method, family, ratio)
        return
    step = step_at(method, family, ratio)
    report = step(seen_at(ratio), CLOCK)
    report.total.backward()
    assert report.total.isfinite()
    assert all(loss.isfinite() for loss in report.parts.values())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in step.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_up_proof_holds(family: str) -> None:
    method = both_wrappers("hint")[0]
    proofs = prove(step_at(method, family, 2.0), seen_at(2.0))
    assert [proof.name for proof in proofs] == ["hint.features", "ikd.adversarial"]
    assert all(proof.loss > 0 and not proof.perturbed for proof in proofs)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_on_the_students_features_see_the_students_frame(family: str) -> None:
    """With equal pyramids in the student's pixels, the teacher's heads can judge the student's features at any size."""
    student = tiny_student(family)
    coarse = tiny_teacher(family, strides=(16, 32, 64), fpn_channels=student.spec.pyramid.channels)
    teacher = FrozenTeacher(coarse._detector, ratio=2.0)
    recipe = build_recipe("aid(hint, loss_source=student_features)", student.spec, teacher.spec)
    seen = DistillationStep(student, teacher, recipe).see(seen_at(2.0), recipe)
    assert seen.judged is not None
    assert seen.judged.task_loss is not None
    assert seen.judged.pyramid.strides == (8, 16, 32)
    assert seen.judged.task_loss.total.isfinite()
    assert not any(level.requires_grad for level in leaves_of(seen.judged))
    judged = coarse.observe_pyramid(
        replace(seen.students[CLEAN].pyramid, strides=(16, 32, 64)), seen_at(2.0).for_teacher, {Need.TASK_LOSS}
    )
    assert judged.task_loss is not None
    if family != "faster_rcnn":  # whose second stage reads the image's height
        torch.testing.assert_close(seen.judged.task_loss.total, judged.task_loss.total)
