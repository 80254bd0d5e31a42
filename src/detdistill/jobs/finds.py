"""What a run's teacher finds in its images, once per image, and what a student learns of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.detectors.base import Detector
from detdistill.distillation.found import Learnable
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

    def look(indices: Sequence[int]) -> list[Detections]:
        return _looked(opened, images.of(np.asarray(indices, dtype=np.int64)))

    progress.say(f"{label}: what the teacher finds in {len(images)} images, kept in {finds_folder(opened)}")
    found = kept_finds(
        finds_folder(opened),
        identity={"teacher": teacher, **finds_identity(opened)},
        annotations=images,
        look=look,
        batch_size=opened.config.evaluate.batch_size,
        progress=progress,
    )
    if not any(len(one.scores) for one in found):
        progress.say(f"{label}: the teacher finds nothing in any of them, so nothing is learned from what it finds")
    return found


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
    """Reads what is learned of every image of a data set; can be sent to loader workers.

    Attributes:
        annotations: the images and their labels.
        learnable: what becomes of the finds.
        edges: where each image's begin; the rest has one row a box that is not left out.
    """

    annotations: Annotations
    learnable: Learnable
    edges: Int64[Tensor, " e"]
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    probabilities: Float[Tensor, "n k"] | None

    @classmethod
    def of(cls, annotations: Annotations, learnable: Learnable, found: Sequence[Detections]) -> Learned:
        """The reader of what a teacher found in the images, in their order."""
        kept = [one.scores >= learnable.doubtful for one in found]
        told = [(_NOTHING, torch.zeros(0, dtype=torch.bool)), *zip(found, kept, strict=True)]
        said = [one.probabilities[keep] for one, keep in told if one.probabilities is not None]
        return cls(
            annotations,
            learnable,
            torch.tensor([int(keep.sum()) for _, keep in told]).cumsum(0),
            torch.cat([one.boxes[keep] for one, keep in told]),
            torch.cat([one.scores[keep] for one, keep in told]),
            torch.cat([one.labels[keep] for one, keep in told]),
            torch.cat(said) if said else None,
        )

    def __call__(self, index: int) -> Targets:
        """The objects of an image in its stored pixels: labels, and what was found beside them."""
        rows = slice(int(self.edges[index]), int(self.edges[index + 1]))
        classes = None if self.probabilities is None else self.probabilities[rows]
        found = Detections(self.boxes[rows], self.scores[rows], self.labels[rows], classes)
        return _objects(self.annotations, index, found, self.learnable)


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
            self.seen[index] = _objects(train, index, found, self.learnable)
        return self.seen[index]


def labels_alone(images: Annotations, learnable: Learnable | None) -> Learned | None:
    """Reads the labels as what is learned: a step then takes as long as with finds, and no teacher looks."""
    if learnable is None:
        return None
    return Learned.of(images, learnable, [_NOTHING] * len(images))


def _objects(annotations: Annotations, index: int, found: Detections, learnable: Learnable) -> Targets:
    objects = annotations.objects(index) if annotations.labelled else slice(0)
    labels = Targets(
        torch.tensor(annotations.boxes[objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor(annotations.labels[objects], dtype=torch.int64),
        torch.tensor(annotations.ignored[objects], dtype=torch.bool),
    )
    height, width = map(int, annotations.sizes[index])
    unlabelled = None if annotations.labelled else (height, width)
    return learnable.objects(found, labels, classes=len(annotations.class_names), unlabelled=unlabelled)
