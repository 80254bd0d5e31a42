"""A run's images without labels: what they are, what the teacher finds in them, and how they come into a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, FoundReader, KeptPlaces, TwinReader
from detdistill.data.decoded import Kept
from detdistill.data.loader import Beside
from detdistill.data.unlabelled import digest, read_unlabelled
from detdistill.detectors.base import Detector
from detdistill.distillation.found import Learnable
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.precision import score_at_precision
from detdistill.files import read_json, write_json
from detdistill.jobs.finds import finds
from detdistill.jobs.samples import Opened, SampleChanges
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress
from detdistill.random import draw_seed
from detdistill.store.layout import RunFolder
from detdistill.training.settings import TrainSettings
from detdistill.types import Detections

# Apart from the seeds of the labelled images' epochs and samples.
_STREAM = 11
# So many labelled images say which of the teacher's scores can be relied on.
_MOST_JUDGED = 1000


def open_unlabelled(
    config: RunConfig, train: Annotations, val: Annotations, *, same_classes: bool, progress: Progress
) -> Annotations | None:
    """The images that a distillation sees without labels, none of them in its splits; None where it has none.

    Raises:
        ConfigError: there is no such folder or list, the teacher's boxes cannot be labels here, or the parts of a batch
            would get unequal shares.
        DataError: no image is left, or most cannot be used and that is not allowed for.
    """
    settings = config.data.unlabelled
    if settings is None or config.teacher is None:
        return None
    if settings.pseudo != "none" and not same_classes:
        raise ConfigError(
            f"data.unlabelled.pseudo must be none with a teacher that does not know all of the data's classes, got "
            f"{settings.pseudo}. Set data.unlabelled.pseudo=none."
        )
    _require_equal_parts(config.train, settings.count(config.train.batch_size))
    known = [split.path(index) for split in (train, val) for index in range(len(split))]
    images, problems, left_out = read_unlabelled(settings.source, train.class_names, known=known)
    for line in problems.summary():
        progress.say(f"unlabelled images: {line}")
    lost = problems.lost("images")
    if lost > len(images) and not config.data.allow_problems:
        raise DataError(
            f"data.unlabelled.source {settings.source} must keep at least half of its images, got {len(images)} of "
            f"{lost + len(images)} (the lines above say why). Mend them, or go on with what is left by "
            "--allow-problems."
        )
    beside = f"; {left_out} that are training or validation images left out" if left_out else ""
    progress.say(f"unlabelled images: {len(images)} in {settings.source}{beside}")
    return images


def _require_equal_parts(train: TrainSettings, count: int) -> None:
    parts = train.accumulate
    if parts > 1 and (train.batch_size % parts or count % parts):
        raise ConfigError(
            f"train.accumulate must divide train.batch_size, {train.batch_size}, and the unlabelled images of a step, "
            f"{count}, got {parts}. Set train.accumulate=1."
        )


def require_pseudo(student: Detector, opened: Opened) -> None:
    """Refuses to weigh objects by their scores where the student's loss cannot."""
    settings = opened.config.data.unlabelled
    soft = opened.unlabelled is not None and settings is not None and settings.pseudo == "soft"
    if soft and not student.weighs_objects:
        raise ConfigError(
            f"data.unlabelled.pseudo must be hard or none for {student.spec.name}, whose loss weighs no object by its "
            "score, got soft. Set data.unlabelled.pseudo=hard."
        )


def require_whole(opened: Opened, learnable: Learnable | None) -> None:
    """Refuses to learn boxes on images without labels from a teacher that does not know all classes."""
    if opened.unlabelled is not None and learnable is not None and not opened.same_classes:
        raise ConfigError(
            "data.unlabelled must be left out where the boxes of a teacher are learned that does not know all of the "
            "data's classes, as they teach that there is nothing else, got some. Set data.unlabelled=null."
        )


def pseudo_gain(opened: Opened) -> float:
    """The gain of the student's own loss on the teacher's boxes; 0 where it does not learn them."""
    settings = opened.config.data.unlabelled
    if opened.unlabelled is None or settings is None or settings.pseudo == "none":
        return 0.0
    return settings.pseudo_gain


def unlabelled_identity(opened: Opened) -> dict[str, Any]:
    """What of them must be the same on resume."""
    settings, images = opened.config.data.unlabelled, opened.unlabelled
    if images is None or settings is None:
        return {}
    pseudo = settings.pseudo != "none"
    return {
        "unlabelled": {
            "images": len(images),
            "digest": digest(images),
            "a_step": settings.count(opened.config.train.batch_size),
            "pseudo": settings.pseudo,
            "precision": settings.precision,
            **({"pseudo_gain": settings.pseudo_gain, "doubtful": settings.doubtful} if pseudo else {}),
        }
    }


