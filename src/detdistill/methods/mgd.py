"""mgd: the student's masked feature maps must suffice to paint the teacher's whole ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Level, Pair, grid_of
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, shared_strides
from detdistill.errors import ConfigError
from detdistill.methods.features import aligner_for, full_precision, on_one_scale, recipe_of, require_gain
from detdistill.methods.method import FeatureSettings, Method
from detdistill.methods.parts.align import at_stride, per_stride
from detdistill.methods.parts.generation import Generation, kept_cells
from detdistill.methods.published import ONE_STAGE, Kind, published
from detdistill.random import draw_seed
from detdistill.settings.bounds import Gain, Share


@dataclass(frozen=True, slots=True)
class MGDNumbers:
    """The published numbers of one kind of detector: gain, share of dropped cells, and how many levels."""

    gain: float
    drop: float
    levels: int


PUBLISHED_NUMBERS = {
    **dict.fromkeys(ONE_STAGE, MGDNumbers(gain=2e-5, drop=0.65, levels=5)),
    Kind.TWO_STAGE: MGDNumbers(gain=5e-7, drop=0.45, levels=4),
}
"""By kind of detector, from the authors' configurations."""


@dataclass(frozen=True, slots=True)
class MGDSettings(FeatureSettings):
    """Numbers of the recipe `mgd`.

    Attributes:
        gain: multiplier of the loss, the paper's α; None takes the published one of the student's kind.
        drop: probability that a cell is dropped, the paper's λ, at least 0 and below 1; None takes the published one.
        aligner: how the student's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    gain: Gain | None = None
    drop: Share | None = None
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_mgd(student: DetectorSpec, teacher: DetectorSpec, settings: MGDSettings) -> Recipe:
    """Random cells of the student's maps are dropped, and a small generator paints the teacher's maps from the rest.

    Trains the aligner and a generator per level. The cost is not 0 where student and teacher are equal: the generator
    has to learn to be the identity.

    Formula:
        L = α · Σ (G(A(S) · M) − T)² over levels, channels and cells, mean over images
        M drops each cell with probability λ, one mask per image and level; G: Conv3×3, ReLU, Conv3×3
        α, λ: one-stage 2e-5, 0.65; two-stage 5e-7, 0.45

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
        as a whole; then only the generator learns from it. `features: standardized` is ours: of what the generator
        reads, where a dropped cell is then the channel's mean, and of the teacher's maps, not of what it paints.
    """
    numbers, notes = published("mgd", student, PUBLISHED_NUMBERS)
    gain = numbers.gain if settings.gain is None else settings.gain
    drop = numbers.drop if settings.drop is None else settings.drop
    require_gain("gain", gain)
    if not 0 <= drop < 1:
        raise ConfigError(
            f"The recipe's drop must be at least 0 and below 1, got {drop}. Give the share of cells to drop, "
            "such as 0.65."
        )
    strides = shared_strides(student, teacher, last=numbers.levels)
    align = aligner_for(student, teacher, settings.aligner, strides=strides)
    generation = MaskedGeneration(strides, channels=teacher.maps.at, drop=drop)
    term = LevelTerm(generation, strides=strides, align=align, standardized=on_one_scale(settings))
    terms = [WeightedTerm(name="mgd.features", term=term, gain=gain)]
    return recipe_of("mgd", terms, notes=notes if settings.gain is None else ())


@final
class MaskedGeneration(nn.Module):
    """The squared error of the teacher's maps painted from masked student maps: Σ (G(A(S) · M) − T)².

    Args:
        strides: the levels to compare.
        channels: of the teacher's level of a stride.
        drop: probability that a cell is dropped.
    """

    def __init__(self, strides: Sequence[int], *, channels: Callable[[int], int], drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.generators = per_stride(strides, lambda stride: Generation(channels(stride)))

    def forward(self, level: Level, pair: Pair) -> Float[Tensor, " b"]:
        """The cost of each image; gradients reach the student at the kept cells."""
        kept = kept_cells(
            [draw_seed(seed, level.stride) for seed in pair.batch.seeds],
            pair.batch.sizes,
            level.stride,
            grid=grid_of(level.teacher),
            drop=self.drop,
            device=level.teacher.device,
        )
        pair.look("cells that are kept", level.stride, kept)
        painted = at_stride(self.generators, level.stride)(level.student, kept, level.inside)
        with full_precision(painted):
            return level.without_padding(painted.float() - level.teacher).square().flatten(1).sum(1)


METHOD = Method(name="mgd", settings=MGDSettings, build=build_mgd)
