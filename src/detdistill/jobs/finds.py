"""What a run's teacher finds in its images, once per image, and what a student learns of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import FoundReader
from detdistill.detectors.base import Detector
from detdistill.distillation.found import Learnable
from detdistill.evaluation.coco import ImageDetections
from detdistill.jobs.opening import detect
from detdistill.jobs.samples import Opened
from detdistill.progress import Progress, Silence
from detdistill.store.finds import kept_finds
from detdistill.store.layout import RunFolder
from detdistill.types import Detections, Targets

_NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def finds_identity(opened: Opened) -> dict[str, Any]:
    """What the teacher's finds depend on beside its weights and the images."""
    if opened.teacher is None:
        return {}
    detector = opened.teacher.detector
    settings = detector.settings
    names = ("score_threshold", "nms_threshold", "detections_per_image")
    within = [part for part in detector.modules() if isinstance(part, Detector) and part is not detector]
    return {
        "name": detector.spec.name,
        "image": asdict(opened.taught_at),
        "agnostic": opened.config.evaluate.agnostic,
        **({} if settings is None else {name: getattr(settings, name) for name in names}),
        **({"within": [[getattr(part.settings, name, None) for name in names] for part in within]} if within else {}),
    }


def finds_folder(opened: Opened) -> Path:
    """Where the teacher's finds are kept."""
    choice = opened.config.teacher
    return (None if choice is None else choice.cache_folder) or RunFolder(opened.config.out).finds


def finds(opened: Opened, images: Annotations, *, teacher: str, label: str, progress: Progress) -> list[Detections]:
    """What the teacher finds in images as it sees them without augmentation, in pixels of the stored images.

    Kept in the run's folder or in `teacher.cache`, where a resumed run, the other processes of a machine and other runs
    have it from; see `kept_finds`.

    Args:
        teacher: its digest.
        label: what its looking is called.

    Raises:
        DataError: an image cannot be read, the disk has too little room, or what is kept is not what it finds.
    """

    found = _kept(opened, images, teacher=teacher, label=label, progress=progress)
    if not any(len(one.scores) for one in found):
        progress.say(f"{label}: the teacher finds nothing in any of them, so nothing is learned from what it finds")
    return found


def finds_to_measure(opened: Opened, *, teacher: str, progress: Progress) -> list[ImageDetections] | None:
    """What the teacher finds in the validation images, kept where a run says by `teacher.cache_folder`; else None.

    See `finds`; to the bit what it found when it looked at them.
    """
    images, choice = opened.data.val, opened.config.teacher
    if choice is None or choice.cache_folder is None:
        return None
    found = _kept(opened, images, teacher=teacher, label="validation images", progress=progress)
    return [
        ImageDetections(
            image_id,
            one.boxes.numpy(),
            one.scores.numpy(),
            one.labels.numpy(),
            None if one.probabilities is None else one.probabilities.numpy(),
        )
        for image_id, one in zip(images.image_ids.tolist(), found, strict=True)
    ]


def _kept(opened: Opened, images: Annotations, *, teacher: str, label: str, progress: Progress) -> list[Detections]:
    def look(indices: Sequence[int]) -> list[Detections]:
        return _looked(opened, images.of(np.asarray(indices, dtype=np.int64)))

    progress.say(f"{label}: what the teacher finds in {len(images)} images, kept in {finds_folder(opened)}")
    return kept_finds(
        finds_folder(opened),
        identity={"teacher": teacher, **finds_identity(opened)},
        annotations=images,
        look=look,
        batch_size=opened.config.evaluate.batch_size,
        progress=progress,
    )


def _looked(opened: Opened, images: Annotations) -> list[Detections]:
    assert opened.teacher is not None
    found = detect(
        opened.teacher.detector,
        images,
        opened.taught_at,
        label="",
        batch_size=opened.config.evaluate.batch_size,
        agnostic=opened.config.evaluate.agnostic,
        device=opened.first_device,
        progress=Silence(),
    )
    # What a teacher of other classes calls an object says nothing to these.
    known = opened.teacher.detector.spec.class_names == opened.data.train.class_names
    return [
        Detections(
            torch.from_numpy(one.boxes),
            torch.from_numpy(one.scores),
            torch.from_numpy(one.labels if known else one.labels * 0),
            None if one.probabilities is None or not known else torch.from_numpy(one.probabilities),
        )
        for one in found
    ]


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """Reads what is learned of every image of a data set, made once; can be sent to loader workers.

    Attributes:
        edges: where each image's objects begin.
        rows: the objects of all images in a row, in pixels of the stored images: labels, and what was found beside.
    """

    edges: tuple[int, ...]
    rows: Targets

    @classmethod
    def of(cls, annotations: Annotations, learnable: Learnable, found: Sequence[Detections]) -> Learned:
        """The reader of what a teacher found in the images, in their order."""
        objects = [_objects(annotations, learnable, one, index) for index, one in enumerate(found)]
        columns = ([getattr(one, name) for one in objects] for name in ("boxes", "labels", "ignored"))
        boxes, labels, ignored = map(torch.cat, columns)
        scores, classes = (
            [one for each in objects if (one := getattr(each, name)) is not None]
            for name in ("scores", "probabilities")
        )
        edges = accumulate((len(one.labels) for one in objects), initial=0)
        return cls(
            tuple(edges),
            Targets(
                boxes,
                labels,
                ignored,
                scores=torch.cat(scores) if scores else None,
                probabilities=torch.cat(classes) if classes else None,
            ),
        )

    def __call__(self, index: int) -> Targets:
        """The objects of an image in its stored pixels: labels, and what was found beside them."""
        some = slice(self.edges[index], self.edges[index + 1])
        rows = self.rows
        return Targets(
            rows.boxes[some],
            rows.labels[some],
            rows.ignored[some],
            scores=None if rows.scores is None else rows.scores[some],
            probabilities=None if rows.probabilities is None else rows.probabilities[some],
        )


@final
@dataclass(frozen=True, eq=False)
class Looking:
    """The same, of a teacher that looks when it is asked: for a few images, before a run looks at all of them."""

    opened: Opened
    learnable: Learnable
    seen: dict[int, Targets] = field(default_factory=dict)

    def __call__(self, index: int) -> Targets:
        """See `Learned`; of the training images."""
        if index not in self.seen:
            train = self.opened.data.train
            (found,) = _looked(self.opened, train.of(np.array([index])))
            self.seen[index] = _objects(train, self.learnable, found, index)
        return self.seen[index]


def labels_alone(images: Annotations, learnable: Learnable | None) -> FoundReader | None:
    """Reads the labels as what is learned: a step then takes as long as with finds, and no teacher looks."""
    return None if learnable is None else partial(_objects, images, learnable, _NOTHING)


def _objects(annotations: Annotations, learnable: Learnable, found: Detections, index: int) -> Targets:
    objects = annotations.objects(index) if annotations.labelled else slice(0)
    labels = Targets(
        torch.tensor(annotations.boxes[objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor(annotations.labels[objects], dtype=torch.int64),
        torch.tensor(annotations.ignored[objects], dtype=torch.bool),
    )
    height, width = map(int, annotations.sizes[index])
    unlabelled = None if annotations.labelled else (height, width)
    return learnable.objects(found, labels, classes=len(annotations.class_names), unlabelled=unlabelled)
