"""At what size a teacher sees the images: its own, the student's or another one; and how the two compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import nearest_factor
from detdistill.detectors.load_report import LoadedDetector
from detdistill.distillation.sizes import whole
from detdistill.errors import ConfigError
from detdistill.jobs.settings import TeacherSettings


def own_size(teacher: LoadedDetector) -> ImageSettings | None:
    """The size that a detector was trained at; None where its checkpoint does not say."""
    return ImageSettings(**teacher.image) if teacher.image else None


def teachers_size(
    choice: TeacherSettings, teachers: Sequence[LoadedDetector], ours: ImageSettings
) -> ImageSettings | None:
    """The size at which the teachers see the images; None where it is the student's, `ours`.

    Raises:
        ConfigError: their own is wanted, and their checkpoints do not say which one that is.
    """
    own = {own_size(one) for one in teachers}
    wanted = (own.pop() if len(own) == 1 else None) if choice.image == "own" else choice.image
    if choice.image == "own" and wanted is None:
        whose = "whose checkpoint does not say at what size it was trained"
        if len(teachers) > 1:
            whose = "whose checkpoints do not say one size at which all were trained"
        raise ConfigError(
            f"teacher.image must be a size for {choice.text}, {whose}, got own. "
            "Write teacher.image.short_side=480 teacher.image.long_side=640, or whatever it was."
        )
    return None if wanted == ours else wanted


def ratio_between(ours: ImageSettings, theirs: ImageSettings, annotations: Annotations) -> float:
    """How many of the teacher's pixels lie along one of the student's.

    The power of two where every image is so many times as large, up to rounding; else the mean over their sizes.
    """
    if ours == theirs:
        return 1.0
    mine, its = _seen(ours, annotations), _seen(theirs, annotations)
    mean = float(np.exp(np.log(its / mine).mean()))
    factor = nearest_factor(mean)
    pairs = zip(mine.ravel().tolist(), its.ravel().tolist(), strict=True)
    return factor if all(whole(own, other, factor) for own, other in pairs) else mean


def same_size(one: ImageSettings, other: ImageSettings, annotations: Annotations) -> bool:
    """Whether all images come out at the same size under both."""
    return bool((_seen(one, annotations) == _seen(other, annotations)).all())


def other_own_size(teacher: LoadedDetector, seen: ImageSettings, annotations: Annotations) -> ImageSettings | None:
    """The size that a detector was trained at, where it sees these images at another one."""
    own = own_size(teacher)
    return None if own is None or same_size(own, seen, annotations) else own


def foreign_size_note(teacher: LoadedDetector, seen: ImageSettings, annotations: Annotations) -> str | None:
    """What a person should know of a teacher that sees other sizes than it was trained at; None where it does not."""
    own = other_own_size(teacher, seen, annotations)
    if own is None:
        return None
    return (
        f"the teacher was trained on images of {own.text()} and sees them here with {seen.text()}, where it "
        "may be a worse teacher: set teacher.image=own to show it its own size, whatever the student's is"
    )


def _seen(size: ImageSettings, annotations: Annotations) -> NDArray[np.int64]:
    """Height and width of every different size of images as stored, after the resize; (n, 2)."""
    stored = np.unique(annotations.sizes[:], axis=0)
    return np.array([size.resized(int(height), int(width)) for height, width in stored], dtype=np.int64)
