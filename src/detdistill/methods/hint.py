"""hint: the student's neck imitates the teacher's, cell by cell (FitNets on the feature pyramid)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.methods.features import cellwise, feature_term, recipe_of, require_gain, require_one_of
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts import compare, normalize


@dataclass(frozen=True, slots=True)
class HintSettings(ScheduledSettings):
    """Numbers of the recipe `hint`.

    Attributes:
        gain: multiplier of the loss.
        p: 1 for the absolute difference, 2 for the squared one.
        normalized: standardise both maps per image and channel first.
        aligner: how the student's channels become the teacher's.
    """

    gain: float = 1.0
    p: Literal[1, 2] = 2
    normalized: bool = True
    aligner: Literal["identity", "conv1x1", "conv3x3"] = "conv1x1"


def build_hint(student: DetectorSpec, teacher: DetectorSpec, settings: HintSettings) -> Recipe:
    """The student's feature maps imitate the teacher's, every cell of every level alike.

    Formula:
        L = gain · Σ_levels mean over channels and inside cells of |ν(A(S)) − ν(T)|^p
        ν: each channel of each image to zero mean and unit variance over its inside cells; off with `normalized` off

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner or exponent, or a gain that is not above 0.

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them.

    Source:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, moved to the neck of a detector.

    Differs from the source:
        All levels of the neck instead of one hidden layer, together with the task instead of before it; padding
        is left out; `normalized` standardises both maps first, as PKD does with Pearson's correlation.
    """
    require_one_of("p", settings.p, (1, 2))
    require_gain("gain", settings.gain)
    measure = compare.absolute if settings.p == 1 else compare.squared

    def standardized(ours: Tensor, theirs: Tensor, inside: Tensor) -> Tensor:
        return measure(compare.standardize(ours, inside), compare.standardize(theirs, inside), inside)

    different = cellwise(standardized if settings.normalized else measure, normalize.by_cells)
    term = feature_term(student, teacher, different, aligner=settings.aligner)
    return recipe_of("hint", [WeightedTerm(name="hint.features", term=term, gain=settings.gain)])


METHOD = Method(name="hint", settings=HintSettings, build=build_hint)
