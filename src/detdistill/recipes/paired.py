"""Levels of student and teacher ready to be compared, for terms that are a computation of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detdistill.detectors.base import DetectorSpec
from detdistill.distill.term import levels_at
from detdistill.errors import ShapeError
from detdistill.parts.align import Align, ConvAlign, IdentityAlign
from detdistill.parts.focus import inside_image
from detdistill.recipes.features import require_one_of
from detdistill.types import Batch, Observation


@dataclass(frozen=True, slots=True)
class PairedLevel:
    """One level of both pyramids on one grid.

    Attributes:
        stride: the nominal stride in pixels.
        student: aligned to the teacher's channels; gradients flow. In the padding it says nothing of the image.
        teacher: constant.
        inside: cells inside the image.
    """

    stride: int
    student: Float[Tensor, "b c h w"]
    teacher: Float[Tensor, "b c h w"]
    inside: Bool[Tensor, "b 1 h w"]


def paired_levels(
    student: Observation, teacher: Observation, batch: Batch, *, align: Align, strides: Sequence[int]
) -> tuple[PairedLevel, ...]:
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
    # An aligner's kernel must not carry padding into the image: outside cells enter it as zeros.
    students, teachers = align(
        tuple(
            torch.where(inside > 0, maps, 0.0)
            for maps, inside in zip(
                levels_at(student.pyramid, strides), levels_at(inside_image(student, batch), strides), strict=True
            )
        ),
        levels_at(teacher.pyramid, strides),
    )
    insides = levels_at(inside_image(teacher, batch), strides)
    paired = []
    for stride, ours, theirs, inside in zip(strides, students, teachers, insides, strict=True):
        if ours.shape != theirs.shape:
            raise ShapeError(
                f"The aligned student map of stride {stride} must be {tuple(theirs.shape)} as the teacher's, got "
                f"{tuple(ours.shape)}. Build the recipe for the specs of these two detectors."
            )
        paired.append(PairedLevel(stride=stride, student=ours, teacher=theirs, inside=inside > 0))
    return tuple(paired)


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
