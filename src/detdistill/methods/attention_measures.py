"""What the recipe `attention` measures on a level: four Euclidean norms of differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detdistill.distillation.pair import Level, Pair
from detdistill.methods.features import full_precision
from detdistill.methods.parts.align import at_stride
from detdistill.methods.parts.attention import attentions, inside_mean, teachers_attentions
from detdistill.methods.parts.compare import distances

BLOCK_CHANNELS = (64, 64, 128, 128, 128)
"""Inner channels of the non-local blocks by position in the student's pyramid; the last one holds for all further."""

BLOCK_POOLS = (8, 4, 2, 2, 2)
"""Kernel in cells of their max-pools, likewise."""

# (norm of every image's difference, of how many numbers it is the norm) → cost of every image.
Norm = Callable[[Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True, slots=True)
class Norms:
    """How the norms of a batch's images become their costs.

    Attributes:
        coupled: one norm over the whole batch, given to every image, instead of each image's own.
        normalize: divide by the root of how many numbers the norm is of.
    """

    coupled: bool = False
    normalize: bool = False

    def __call__(self, norms: Float[Tensor, " b"], numbers: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The cost of each image."""
        if self.coupled:
            # Of all norms of the batch together, one norm: its gradient is finite at zero, like theirs.
            norms = torch.linalg.vector_norm(norms, dim=0, keepdim=True).expand(len(norms))
            numbers = numbers.sum().expand(len(norms))
        return norms / numbers.sqrt() if self.normalize else norms


@final
@dataclass(frozen=True, slots=True)
class MaskedFeatures:
    """All channels of all cells of aligned maps, where both detectors attend: √(Σ (A(S) − T)² · M_s · M_c).

    Attributes:
        norm: makes the costs.
        temperature: of both attentions; the smaller, the sharper.
        channel_mask: whether channels are weighed too.
        student_mask: how much the student's attention counts beside the teacher's.
    """

    norm: Norm
    temperature: float
    channel_mask: bool
    student_mask: float

    def __call__(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """The cost of each image; no gradient flows through the masks."""
        with full_precision(level.teacher):
            cells, channels = self.masks(level, pair)
            pair.look("attention of both", level.stride, cells)
            found = distances(level.student, level.teacher, level.mask, cells=cells, channels=channels)
            return self.norm(found, _numbers(level))

    @torch.no_grad()
    def masks(self, level: Level, pair: Pair) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b c 1 1"] | None]:
        """The weight of every cell and of every channel: teacher's and student's attention, averaged.

        The student's is that of its maps before alignment. Where the channels of the two cannot be matched, the
        teacher's alone weigh the channels.
        """
        own = pair.level(level.stride, standardized=level.standardized)
        cells, channels = teachers_attentions(own, pair, temperature=self.temperature)
        if self.student_mask > 0:
            maps, inside = own.student, own.inside
            our_cells, our_channels = attentions(maps, inside, temperature=self.temperature, padded=own.padded)
            cells = self._averaged(cells, our_cells)
            if our_channels.shape == channels.shape:
                channels = self._averaged(channels, our_channels)
        return cells, channels if self.channel_mask else None

    def _averaged(self, teacher: Tensor, student: Tensor) -> Tensor:
        return (teacher + self.student_mask * student) / (1 + self.student_mask)


@final
class PooledChannels(nn.Module):
    """Each channel's mean over the cells: ‖Linear(mean S) − mean T‖.

    Args:
        align: one module per stride, (b, c_student) → (b, c_teacher).
        norm: makes the costs.
    """

    def __init__(self, align: nn.ModuleDict, norm: Norm) -> None:
        super().__init__()
        self.align = align
        self.norm = norm

    def forward(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """The cost of each image."""
        del pair
        with full_precision(level.teacher):
            theirs = _mean(level, level.teacher)
            difference = at_stride(self.align, level.stride)(_mean(level, level.student)) - theirs
            norms = torch.linalg.vector_norm(difference, dim=1)
            return self.norm(norms, norms.new_full(norms.shape, theirs.shape[1]))


@final
class PooledCells(nn.Module):
    """Each cell's mean over the channels: ‖Conv3×3(mean S) − mean T‖.

    Args:
        align: one module per stride, (b, 1, h, w) → the same shape.
        norm: makes the costs.
    """

    def __init__(self, align: nn.ModuleDict, norm: Norm) -> None:
        super().__init__()
        self.align = align
        self.norm = norm

    def forward(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """The cost of each image; padding enters the convolution as zeros."""
        del pair
        with full_precision(level.teacher):
            ours = level.without_padding(level.student.mean(dim=1, keepdim=True))
            theirs = level.teacher.mean(dim=1, keepdim=True)
            difference = level.without_padding(at_stride(self.align, level.stride)(ours) - theirs)
            return self.norm(torch.linalg.vector_norm(difference, dim=(1, 2, 3)), level.cells())


@final
class Relations(nn.Module):
    """The maps after a non-local block each, both trained: ‖A(NL_S(S)) − NL_T(T)‖.

    Args:
        students: the student's block of every stride.
        teachers: the teacher's.
        align: the student's channels to the teacher's, after its block; an `Align`.
        norm: makes the costs.
    """

    def __init__(self, students: nn.ModuleDict, teachers: nn.ModuleDict, align: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.students = students
        self.teachers = teachers
        self.align = align
        self.norm = norm

    def forward(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """The cost of each image; gradients flow into the teacher's block, not into the teacher."""
        del pair
        where = {"inside": level.inside, "padded": level.padded}
        ours = self.align(at_stride(self.students, level.stride)(level.student, **where), level.stride)
        theirs = at_stride(self.teachers, level.stride)(level.teacher, **where)
        with full_precision(level.teacher):
            return self.norm(distances(ours.float(), theirs, level.mask), _numbers(level))


def _numbers(level: Level) -> Float[Tensor, " b"]:
    return level.teacher.shape[1] * level.cells()


def _mean(level: Level, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    return inside_mean(maps, level.inside) if level.padded else maps.mean(dim=(2, 3))
