"""The data that flows through detdistill: frozen, and the same for every detector.

Axis letters: b image, c channel, h w cells, l level, a anchor, k class, n object.
Boxes are x1, y1, x2, y2 in pixels of the padded batch image. Labels are 0..K-1; there is no background class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from detdistill.errors import CapabilityError


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on another device. One of the CPU's reaches a GPU through pinned memory, and nobody waits for it."""
    target = torch.device(device)
    if target.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(target, non_blocking=True)


class Knowledge(Enum):
    """What kind of knowledge a term carries; AID looks its weight up by it."""

    FEATURE = "feature"
    CLASSIFICATION = "classification"
    LOCALIZATION = "localization"


class Need(Enum):
    """A part of an `Observation` that somebody asks for."""

    PYRAMID = "pyramid"
    CLASS_LOGITS = "class_logits"
    BOX_DISTRIBUTIONS = "box_distributions"
    BOXES = "boxes"
    TOWERS = "towers"
    QUERIES = "queries"
    TASK_LOSS = "task_loss"
    IMAGE_LOSSES = "image_losses"
    FOUND_LOSS = "found_loss"


class ClassKind(Enum):
    """What a class logit says: a sigmoid score per class, the RPN's objectness, or a share among classes and none."""

    SIGMOID = "sigmoid classes"
    OBJECTNESS = "RPN objectness"
    SOFTMAX = "softmax over classes and no object"


@dataclass(frozen=True, slots=True)
class Targets:
    """The ground truth of one image.

    Crowd and ignore boxes stay in the list, flagged: training leaves them out, evaluation treats them as COCO does.
    `kept` are the indices of those that are not flagged, where they are known already.

    Attributes:
        scores: how much each object counts, where a teacher found them instead of a person: those that it doubts are
            flagged as ignored. None for labels.
        doubtful: where no background is learned either, empty boxes apart: what a teacher doubts, once `taught` took
            it from the objects.
        probabilities: of what class each object is: a distribution over the classes, each row's sum 1. None where the
            labels are certain.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int64[Tensor, " n"]
    ignored: Bool[Tensor, " n"]
    kept: Int64[Tensor, " t"] | None = None
    scores: Float[Tensor, " n"] | None = None
    doubtful: Float[Tensor, "_d 4"] | None = None
    probabilities: Float[Tensor, "n k"] | None = None

    def only(self, keep: Tensor, *, boxes: Float[Tensor, "n 4"] | None = None) -> Targets:
        """Some of the objects, by indices or a mask, with all their boxes as they are or as they are given."""
        shown = self.boxes if boxes is None else boxes
        if keep.dtype == torch.bool:
            if bool(keep.all()):
                return Targets(shown, self.labels, self.ignored, scores=self.scores, probabilities=self.probabilities)
            keep = keep.nonzero()[:, 0]
        scores, classes = (None if one is None else one[keep] for one in (self.scores, self.probabilities))
        return Targets(shown[keep], self.labels[keep], self.ignored[keep], scores=scores, probabilities=classes)

    def taught(self) -> Targets:
        """The objects that training uses: all that are not flagged as ignored."""
        found = self.only(~self.ignored if self.kept is None else self.kept)
        if self.scores is None:
            return found
        # To count those in doubt the host would wait for a GPU.
        alone = self.boxes.device.type == "cpu"
        doubtful = self.boxes[self.ignored] if alone else torch.where(self.ignored[:, None], self.boxes, 0.0)
        return replace(found, doubtful=doubtful)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device, where `taught` waits for nothing: what it keeps is looked up here."""
        kept = torch.nonzero(~self.ignored)[:, 0] if self.kept is None else self.kept
        boxes, labels, ignored, kept = (sent(one, device) for one in (self.boxes, self.labels, self.ignored, kept))
        soft = (self.scores, self.doubtful, self.probabilities)
        return Targets(boxes, labels, ignored, kept, *(None if one is None else sent(one, device) for one in soft))


