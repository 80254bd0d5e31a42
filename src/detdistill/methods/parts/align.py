"""How the student's maps enter the teacher's space: modules that live with the terms, never in the student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.errors import CapabilityError, ConfigError

Levels = tuple[Tensor, ...]


class Align(nn.Module, ABC):
    """Takes the student's levels to the teacher's channels and grid. The teacher is left as it is."""

    @abstractmethod
    def project(self, level: int, maps: Tensor) -> Tensor:
        """The student's map (b, c_student, h, w) of one paired level in the teacher's channels."""

    def forward(self, student: Levels, teacher: Levels) -> tuple[Levels, Levels]:
        """Aligned student levels and the teacher's own.

        Args:
            student: paired levels (b, c_student, h, w); gradients flow.
            teacher: paired levels (b, c_teacher, h', w').

        Returns:
            Student levels (b, c_teacher, h', w'), resized bilinearly where the grids differ, and the teacher's.
        """
        aligned = []
        for index, (maps, goal) in enumerate(zip(student, teacher, strict=True)):
            projected = self.project(index, maps)
            if projected.shape[-2:] != goal.shape[-2:]:
                projected = F.interpolate(projected, goal.shape[-2:], mode="bilinear", align_corners=False)
            aligned.append(projected)
        return tuple(aligned), teacher


class IdentityAlign(Align):
    """Leaves the channels as they are.

    Raises:
        CapabilityError: student and teacher have different numbers of channels.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        if student_channels != teacher_channels:
            raise CapabilityError(
                f"The identity aligner must get equal channels on both sides, got {student_channels} (student) and "
                f"{teacher_channels} (teacher). Choose a convolution as aligner (kernel 1 or 3)."
            )

    def project(self, level: int, maps: Tensor) -> Tensor:
        """The map itself."""
        del level
        return maps


class ConvAlign(Align):
    """A convolution with bias per level, PyTorch's default initialisation, optionally followed by ReLU.

    Args:
        student_channels: channels of the student's levels.
        teacher_channels: channels of the teacher's levels.
        strides: the paired levels, which name the weights.
        kernel: 1 or 3.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        strides: Sequence[int],
        kernel: int = 1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        if kernel not in (1, 3):
            raise ConfigError(f"The aligner's kernel must be 1 or 3, got {kernel}. Choose 1 or 3.")
        self.relu = relu
        self.strides = tuple(strides)
        self.convs = nn.ModuleDict(
            {
                f"stride_{stride}": nn.Conv2d(student_channels, teacher_channels, kernel, padding=kernel // 2)
                for stride in strides
            }
        )

    def project(self, level: int, maps: Tensor) -> Tensor:
        """The convolved map (b, c_teacher, h, w)."""
        projected: Tensor = self.convs[f"stride_{self.strides[level]}"](maps)
        return projected.relu() if self.relu else projected
