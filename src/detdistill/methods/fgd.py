"""fgd: objects and background imitated apart, where the teacher looks, plus the image's global relations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import CellTerm, Compare, Focus, Term, levels_at, shared_strides
from detdistill.errors import ConfigError
from detdistill.methods.features import recipe_of, require_gain
from detdistill.methods.method import Method
from detdistill.methods.paired import aligner_for, paired_levels
from detdistill.methods.parts import compare, select
from detdistill.methods.parts.align import Align
from detdistill.methods.parts.attention import channel_attention, spatial_attention
from detdistill.methods.parts.box_masks import background, foreground
from detdistill.methods.parts.context import ContextBlock
from detdistill.methods.parts.focus import inside_cells, inside_image
from detdistill.methods.parts.normalize import plain_sum
from detdistill.types import Batch, Clock, Cost, Knowledge, Need, Observation, Pyramid


@dataclass(frozen=True, slots=True)
class FGDNumbers:
    """The published numbers of one kind of detector: a gain per term, the temperature, and how many levels."""

    foreground: float
    background: float
    attention: float
    relation: float
    temperature: float
    levels: int


_ANCHORS = FGDNumbers(1e-3, 5e-4, 5e-4, 5e-6, temperature=0.5, levels=5)
_ANCHOR_FREE = FGDNumbers(1.6e-3, 8e-4, 8e-4, 8e-6, temperature=0.8, levels=5)
_TWO_STAGE = FGDNumbers(5e-5, 2.5e-5, 5e-5, 5e-7, temperature=0.5, levels=4)

PUBLISHED_NUMBERS = {"retinanet": _ANCHORS, "gfl": _ANCHORS, "fcos": _ANCHOR_FREE, "faster_rcnn": _TWO_STAGE}
"""Numbers of every detector family in the authors' configurations."""


@dataclass(frozen=True, slots=True)
class FGDSettings:
    """Numbers of the recipe `fgd`. None takes the published one of the student's family.

    Attributes:
        foreground_gain: multiplier of the term on objects, the paper's α; a gain of 0 leaves its term out.
        background_gain: multiplier of the term beside objects, β.
        attention_gain: multiplier of the attention term, γ: by the authors' configurations, whose text has 1e-3 for
            detectors with anchors and 8e-3 for FCOS.
        relation_gain: multiplier of the global relation, λ.
        strength: multiplies all four gains.
        temperature: of both attentions; the smaller, the sharper.
        aligner: how the student's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    foreground_gain: float | None = None
    background_gain: float | None = None
    attention_gain: float | None = None
    relation_gain: float | None = None
    strength: float = 1.0
    temperature: float | None = None
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_fgd(student: DetectorSpec, teacher: DetectorSpec, settings: FGDSettings) -> Recipe:
    """The student imitates objects and background apart, weighted by the teacher's attention, and global context.

    Formula:
        A_s(F) = HW · softmax_cells(mean over channels |F| / t), A_c(F) = C · softmax_channels(mean over cells |F| / t)
        L = α · Σ M_fg · A_s(T) · A_c(T) · (A(S) − T)² + β · Σ M_bg · A_s(T) · A_c(T) · (A(S) − T)²
          + γ · (Σ |A_c(A(S)) − A_c(T)| + Σ |A_s(A(S)) − A_s(T)|) + λ · Σ (GC_S(A(S)) − GC_T(T))²
        M_fg = 1 / cells of the smallest box there, M_bg = 1 / cells without a box; GC adds global context;
        sums over levels, channels and cells, mean over images
        α, β, γ, λ, t: RetinaNet and GFL 1e-3, 5e-4, 5e-4, 5e-6, 0.5; FCOS 1.6e-3, 8e-4, 8e-4, 8e-6, 0.8;
        Faster R-CNN 5e-5, 2.5e-5, 5e-5, 5e-7, 0.5

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        settings: the numbers.

    Returns:
        A recipe of the terms `fgd.foreground`, `fgd.background`, `fgd.attention` and `fgd.relation`. They share one
        aligner; the relation trains a context block per level for either side.

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner, a negative gain, four gains of 0, or a temperature that is not positive.

    Needs:
        Feature pyramids with at least one shared stride, and boxes; any two detectors have them. With a two-stage
        student the four finest levels are compared, else the five finest.

    Source:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, CVPR 2022; numbers from the authors'
        configurations.

    Differs from the source:
        Padding is left out of every sum, softmax, mean and count. Boxes are divided by the nominal stride instead of
        being stretched from the unpadded image to the padded map. The context blocks start from PyTorch's default
        initialisation but for their last layer, which is zero as in the source. As in the source, ignored boxes are
        as if they were not there, and an image without boxes has no foreground.
    """
    numbers = _numbers(student, settings)
    strides = shared_strides(student, teacher, last=numbers.levels)
    align = aligner_for(student, teacher, settings.aligner, strides=strides)

    def attention(ours: Tensor, theirs: Tensor, inside: Tensor) -> Tensor:
        return _attention_difference(ours, theirs, inside, temperature=numbers.temperature)

    def cell_term(measure: Compare, focus: Focus) -> CellTerm:
        return CellTerm(
            knowledge=Knowledge.FEATURE,
            select=select.pyramid,
            align=align,
            compare=measure,
            focus=focus,
            normalize=plain_sum,
            inside=inside_image,
            strides=strides,
            student_needs=frozenset({Need.PYRAMID}),
            teacher_needs=frozenset({Need.PYRAMID}),
        )

    looks = {
        name: _attended(focus, strides, temperature=numbers.temperature)
        for name, focus in (("foreground", foreground), ("background", background))
    }
    terms: tuple[tuple[str, Term, float], ...] = (
        ("fgd.foreground", cell_term(compare.squared, looks["foreground"]), numbers.foreground),
        ("fgd.background", cell_term(compare.squared, looks["background"]), numbers.background),
        ("fgd.attention", cell_term(attention, inside_image), numbers.attention),
        ("fgd.relation", GlobalRelation(align, strides=strides, channels=teacher.pyramid.channels), numbers.relation),
    )
    return recipe_of("fgd", [WeightedTerm(name, term, gain) for name, term, gain in terms])


class GlobalRelation(Term):
    """How much the maps differ once each side has added its global context: Σ (GC_S(A(S)) − GC_T(T))².

    At first the blocks add nothing and the cost is the plain squared difference.

    Args:
        align: takes the student's channels to the teacher's.
        strides: the levels to compare.
        channels: of the teacher's levels.
    """

    def __init__(self, align: Align, *, strides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.knowledge = Knowledge.FEATURE
        self.student_needs = self.teacher_needs = frozenset({Need.PYRAMID})
        self.align = align
        self.strides = tuple(strides)
        self.student_context = nn.ModuleDict({f"stride_{stride}": ContextBlock(channels) for stride in strides})
        self.teacher_context = nn.ModuleDict({f"stride_{stride}": ContextBlock(channels) for stride in strides})

    def forward(self, student: Observation, teacher: Observation, batch: Batch, clock: Clock) -> Cost:
        """The cost per image and level; see `Term.forward`. Gradients reach both sides' context blocks.

        Raises:
            ShapeError: a level is missing, or the maps do not fit after alignment.
        """
        del clock
        columns = []
        for level in paired_levels(student, teacher, batch, align=self.align, strides=self.strides):
            with torch.autocast(level.student.device.type, enabled=False):
                ours = self.student_context[f"stride_{level.stride}"](level.student.float(), level.inside)
                theirs = self.teacher_context[f"stride_{level.stride}"](level.teacher.float(), level.inside)
                columns.append((ours - theirs).square().flatten(1).sum(1))
        return Cost(values=torch.stack(columns, dim=1), strides=self.strides)


def _attended(focus: Focus, strides: Sequence[int], *, temperature: float) -> Focus:
    """A focus times the teacher's spatial and channel attention: masks (b, c, h, w) on the given strides."""

    def masks(teacher: Observation, batch: Batch) -> Pyramid:
        maps = Pyramid(tuple(level.detach().float() for level in levels_at(teacher.pyramid, strides)), tuple(strides))
        levels = []
        for level, mask, stride in zip(
            maps.levels, focus(replace(teacher, pyramid=maps), batch).levels, strides, strict=True
        ):
            inside = inside_cells(batch.sizes, stride, grid=(level.shape[-2], level.shape[-1]), device=level.device)
            cells = mask * spatial_attention(level, inside, temperature=temperature)
            levels.append(cells * channel_attention(level, inside, temperature=temperature))
        return Pyramid(tuple(levels), tuple(strides))

    return masks


