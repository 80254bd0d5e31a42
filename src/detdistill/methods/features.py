"""The wiring that every feature method shares: the student's pyramid, aligned, against the teacher's."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from torch import nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import CellTerm, Compare, Focus, Normalize, shared_strides
from detdistill.errors import ConfigError
from detdistill.methods.parts import select
from detdistill.methods.parts.align import ConvAlign, IdentityAlign
from detdistill.methods.parts.focus import inside_image
from detdistill.types import Knowledge, Need


def feature_term(
    student: DetectorSpec,
    teacher: DetectorSpec,
    *,
    aligner: str,
    relu: bool = False,
    compare: Compare,
    normalize: Normalize,
    focus: Focus = inside_image,
    focus_needs: frozenset[Need] = frozenset(),
) -> CellTerm:
    """A term on the shared levels of both pyramids.

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        aligner: ``"identity"``, ``"conv1x1"`` or ``"conv3x3"``.
        relu: whether a ReLU follows the convolution.
        compare: cost of (aligned student, teacher, inside).
        normalize: what the cost is divided by.
        focus: where it counts.
        focus_needs: what `focus` reads from the teacher beyond its pyramid.

    Returns:
        The term, its aligner freshly initialised.

    Raises:
        CapabilityError: no shared stride, or the identity aligner with different channels.
        ConfigError: an unknown aligner.
    """
    strides = shared_strides(student, teacher)
    kernels = {"identity": 0, "conv1x1": 1, "conv3x3": 3}
    require_one_of("aligner", aligner, kernels)
    align: nn.Module
    if aligner == "identity":
        align = IdentityAlign(student.pyramid.channels, teacher.pyramid.channels)
    else:
        align = ConvAlign(
            student.pyramid.channels,
            teacher.pyramid.channels,
            strides=strides,
            kernel=kernels[aligner],
            relu=relu,
        )
    return CellTerm(
        knowledge=Knowledge.FEATURE,
        select=select.pyramid,
        align=align,
        compare=compare,
        focus=focus,
        normalize=normalize,
        inside=inside_image,
        strides=strides,
        student_needs=frozenset({Need.PYRAMID}),
        teacher_needs=frozenset({Need.PYRAMID}) | focus_needs,
    )


def recipe_of(name: str, terms: Iterable[WeightedTerm]) -> Recipe:
    """The recipe of the terms that count: a gain of 0 leaves its term out.

    Raises:
        ConfigError: every gain is 0.
    """
    counting = tuple(term for term in terms if term.gain > 0)
    if not counting:
        raise ConfigError(
            f"At least one gain of the recipe '{name}' must be above 0, got 0 for every term. Raise one of them, or "
            "train the student alone with detdistill train."
        )
    return Recipe(name=name, terms=counting)


def require_one_of(name: str, value: object, known: Collection[object]) -> None:
    """Refuses a recipe's setting that is not one of the known values.

    Raises:
        ConfigError: it is none of them.
    """
    if value not in known:
        choices = ", ".join(map(str, known))
        raise ConfigError(f"The recipe's {name} must be one of {choices}, got '{value}'. Choose one of them.")


def require_gain(name: str, value: float) -> None:
    """Refuses a multiplier that would turn learning around.

    Raises:
        ConfigError: it is negative or not finite.
    """
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"The recipe's {name} must be a finite number of at least 0, got {value}. Give one such as 1."
        )
