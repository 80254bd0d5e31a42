"""fgd: objects and background imitated apart, where the teacher looks, plus the image's global relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Level, Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, Measure, shared_strides
from detdistill.methods.features import (
    Focus,
    aligner_for,
    full_precision,
    on_one_scale,
    recipe_of,
    require_gain,
    require_temperature,
)
from detdistill.methods.method import FeatureSettings, Method
from detdistill.methods.parts.align import at_stride, per_stride
from detdistill.methods.parts.attention import attentions, teachers_attentions
from detdistill.methods.parts.compare import weighed_squares
from detdistill.methods.parts.context import ContextBlock
from detdistill.methods.parts.focus import background, foreground
from detdistill.methods.published import Kind, published
from detdistill.settings.bounds import Gain, Temperature


@dataclass(frozen=True, slots=True)
class FGDNumbers:
    """The published numbers of one kind of detector: the four terms' gains, the temperature, and how many levels."""

    gains: tuple[float, float, float, float]
    temperature: float
    levels: int


_ANCHORS = FGDNumbers((1e-3, 5e-4, 5e-4, 5e-6), temperature=0.5, levels=5)
_ANCHOR_FREE = FGDNumbers((1.6e-3, 8e-4, 8e-4, 8e-6), temperature=0.8, levels=5)
_TWO_STAGE = FGDNumbers((5e-5, 2.5e-5, 5e-5, 5e-7), temperature=0.5, levels=4)

PUBLISHED_NUMBERS = {
    Kind.ANCHORS: _ANCHORS,
    Kind.DISTRIBUTIONS: _ANCHORS,
    Kind.ANCHOR_FREE: _ANCHOR_FREE,
    Kind.TWO_STAGE: _TWO_STAGE,
}
"""By kind of detector, from the authors' configurations."""


