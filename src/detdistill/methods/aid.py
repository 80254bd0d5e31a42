"""aid: any method, less where the teacher itself errs (Adaptive Instance Distillation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.term import shared_strides
from detdistill.distillation.view import CLEAN
from detdistill.distillation.weigh import Features, MeanOf, SpreadTo, Weigh
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.attention import AttentionSettings
from detdistill.methods.composition import MethodSettings, wrapped
from detdistill.methods.features import require_gain, require_one_of, require_same_classes
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts.weigh import (
    BY_IMAGE,
    BY_IMAGE_REMEDY,
    BY_LEVEL,
    GRANULARITIES,
    Granularity,
    by_teacher_loss,
)
from detdistill.settings.bounds import Gain
from detdistill.types import Knowledge, Need, Observation

AUTO: Literal["auto"] = "auto"
"""The alpha that is found on the training images."""
SPREAD = 0.3
"""How far weights differ at that alpha: their standard deviation; between 0 and 1 the most there can be is 0.5."""
_SOURCES = {"teacher_features": Features.TEACHER, "student_features": Features.STUDENT}


@dataclass(frozen=True, slots=True)
class AIDSettings(ScheduledSettings):
    """Numbers of the recipe `aid`.

    Attributes:
        recipe: settings of the method that is weighed.
        alpha: how fast trust in the teacher falls with its loss; 0 is the method itself, bit by bit; ``"auto"`` the
            least at which the weights' standard deviation over the training images reaches 0.3, measured once at the
            start.
        granularity: what shares one weight: ``"image_level"`` nothing, ``"level"`` the batch's images (the source's),
            ``"image"`` an image's levels, ``"batch"`` everything.
        loss_source: whose features the teacher's heads read for the loss: the teacher's (the paper), or the
            student's (part of the authors' code), which needs equal pyramids.
        control: hold each level's weight at its mean over the training images: as much weight, adapted to nothing.
        weigh_adversarial: weigh the terms on other views too, by the loss on the clean view; those that this wraps,
            so write ``aid(ikd(...))``.
    """

    recipe: MethodSettings = wrapped(AttentionSettings)
    alpha: Gain | Literal["auto"] = 0.1
    granularity: Granularity = "image_level"
    loss_source: Literal["teacher_features", "student_features"] = "teacher_features"
    control: bool = False
    weigh_adversarial: bool = False


@final
class ByTeacherLoss(Weigh):
    """The weight exp(−alpha · teacher's loss) per image and stride; see `by_teacher_loss`.

    Args:
        alpha: how fast the weight falls, per unit of loss, ≥ 0.
        granularity: what shares one weight.
        features: whose features the teacher's heads read for the loss.
    """

    def __init__(
        self, *, alpha: float, granularity: Granularity = "image_level", features: Features = Features.TEACHER
    ) -> None:
        self.needs = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
        self.features = features
        self.alpha = alpha
        self.granularity: Granularity = granularity

    def __call__(
        self, teacher: Observation, strides: Sequence[int | None], *, knowledge: Knowledge
    ) -> Float[Tensor, "b l"]:
        """Weights in (0, 1], detached.

        Raises:
            CapabilityError: the observation lacks the losses, or one of the strides.
        """
        if teacher.task_loss is None:
            raise CapabilityError(
                "The teacher's observation for aid must hold its task loss, got none. "
                "Answer Need.TASK_LOSS in observe()."
            )
        return by_teacher_loss(
            teacher.task_loss, strides, knowledge=knowledge, alpha=self.alpha, granularity=self.granularity
        )


def wrap_aid(recipe: Recipe, student: DetectorSpec, teacher: DetectorSpec, settings: AIDSettings) -> Recipe:
    """The student follows the teacher where the teacher is right, and the ground truth alone where it is not.

    The terms on the clean view are weighed, everything else stays. The control must still pass through
    `with_constant_weights`.

    Formula:
        L = Σ_terms gain · mean over images i of Σ_levels l exp(−alpha · D(i, l)) · cost(i, l)
        D = the teacher's class + box loss (class terms: class alone; box terms: box alone; two stages: + RoI loss)

    Raises:
        CapabilityError: the teacher has other classes, no loss on a level that is weighed, or heads that cannot read
            the student's features.
        ConfigError: an unknown granularity or loss source, an alpha below 0, a recipe that is weighed already, a
            control of a weight that reads the student or is shared over a batch, or `weigh_adversarial` without a term
            on another view.

    Needs:
        A teacher that gives the class and box loss of each image and level; RetinaNet, FCOS, GFL and Faster R-CNN
        do. `loss_source: student_features` needs equal strides and channels of both pyramids.

    Source:
        Lan and Tian, Adaptive Instance Distillation for Object Detection in Autonomous Driving, 2022; levels and
        alpha from the authors' code.

    Differs from the source:
        An image on a level has a weight of its own (`granularity: level` shares it over the batch, as the authors'
        code does, but by the mean over images where the code divides by the batch's positives). The teacher reads its
        own features, as in the paper (the code's attention variants read the student's: `loss_source:
        student_features`, where we take the teacher's RPN too, the code the student's). Every level has its own
        weight, also where the code always takes the first level's. The gains are those of the wrapped method, not
        retuned; `alpha: auto` is ours. What a two-stage teacher samples depends on the image alone, so its loss does
        not flicker.
    """
    if isinstance(settings.alpha, str):
        require_one_of("alpha", settings.alpha, (AUTO,))
    else:
        require_gain("alpha", settings.alpha)
    require_one_of("granularity", settings.granularity, GRANULARITIES)
    require_one_of("loss_source", settings.loss_source, _SOURCES)
    features = _SOURCES[settings.loss_source]
    if settings.control and features is Features.STUDENT:
        raise ConfigError(
            "The loss_source of aid's control must be teacher_features, got student_features, whose mean changes as "
            "the student learns. Leave loss_source out."
        )
    if settings.alpha == AUTO and (features is Features.STUDENT or settings.granularity not in BY_IMAGE):
        raise ConfigError(
            "aid's alpha must be a number where its weight reads the student or is shared over a batch, got auto, "
            "which is found on each image alone. Leave loss_source and granularity out, or write a number."
        )
    if settings.control and settings.granularity not in BY_IMAGE:
        raise ConfigError(
            f"The granularity of aid's control must be image_level or image, got {settings.granularity}, whose mean "
            "depends on which images share a batch. Leave granularity out."
        )
    weighed = [term.name for term in recipe.terms if term.weigh is not None]
    if weighed:
        raise ConfigError(
            f"The terms of '{recipe.name}' must be free of weights for aid to weigh them, got weights on {weighed}. "
            "Wrap the method in aid once."
        )
    if settings.weigh_adversarial and all(term.view == CLEAN for term in recipe.terms):
        raise ConfigError(
            f"aid's weigh_adversarial must be false for '{recipe.name}', whose terms all are on the clean view, got "
            "true. Wrap the method in ikd inside aid, as in aid(ikd(frs), weigh_adversarial=true), or leave it out."
        )
    require_same_classes(student, teacher, method="aid", remedy="Take the method without aid.")
    if features is Features.STUDENT:
        _require_equal_pyramids(student, teacher)
    if settings.granularity in BY_LEVEL:
        _require_level_losses(student, teacher, settings)
    weigh = _weigh(settings, features)
    terms = tuple(
        replace(term, weigh=weigh) if term.view == CLEAN or settings.weigh_adversarial else term
        for term in recipe.terms
    )
    return replace(recipe, name=f"aid({recipe.name})", terms=terms)


def _weigh(settings: AIDSettings, features: Features) -> Weigh | MeanOf | SpreadTo:
    def at(alpha: float) -> Weigh:
        return ByTeacherLoss(alpha=alpha, granularity=settings.granularity, features=features)

    if isinstance(settings.alpha, str):
        return SpreadTo(at, spread=SPREAD, mean=settings.control)
    return MeanOf(at(settings.alpha)) if settings.control else at(settings.alpha)


def _require_equal_pyramids(student: DetectorSpec, teacher: DetectorSpec) -> None:
    ours, theirs = student.maps, teacher.maps
    if ours != theirs:
        raise CapabilityError(
            f"The student's pyramid must be the teacher's for aid with loss_source student_features, got strides "
            f"{list(ours.strides)} and {ours.channels} channels ({student.name}) and strides {list(theirs.strides)} "
            f"and {theirs.channels} channels ({teacher.name}). Set loss_source to teacher_features."
        )


def _require_level_losses(student: DetectorSpec, teacher: DetectorSpec, settings: AIDSettings) -> None:
    """Dense class logits say on which strides a detector has losses; the control's means are over all its levels."""
    layout = teacher.class_logits
    known = () if layout is None else layout.strides
    wanted = teacher.maps.strides if settings.control else shared_strides(student, teacher)
    missing = [stride for stride in wanted if stride not in known]
    if missing:
        raise CapabilityError(
            f"The teacher of aid must have a loss on every level that is weighed, {list(wanted)}, got none on "
            f"{missing} from {teacher.name}. {BY_IMAGE_REMEDY}"
        )


METHOD = Method(name="aid", settings=AIDSettings, build=wrap_aid)
