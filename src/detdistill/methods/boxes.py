"""boxes: what the teacher found becomes objects of the student's own loss (set-of-boxes distillation)."""

from __future__ import annotations

from dataclasses import dataclass

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.found import FoundTerm, Learnable
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import paired_strides
from detdistill.errors import ConfigError
from detdistill.methods.features import recipe_of, require_gain, require_same_classes
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.settings.bounds import Gain, Share


@dataclass(frozen=True, slots=True)
class BoxesSettings(ScheduledSettings):
    """Numbers of the recipe `boxes`.

    Attributes:
        gain: multiplier of the loss.
        score: the teacher's boxes of at least this score are objects.
        doubtful: those below with at least this score are neither objects nor background; what is lower is left out.
        duplicate: a box that overlaps a label by at least this IoU is that label, and no object of its own.
        weighed: whether an object counts as much as its score says; false counts all fully.
        soft: whether an object's class is the distribution that the teacher says; false takes its label alone.
    """

    gain: Gain = 1.0
    score: Share = 0.3
    doubtful: Share = 0.1
    duplicate: Share = 0.5
    weighed: bool = True
    soft: bool = True


def build_boxes(student: DetectorSpec, teacher: DetectorSpec, settings: BoxesSettings) -> Recipe:
    """The student's own loss, once more, against what the teacher found instead of the labels alone.

    It reads nothing of the teacher but its boxes, found once per image before training; these follow the image
    through flips, scales and crops as labels do. The student's heads are asked on the maps that they have seen.

    Formula:
        L = gain · mean over images of the student's own loss on objects (b, q, w), each weighed by w
        labels: w = 1, q = their class, or what the teacher says of it where it found the same class there
        the teacher's other boxes: w = score, q_c ∝ p_c / (1 − p_c); their class cost is Σ_c q_c · the cost as class c
        score < doubtful: left out; doubtful ≤ score < `score`: neither object nor background
        where nobody labelled, and the teacher does not know all classes, nothing is background

    Raises:
        CapabilityError: the teacher has other classes.
        ConfigError: a gain that is not above 0, or `doubtful` above `score`.

    Needs:
        A teacher that says boxes, of the student's classes; any student. Class probabilities where the teacher says
        them: one that says a score and a label alone is taken at its word.

    Source:
        Ours; weighing a found object by its score follows Soft Teacher (Xu et al., ICCV 2021), learning the class
        distribution Hinton et al., 2015.

    Differs from the source:
        Soft Teacher weighs background by the teacher and filters boxes by their jitter; here doubtful boxes are left
        out of the background. On labelled images too; the label is what and where it is.
    """
    require_gain("gain", settings.gain)
    if settings.doubtful > settings.score:
        raise ConfigError(
            f"boxes' doubtful must be at most its score, {settings.score:g}, got {settings.doubtful:g}. "
            f"Set doubtful={settings.score:g}."
        )
    remedy = "Choose a teacher of the data's classes."
    require_same_classes(student, teacher, method="boxes", remedy=remedy)
    learnable = Learnable(
        score=settings.score,
        doubtful=settings.doubtful,
        duplicate=settings.duplicate,
        weighed=settings.weighed,
        soft=settings.soft,
        partial=bool(teacher.unknown),
    )
    # What else weighs a level, such as aid, knows those that both have.
    strides = None if teacher.pyramid is None else paired_strides(student, teacher)
    term = FoundTerm(learnable, strides=strides)
    return recipe_of("boxes", [WeightedTerm(name="boxes.objects", term=term, gain=settings.gain)])


METHOD = Method(name="boxes", settings=BoxesSettings, build=build_boxes)
