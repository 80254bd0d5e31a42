"""What the recipe `attention` compares: four residuals of one pyramid level, and the term that takes their norms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detdistill.distillation.term import Term, levels_at
from detdistill.methods.parts.align import Align
from detdistill.methods.parts.attention import channel_attention, inside_mean, spatial_attention
from detdistill.methods.parts.focus import inside_cells
from detdistill.methods.parts.non_local import NonLocalBlock
from detdistill.types import Batch, Clock, Cost, Knowledge, Need, Observation

BLOCK_CHANNELS = (64, 64, 128, 128, 128)
"""Inner channels of the non-local blocks by position in the student's pyramid; the last one holds for all further."""

BLOCK_POOLS = (8, 4, 2, 2, 2)
"""Kernel in cells of their max-pools, likewise."""


@dataclass(frozen=True, slots=True)
class PairedLevel:
    """One level of both pyramids on the teacher's grid.

    Attributes:
        index: position among the paired levels.
        stride: in pixels.
        student: raw map, resized bilinearly where the grids differ; gradients flow.
        teacher: constant.
        inside: cells inside the image.
        padded: whether there are any others.
    """

    index: int
    stride: int
    student: Float[Tensor, "b c_student h w"]
    teacher: Float[Tensor, "b c_teacher h w"]
    inside: Bool[Tensor, "b 1 h w"]
    padded: bool

    @property
    def key(self) -> str:
        """What the modules of this level are stored under."""
        return stride_key(self.stride)

    def without_padding(self, maps: Tensor) -> Tensor:
        """The maps with zeros in the padding."""
        return maps.masked_fill(~self.inside, 0.0) if self.padded else maps


def stride_key(stride: int) -> str:
    """What the modules of a stride are stored under."""
    return f"stride_{stride}"


class Residual(nn.Module, ABC):
    """How far the student is from the teacher on one level. Owns what has to be trained for that."""

    @abstractmethod
    def forward(self, level: PairedLevel) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The Euclidean norm of every image's difference, and of how many numbers it is the norm."""


class NormTerm(Term):
    """Norms of a residual, one per image and level.

    Args:
        residual: what is compared.
        strides: the levels to compare.
        coupled: one norm over the whole batch, given to every image, instead of each image's own.
        normalize: divide by the root of how many numbers the norm is of.
    """

    def __init__(self, residual: Residual, *, strides: Sequence[int], coupled: bool, normalize: bool) -> None:
        super().__init__()
        self.knowledge = Knowledge.FEATURE
        self.student_needs = self.teacher_needs = frozenset({Need.PYRAMID})
        self.residual = residual
        self.strides = tuple(strides)
        self.coupled = coupled
        self.normalize = normalize

    def forward(self, student: Observation, teacher: Observation, batch: Batch, clock: Clock) -> Cost:
        """The cost per image and level; see `Term.forward`.

        Raises:
            ShapeError: a level is missing.
        """
        del clock
        levels = paired_levels(student, teacher, batch, self.strides)
        return Cost(values=torch.stack([self._column(level) for level in levels], dim=1), strides=self.strides)

    def _column(self, level: PairedLevel) -> Tensor:
        norms: Tensor
        norms, numbers = self.residual(level)
        if self.coupled:
            # Of all norms of the batch together, one norm: its gradient is finite at zero, like theirs.
            norms = torch.linalg.vector_norm(norms, dim=0, keepdim=True).expand(len(norms))
            numbers = numbers.sum()
        return norms / numbers.sqrt() if self.normalize else norms


def paired_levels(
    student: Observation, teacher: Observation, batch: Batch, strides: Sequence[int]
) -> tuple[PairedLevel, ...]:
    """The levels of both pyramids at these strides.

    Args:
        student: gradients flow.
        teacher: constant.
        batch: gives the image sizes.
        strides: the levels to pair.

    Returns:
        One pair per stride, in that order.

    Raises:
        ShapeError: a stride is missing.
    """
    maps = zip(strides, levels_at(student.pyramid, strides), levels_at(teacher.pyramid, strides), strict=True)
    pairs = []
    for index, (stride, ours, theirs) in enumerate(maps):
        grid = (theirs.shape[-2], theirs.shape[-1])
        pairs.append(
            PairedLevel(
                index=index,
                stride=stride,
                student=_resized(ours, grid, batch, stride),
                teacher=theirs.detach(),
                inside=inside_cells(batch.sizes, stride, grid=grid, device=theirs.device),
                padded=any(h <= stride * (grid[0] - 1) or w <= stride * (grid[1] - 1) for h, w in batch.sizes),
            )
        )
    return tuple(pairs)


def _resized(maps: Tensor, grid: tuple[int, int], batch: Batch, stride: int) -> Tensor:
    own = (maps.shape[-2], maps.shape[-1])
    if own == grid:
        return maps
    inside = inside_cells(batch.sizes, stride, grid=own, device=maps.device)
    return F.interpolate(maps.masked_fill(~inside, 0.0), grid, mode="bilinear", align_corners=False)


