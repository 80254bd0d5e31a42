"""Checks of a teacher of which only its boxes are known: what it is, and whether they are read as they are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from detdistill.progress import counted
from detdistill.proof.checks import BETTER, LOOK, OK, Check, Measure


def boxes_alone(known: str) -> Check:
    """A teacher of which only its boxes are known; `known` is what its file says."""
    return Check("teacher's weights", OK, f"not known, it says boxes alone: {known}")


def unseen(source: str, *, images: int) -> Check:
    """A predictions file that says nothing of the validation images."""
    said = f"{source} says nothing of the {counted(images, 'validation image')}: how good it is stays unknown"
    return Check("teacher's AP", LOOK, said, "Let its detector predict on them too.")


@dataclass(frozen=True, slots=True)
class Reading:
    """Another way to take a teacher's input or output, with its AP so.

    Attributes:
        what: is said otherwise, such as ``"boxes: cxcywh"``.
        remedy: a sentence that says how to have it so.
    """

    what: str
    remedy: str
    ap: float


def readings(own: str, found: Measure, others: Sequence[Reading]) -> Check:
    """Whether what a teacher takes and gives is what its file was said, or recognised, to take and give.

    Args:
        own: that, in words.
        found: its AP so.
        others: its AP on the same images otherwise.
    """
    figures = {"read_as": own, "ap": found.ap, "others": [*map(asdict, others)]}
    best = max(others, key=lambda one: one.ap, default=None)
    if best is not None and best.ap > max(found.ends[1], found.ap + BETTER):
        said = f"{best.ap:.1f} AP with {best.what}, {found.ap:.1f} as they are read: {own}"
        return Check("teacher's boxes", LOOK, said, best.remedy, figures)
    tried = f"{len(others)} other readings are no better" if others else "there is no other reading"
    return Check("teacher's boxes", OK, f"{tried} than {own}", figures=figures)
