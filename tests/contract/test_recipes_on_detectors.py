"""Every recipe on every detector, the teacher with another backbone and other channels than the student."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distill.recipe import Recipe
from detdistill.distill.step import DistillationStep
from detdistill.distill.term import pairing_note
from detdistill.distill.view import CLEAN
from detdistill.errors import CapabilityError
from detdistill.parts.focus import inside_cells
from detdistill.recipes.catalogue import RECIPES, build_recipe
from detdistill.recipes.frs import FRSSettings
from detdistill.recipes.hint import HintSettings
from detdistill.recipes.ssim import SSIMSettings
from detdistill.types import Batch, Clock, Knowledge, Need, Observation
from scenes_in_memory import (
    FAMILIES,
    STUDENT_CHANNELS,
    TEACHER_CHANNELS,
    leaves_of,
    map_levels,
    scene_batch,
    tiny_student,
    tiny_teacher,
)

CLOCK = Clock(step=0, total_steps=1)
SEEN = frozenset({Need.CLASS_LOGITS})
# How each recipe is asked to read nothing but the student's pyramid.
PYRAMID_ONLY: dict[str, Any] = {"hint": HintSettings(), "frs": FRSSettings(class_gain=0), "ssim": SSIMSettings()}
CROSS = [(student, teacher) for student in FAMILIES for teacher in FAMILIES if student != teacher]


@dataclass(frozen=True)
class Pair:
    """A student and a teacher, and what both showed of one batch; the student's maps are leaves."""

    student: Detector
    teacher: FrozenTeacher
    batch: Batch
    shown: Observation
    taught: Observation

    def recipe(self, method: Any) -> Recipe:
        return build_recipe(method, self.student.spec, self.teacher.spec, seed=3)


@functools.cache
def student_of(family: str) -> Detector:
    return tiny_student(family).eval()


@functools.cache
def teacher_of(family: str) -> FrozenTeacher:
    return tiny_teacher(family)


def pair_of(student: Detector, teacher: FrozenTeacher, batch: Batch) -> Pair:
    shown = map_levels(student(batch, SEEN), lambda level, stride: level.detach().requires_grad_())
    return Pair(student, teacher, batch, shown, teacher.observe(batch, SEEN))


@functools.cache
def known_pair(student: str, teacher: str) -> Pair:
    return pair_of(student_of(student), teacher_of(teacher), scene_batch())


def total(recipe: Recipe, shown: Observation, taught: Observation, batch: Batch) -> Tensor:
    """Costs of all terms (b, terms · levels)."""
    return torch.cat([weighted.term(shown, taught, batch, CLOCK).values for weighted in recipe.terms], dim=1)


def row(seen: Observation, index: int) -> Observation:
    return map_levels(seen, lambda level, stride: level[index : index + 1])


def noise_outside(seen: Observation, batch: Batch, *, seed: int) -> Observation:
    generator = torch.Generator().manual_seed(seed)

    def spoil(level: Tensor, stride: int) -> Tensor:
        inside = inside_cells(batch.sizes, stride, grid=(level.shape[-2], level.shape[-1]), device=level.device)
        inside = inside.reshape(len(batch), *(1,) * (level.dim() - 3), *level.shape[-2:])
        noise = 100 * torch.randn(level.shape, generator=generator)
        return torch.where(inside, level.detach(), noise).requires_grad_(level.requires_grad)

    return map_levels(seen, spoil)


def stirred(seen: Observation, stride: int) -> Observation:
    """The observation with other values on one stride."""

    def change(level: Tensor, own: int) -> Tensor:
        return level.detach().flip(1).roll(1, -1) * 1.3 - 0.7 if own == stride else level

    return map_levels(seen, change)


def require_useful(recipe: Recipe, pair: Pair) -> None:
    """Finite costs ≥ 0 on every shared stride, and a gradient to every paired map that each term reads."""
    for weighted in recipe.terms:
        cost = weighted.term(pair.shown, pair.taught, pair.batch, CLOCK)
        shared = [s for s in pair.student.spec.pyramid.strides if s in pair.teacher.spec.pyramid.strides]
        assert list(cost.strides) == shared
        assert tuple(cost.values.shape) == (len(pair.batch), len(shared))
        assert cost.values.dtype == torch.float32
        assert cost.values.isfinite().all()
        assert (cost.values > 0).all()
        logits = pair.shown.class_logits
        read = pair.shown.pyramid if weighted.term.knowledge is Knowledge.FEATURE else logits
        gradients = torch.autograd.grad(cost.values.sum(), read.levels, allow_unused=True)
        for gradient, stride in zip(gradients, read.strides, strict=True):
            if stride in shared:
                assert gradient.isfinite().all()
                assert gradient.flatten(1).any(1).all(), f"{weighted.name}: an image learns nothing at {stride}"
            else:
                assert gradient is None


