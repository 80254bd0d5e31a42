"""How the student's maps enter the teacher's space: modules that live with the terms, never in the student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from detdistill.errors import CapabilityError, ConfigError

Channels = int | Callable[[int], int]
"""Of all levels, or by stride."""


def per_stride(strides: Iterable[int], make: Callable[[int], nn.Module]) -> nn.ModuleDict:
    """A module for every stride, made in that order; `at_stride` finds it."""
    return nn.ModuleDict({f"stride_{stride}": make(stride) for stride in strides})


def at_stride(modules: nn.ModuleDict, stride: int) -> nn.Module:
    """The module of a stride."""
    return modules[f"stride_{stride}"]


class IdentityAlign(nn.Module):
    """Leaves the channels as they are.

    Raises:
        CapabilityError: student and teacher have different numbers of channels.
    """

    def __init__(self, student_channels: int = 0, teacher_channels: int = 0) -> None:
        super().__init__()
        if student_channels != teacher_channels:
            raise CapabilityError(
                f"The identity aligner must get equal channels on both sides, got {student_channels} (student) and "
                f"{teacher_channels} (teacher). Choose a convolution as aligner (kernel 1 or 3)."
            )

    def forward(self, maps: Float[Tensor, "b c h w"], stride: int) -> Float[Tensor, "b c h w"]:
        """The map itself."""
        del stride
        return maps


class ConvAlign(nn.Module):
    """A convolution with bias per level, PyTorch's default initialisation, optionally followed by ReLU.

    Args:
        student_channels: channels of the student's levels, or what tells them by stride.
        teacher_channels: channels of the teacher's levels, likewise.
        strides: the paired levels, which name the weights.
        kernel: 1 or 3.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        student_channels: Channels,
        teacher_channels: Channels,
        *,
        strides: Sequence[int],
        kernel: int = 1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        if kernel not in (1, 3):
            raise ConfigError(f"The aligner's kernel must be 1 or 3, got {kernel}. Choose 1 or 3.")
        self.relu = relu

        def convolution(stride: int) -> nn.Module:
            ours, theirs = (
                one if isinstance(one, int) else one(stride) for one in (student_channels, teacher_channels)
            )
            return nn.Conv2d(ours, theirs, kernel, padding=kernel // 2)

        self.convs = per_stride(strides, convolution)

    def has(self, stride: int) -> bool:
        """Whether it is for levels of this stride."""
        return f"stride_{stride}" in self.convs

    def forward(self, maps: Float[Tensor, "b c_student h w"], stride: int) -> Float[Tensor, "b c_teacher h w"]:
        """The convolved map of the level with this stride."""
        convolved: Tensor = at_stride(self.convs, stride)(maps)
        return convolved.relu() if self.relu else convolved
