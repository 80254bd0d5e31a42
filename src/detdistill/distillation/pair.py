"""What a term sees: student and teacher side by side, on one grid, each thing computed once a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from detdistill.errors import CapabilityError, ShapeError
from detdistill.types import Batch, ClassKind, Need, Observation, Pyramid, sent

Select = Callable[[Observation], Pyramid]
# (the student's map, stride) → the map in the teacher's channels; usually a module.
Align = Callable[[Tensor, int], Tensor]
# The teacher's heads, which read maps of the student's: `FrozenTeacher.observe_towers`.
Heads = Callable[..., Observation]
T = TypeVar("T")


def pyramid(seen: Observation) -> Pyramid:
    """The feature maps at the neck's output."""
    return seen.maps


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Level:
    """One level of both sides on the teacher's grid, in float32. A pair has one and the same for all who ask.

    Attributes:
        stride: nominal, in pixels.
        student: gradients flow. Its channels are the teacher's if it was aligned; its padding says nothing.
        teacher: constant.
        inside: cells inside the image.
        padded: whether there are any others.
        standardized: whether both maps are on one scale; see `standardize`.
    """

    stride: int
    student: Float[Tensor, "b _c h w"]
    teacher: Float[Tensor, "b c h w"]
    inside: Bool[Tensor, "b 1 h w"]
    padded: bool
    standardized: bool = False

    @property
    def mask(self) -> Bool[Tensor, "b 1 h w"] | None:
        """The cells inside the image, for what need not mask where there are no others: None then."""
        return self.inside if self.padded else None

    def without_padding(self, maps: Float[Tensor, "b _k h w"]) -> Float[Tensor, "b _k h w"]:
        """The maps with zeros in the padding."""
        return maps.masked_fill(~self.inside, 0.0) if self.padded else maps

    def cells(self) -> Float[Tensor, " b"]:
        """How many cells are inside each image."""
        if not self.padded:
            return self.teacher.new_full(self.teacher.shape[:1], self.inside[0].numel())
        return self.inside.sum(dim=(1, 2, 3)).float()