@pytest.fixture(params=[(name, family) for name in RECIPES for family in FAMILIES], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Recipe, Pair]:
    name, family = request.param
    pair = known_pair(family, family)
    return pair.recipe(name), pair


def test_the_pairs_differ_in_backbone_and_channels() -> None:
    assert PYRAMID_ONLY.keys() == RECIPES.keys()
    assert STUDENT_CHANNELS != TEACHER_CHANNELS
    for family in FAMILIES:
        pair = known_pair(family, family)
        assert pair.student.spec.name != pair.teacher.spec.name
        assert pair.student.spec.pyramid.channels != pair.teacher.spec.pyramid.channels


def test_every_term_is_finite_and_reaches_every_map(case: tuple[Recipe, Pair]) -> None:
    require_useful(*case)


def test_an_image_costs_the_same_in_any_batch(case: tuple[Recipe, Pair]) -> None:
    recipe, pair = case
    together = total(recipe, pair.shown, pair.taught, pair.batch)
    alone = [
        total(recipe, row(pair.shown, i), row(pair.taught, i), pair.batch.image(i)) for i in range(len(pair.batch))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.mean(0), torch.stack(alone).mean((0, 1)), rtol=1e-5, atol=1e-5)


def test_padding_never_teaches(case: tuple[Recipe, Pair]) -> None:
    recipe, pair = case
    values, gradients = [], []
    for shown, taught in (
        (pair.shown, pair.taught),
        (noise_outside(pair.shown, pair.batch, seed=1), noise_outside(pair.taught, pair.batch, seed=2)),
    ):
        value = total(recipe, shown, taught, pair.batch)
        values.append(value.detach())
        wanted = [*leaves_of(shown), *(p for weighted in recipe.terms for p in weighted.term.parameters())]
        gradients.append(torch.autograd.grad(value.sum(), wanted, allow_unused=True))
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    for before, after in zip(*gradients, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def require_paired_by_stride(recipe: Recipe, pair: Pair) -> None:
    """Another map at one stride, of either side, changes that stride's column and no other."""
    before = [weighted.term(pair.shown, pair.taught, pair.batch, CLOCK) for weighted in recipe.terms]
    for stride in {*pair.student.spec.pyramid.strides, *pair.teacher.spec.pyramid.strides}:
        for shown, taught in ((stirred(pair.shown, stride), pair.taught), (pair.shown, stirred(pair.taught, stride))):
            for weighted, old in zip(recipe.terms, before, strict=True):
                new = weighted.term(shown, taught, pair.batch, CLOCK)
                same = (new.values == old.values).all(0)
                assert same.tolist() == [column != stride for column in old.strides], weighted.name


def test_levels_meet_by_stride(case: tuple[Recipe, Pair]) -> None:
    require_paired_by_stride(*case)


def test_a_step_trains_the_student_and_the_aligners_never_the_teacher(case: tuple[Recipe, Pair]) -> None:
    recipe, pair = case
    student = tiny_student(pair.student.spec.family)
    step = DistillationStep(student, pair.teacher, recipe).train()
    before = pair.teacher.digest()
    owned = {id(p) for p in student.parameters()} | {id(p) for w in recipe.terms for p in w.term.parameters()}
    assert {id(p) for p in step.parameters()} == owned
    report = step(pair.batch, CLOCK)
    assert report.total.isfinite()
    assert list(report.parts) == ["task", *(weighted.name for weighted in recipe.terms)]
    (report.total - report.total.detach()).backward()  # the same gradient, the value aside
    assert all(p.grad is not None and p.grad.isfinite().all() for p in step.parameters() if p.requires_grad)
    aligners = [p for weighted in recipe.terms for p in weighted.term.parameters()]
    assert aligners
    # hint standardises after the aligner, so its bias moves nothing.
    assert all(p.grad.abs().sum() > 0 for p in aligners if p.ndim > 1)
    assert not any(p.requires_grad or p.grad is not None for p in pair.teacher._detector.parameters())
    assert pair.teacher.digest() == before
    assert not pair.teacher._detector.training


def test_each_term_alone_reaches_the_students_weights(case: tuple[Recipe, Pair]) -> None:
    recipe, pair = case
    seen = pair.student(pair.batch, recipe.student_needs(CLEAN))
    taught = pair.teacher.observe(pair.batch, recipe.teacher_needs(CLEAN))
    assert seen.task_loss is None
    assert not any(level.requires_grad for level in leaves_of(taught))
    first = next(p for name, p in pair.student.named_parameters() if ".body." in name)
    for weighted in recipe.terms:
        cost = weighted.term(seen, taught, pair.batch, CLOCK).values.sum()
        (gradient,) = torch.autograd.grad(cost, [first], retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("student", "teacher"), CROSS)
def test_pyramid_recipes_work_across_families(name: str, student: str, teacher: str) -> None:
    pair = known_pair(student, teacher)
    recipe = pair.recipe(PYRAMID_ONLY[name])
    assert recipe.student_needs(CLEAN) == {Need.PYRAMID}
    require_useful(recipe, pair)


@pytest.mark.parametrize("name", RECIPES)
def test_only_shared_strides_are_paired(name: str) -> None:
    """The teacher is finer on one side, coarser on the other, and its grids do not divide: pairing is by stride."""
    student = tiny_student("fcos", strides=(8, 16, 32, 64)).eval()
    teacher = tiny_teacher("faster_rcnn", strides=(4, 8, 16))
    pair = pair_of(student, teacher, scene_batch(sizes=((70, 101), (50, 80), (33, 20)), grid=(70, 101)))
    require_useful(pair.recipe(PYRAMID_ONLY[name]), pair)
    require_paired_by_stride(pair.recipe(PYRAMID_ONLY[name]), pair)
    note = pairing_note(student.spec, teacher.spec)
    assert note == "levels paired by stride: 8, 16; not paired: student: 32, 64; teacher: 4"
    assert pairing_note(student.spec, student.spec) == "levels paired by stride: 8, 16, 32, 64; none left over"


@pytest.mark.parametrize("name", RECIPES)
def test_no_shared_stride_is_refused_with_the_remedy(name: str) -> None:
    student, teacher = tiny_student("fcos", strides=(16, 32)), tiny_teacher("retinanet", strides=(4, 8))
    with pytest.raises(CapabilityError) as caught:
        build_recipe(PYRAMID_ONLY[name], student.spec, teacher.spec)
    assert str(caught.value) == (
        "Student and teacher must share at least one stride, got [16, 32] (fcos/test_resnet) and [4, 8] "
        "(retinanet/test_efficientnet). Build the student with the teacher's strides, for example "
        "student.strides=[4, 8]."
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
            "Set class_gain to 0 to imitate features only."
        )
        require_useful(
            build_recipe(FRSSettings(class_gain=0), student.spec, teacher.spec),
            pair_of(student, teacher, scene_batch()),
        )


@pytest.mark.parametrize(
    ("student", "teacher", "what"),
    [
        ("fcos", "retinanet", "anchors a cell on both sides, got 1 (fcos/test_resnet) and 3"),
        ("retinanet", "fcos", "anchors a cell on both sides, got 3 (retinanet/test_resnet) and 1"),
        ("fcos", "faster_rcnn", "kind on both sides, got sigmoid classes (fcos/test_resnet) and RPN objectness"),
        ("faster_rcnn", "retinanet", "kind on both sides, got RPN objectness (faster_rcnn/test_resnet) and sigmoid"),
    ],
)
def test_frs_refuses_other_layouts_and_names_the_way_out(student: str, teacher: str, what: str) -> None:
    with pytest.raises(CapabilityError) as caught:
        build_recipe("frs", student_of(student).spec, teacher_of(teacher).spec)
    assert f"must have the same {what}" in str(caught.value)
    assert str(caught.value).endswith("Set class_gain to 0 to imitate features only.")


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_frs_refuses_a_side_without_class_logits(side: str) -> None:
    specs = {"student": student_of("fcos").spec, "teacher": teacher_of("fcos").spec}
    specs[side] = replace(specs[side], class_logits=None)
    with pytest.raises(CapabilityError, match=rf"from both detectors, got none from {specs[side].name}\. Set class"):
        build_recipe("frs", specs["student"], specs["teacher"])


@pytest.mark.parametrize("name", RECIPES)
def test_the_identity_aligner_refuses_other_channels(name: str) -> None:
    student = student_of("retinanet").spec
    with pytest.raises(CapabilityError) as caught:
        build_recipe(replace(PYRAMID_ONLY[name], aligner="identity"), student, teacher_of("retinanet").spec)
    assert str(caught.value) == (
        f"The identity aligner must get equal channels on both sides, got {STUDENT_CHANNELS} (student) and "
        f"{TEACHER_CHANNELS} (teacher). Choose a convolution as aligner (kernel 1 or 3)."
    )
    build_recipe(replace(PYRAMID_ONLY[name], aligner="identity"), student, student)
