"""Whose published numbers a detector gets: by what it is, never by what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from detdistill.detectors.base import DetectorSpec
from detdistill.types import ClassKind

Numbers = TypeVar("Numbers")


class Kind(Enum):
    """The kinds of detector that methods were published for, each by its best known member."""

    ANCHORS = "RetinaNet"
    ANCHOR_FREE = "FCOS"
    DISTRIBUTIONS = "GFL"
    TWO_STAGE = "Faster R-CNN"


ONE_STAGE = (Kind.ANCHORS, Kind.ANCHOR_FREE, Kind.DISTRIBUTIONS)


def kind_of(spec: DetectorSpec) -> Kind | None:
    """The kind that a detector's traits make it; None where methods have no published numbers for its kind."""
    logits = spec.class_logits
    if spec.two_stage:
        return Kind.TWO_STAGE
    if logits is None or logits.kind is not ClassKind.SIGMOID:
        return None
    if spec.box_distributions is not None:
        return Kind.DISTRIBUTIONS
    return Kind.ANCHORS if logits.anchors > 1 else Kind.ANCHOR_FREE


def published(method: str, student: DetectorSpec, numbers: Mapping[Kind, Numbers]) -> tuple[Numbers, tuple[str, ...]]:
    """What was published for detectors of the student's kind.

    Args:
        method: its name, for the note.
        student: spec of the student.
        numbers: by kind; FCOS's stand in for a kind without any.

    Returns:
        The numbers, and a note for people where they are another kind's.
    """
    kind = kind_of(student)
    if kind is not None:
        return numbers[kind], ()
    note = (
        f"{method} has no published gains for a detector such as {student.name}, a one-stage one without sigmoid "
        f"scores of its classes: {Kind.ANCHOR_FREE.value}'s are taken. Compare a few gains before you trust the result."
    )
    return numbers[Kind.ANCHOR_FREE], (note,)
