"""cosine: the student's features point where the teacher's do, however long they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from detdistill import DetectorSpec, Method
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.methods.features import cellwise, feature_term, recipe_of, require_gain
from detdistill.methods.method import ScheduledSettings
from detdistill.methods.parts import normalize


@dataclass(frozen=True, slots=True)
class CosineSettings(ScheduledSettings):
    """Numbers of the recipe `cosine`.

    Attributes:
        gain: multiplier of the loss.
        aligner: how the student's channels become the teacher's.
    """

    gain: float = 1.0
    aligner: Literal["identity", "conv1x1", "conv3x3"] = "conv1x1"


def build_cosine(student: DetectorSpec, teacher: DetectorSpec, settings: CosineSettings) -> Recipe:
    """The student's feature vector at every cell points where the teacher's does; its length is free.

    Formula:
        L = gain · Σ_levels mean over inside cells of (1 − cos(A(S), T))
        cos(s, t) = s · t / (|s| |t|), over the channels of one cell

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner, or a gain that is not above 0.

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them.

    Source:
        The cosine loss between hidden states of Sanh et al., DistilBERT, EMC² workshop at NeurIPS 2019.

    Differs from the source:
        One vector a cell of a detector's pyramid instead of one a token, after an aligner, without padding.
    """
    require_gain("gain", settings.gain)
    term = feature_term(student, teacher, cellwise(turned, normalize.by_cells), aligner=settings.aligner)
    return recipe_of("cosine", [WeightedTerm(name="cosine.features", term=term, gain=settings.gain)])


def turned(student: Tensor, teacher: Tensor, inside: Tensor) -> Tensor:
    """1 − cosine of the vectors at every cell, in [0, 2]: (b, c, h, w) twice → (b, 1, h, w)."""
    del inside
    # Rounding may leave the cosine of equal vectors above 1, and a cost is never below 0.
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).clamp(min=0)[:, None]


METHOD = Method(name="cosine", settings=CosineSettings, build=build_cosine)
