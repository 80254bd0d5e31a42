"""A teacher that sees the images at a size of its own: its levels, its maps in the student's frame, its twins."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.detectors.base import BoxLayout, Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.pair import inside_cells
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.sizes import in_students_frame, with_students_twins
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.term import LevelTerm, pairing_note, shared_strides
from detdistill.distillation.view import CLEAN, View
from detdistill.errors import CapabilityError
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.features import cellwise
from detdistill.methods.parts import compare
from detdistill.methods.parts.normalize import plain_sum
from detdistill.types import (
    Batch,
    BoxDistributions,
    ClassKind,
    ClassLogits,
    Clock,
    Detections,
    Need,
    Observation,
    Pyramid,
    TaskLoss,
)
from observations import batch as blank
from observations import spec

CLOCK = Clock(step=0, total_steps=1)
STRIDES = (8, 16)


class Means(Detector):
    """Its pyramid is the mean pixel of every cell, times a number; nothing is left to chance."""

    def __init__(self, *strides: int, factor: float = 1.0) -> None:
        super().__init__()
        self.spec = spec(strides=strides or STRIDES, channels=3)
        self.factor = nn.Parameter(torch.tensor(factor))
        self.shown: list[Batch] = []

    def extract(self, batch: Batch) -> Pyramid:
        strides = self.spec.pyramid.strides
        levels = (F.avg_pool2d(batch.images, stride, ceil_mode=True) for stride in strides)
        return Pyramid(tuple(self.factor * level for level in levels), strides)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        self.shown.append(batch)
        loss = TaskLoss(pyramid.levels[0].mean()) if Need.TASK_LOSS in needs else None
        return Observation(pyramid, task_loss=loss)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        del batch
        return ()


def painted(sizes: list[tuple[int, int]], *, grid: tuple[int, int], seed: int = 0) -> Batch:
    """Whole pixel values, so that means are the same in any order; padding holds them too, which must not matter."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(sizes), 3, *grid), generator=generator).float()
    return replace(blank(sizes, grid=grid), images=pixels)


def doubled(batch: Batch, *, grid: tuple[int, int], times: int = 2) -> Batch:
    """The batch with a teacher's view: every pixel `times` as wide and high, padded to another grid with noise."""
    theirs = painted([(h * times, w * times) for h, w in batch.sizes], grid=grid, seed=9)
    for index, (height, width) in enumerate(batch.sizes):
        large = batch.images[index, :, :height, :width].repeat_interleave(times, 1).repeat_interleave(times, 2)
        theirs.images[index, :, : height * times, : width * times] = large
    return replace(batch, teacher=theirs)


def difference(*strides: int) -> Recipe:
    term = LevelTerm(cellwise(compare.squared, plain_sum), strides=strides)
    return Recipe("difference", (WeightedTerm("difference", term, gain=1.0),))


def test_a_twice_as_large_teacher_is_named_in_the_students_pixels() -> None:
    own = replace(
        spec(family="gfl", strides=(8, 16, 32)), box_distributions=BoxLayout((8, 16, 32), 1, 5, anchor_scale=3.0)
    )
    twice = own.at_ratio(2.0)
    assert twice.pyramid.strides == (4, 8, 16)
    assert twice.class_logits is not None
    assert twice.box_distributions is not None
    assert twice.class_logits.strides == twice.box_distributions.strides == (4, 8, 16)
    assert twice.box_distributions.bin_width == 1.0
    assert own.at_ratio(1.0) is own
    assert own.at_ratio(0.5).pyramid.strides == (16, 32, 64)
    between = own.at_ratio(1.6)
    assert between.pyramid.strides == (4, 8, 16)
    assert between.box_distributions is not None
    assert between.box_distributions.bin_width == pytest.approx(2 / 1.6)
    assert own.at_ratio(1.3).pyramid.strides == (8, 16, 32)
    assert shared_strides(own, twice) == (8, 16)
    with pytest.raises(CapabilityError) as refused:
        own.at_ratio(16.0)
    assert str(refused.value) == (
        "The strides of a teacher that sees images 16 times the student's size must be multiples of 16, got "
        "[8, 16, 32] (gfl/made-up). Leave teacher.image out, or set it to a size nearer to data.image."
    )


