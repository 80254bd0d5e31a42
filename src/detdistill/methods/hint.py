"""hint: the student's neck imitates the teacher's, cell by cell (FitNets on the feature pyramid)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.methods.features import cellwise, feature_term, on_one_scale, recipe_of, require_gain, require_one_of
from detdistill.methods.method import FeatureSettings, Method
from detdistill.methods.parts import compare, normalize
from detdistill.settings.bounds import Gain


@dataclass(frozen=True, slots=True)
class HintSettings(FeatureSettings):
    """Numbers of the recipe `hint`.

    Attributes:
        gain: multiplier of the loss.
        p: 1 for the absolute difference, 2 for the squared one.
        normalized: what `features` is where it is not given: standardized, or raw where this is false.
        aligner: how the student's channels become the teacher's.
    """

    gain: Gain = 1.0
    p: Literal[1, 2] = 2
    normalized: bool = True
    aligner: Literal["identity", "conv1x1", "conv3x3"] = "conv1x1"


def build_hint(student: DetectorSpec, teacher: DetectorSpec, settings: HintSettings) -> Recipe:
    """The student's feature maps imitate the teacher's, every cell of every level alike.

    Formula:
        L = gain · Σ_levels mean over channels and inside cells of |ν(A(S)) − ν(T)|^p
        ν: each channel of each image to zero mean and unit variance over its inside cells; off with `features: raw`

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner or exponent, or a gain that is not above 0.

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them.

    Source:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, moved to the neck of a detector.

    Differs from the source:
        All levels of the neck instead of one hidden layer, together with the task instead of before it; padding
        is left out; both maps are standardised first, as PKD does with Pearson's correlation (`features: raw` is the
        source's).
    """
    require_one_of("p", settings.p, (1, 2))
    require_gain("gain", settings.gain)
    measure = compare.absolute if settings.p == 1 else compare.squared
    term = feature_term(
        student,
        teacher,
        cellwise(measure, normalize.by_cells),
        aligner=settings.aligner,
        standardized=on_one_scale(settings, own=settings.normalized),
    )
    return recipe_of("hint", [WeightedTerm(name="hint.features", term=term, gain=settings.gain)])


METHOD = Method(name="hint", settings=HintSettings, build=build_hint)
