"""cwd: each channel is a distribution over the cells, and the student's shall be the teacher's (Channel-wise KD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Level, Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, Measure, shared_strides
from detdistill.methods.features import (
    aligner_for,
    full_precision,
    on_one_scale,
    recipe_of,
    require_gain,
    require_temperature,
)
from detdistill.methods.method import FeatureSettings, Method
from detdistill.methods.parts.distributions import softened_divergence
from detdistill.settings.bounds import Gain, Temperature

# Finite, as are differences of two of them, and 0 after any softmax.
_NOWHERE = -1e30


@dataclass(frozen=True, slots=True)
class CWDSettings(FeatureSettings):
    """Numbers of the recipe `cwd`.

    Attributes:
        gain: multiplier of the loss.
        temperature: of the softmax over cells; the smaller, the more the strongest cells count.
        aligner: how the student's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    gain: Gain = 10.0
    temperature: Temperature = 1.0
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_cwd(student: DetectorSpec, teacher: DetectorSpec, settings: CWDSettings) -> Recipe:
    """Each channel of the student's maps is strong at the cells where the teacher's is, in the same shares.

    Formula:
        L = gain · Σ_levels τ² · mean over channels of KL(softmax over cells(T / τ) ‖ softmax over cells(A(S) / τ))
        gain = 10, τ = 1

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner, a gain that is not above 0, or a temperature that is not positive.

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them.

    Source:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021; numbers from public
        configurations.

    Differs from the source:
        Padding is left out of the softmax. Where channels differ, a 1×1 convolution aligns them. One gain for all kinds
        of detectors. `features: standardized` is ours: a temperature of 1 is then the same for features of any scale.
    """
    require_gain("gain", settings.gain)
    require_temperature(settings.temperature)
    strides = shared_strides(student, teacher)
    term = LevelTerm(
        divergence_over_cells(settings.temperature),
        strides=strides,
        align=aligner_for(student, teacher, settings.aligner, strides=strides),
        standardized=on_one_scale(settings),
    )
    return recipe_of("cwd", [WeightedTerm(name="cwd.features", term=term, gain=settings.gain)])


def divergence_over_cells(temperature: float) -> Measure:
    """τ² · mean over channels of the divergence of the student's softmax over inside cells from the teacher's."""

    def measure(level: Level, pair: Pair) -> Float[Tensor, " b"]:
        del pair
        with full_precision(level.teacher):
            ours, theirs = (
                maps.masked_fill(~level.inside, _NOWHERE).flatten(2) for maps in (level.student, level.teacher)
            )
            cells = ours.shape[2]
            return cells * softened_divergence(ours, theirs, temperature=temperature).mean(dim=1)

    return measure


METHOD = Method(name="cwd", settings=CWDSettings, build=build_cwd)