def test_the_note_names_both_sides_strides() -> None:
    ours = spec(strides=(8, 16, 32))
    assert pairing_note(ours, ours.at_ratio(2.0)) == (
        "levels paired by the share of the image that a cell covers, strides of student and teacher: 8 and 16, "
        "16 and 32; not paired: student: 32; teacher: 8; student.strides=[4,8,16] would meet all of the teacher's"
    )
    assert pairing_note(spec(strides=(4, 8, 16)), ours.at_ratio(2.0)) == (
        "levels paired by the share of the image that a cell covers, strides of student and teacher: 4 and 8, "
        "8 and 16, 16 and 32; none left over"
    )
    assert "(the teacher's maps are resized, as its images are 1.25 times as large)" in pairing_note(
        ours, ours.at_ratio(1.25)
    )
    with pytest.raises(CapabilityError) as refused:
        shared_strides(spec(strides=(32,)), spec(strides=(8,)).at_ratio(2.0))
    assert str(refused.value) == (
        "Student and teacher must share at least one stride, got [32] (fcos/made-up) and [4] (fcos/made-up, in the "
        "student's pixels). Leave teacher.image out, or set it to a size nearer to data.image."
    )


@pytest.mark.parametrize("grid", [(160, 192), (128, 160), (144, 176)], ids=["double", "tight", "between"])
def test_a_pooling_teacher_at_twice_the_size_sees_what_its_student_sees(grid: tuple[int, int]) -> None:
    """Every cell of a doubled image holds the same mean, on whatever grid its padding lies: the cost is exactly 0."""
    batch = doubled(painted([(64, 80), (40, 75), (61, 33)], grid=(80, 96)), grid=grid)
    student, teacher = Means(8, 16), FrozenTeacher(Means(16, 32), ratio=2.0)
    step = DistillationStep(student, teacher, difference(8, 16))
    seen = step.see(batch, step.recipe)
    for ours, theirs, stride in zip(
        seen.students[CLEAN].pyramid.levels, seen.teachers[CLEAN].pyramid.levels, STRIDES, strict=True
    ):
        assert ours.shape == theirs.shape
        whole = inside_cells([(h - stride + 1, w - stride + 1) for h, w in batch.sizes], stride,
                             grid=(ours.shape[2], ours.shape[3]), device=ours.device)  # fmt: skip
        assert torch.equal(ours.detach() * whole, theirs * whole)
    even = doubled(painted([(64, 80), (32, 48)], grid=(80, 96)), grid=grid)
    report = step(even, CLOCK)
    assert float(report.parts["difference"]) == 0.0
    other = replace(even, teacher=replace(even.for_teacher, images=even.for_teacher.images.flip(-1)))
    assert float(step(other, CLOCK).parts["difference"]) > 0


def test_a_smaller_teacher_meets_its_student_too() -> None:
    large = doubled(painted([(64, 80), (32, 48)], grid=(64, 96)), grid=(128, 192))
    batch = replace(large.for_teacher, teacher=replace(large, teacher=None))
    step = DistillationStep(Means(16, 32), FrozenTeacher(Means(8, 16), ratio=0.5), difference(16, 32))
    assert step.teacher.spec.pyramid.strides == (16, 32)
    assert float(step(batch, CLOCK).parts["difference"]) == 0.0


