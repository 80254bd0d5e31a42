"""Levels of student and teacher ready to be compared, for terms that are a computation of their own."""

from __future__ import annotations

from collections.abc import Sequence

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.term import AlignedLevel, aligned_levels
from detdistill.methods.features import require_one_of
from detdistill.methods.parts.align import Align, ConvAlign, IdentityAlign
from detdistill.methods.parts.focus import inside_image
from detdistill.types import Batch, Observation


def paired_levels(
    student: Observation, teacher: Observation, batch: Batch, *, align: Align, strides: Sequence[int]
) -> tuple[AlignedLevel, ...]:
    """The paired levels of both pyramids, the student's aligned.

    Args:
        student: gradients flow.
        teacher: constant.
        batch: gives the image sizes.
        align: takes the student's channels to the teacher's.
        strides: the levels to pair, in the order that `align` was built for.

    Returns:
        One entry per stride.

    Raises:
        ShapeError: a level is missing, or the maps do not fit after alignment.
    """
    return aligned_levels(
        student.pyramid,
        teacher.pyramid,
        inside=(inside_image(student, batch), inside_image(teacher, batch)),
        align=align,
        strides=strides,
    )


def aligner_for(student: DetectorSpec, teacher: DetectorSpec, aligner: str, *, strides: Sequence[int]) -> Align:
    """A freshly initialised aligner.

    Args:
        student: spec of the student.
        teacher: spec of the teacher.
        aligner: ``"identity"``, ``"conv1x1"``, ``"conv3x3"``, or ``"auto"``: a 1×1 convolution where the channels
            differ, else none.
        strides: the levels it is for.

    Returns:
        A module that takes the student's channels to the teacher's.

    Raises:
        CapabilityError: the identity aligner with different channels.
        ConfigError: an unknown aligner.
    """
    require_one_of("aligner", aligner, ("auto", "identity", "conv1x1", "conv3x3"))
    ours, theirs = student.pyramid.channels, teacher.pyramid.channels
    if aligner == "identity" or (aligner == "auto" and ours == theirs):
        return IdentityAlign(ours, theirs)
    return ConvAlign(ours, theirs, strides=strides, kernel=3 if aligner == "conv3x3" else 1)
