"""Student and teacher that see an image at sizes of their own: the teacher's maps and twins in the student's frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from detdistill.errors import CapabilityError
from detdistill.types import Batch, Observation, sent

Size = tuple[int, int]


def whole(ours: int, theirs: int, factor: float) -> bool:
    """Whether one side of an image is `factor` times as long for the teacher, up to the rounding of both resizes.

    Args:
        ours: pixels of the side for the student.
        theirs: for the teacher.
        factor: a power of two.
    """
    return abs(theirs - factor * ours) <= max(1.0, factor)


def in_students_frame(theirs: Observation, ours: Observation, batch: Batch, *, factor: float) -> Observation:
    """What the teacher saw at its own size, cell by cell beside what the student saw.

    A level that the student has too is brought onto the student's grid. Where an image is `factor` times as large for
    the teacher, the cells of both are the same share of it and no value changes: the grids differ in their padding
    alone. Else the values at the centres of the student's cells are interpolated between the cells inside the image.

    Args:
        theirs: strides in the student's pixels, as `FrozenTeacher` gives them. Constant.
        ours: of the same images.
        batch: with the teacher's view; see `Batch.teacher`.
        factor: the teacher's strides in its own pixels ÷ those in the student's.

    Returns:
        The observation, boxes of its queries in the student's pixels; levels that the student lacks, and losses, are
        as before.
    """
    grids = {
        stride: (level.shape[-2], level.shape[-1])
        for stride, level in zip(ours.maps.strides, ours.maps.levels, strict=True)
    }
    places: dict[tuple[int, tuple[int, ...]], tuple[_Places, _Places]] = {}

    def brought(maps: Any) -> Any:
        levels = []
        for stride, level in zip(maps.strides, maps.levels, strict=True):
            if stride in grids:
                key = stride, tuple(level.shape[-2:])
                if key not in places:
                    places[key] = _both_places(batch, stride, grids[stride], key[1], factor)
                down, across = places[key]
                levels.append(across.taken(down.taken(level, -2), -1))
            else:
                levels.append(level)
        return replace(maps, levels=tuple(levels))

    shown = {name: getattr(theirs, name) for name in ("pyramid", "class_logits", "box_distributions", "boxes")}
    seen = replace(theirs, **{name: brought(maps) for name, maps in shown.items() if maps is not None})
    if theirs.queries is None:
        return seen
    sides = zip(batch.sizes, batch.for_teacher.sizes, strict=True)
    shares = [[width / wide, height / high] * 2 for (height, width), (high, wide) in sides]
    scale = sent(torch.tensor(shares)[:, None], theirs.queries.boxes.device)
    return replace(seen, queries=replace(theirs.queries, boxes=theirs.queries.boxes * scale))


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the student's cells lie along one axis of the teacher's grid.

    Attributes:
        at: in cells of the teacher, (b, n).
        same: every cell that counts is the teacher's of that number, on as many cells.
        whole: every place is a cell's own.
    """

    at: Float[Tensor, "b n"]
    same: bool
    whole: bool

    def taken(self, maps: Tensor, dim: int) -> Tensor:
        """The maps at those places along `dim`; linear in between."""
        if self.same:
            return maps
        low = self.at.long()
        near = maps.gather(dim, self._over(low, maps, dim))
        if self.whole:
            return near
        far = maps.gather(dim, self._over((low + 1).clamp(max=maps.shape[dim] - 1), maps, dim))
        return near + (far - near) * self._over(self.at - low, near, dim)

    def _over(self, values: Tensor, maps: Tensor, dim: int) -> Tensor:
        shape = list(maps.shape)
        shape[dim] = values.shape[1]
        flat = [len(values)] + [1] * (maps.dim() - 1)
        flat[dim] = values.shape[1]
        return values.reshape(flat).expand(shape)


def _both_places(
    batch: Batch, stride: int, ours: tuple[int, int], theirs: tuple[int, ...], factor: float
) -> tuple[_Places, _Places]:
    device = batch.images.device
    down, across = (
        _places(
            [size[axis] for size in batch.sizes],
            [size[axis] for size in batch.for_teacher.sizes],
            stride,
            cells=(ours[axis], theirs[axis]),
            factor=factor,
            device=device,
        )
        for axis in (0, 1)
    )
    return down, across


def _places(
    ours: Sequence[int],
    theirs: Sequence[int],
    stride: int,
    *,
    cells: tuple[int, int],
    factor: float,
    device: torch.device,
) -> _Places:
    steps, last, same, exact = [], [], cells[0] == cells[1], True
    for mine, its in zip(ours, theirs, strict=True):
        fits = whole(mine, its, factor)
        steps.append(1.0 if fits else its / (factor * mine))
        # The last cell inside the image: the padding beyond it says nothing.
        last.append(min(math.ceil(its / (factor * stride)), cells[1]) - 1)
        exact &= fits
        same &= fits and last[-1] + 1 >= math.ceil(mine / stride)
    centres = torch.arange(cells[0]) + 0.5
    at = centres * torch.tensor(steps)[:, None] - 0.5
    at = torch.minimum(at.clamp(min=0.0), torch.tensor(last, dtype=torch.float32)[:, None])
    return _Places(at if same else sent(at, device), same=same, whole=exact)


def enlarged(batch: Batch, factor: float) -> Batch:
    """The sizes and boxes of a batch in pixels of which `factor` lie along one of its own; its pixels stay."""
    if factor == 1.0:
        return batch
    return replace(
        batch,
        sizes=tuple((math.ceil(height * factor), math.ceil(width * factor)) for height, width in batch.sizes),
        targets=tuple(replace(target, boxes=target.boxes * factor) for target in batch.targets),
    )


def resized(pixels: Float[Tensor, "3 h w"], size: Size) -> Float[Tensor, "3 _h _w"]:
    """An image or a change to one at another height and width, bilinear with antialiasing."""
    if pixels.shape[1:] == size:
        return pixels
    return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def with_students_twins(batch: Batch) -> Batch:
    """The batch with the twins of its teacher's view at the student's size too.

    What makes a twin of its image is brought to the student's size and added to the student's image, as the cache
    does between stored and seen images.

    Raises:
        CapabilityError: there is no view of the teacher's.
    """
    theirs = batch.teacher
    if theirs is None:
        raise CapabilityError(
            "The batch must hold its images as the teacher sees them, got none. Give teacher_image where it is made."
        )
    made = dict(batch.twins)
    for name, twins in theirs.twins.items():
        if name in made:
            continue
        made[name] = batch.images.clone()
        for index, ((height, width), (rows, columns)) in enumerate(zip(batch.sizes, theirs.sizes, strict=True)):
            change = (twins[index] - theirs.images[index])[:, :rows, :columns]
            made[name][index, :, :height, :width] += resized(change, (height, width))
        made[name].clamp_(0.0, 1.0)
    return replace(batch, twins=made)