class MaskedFeatures(Residual):
    """All channels of all cells, where both detectors attend: √(Σ (A(S) − T)² · M_s · M_c).

    Args:
        align: the student's channels to the teacher's.
        temperature: of both attentions; the smaller, the sharper.
        channel_mask: whether channels are weighed too.
        student_mask: how much the student's attention counts beside the teacher's.
    """

    def __init__(self, align: Align, *, temperature: float, channel_mask: bool, student_mask: float) -> None:
        super().__init__()
        self.align = align
        self.temperature = temperature
        self.channel_mask = channel_mask
        self.student_mask = student_mask

    def forward(self, level: PairedLevel) -> tuple[Tensor, Tensor]:
        """See `Residual.forward`; no gradient flows through the masks."""
        aligned = self.align.project(level.index, level.student)
        with torch.autocast(aligned.device.type, enabled=False):
            cells, channels = self.masks(level)
            weighed = level.without_padding((aligned.float() - level.teacher.float()) * cells.sqrt())
            by_channel = torch.linalg.vector_norm(weighed, dim=(2, 3))
            if channels is not None:
                by_channel = by_channel * channels[:, :, 0, 0].sqrt()
            norms = torch.linalg.vector_norm(by_channel, dim=1)
        return norms, _numbers(level)

    @torch.no_grad()
    def masks(self, level: PairedLevel) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b c 1 1"] | None]:
        """The weight of every cell and of every channel: teacher's and student's attention, averaged.

        Where the channels of the two cannot be matched, the teacher's alone weigh the channels.
        """
        student, teacher = level.student.float(), level.teacher.float()
        inside, temperature = level.inside, self.temperature
        cells = spatial_attention(teacher, inside, temperature=temperature)
        if self.student_mask > 0:
            cells = self._averaged(cells, spatial_attention(student, inside, temperature=temperature))
        if not self.channel_mask:
            return cells, None
        channels = channel_attention(teacher, inside, temperature=temperature)
        if self.student_mask > 0 and student.shape[1] == teacher.shape[1]:
            channels = self._averaged(channels, channel_attention(student, inside, temperature=temperature))
        return cells, channels

    def _averaged(self, teacher: Tensor, student: Tensor) -> Tensor:
        return (teacher + self.student_mask * student) / (1 + self.student_mask)


class PooledChannels(Residual):
    """Each channel's mean over the cells: ‖Linear(mean S) − mean T‖.

    Args:
        align: one module per stride (see `stride_key`), (b, c_student) → (b, c_teacher).
    """

    def __init__(self, align: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.align = nn.ModuleDict(align)

    def forward(self, level: PairedLevel) -> tuple[Tensor, Tensor]:
        """See `Residual.forward`."""
        with torch.autocast(level.student.device.type, enabled=False):
            theirs = _mean(level, level.teacher)
            difference = self.align[level.key](_mean(level, level.student)) - theirs
            norms = torch.linalg.vector_norm(difference, dim=1)
        return norms, norms.new_full(norms.shape, theirs.shape[1])


class PooledCells(Residual):
    """Each cell's mean over the channels: ‖Conv3×3(mean S) − mean T‖.

    Args:
        align: one module per stride (see `stride_key`), (b, 1, h, w) → the same shape.
    """

    def __init__(self, align: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.align = nn.ModuleDict(align)

    def forward(self, level: PairedLevel) -> tuple[Tensor, Tensor]:
        """See `Residual.forward`; padding enters the convolution as zeros."""
        with torch.autocast(level.student.device.type, enabled=False):
            ours = level.without_padding(level.student.mean(dim=1, keepdim=True, dtype=torch.float32))
            theirs = level.teacher.mean(dim=1, keepdim=True, dtype=torch.float32)
            difference = level.without_padding(self.align[level.key](ours) - theirs)
            norms = torch.linalg.vector_norm(difference, dim=(1, 2, 3))
        return norms, level.inside.sum(dim=(1, 2, 3)).to(norms.dtype)


class Relations(Residual):
    """The maps after a non-local block each, both trained: ‖A(NL_S(S)) − NL_T(T)‖.

    Args:
        students: the student's block of every stride (see `stride_key`).
        teachers: the teacher's.
        align: the student's channels to the teacher's, after its block.
    """

    def __init__(
        self, students: Mapping[str, NonLocalBlock], teachers: Mapping[str, NonLocalBlock], align: Align
    ) -> None:
        super().__init__()
        self.students = nn.ModuleDict(students)
        self.teachers = nn.ModuleDict(teachers)
        self.align = align

    def forward(self, level: PairedLevel) -> tuple[Tensor, Tensor]:
        """See `Residual.forward`; gradients flow into the teacher's block, not into the teacher."""
        ours = self.align.project(level.index, self.students[level.key](level.student, level.inside))
        theirs = self.teachers[level.key](level.teacher, level.inside)
        with torch.autocast(ours.device.type, enabled=False):
            difference = level.without_padding(ours.float() - theirs)
            by_channel = torch.linalg.vector_norm(difference, dim=(2, 3))
            norms = torch.linalg.vector_norm(by_channel, dim=1)
        return norms, _numbers(level)


def _numbers(level: PairedLevel) -> Tensor:
    return (level.teacher.shape[1] * level.inside.sum(dim=(1, 2, 3))).float()


def _mean(level: PairedLevel, maps: Tensor) -> Tensor:
    if level.padded:
        return inside_mean(maps.float(), level.inside)
    return maps.mean(dim=(2, 3), dtype=torch.float32)
