"""Pairs of detectors, the teacher with another backbone and other channels, and what both showed of one batch."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import Seen
from detdistill.distillation.view import CLEAN
from detdistill.methods.attack import AdversarialTwins, AttackSettings
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.ikd import ADVERSARIAL
from detdistill.types import Batch, Need
from every_method import CLOCK, TWIN, awake, compared_by, cost_of
from scenes_in_memory import map_levels, scene_batch, tiny_student, tiny_teacher

SHOWN = frozenset({Need.CLASS_LOGITS, Need.BOX_DISTRIBUTIONS, Need.BOXES})
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


@dataclass(frozen=True)
class Couple:
    """A student in eval mode, a teacher, and what both showed on all views; the student's maps are leaves."""

    student: Detector
    teacher: FrozenTeacher
    seen: Seen

    def recipe(self, method: Any) -> Recipe:
        return build_recipe(method, self.student.spec, self.teacher.spec, seed=3)

    def awake_recipe(self, method: Any) -> Recipe:
        return awake(self.recipe(method))

    def shared(self) -> list[int]:
        return [s for s in self.student.spec.pyramid.strides if s in self.teacher.spec.pyramid.strides]


@functools.cache
def student_of(family: str) -> Detector:
    return tiny_student(family).eval()


@functools.cache
def teacher_of(family: str) -> FrozenTeacher:
    return tiny_teacher(family)


@functools.cache
def batch_for(family: str) -> Batch:
    """The batch with the twins that fool the teacher of a family."""
    return with_twins(scene_batch(), teacher_of(family))


def with_twins(batch: Batch, teacher: FrozenTeacher) -> Batch:
    images = AdversarialTwins(AttackSettings(steps=1))(teacher, batch)
    assert not torch.equal(images, batch.images)
    return replace(batch, twins={ADVERSARIAL: images})


def pair_of(
    student: Detector, teacher: FrozenTeacher, batch: Batch, *, taught: frozenset[Need] = SHOWN | LOSSES
) -> Couple:
    """What both showed of a batch with twins; of the clean view the teacher also what `taught` says."""
    students, teachers = {}, {}
    for view in (CLEAN, TWIN):
        with torch.no_grad():
            shown = student(view(batch), SHOWN)
        students[view] = map_levels(shown, lambda level, stride: level.detach().requires_grad_())
        teachers[view] = teacher.observe(view(batch), taught if view == CLEAN else SHOWN)
    return Couple(student, teacher, Seen(batch, students, teachers, heads=teacher.observe_towers))


@functools.cache
def known_pair(student: str, teacher: str) -> Couple:
    return pair_of(student_of(student), teacher_of(teacher), batch_for(teacher))


@functools.cache
def known_recipe(method: str, student: str, teacher: str) -> Recipe:
    """Awake; not to be trained."""
    return known_pair(student, teacher).awake_recipe(method)


def require_useful(recipe: Recipe, pair: Couple, *, sparse: frozenset[str]) -> None:
    """Finite costs on every shared stride, and with them a gradient to every paired map that each term reads.

    Args:
        recipe: its terms, weighed.
        pair: for which it was built.
        sparse: terms that may find no position in an image at a level, but never at a level in all images.
    """
    shared = pair.shared()
    for weighted in recipe.terms:
        cost = cost_of(weighted, pair.seen)
        assert list(cost.strides) == shared
        assert tuple(cost.values.shape) == (len(pair.seen.batch), len(shared))
        assert cost.values.dtype == torch.float32
        assert cost.values.isfinite().all()
        positive = cost.values > 0
        if weighted.name in sparse:
            assert (cost.values >= 0).all()
            assert positive.any(0).all(), f"{weighted.name}: no image costs anything on a level"
        else:
            assert positive.all(), f"{weighted.name}: an image costs nothing on a level"
        read = compared_by(weighted.term, pair.seen.students[weighted.view])
        gradients = torch.autograd.grad(cost.values.sum(), read.levels, allow_unused=True)
        for gradient, stride in zip(gradients, read.strides, strict=True):
            if stride in shared:
                assert gradient.isfinite().all()
                learns = gradient.flatten(1).any(1)
                assert torch.equal(learns, positive[:, shared.index(stride)]), f"{weighted.name}: {stride}"
            else:
                assert gradient is None


def require_paired_by_stride(recipe: Recipe, pair: Couple) -> None:
    """Another map at one stride, of either side, changes that stride's column and no other."""
    before = [weighted.term(pair.seen.pairs()[weighted.view], CLOCK) for weighted in recipe.terms]
    for stride in {*pair.student.spec.pyramid.strides, *pair.teacher.spec.pyramid.strides}:
        for side in ("students", "teachers"):
            for weighted, old in zip(recipe.terms, before, strict=True):
                sides = dict(getattr(pair.seen, side))
                # LD's class scores give the whole image's normaliser, over all of its levels.
                keep = weighted.name.startswith("ld.")
                sides[weighted.view] = _stirred(sides[weighted.view], stride, keep_logits=keep)
                new = weighted.term(replace(pair.seen, **{side: sides}).pairs()[weighted.view], CLOCK)
                same = (new.values == old.values).all(0)
                assert same.tolist() == [column != stride for column in old.strides], weighted.name


def _stirred(seen: Any, stride: int, *, keep_logits: bool) -> Any:
    """The observation with other values on one stride."""

    def change(level: torch.Tensor, own: int) -> torch.Tensor:
        return level.detach().flip(1).roll(1, -1) * 1.3 - 0.7 if own == stride else level

    changed = map_levels(seen, change)
    return replace(changed, class_logits=seen.class_logits) if keep_logits else changed