@dataclass(frozen=True, slots=True)
class Scores:
    """The least score of a box that counts, and of one that is doubted; None where none is good enough."""

    sure: float | None
    doubtful: float | None

    def text(self) -> str:
        """In words."""
        if self.sure is None:
            return "no score of the teacher's is right often enough on the labelled images: none of its boxes counts"
        return f"boxes of the teacher count from a score of {self.sure:.2f} on"


def with_teachers_boxes(
    opened: Opened, found: Sequence[Detections], *, teacher: str, progress: Progress
) -> Annotations:
    """The unlabelled images with what the teacher finds in them as it sees them without augmentation.

    Which of its scores count lies in the run's folder.

    Args:
        teacher: the digest of its weights.
        found: what it finds in each of them.

    Raises:
        ConfigError: there are none.
        DataError: an image cannot be read.
    """
    settings, images = opened.config.data.unlabelled, opened.unlabelled
    if settings is None or images is None or opened.teacher is None:
        raise ConfigError("A run must have unlabelled images for its teacher to look at, got none. Name a folder.")
    run = RunFolder(opened.config.out)
    key = {"teacher": teacher, "labelled": opened.data.train.digest(), **unlabelled_identity(opened)}
    kept = read_json(run.unlabelled) if run.unlabelled.is_file() else None
    if not (isinstance(kept, dict) and kept.get("key") == key):
        sure, doubtful = _scores(opened, settings.precision, settings.doubtful, teacher, progress)
        kept = {"key": key, "sure": sure, "doubtful": doubtful}
        write_json(run.unlabelled, kept)
    scores = Scores(kept["sure"], kept["doubtful"])
    progress.say(f"unlabelled images: {scores.text()}")
    labelled = _labelled(images, found, scores, pseudo=settings.pseudo)
    sure = int((~labelled.ignored).sum())
    progress.say(f"unlabelled images: {sure} such boxes, {len(labelled.boxes) - sure} doubtful ones")
    return labelled


def _scores(
    opened: Opened, precision: float, doubtful: float, teacher: str, progress: Progress
) -> tuple[float | None, float | None]:
    train = opened.data.train
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), _MOST_JUDGED)).round().astype(np.int64))
    judged = train.of(chosen)
    found = finds(opened, judged, teacher=teacher, label="judge the teacher on labelled images", progress=progress)
    told = [
        ImageDetections(int(image_id), one.boxes.numpy(), one.scores.numpy(), one.labels.numpy())
        for image_id, one in zip(judged.image_ids, found, strict=True)
    ]
    sure, low = (
        score_at_precision(judged, told, share, by_class=opened.same_classes) for share in (precision, doubtful)
    )
    return sure, low


def _labelled(images: Annotations, found: Sequence[Detections], scores: Scores, *, pseudo: str) -> Annotations:
    """The images with the boxes that count, and where they are labels with those that are doubted, flagged."""
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    boxes, sure = (torch.cat([getattr(one, name) for one in (none, *found)]).numpy() for name in ("boxes", "scores"))
    labels = torch.cat([one.labels for one in (none, *found)]).numpy().astype(np.int32)
    row = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
    infinite = float("inf")
    least = infinite if scores.sure is None else scores.sure
    doubted = least if pseudo == "none" else min(least, infinite if scores.doubtful is None else scores.doubtful)
    keep = sure >= np.float32(doubted)
    counts = np.bincount(row[keep], minlength=len(found))
    boxes, sure = boxes[keep], sure[keep]
    return replace(
        images,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes,
        labels=labels[keep],
        ignored=sure < np.float32(least),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        scores=None if pseudo == "none" else sure if pseudo == "soft" else np.ones_like(sure),
    )


def beside(
    opened: Opened,
    images: Annotations,
    changes: SampleChanges,
    *,
    twins: Mapping[str, TwinReader],
    found: FoundReader | None,
    kept: KeptPlaces | None = None,
    decoded: Kept = MappingProxyType({}),
    batch_size: int,
) -> Beside:
    """What a batch of so many labelled images has of the unlabelled ones, which are varied as those are.

    Raises:
        ConfigError: the run has none.
    """
    settings = opened.config.data.unlabelled
    if settings is None:
        raise ConfigError("A run must have unlabelled images to see some beside others, got none. Name a folder.")
    dataset = DetectionDataset(
        images,
        image=opened.data.image,
        teacher_image=opened.teacher_image,
        augment=opened.config.data.augment,
        seed=draw_seed(opened.config.seed, _STREAM),
        sample_transform=changes.transform,
        twins=twins,
        found=found,
        kept=kept,
        decoded=decoded,
        reduced=opened.config.data.decode == "reduced",
    )
    return Beside(dataset, settings.count(batch_size))