@final
class Pair:
    """What both detectors showed of one batch on one view, for all terms of one step.

    Whatever is asked for twice is computed once: levels, masks, and under `once` anything else. A pair lives no longer
    than its step and is no module, so nothing of it is ever saved, copied or sent.

    Args:
        student: gradients flow. `whole` is it, `student` has class logits of what the teacher knows alone.
        teacher: constant.
        batch: geometry, targets and seeds, as that view shows it.
        heads: the teacher's, for terms that let them read the student's maps.
    """

    def __init__(self, student: Observation, teacher: Observation, batch: Batch, *, heads: Heads | None = None) -> None:
        self.whole = student
        self.student = in_known_classes(student, teacher)
        self.teacher = teacher
        self.batch = batch
        self._heads = heads
        self._known: dict[Hashable, Any] = {}
        self._grad = torch.is_grad_enabled()
        self.looked: dict[tuple[str, int], Tensor] | None = None

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, computed when the key is first asked for, with gradients if the pair was made with them.

        Args:
            key: names it among everything that the terms of a recipe ask for: begin with the function.
            make: must not give the pair back, which would then outlive its step.
        """
        if key not in self._known:
            with torch.set_grad_enabled(self._grad):
                self._known[key] = make()
        found: T = self._known[key]
        return found

    def look(self, what: str, stride: int, mask: Tensor) -> None:
        """Says how much a term looks at each cell of a level; it is kept where somebody watches: `looked` is no None.

        Args:
            what: the mask is, in words.
            mask: ≥ 0, over any channels; (b, _k, h, w).
        """
        if self.looked is not None:
            self.looked[what, stride] = mask.detach().float().amax(dim=1)

    def level(
        self, stride: int, *, select: Select = pyramid, align: Align | None = None, standardized: bool = False
    ) -> Level:
        """One level of both sides.

        Args:
            stride: of the level on both sides: levels are paired by stride, never by index.
            select: which maps.
            align: takes the student's map to the teacher's channels, on the student's grid, its padding zeroed before;
                None leaves the channels as they are. The map is then resized bilinearly where the grids differ.
            standardized: whether both maps are brought to one scale at the end, see `standardize`; each is once.

        Raises:
            ShapeError: a side lacks the level, or the maps do not fit after alignment.
        """
        if standardized:
            return self.once((standardize, select, align, stride), lambda: self._standardized(stride, select, align))
        return self.once((select, align, stride), lambda: self._level(stride, select, align))

    def with_student(self, student: Observation) -> Pair:
        """The pair with another student's observation, nothing of it computed yet."""
        return Pair(student, self.teacher, self.batch, heads=self._heads)

    def crossed(self, classes: Pyramid, boxes: Pyramid, needs: Set[Need], *, after: int) -> Observation:
        """What the teacher's heads see whose towers go on from the student's maps; see `Detector.observe_towers`.

        Raises:
            CapabilityError: the pair was made without the teacher's heads.
        """
        if self._heads is None:
            raise CapabilityError(
                "A pair for terms that read the teacher's heads must be made with them, got none. Give heads=..."
            )
        return self._heads(classes, boxes, self.batch, needs, after=after)

    def inside(self, stride: int, grid: tuple[int, int]) -> Bool[Tensor, "b 1 h w"]:
        """The cells of a level of this grid that lie inside their image."""
        device, sizes = self.batch.images.device, self.batch.sizes
        if not self._padded(stride, grid):
            return _everywhere(len(sizes), grid, device)
        return self.once((inside_cells, stride, grid), lambda: inside_cells(sizes, stride, grid=grid, device=device))

    def _level(self, stride: int, select: Select, align: Align | None) -> Level:
        theirs = level_at(select(self.teacher), stride).detach()
        grid = grid_of(theirs)
        ours = self.students(stride, select=select, align=align, grid=grid)
        if align is not None and ours.shape != theirs.shape:
            raise ShapeError(
                f"The aligned student map of stride {stride} must be {tuple(theirs.shape)} as the teacher's, got "
                f"{tuple(ours.shape)}. Build the recipe for the specs of these two detectors."
            )
        return Level(stride, ours.float(), theirs.float(), self.inside(stride, grid), self._padded(stride, grid))

    def students(self, stride: int, *, select: Select, align: Align | None, grid: tuple[int, int]) -> Tensor:
        """The student's map of a level, aligned and on a grid, in its own precision; see `level`."""
        ours = level_at(select(self.student), stride)
        if align is not None or grid_of(ours) != grid:
            # Lest padding be carried into the image by a kernel or a resize.
            ours = self.once((select, stride), partial(self._zeroed, ours, stride))
        if align is not None:
            ours = align(ours, stride)
        return ours if grid_of(ours) == grid else F.interpolate(ours, grid, mode="bilinear", align_corners=False)

    def _standardized(self, stride: int, select: Select, align: Align | None) -> Level:
        level = self.level(stride, select=select, align=align)
        scaled = partial(standardize, inside=level.inside, padded=level.padded)
        with torch.autocast(level.teacher.device.type, enabled=False):
            theirs = self.once((standardize, select, stride), lambda: scaled(level.teacher))
            ours = scaled(level.student)
        return replace(level, student=ours, teacher=theirs, standardized=True)

    def _zeroed(self, maps: Tensor, stride: int) -> Tensor:
        grid = grid_of(maps)
        return torch.where(self.inside(stride, grid), maps, 0.0) if self._padded(stride, grid) else maps

    def _padded(self, stride: int, grid: tuple[int, int]) -> bool:
        rows, columns = stride * (grid[0] - 1), stride * (grid[1] - 1)
        return any(height <= rows or width <= columns for height, width in self.batch.sizes)