@dataclass(frozen=True, slots=True)
class FGDSettings(FeatureSettings):
    """Numbers of the recipe `fgd`. None takes the published one of the student's kind.

    Attributes:
        foreground_gain: multiplier of the term on objects, the paper's α; a gain of 0 leaves its term out.
        background_gain: multiplier of the term beside objects, β.
        attention_gain: multiplier of the attention term, γ: by the authors' configurations, whose text has 1e-3 for
            detectors with anchors and 8e-3 for FCOS.
        relation_gain: multiplier of the global relation, λ.
        gain: multiplies all four gains.
        temperature: of both attentions; the smaller, the sharper.
        aligner: how the student's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    foreground_gain: Gain | None = None
    background_gain: Gain | None = None
    attention_gain: Gain | None = None
    relation_gain: Gain | None = None
    gain: Gain = 1.0
    temperature: Temperature | None = None
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_fgd(student: DetectorSpec, teacher: DetectorSpec, settings: FGDSettings) -> Recipe:
    """The student imitates objects and background apart, weighted by the teacher's attention, and global context.

    The terms `fgd.foreground`, `fgd.background`, `fgd.attention` and `fgd.relation` share one aligner; the relation
    trains a context block per level for either side.

    Formula:
        A_s(F) = HW · softmax_cells(mean over channels |F| / t), A_c(F) = C · softmax_channels(mean over cells |F| / t)
        L = α · Σ M_fg · A_s(T) · A_c(T) · (A(S) − T)² + β · Σ M_bg · A_s(T) · A_c(T) · (A(S) − T)²
          + γ · (Σ |A_c(A(S)) − A_c(T)| + Σ |A_s(A(S)) − A_s(T)|) + λ · Σ (GC_S(A(S)) − GC_T(T))²
        M_fg = 1 / cells of the smallest box there, M_bg = 1 / cells without a box; GC adds global context;
        sums over levels, channels and cells, mean over images
        α, β, γ, λ, t: RetinaNet and GFL 1e-3, 5e-4, 5e-4, 5e-6, 0.5; FCOS 1.6e-3, 8e-4, 8e-4, 8e-6, 0.8;
        Faster R-CNN 5e-5, 2.5e-5, 5e-5, 5e-7, 0.5

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
        as if they were not there, and an image without boxes has no foreground. `features: standardized` is
        ours: the temperatures were made for features of the size that detectors trained on COCO have.
    """
    numbers, notes = published("fgd", student, PUBLISHED_NUMBERS)
    temperature = numbers.temperature if settings.temperature is None else settings.temperature
    require_temperature(temperature, remedy="Give one such as 0.5.")
    require_gain("gain", settings.gain)
    given = (settings.foreground_gain, settings.background_gain, settings.attention_gain, settings.relation_gain)
    strides = shared_strides(student, teacher, last=numbers.levels)
    align = aligner_for(student, teacher, settings.aligner, strides=strides)
    looks = Attentions(temperature)
    standardized = on_one_scale(settings)
    measures: tuple[tuple[str, Measure], ...] = (
        ("foreground", looks.error_at(foreground)),
        ("background", looks.error_at(background)),
        ("attention", looks.difference),
        ("relation", GlobalRelation(strides, channels=teacher.maps.at)),
    )
    terms = []
    for (name, measure), own, known in zip(measures, given, numbers.gains, strict=True):
        gain = known if own is None else own
        require_gain(f"{name}_gain", gain)
        term = LevelTerm(measure, strides=strides, align=align, standardized=standardized)
        terms.append(WeightedTerm(f"fgd.{name}", term, gain * settings.gain))
    return recipe_of("fgd", terms, notes=notes if None in given else ())


@final
@dataclass(frozen=True, slots=True)
class Attentions:
    """What of FGD rests on the spatial and the channel attention, which a step computes once for either side.

    Attributes:
        temperature: of both.
    """

    temperature: float

    def error_at(self, focus: Focus) -> Measure:
        """The squared difference where the teacher attends: Σ focus · A_s(T) · A_c(T) · (A(S) − T)²."""

        def measure(level: Level, pair: Pair) -> Float[Tensor, " b"]:
            with full_precision(level.teacher):
                where = focus(level, pair)
                if pair.looked is not None:
                    cells, _ = teachers_attentions(level, pair, temperature=self.temperature)
                    pair.look(f"{focus.__name__} times the teacher's attention", level.stride, where * cells)
                return (where * self._error(level, pair)).flatten(1).sum(1)

        return measure

    def difference(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """How differently the two attend: Σ |A_s(A(S)) − A_s(T)| + Σ |A_c(A(S)) − A_c(T)|."""
        with full_precision(level.teacher):
            maps, inside = level.student, level.inside
            ours = attentions(maps, inside, temperature=self.temperature, padded=level.padded)
            theirs = teachers_attentions(level, pair, temperature=self.temperature)
            cells, channels = ((mine - its).abs().flatten(1).sum(1) for mine, its in zip(ours, theirs, strict=True))
            return cells + channels

    def _error(self, level: Level, pair: Pair) -> Float[Tensor, "b 1 h w"]:
        """Of every cell, over all channels: the same for objects and background."""

        def make() -> Tensor:
            cells, channels = teachers_attentions(level, pair, temperature=self.temperature)
            return weighed_squares(level.student, level.teacher, level.mask, channels) * cells

        return pair.once((Attentions, level, self.temperature), make)


@final
class GlobalRelation(nn.Module):
    """How much the maps differ once each side has added its global context: Σ (GC_S(A(S)) − GC_T(T))².

    At first the blocks add nothing and the cost is the plain squared difference.

    Args:
        strides: the levels to compare.
        channels: of the teacher's level of a stride.
    """

    def __init__(self, strides: Sequence[int], *, channels: Callable[[int], int]) -> None:
        super().__init__()
        self.student_context = per_stride(strides, lambda stride: ContextBlock(channels(stride)))
        self.teacher_context = per_stride(strides, lambda stride: ContextBlock(channels(stride)))

    def forward(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """The cost of each image; gradients reach both sides' context blocks."""
        del pair
        with full_precision(level.teacher):
            where = {"inside": level.inside, "padded": level.padded}
            ours = at_stride(self.student_context, level.stride)(level.student, **where)
            theirs = at_stride(self.teacher_context, level.stride)(level.teacher, **where)
            difference: Tensor = ours - theirs
            return difference.square().flatten(1).sum(1)


METHOD = Method(name="fgd", settings=FGDSettings, build=build_fgd)