def test_a_cell_that_rounding_took_from_the_teacher_is_its_neighbour() -> None:
    """65 rows and 128: nine cells of the student's, eight of the teacher's, and its padding says nothing."""
    batch = replace(blank([(65, 40)], grid=(96, 64)), teacher=blank([(128, 80)], grid=(160, 96)))
    maps = torch.arange(10.0)[:, None].expand(1, 1, 10, 6).clone()
    maps[:, :, 8:], maps[..., 5:] = torch.nan, torch.nan
    ours = Observation(Pyramid((torch.zeros(1, 1, 12, 8),), (8,)))
    framed = in_students_frame(Observation(Pyramid((maps,), (8,))), ours, batch, factor=2.0)
    assert framed.pyramid.levels[0][0, 0, :9, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert framed.pyramid.levels[0].isfinite().all()


@pytest.mark.parametrize("ratio", [1.25, 1.5, 3.0, 0.8])
def test_other_ratios_are_interpolated_at_the_centres_of_the_students_cells(ratio: float) -> None:
    """Maps that hold where their cells lie, as a share of the image, must hold the same after it."""
    stride, size, grid = 8, (80, 160), (128, 192)
    theirs_size = tuple(round(side * ratio) for side in size)
    factor = spec().at_ratio(ratio).factor
    own = stride * factor
    cells = [-(-side // int(own)) + 2 for side in theirs_size]
    ramps = torch.meshgrid(
        *((torch.arange(n) + 0.5) * own / side for n, side in zip(cells, theirs_size, strict=True)), indexing="ij"
    )
    maps = torch.stack(ramps)[None]
    wanted = torch.meshgrid(
        *((torch.arange(side // stride) + 0.5) * stride / side for side in grid), indexing="ij"
    )  # shares of the padded grid
    shares = torch.stack([ramp * g / s for ramp, g, s in zip(wanted, grid, size, strict=True)])
    batch = replace(blank([size], grid=grid), teacher=blank([theirs_size], grid=(400, 500)))  # type: ignore[list-item]
    logits = ClassLogits((maps[:, None].repeat(1, 1, 2, 1, 1)[:, :, :3],), (stride,), ClassKind.SIGMOID)
    boxes = BoxDistributions((maps[:, None, :1].repeat(1, 1, 4, 1, 1)[:, :, :, None],), (stride,))
    theirs = Observation(Pyramid((maps, maps), (stride, 64)), logits, boxes)
    ours = Observation(Pyramid((torch.zeros(1, 2, 16, 24),), (stride,)))
    framed = in_students_frame(theirs, ours, batch, factor=factor)
    found = framed.pyramid.levels[0][0]
    inner = (slice(1, 9), slice(1, 19))  # the centres of border cells may lie beyond the teacher's last centre
    for axis in (0, 1):
        torch.testing.assert_close(found[axis][inner], shares[axis][inner])
    assert framed.pyramid.levels[1] is maps
    assert framed.class_logits is not None
    assert torch.equal(framed.class_logits.levels[0][0, 0, :2], found)
    assert framed.box_distributions is not None
    assert torch.equal(framed.box_distributions.levels[0][0, 0, 3, 0], found[0])


def test_a_size_of_its_own_that_is_the_students_changes_no_bit() -> None:
    batch = painted([(64, 80), (40, 75)], grid=(64, 96))
    step = DistillationStep(Means(8, 16), FrozenTeacher(Means(8, 16, factor=1.5)), difference(8, 16))
    plain, own = step(batch, CLOCK), step(replace(batch, teacher=batch), CLOCK)
    assert torch.equal(plain.total, own.total)
    assert plain.total.detach() > 0


def test_a_teacher_of_another_size_must_be_given_its_view() -> None:
    step = DistillationStep(Means(8), FrozenTeacher(Means(16), ratio=2.0), difference(8))
    with pytest.raises(CapabilityError) as refused:
        step(painted([(64, 80)], grid=(64, 96)), CLOCK)
    assert str(refused.value) == (
        "The batch must hold the images as fcos/made-up sees them, 2 times the student's size, got the student's "
        "alone. Give teacher_image where the batches are made."
    )


def test_a_batch_takes_its_teachers_view_along() -> None:
    batch = doubled(painted([(64, 80), (40, 75)], grid=(64, 96)), grid=(128, 192))
    second = batch.image(1).to("cpu")
    assert second.for_teacher.sizes == ((80, 150),)
    assert torch.equal(second.for_teacher.images, batch.for_teacher.images[1:])
    assert batch.for_teacher.for_teacher is batch.for_teacher


def test_twins_are_made_at_the_teachers_size_and_brought_to_the_students() -> None:
    """A change that is one value over the image stays that value; the teacher looks at its own twin."""
    batch = doubled(painted([(64, 80), (40, 75)], grid=(64, 96)), grid=(128, 192))
    batch = replace(
        batch, images=batch.images / 510, teacher=replace(batch.for_teacher, images=batch.for_teacher.images / 510)
    )

    def brighter(teacher: FrozenTeacher, given: Batch) -> Tensor:
        assert given.sizes == ((128, 160), (80, 150))
        return given.images + 0.25 * inside_cells(given.sizes, 1, grid=(128, 192), device=given.images.device)

    term = LevelTerm(cellwise(compare.squared, plain_sum), strides=STRIDES)
    terms = (WeightedTerm("difference", term, gain=1.0, view=View("bright")),)
    recipe = Recipe("twins", terms, twins={"bright": brighter})
    step = DistillationStep(Means(8, 16), FrozenTeacher(Means(16, 32), ratio=2.0), recipe)
    seen = step.see(batch, recipe)
    inside = inside_cells(batch.sizes, 1, grid=(64, 96), device=batch.images.device)
    torch.testing.assert_close(seen.batch.twins["bright"], batch.images + 0.25 * inside)
    shown = step.teacher._detector.shown[-1]  # type: ignore[operator, union-attr]
    assert torch.equal(shown.images, seen.batch.for_teacher.twins["bright"])
    assert with_students_twins(seen.batch).twins["bright"] is seen.batch.twins["bright"]


def test_box_bins_of_other_distances_are_refused() -> None:
    """A bin is a stride wide; a teacher 1.5 times as large cannot be compared bin by bin, one twice as large can."""
    own = spec(family="gfl", strides=(8, 16, 32))
    assert build_recipe("ld", own, own.at_ratio(2.0)).terms
    with pytest.raises(CapabilityError) as refused:
        build_recipe("ld", own, own.at_ratio(1.5))
    assert str(refused.value) == (
        "The box distributions for the recipe 'ld' must have the same width of a bin in strides on both sides, got 1 "
        "(gfl/made-up) and 1.33 (gfl/made-up). Leave teacher.image out, or make it twice data.image."
    )