def in_known_classes(student: Observation, teacher: Observation) -> Observation:
    """The student's observation with the class logits, of cells and of queries, that the teacher has."""
    logits, queries = (student.class_logits, teacher.class_logits), (student.queries, teacher.queries)
    if logits[0] is not None and logits[1] is not None and (labels := logits[1].labels) is not None:
        levels = tuple(torch.stack([level[:, :, label] for label in labels], dim=2) for level in logits[0].levels)
        student = replace(student, class_logits=replace(logits[0], levels=levels, labels=labels))
    if queries[0] is not None and queries[1] is not None and (labels := queries[1].labels) is not None:
        columns = queries[0].logits.unbind(2)
        kept = [columns[label] for label in labels]
        if queries[0].kind is ClassKind.SOFTMAX:
            # What the teacher does not know is to it no object.
            others = [one for label, one in enumerate(columns) if label not in labels]
            kept.append(torch.stack(others).logsumexp(0))
        student = replace(student, queries=replace(queries[0], logits=torch.stack(kept, dim=2), labels=labels))
    return student


def grid_of(maps: Tensor) -> tuple[int, int]:
    """Rows and columns of cells."""
    return maps.shape[-2], maps.shape[-1]


def level_at(maps: Pyramid, stride: int) -> Tensor:
    """The level of a stride.

    Raises:
        ShapeError: there is none.
    """
    if stride not in maps.strides:
        raise ShapeError(
            f"The observation must have a level of stride {stride}, got {list(maps.strides)}. "
            "Build the recipe for the specs of these two detectors."
        )
    return maps.levels[maps.strides.index(stride)]


def standardize(
    maps: Float[Tensor, "b c h w"],
    inside: Bool[Tensor, "b 1 h w"],
    *,
    over: tuple[int, ...] = (2, 3),
    epsilon: float = 1e-5,
    padded: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Each channel of each image to zero mean and unit variance over its inside cells, 0 in the padding.

    Args:
        maps: gradients flow, through the statistics too.
        inside: cells inside the image.
        over: axes that share a mean and a variance; (0, 2, 3) is over the batch.
        epsilon: added to the variance before the root; makes constant channels and single cells 0.
        padded: whether there are other cells.

    Source:
        The normalisation of PKD (Cao et al., NeurIPS 2022), here per image and channel.

    Differs from the source:
        Statistics are each image's own by default and leave padding out; the source takes them over the batch.
    """
    if padded:
        cells: Tensor | int = inside.sum(dim=over, keepdim=True).clamp(min=1)
        centred = (maps - (maps * inside).sum(dim=over, keepdim=True) / cells) * inside
    else:
        cells = max(1, math.prod(inside.shape[axis] for axis in over))
        centred = maps - maps.sum(dim=over, keepdim=True) / cells
    variance = centred.square().sum(dim=over, keepdim=True) / cells
    return centred * (variance + epsilon).rsqrt()


@lru_cache(maxsize=64)
def _everywhere(images: int, grid: tuple[int, int], device: torch.device) -> Bool[Tensor, "b 1 h w"]:
    """The cells of images that fill their grid: the same in every step."""
    return torch.ones(images, 1, *grid, dtype=torch.bool, device=device)


def inside_cells(
    sizes: Sequence[tuple[int, int]], stride: int, *, grid: tuple[int, int], device: torch.device
) -> Bool[Tensor, "b 1 h w"]:
    """Which cells of a level lie inside their image rather than in the padding.

    A cell is inside iff ``y · stride < height`` and ``x · stride < width``.

    Args:
        sizes: height and width in pixels of each image inside the padded grid.
        stride: the level's nominal stride in pixels.
        grid: cells of the level, (h, w).
        device: where the mask is made.

    Returns:
        True inside, False in the padding.
    """
    extent = sent(torch.tensor(sizes).reshape(-1, 2), device)
    rows = torch.arange(grid[0], device=device) * stride < extent[:, :1]
    columns = torch.arange(grid[1], device=device) * stride < extent[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]
