"""pkd: the student's feature maps correlate with the teacher's (Pearson's correlation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import standardize
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, shared_strides
from detdistill.methods.features import aligner_for, cellwise, recipe_of, require_gain, require_one_of
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts import compare, normalize
from detdistill.methods.published import ONE_STAGE, Kind, published
from detdistill.settings.bounds import Gain

PUBLISHED_GAINS = {**dict.fromkeys(ONE_STAGE, 10.0), Kind.TWO_STAGE: 6.0}
"""By kind of detector, from public configurations; RetinaNet's stands for all with one stage."""

_LEVELS = 4
_BATCH = (0, 2, 3)


@dataclass(frozen=True, slots=True)
class PKDSettings(ScheduledSettings):
    """Numbers of the recipe `pkd`.

    Attributes:
        gain: multiplier of the loss; None takes the published one of the student's kind.
        statistics: what shares a channel's mean and variance: an image's cells, or all cells of the batch as in the
            source.
        aligner: how the student's channels become the teacher's; ``"auto"`` is a 1×1 convolution where they differ.
    """

    gain: Gain | None = None
    statistics: Literal["image", "batch"] = "image"
    aligner: Literal["auto", "identity", "conv1x1", "conv3x3"] = "auto"


def build_pkd(student: DetectorSpec, teacher: DetectorSpec, settings: PKDSettings) -> Recipe:
    """Each channel of the student's maps varies from cell to cell as the teacher's does, whatever its mean and scale.

    Formula:
        L = gain · Σ_levels mean over channels and inside cells of (ν(A(S)) − ν(T))² / 2
          = gain · Σ_levels mean over channels of 1 − r, r Pearson's correlation of the two over the cells
        ν: each channel of each image to zero mean and unit variance over its inside cells
        gain: one-stage 10; two-stage 6

    Raises:
        CapabilityError: the detectors share no stride, or the identity aligner meets different channels.
        ConfigError: an unknown aligner or kind of statistics, or a gain that is not above 0.

    Needs:
        Feature pyramids with at least one shared stride; any two detectors have them. The four finest levels are
        compared.

    Source:
        Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
        NeurIPS 2022; gains from public configurations.

    Differs from the source:
        Mean and variance are each image's own (`statistics: batch` is the source's; equal at batch size 1), so that an
        image costs the same in any batch; padding is left out. Where channels differ, a 1×1 convolution aligns them.
        RetinaNet's gain is taken for FCOS and GFL. There is no choice of `features`: standardising is the method.
    """
    require_one_of("statistics", settings.statistics, ("image", "batch"))
    known, notes = published("pkd", student, PUBLISHED_GAINS)
    gain = known if settings.gain is None else settings.gain
    require_gain("gain", gain)
    strides, per_image = shared_strides(student, teacher, last=_LEVELS), settings.statistics == "image"
    term = LevelTerm(
        cellwise(_halved if per_image else _over_batch, normalize.by_cells),
        strides=strides,
        align=aligner_for(student, teacher, settings.aligner, strides=strides),
        standardized=per_image,
    )
    terms = [WeightedTerm(name="pkd.features", term=term, gain=gain)]
    return recipe_of("pkd", terms, notes=notes if settings.gain is None else ())


def _halved(ours: Tensor, theirs: Tensor, inside: Tensor) -> Tensor:
    return compare.squared(ours, theirs, inside) / 2


def _over_batch(ours: Tensor, theirs: Tensor, inside: Tensor) -> Tensor:
    return _halved(standardize(ours, inside, over=_BATCH), standardize(theirs, inside, over=_BATCH), inside)


METHOD = Method(name="pkd", settings=PKDSettings, build=build_pkd)
