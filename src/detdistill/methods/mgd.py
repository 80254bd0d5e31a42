"""mgd: the student's masked feature maps must suffice to paint the teacher's whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from detdistill.data.dataset import draw_seed
from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import Term, shared_strides
from detdistill.errors import ConfigError
from detdistill.methods.features import recipe_of, require_gain
from detdistill.methods.method import Method
from detdistill.methods.paired import aligner_for, paired_levels
from detdistill.methods.parts.align import Align
from detdistill.methods.parts.generation import Generation, kept_cells
from detdistill.types import Batch, Clock, Cost, Knowledge, Need, Observation


@dataclass(frozen=True, slots=True)
class MGDNumbers:
    """The published numbers of one kind of detector: gain, share of dropped cells, and how many levels."""

    gain: float
    drop: float
    levels: int


ONE_STAGE = MGDNumbers(gain=2e-5, drop=0.65, levels=5)
TWO_STAGE = MGDNumbers(gain=5e-7, drop=0.45, levels=4)


@dataclass(frozen=True, slots=True)
class MGDSettings:
    """Numbers of the recipe `mgd`.

    Attributes:
        gain: multiplier of the loss, the paper's α; None takes the published one of the student's kind.
        drop: probability that a cell is dropped, the paper's λ, at least 0 and below 1; None takes the published one.
        aligner: how the student's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    gain: float | None = None
    drop: float | None = None
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_mgd(student: DetectorSpec, teacher: DetectorSpec, settings: MGDSettings) -> Recipe:
    """Random cells of the student's maps are dropped, and a small generator paints the teacher's maps from the rest.

    Formula:
        L = α · Σ (G(A(S) · M) − T)² over levels, channels and cells, mean over images
        M drops each cell with probability λ, one mask per image and level; G: Conv3×3, ReLU, Conv3×3
        α, λ: one-stage 2e-5, 0.65; two-stage 5e-7, 0.45

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        settings: the numbers.

    Returns:
        A recipe of one term, `mgd.features`, that trains the aligner and a generator per level. Its cost is not 0
        where student and teacher are equal: the generator has to learn to be one.

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner, a gain that is not above 0, or a `drop` outside [0, 1).

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them. With a two-stage student the
        four finest levels are compared, else the five finest.

    Source:
        Yang et al., Masked Generative Distillation, ECCV 2022; numbers from the authors' configurations.

    Differs from the source:
        Padding is left out of the sum and zeroed before both convolutions. An image's mask is a function of the
        image's seed and the level, so it is the same in any batch. As in the source, a small map may be dropped
        as a whole; then only the generator learns from it.
    """
    published = TWO_STAGE if student.two_stage or student.family == "faster_rcnn" else ONE_STAGE
    gain = published.gain if settings.gain is None else settings.gain
    drop = published.drop if settings.drop is None else settings.drop
    require_gain("gain", gain)
    if not 0 <= drop < 1:
        raise ConfigError(
            f"The recipe's drop must be at least 0 and below 1, got {drop}. Give the share of cells to drop, "
            "such as 0.65."
        )
    strides = shared_strides(student, teacher, last=published.levels)
    term = MaskedGeneration(
        aligner_for(student, teacher, settings.aligner, strides=strides),
        strides=strides,
        channels=teacher.pyramid.channels,
        drop=drop,
    )
    return recipe_of("mgd", [WeightedTerm(name="mgd.features", term=term, gain=gain)])


class MaskedGeneration(Term):
    """The squared error of the teacher's maps painted from masked student maps: Σ (G(A(S) · M) − T)².

    Args:
        align: takes the student's channels to the teacher's.
        strides: the levels to compare.
        channels: of the teacher's levels.
        drop: probability that a cell is dropped.
    """

    def __init__(self, align: Align, *, strides: Sequence[int], channels: int, drop: float) -> None:
        super().__init__()
        self.knowledge = Knowledge.FEATURE
        self.student_needs = self.teacher_needs = frozenset({Need.PYRAMID})
        self.align = align
        self.strides = tuple(strides)
        self.drop = drop
        self.generators = nn.ModuleDict({f"stride_{stride}": Generation(channels) for stride in strides})

    def forward(self, student: Observation, teacher: Observation, batch: Batch, clock: Clock) -> Cost:
        """The cost per image and level; see `Term.forward`. Gradients reach the student at the kept cells.

        Raises:
            ShapeError: a level is missing, or the maps do not fit after alignment.
        """
        del clock
        columns = []
        for level in paired_levels(student, teacher, batch, align=self.align, strides=self.strides):
            kept = kept_cells(
                [draw_seed(seed, level.stride) for seed in batch.seeds],
                batch.sizes,
                level.stride,
                grid=(level.student.shape[-2], level.student.shape[-1]),
                drop=self.drop,
                device=level.student.device,
            )
            painted = self.generators[f"stride_{level.stride}"](level.student, kept, level.inside)
            with torch.autocast(painted.device.type, enabled=False):
                difference = painted.float() - level.teacher.float()
                columns.append(difference.masked_fill(~level.inside, 0.0).square().flatten(1).sum(1))
        return Cost(values=torch.stack(columns, dim=1), strides=self.strides)


METHOD = Method(name="mgd", settings=MGDSettings, build=build_mgd)