def _attention_difference(ours: Tensor, theirs: Tensor, inside: Tensor, *, temperature: float) -> Tensor:
    """Costs (b, 1, h, w) that sum to Σ |A_s(ours) − A_s(theirs)| + Σ |A_c(ours) − A_c(theirs)|."""
    cells = spatial_attention(ours, inside, temperature=temperature)
    cells = (cells - spatial_attention(theirs, inside, temperature=temperature)).abs()
    channels = channel_attention(ours, inside, temperature=temperature)
    channels = (channels - channel_attention(theirs, inside, temperature=temperature)).abs()
    # The channels' part belongs to no cell: every inside cell bears an equal share of it.
    return cells + channels.sum(dim=1, keepdim=True) / inside.sum(dim=(2, 3), keepdim=True).clamp(min=1)


def _numbers(student: DetectorSpec, settings: FGDSettings) -> FGDNumbers:
    published = PUBLISHED_NUMBERS.get(student.family, _TWO_STAGE if student.two_stage else _ANCHORS)
    temperature = published.temperature if settings.temperature is None else settings.temperature
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(
            f"The recipe's temperature must be a finite number above 0, got {temperature}. Give one such as 0.5."
        )
    require_gain("strength", settings.strength)
    return FGDNumbers(
        foreground=_gain("foreground_gain", settings.foreground_gain, published.foreground) * settings.strength,
        background=_gain("background_gain", settings.background_gain, published.background) * settings.strength,
        attention=_gain("attention_gain", settings.attention_gain, published.attention) * settings.strength,
        relation=_gain("relation_gain", settings.relation_gain, published.relation) * settings.strength,
        temperature=temperature,
        levels=published.levels,
    )


def _gain(name: str, ours: float | None, published: float) -> float:
    gain = published if ours is None else ours
    require_gain(name, gain)
    return gain


METHOD = Method(name="fgd", settings=FGDSettings, build=build_fgd)