@dataclass(frozen=True, slots=True)
class Batch:
    """Images resized and padded once, with everything that belongs to them.

    Attributes:
        images: RGB in [0, 1]; pixels outside an image's own size are padding, whose value never matters: each adapter
            zeroes them after normalising.
        sizes: height and width in pixels of each image inside the padded grid.
        stored_sizes: height and width in pixels of each image as stored on disk; detections are mapped back to it.
        targets: ground truth, in pixels of the padded batch image.
        image_ids: the data set's own.
        seeds: one integer ≥ 0 per image, a function of (seed, epoch, index): what a detector draws at random for that
            image is drawn from a generator seeded with it.
        twins: further versions of `images` that underwent the same geometry, by name.
        teacher: the same images as a teacher sees them that has a size of its own: everything in pixels of its own
            grid. None where it sees the batch as it is.
        unlabelled: further images that nobody labelled, on a grid of their own; their targets, where they have any, are
            what the teacher found. None where there are none.
        found: what the teacher found in each image, in pixels of this grid: objects with scores, and probabilities
            where it says them, made one with the labels as the recipe has it. It followed the image through flips,
            scales and crops as the labels did. None where nobody asked for it.
        kept: for each image the number of what its teachers showed of it before, among what is kept of that; -1 where
            they have to look. None where nothing is kept.
    """

    images: Float[Tensor, "b 3 h w"]
    sizes: tuple[tuple[int, int], ...]
    stored_sizes: tuple[tuple[int, int], ...]
    targets: tuple[Targets, ...]
    image_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    twins: Mapping[str, Float[Tensor, "b 3 h w"]] = field(default_factory=lambda: MappingProxyType({}))
    teacher: Batch | None = None
    unlabelled: Batch | None = None
    found: tuple[Targets, ...] | None = None
    kept: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def for_teacher(self) -> Batch:
        """The images as the teacher sees them."""
        return self if self.teacher is None else self.teacher

    @property
    def against_found(self) -> Batch:
        """The same images, whose objects are what the teacher found in them; as they are where nobody asked for it."""
        return self if self.found is None else replace(self, targets=self.found)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            images=sent(self.images, device),
            targets=tuple(target.to(device) for target in self.targets),
            twins={name: sent(images, device) for name, images in self.twins.items()},
            teacher=None if self.teacher is None else self.teacher.to(device),
            unlabelled=None if self.unlabelled is None else self.unlabelled.to(device),
            found=None if self.found is None else tuple(one.to(device) for one in self.found),
        )

    def part(self, first: int, last: int) -> Batch:
        """The images `first` to `last` (not included), on the same padded grid, with their share of the unlabelled."""
        beside = self.unlabelled
        if beside is not None:
            start, end = (len(beside) * edge // len(self) for edge in (first, last))
            beside = beside.part(start, end) if end > start else None
        whole, rows = slice(first, last), range(len(self))[first:last]
        twins = {name: images[whole] for name, images in self.twins.items()}
        theirs = None if self.teacher is None else self.teacher.part(first, last)
        return replace(self.only(rows, images=self.images[whole]), twins=twins, teacher=theirs, unlabelled=beside)

    def only(self, rows: Sequence[int], *, images: Float[Tensor, "_b 3 h w"] | None = None) -> Batch:
        """Some of the images by their places, on the same padded grid, without what is beside them.

        Twins, the teacher's view and unlabelled images are. `images` are theirs, where they are at hand.
        """

        def some(column: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(column[row] for row in rows)

        return Batch(
            images=self.images[list(rows)] if images is None else images,
            sizes=some(self.sizes),
            stored_sizes=some(self.stored_sizes),
            targets=some(self.targets),
            image_ids=some(self.image_ids),
            seeds=some(self.seeds),
            found=None if self.found is None else some(self.found),
            kept=None if self.kept is None else some(self.kept),
        )

    def image(self, index: int) -> Batch:
        """Image `index` alone, on the same padded grid."""
        return self.part(index, index + 1)


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Feature maps at the neck's output, fine to coarse, with their nominal strides in pixels."""

    levels: tuple[Float[Tensor, "b c _h _w"], ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClassLogits:
    """Class scores of every cell before the sigmoid; one tensor (b, a, k, h, w) per level.

    `labels` are those that its k rows are, in order, where a teacher does not know all; None for all.
    """

    levels: tuple[Float[Tensor, "b a k _h _w"], ...]
    strides: tuple[int, ...]
    kind: ClassKind
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class BoxDistributions:
    """Logits over distance bins of the four edges (left, top, right, bottom) of every cell's box."""

    levels: tuple[Float[Tensor, "b a 4 bins _h _w"], ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The box of every anchor of every cell, x1, y1, x2, y2 in pixels of the grid that the detector sees."""

    levels: tuple[Float[Tensor, "b a 4 _h _w"], ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Towers:
    """What both towers of a dense head say after each of their convolutions, first to last."""

    classes: tuple[Pyramid, ...]
    boxes: tuple[Pyramid, ...]


@dataclass(frozen=True, slots=True)
class Queries:
    """What the queries of a detector say of every image: a set of boxes, whose order means nothing.

    Attributes:
        logits: of the classes in label order; of kind SOFTMAX one more, the last: no object.
        boxes: x1, y1, x2, y2 in pixels of the grid that the detector sees.
        kind: what a logit says.
        labels: those that the logits are, in order, where a teacher does not know all; None for all.
    """

    logits: Float[Tensor, "b q s"]
    boxes: Float[Tensor, "b q 4"]
    kind: ClassKind
    labels: tuple[int, ...] | None = None

    @property
    def shares(self) -> Float[Tensor, "b q k"]:
        """How probable each class is, in [0, 1]; no object of a softmax is left out."""
        return self.logits.softmax(dim=-1)[..., :-1] if self.kind is ClassKind.SOFTMAX else self.logits.sigmoid()


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """A detector's own training loss against the ground truth.

    `total` is what the detector trains on, with its own normaliser over the batch. The rest is each image alone,
    weighted as in the total, where `Need.IMAGE_LOSSES` was asked for: for a batch of one image the parts add up to
    the total. What belongs to no level, a second stage's or a set of queries', is in the two `roi_` parts. `other`
    (centerness, distribution focal loss, ...) never enters AID's weight.
    """

    total: Float[Tensor, ""]
    strides: tuple[int, ...] = ()
    classification: Float[Tensor, "b l"] | None = None
    box: Float[Tensor, "b l"] | None = None
    roi_classification: Float[Tensor, " b"] | None = None
    roi_box: Float[Tensor, " b"] | None = None
    other: Mapping[str, Float[Tensor, " b"]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Observation:
    """What a detector showed for one batch; only what was asked for is there, `pyramid` but of a detector without.

    `found_loss` is what `task_loss` is, each image's and level's part with it, against `Batch.found` instead of the
    labels; a detector need not know of it, as it can be asked for the task loss of `Batch.against_found`.
    """

    pyramid: Pyramid | None = None
    class_logits: ClassLogits | None = None
    box_distributions: BoxDistributions | None = None
    task_loss: TaskLoss | None = None
    boxes: Boxes | None = None
    towers: Towers | None = None
    found_loss: TaskLoss | None = None
    queries: Queries | None = None

    @property
    def maps(self) -> Pyramid:
        """The pyramid.

        Raises:
            CapabilityError: there is none.
        """
        if self.pyramid is None:
            raise CapabilityError(
                "An observation whose feature maps are read must have a pyramid, got none. Read its boxes alone."
            )
        return self.pyramid


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found in one image: boxes in pixels of the padded batch image, scores in [0, 1].

    Attributes:
        probabilities: how probable each class is at each box, in [0, 1], in label order: sigmoid scores, or a softmax
            without its background; the rows need not add up to 1. None where a detector says no more than a score and
            a label.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    probabilities: Float[Tensor, "n k"] | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """All that a detector could find in a batch, before anything is sorted out; nothing is certain to be there.

    Attributes:
        boxes: in pixels of the padded batch image, clipped to the image; one a class where each has its own.
        scores: in [0, 1], of every class; 0 for what cannot be found.
    """

    boxes: Float[Tensor, "b n 4"] | Float[Tensor, "b n k 4"]
    scores: Float[Tensor, "b n k"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a term returns: a cost ≥ 0 per image and pyramid level; stride None is a column of no level (a RoI term)."""

    values: Float[Tensor, "b l"]
    strides: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class StepReport:
    """All that a trainer ever sees of a step; only `total`, which `backward` is called on, and `task` are not detached.

    Attributes:
        parts: ``"task"`` and each term's loss after weight, gain and warm-up; they add up to `total`.
        diagnostics: figures that explain, by name.
        task: the task's part of `total` with its graph; None where that is all of it.
    """

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]
    diagnostics: Mapping[str, Float[Tensor, ""]]
    task: Float[Tensor, ""] | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a run is: step 0 is the first."""

    step: int
    total_steps: int
