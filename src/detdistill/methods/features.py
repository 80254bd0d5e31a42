"""The wiring that every method on feature maps shares: aligners, and costs made of compare, focus and normalize."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import Level, Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import LevelTerm, Measure, shared_strides
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.method import PUBLISHED, FeatureSettings
from detdistill.methods.parts.align import ConvAlign, IdentityAlign
from detdistill.types import Need

# (student, teacher, cells inside) → cost of the maps' shape, or summed over channels;
# (cost · mask, mask, cells inside) → one number per image.
Compare = Callable[[Tensor, Tensor, Tensor], Tensor]
Normalize = Callable[[Tensor, Tensor, Tensor], Tensor]
# → a mask ≥ 0; padding never counts, whatever it says.
Focus = Callable[[Level, Pair], Tensor]

_KERNELS = {"conv1x1": 1, "conv3x3": 3}


def cellwise(compare: Compare, normalize: Normalize, focus: Focus | None = None) -> Measure:
    """A measure composed of words: what every cell costs, where it counts, what it is divided by.

    Args:
        compare: how two maps differ.
        normalize: what the cost is divided by.
        focus: where it counts; None is everywhere inside the image.
    """

    def measure(level: Level, pair: Pair) -> Float[Tensor, " b"]:
        with full_precision(level.teacher):
            cost = compare(level.student, level.teacher, level.inside)
            mask = level.inside.float() if focus is None else level.without_padding(focus(level, pair))
            if focus is not None:
                pair.look(focus.__name__, level.stride, mask)
                cost = cost * mask
            return normalize(level.without_padding(cost), mask, level.inside)

    return measure


def full_precision(maps: Tensor) -> AbstractContextManager[object]:
    """What is computed within is computed in the precision of its inputs, whatever the step's."""
    kind = maps.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def on_one_scale(settings: FeatureSettings, *, own: bool | None = None) -> bool:
    """Whether a method's terms see standardised maps: as its key `features` says, else its own key, else its strength.

    Published gains are for raw maps; at a strength that is a number, gains are for any.

    Raises:
        ConfigError: `features` is no choice of it.
    """
    require_one_of("features", settings.features, (None, "raw", "standardized"))
    if settings.features is not None:
        return settings.features == "standardized"
    return settings.strength not in (None, PUBLISHED) if own is None else own


def feature_term(
    student: DetectorSpec,
    teacher: DetectorSpec,
    measure: Measure,
    *,
    aligner: str,
    relu: bool = False,
    standardized: bool = False,
    teacher_needs: frozenset[Need] = frozenset(),
) -> LevelTerm:
    """A term on the shared levels of both pyramids, with an aligner of its own.

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        measure: what a level costs.
        aligner: ``"identity"``, ``"conv1x1"`` or ``"conv3x3"``.
        relu: whether a ReLU follows the convolution.
        standardized: whether `measure` sees both maps on one scale.
        teacher_needs: what `measure` reads from the teacher beyond its pyramid.

    Raises:
        CapabilityError: no shared stride, or the identity aligner with different channels.
        ConfigError: an unknown aligner.
    """
    require_one_of("aligner", aligner, ("identity", *_KERNELS))
    strides = shared_strides(student, teacher)
    align = aligner_for(student, teacher, aligner, strides=strides, relu=relu)
    return LevelTerm(measure, strides=strides, align=align, standardized=standardized, teacher_needs=teacher_needs)


def aligner_for(
    student: DetectorSpec, teacher: DetectorSpec, aligner: str, *, strides: Sequence[int], relu: bool = False
) -> nn.Module:
    """A freshly initialised aligner.

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        aligner: ``"identity"``, ``"conv1x1"``, ``"conv3x3"``, or ``"auto"``: a 1×1 convolution where the channels
            differ, else none.
        strides: the levels it is for.
        relu: whether a ReLU follows a convolution.

    Returns:
        A module that takes the student's channels to the teacher's: an `Align`.

    Raises:
        CapabilityError: the identity aligner with different channels.
        ConfigError: an unknown aligner.
    """
    require_one_of("aligner", aligner, ("auto", "identity", *_KERNELS))
    channels = {stride: (student.maps.at(stride), teacher.maps.at(stride)) for stride in strides}
    if aligner == "identity" or (aligner == "auto" and all(ours == theirs for ours, theirs in channels.values())):
        of_levels = [IdentityAlign(*both) for both in channels.values()]  # each refuses channels that differ
        return of_levels[0]
    return ConvAlign(student.maps.at, teacher.maps.at, strides=strides, kernel=_KERNELS.get(aligner, 1), relu=relu)


def recipe_of(name: str, terms: Iterable[WeightedTerm], *, notes: tuple[str, ...] = ()) -> Recipe:
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
    return Recipe(name=name, terms=counting, notes=notes)


def require_same_classes(student: DetectorSpec, teacher: DetectorSpec, *, method: str, remedy: str) -> None:
    """Refuses a teacher whose own loss on the labels would be of other classes than they mean.

    Raises:
        CapabilityError: its classes are not the student's, in the same order.
    """
    if student.class_names != teacher.class_names:
        raise CapabilityError(
            f"The teacher of {method} must have the student's classes in the same order, as its loss on the labels "
            f"counts, got {list(teacher.class_names)} ({teacher.name}) and {list(student.class_names)}. {remedy}"
        )


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


def require_temperature(value: float, *, name: str = "temperature", remedy: str = "Leave it out.") -> None:
    """Refuses a temperature that does not soften anything.

    Raises:
        ConfigError: it is not above 0, or not finite.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"The recipe's {name} must be a finite number above 0, got {value}. {remedy}")
