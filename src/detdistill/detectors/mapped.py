"""A teacher shown in its student's classes: no method knows that it has others."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import box_iou

from detdistill.detectors.base import LOSS_NEEDS, Detector, suppressing
from detdistill.detectors.class_map import ClassMap, merged
from detdistill.detectors.load_report import LoadedDetector
from detdistill.types import Batch, ClassKind, ClassLogits, Detections, Need, Observation, Pyramid, Queries, Targets

_MUTE = -30.0
_USUAL_NMS = 0.5


@final
class MappedDetector(Detector):
    """A detector whose class logits, detections and losses are in terms of other classes.

    Class logits have a row for each class of the student that the detector knows (`ClassLogits.labels`); several of its
    own are merged into one as `ClassMap.merge` says; RPN objectness is as it was. Detections of classes that the
    student lacks are left out, and where classes are merged boxes suppress each other once more. A detector whose
    classes have scores of their own is changed so that it never finds what the student lacks.

    Its losses are its own, on the student's targets in its own classes. An object of a class that it does not know is
    background to it. One of a class that several of its own are counts as the one that it holds it for: where it shows
    dense class scores the class whose score is highest in the box, else the one of the best detection there; what it
    then says of the others costs it as it always did. Gradients flow as through the detector.

    Args:
        detector: taken over.
        classes: its classes as the student's.
    """

    labels: Int64[Tensor, " k"]
    first: Int64[Tensor, " s"]

    def __init__(self, detector: Detector, classes: ClassMap) -> None:
        super().__init__()
        spec = detector.spec
        kinds = [layout.kind for layout in (spec.class_logits, spec.queries) if layout is not None]
        self._dense = spec.class_logits is not None and spec.class_logits.kind is ClassKind.SIGMOID
        if kinds and all(kind is ClassKind.SIGMOID for kind in kinds):
            _mute(detector, classes)
        self.detector = detector
        self.classes = classes
        self.agnostic = detector.agnostic
        first = [next(iter(classes.of(label)), -1) for label in range(len(classes.student))]
        # Part of its digest, and so of everything that is kept for this teacher.
        self.register_buffer("labels", torch.tensor(classes.labels))
        self.register_buffer("first", torch.tensor(first))
        self.register_buffer("summed", torch.tensor(classes.merge == "sum"))
        known = tuple(classes.student[label] for label in classes.known)
        logits, queries = spec.class_logits, spec.queries
        self.spec = replace(
            spec,
            class_names=classes.student,
            class_logits=replace(logits, classes=known) if logits is not None and self._dense else logits,
            queries=None if queries is None else replace(queries, classes=known),
            unknown=classes.unknown,
        )

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`."""
        return self.detector.extract(batch)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`."""
        shown = replace(batch, targets=self._in_its_classes(pyramid, batch)) if needs & LOSS_NEEDS else batch
        return self._named(self.detector.observe(pyramid, shown, needs))

    def observe_towers(
        self, classes: Pyramid, boxes: Pyramid, batch: Batch, needs: Set[Need], *, after: int
    ) -> Observation:
        """See `Detector.observe_towers`."""
        return self._named(self.detector.observe_towers(classes, boxes, batch, needs, after=after))

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`."""
        with suppressing(self.detector, agnostic=bool(self.agnostic)):
            return tuple(map(self._found, self.detector.detect(batch)))

    def forward(self, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.forward`."""
        return self.detector(batch, needs) if self.spec.pyramid is None else super().forward(batch, needs)

    def in_backbone(self, tensor: str) -> bool:
        """See `Detector.in_backbone`."""
        return self.detector.in_backbone(tensor.removeprefix("detector."))

    def _found(self, own: Detections) -> Detections:
        labels = self.labels[own.labels]
        keep = labels >= 0
        classes = None if own.probabilities is None else self._probable(own.probabilities[keep])
        found = Detections(own.boxes[keep], own.scores[keep], labels[keep], classes)
        if not self.classes.merges:
            return found
        settings = self.detector.settings
        threshold = _USUAL_NMS if settings is None else settings.nms_threshold
        return self.suppress(found, threshold=threshold, most=len(found.labels))

    def _probable(self, own: Float[Tensor, "n k"]) -> Float[Tensor, "n s"]:
        """Those of merged classes add up, to at most 1, or are the highest; those of unknown ones are 0."""
        kept = own.new_zeros(len(own), len(self.first))
        for label in self.classes.known:
            several = own[:, list(self.classes.of(label))]
            kept[:, label] = several.sum(1).clamp(max=1.0) if self.classes.merge == "sum" else several.amax(1)
        return kept

    def _named(self, seen: Observation) -> Observation:
        if seen.queries is not None:
            seen = replace(seen, queries=self._queries(seen.queries))
        logits = seen.class_logits
        if logits is None or logits.kind is not ClassKind.SIGMOID:
            return seen
        levels = tuple(map(self._merged, logits.levels))
        return replace(seen, class_logits=replace(logits, levels=levels, labels=self.classes.known))

    def _queries(self, own: Queries) -> Queries:
        """What the student lacks is no object, where classes share a softmax."""
        classes, columns = self.classes, own.logits.unbind(2)
        logits = [merged([columns[label] for label in classes.of(one)], classes.merge) for one in classes.known]
        if own.kind is ClassKind.SOFTMAX:
            lost = [columns[label] for label, one in enumerate(classes.labels) if one < 0]
            logits.append(merged([columns[-1], *lost], "sum"))
        return replace(own, logits=torch.stack(logits, dim=2), labels=classes.known)

    def _merged(self, level: Float[Tensor, "b a k h w"]) -> Float[Tensor, "b a s h w"]:
        classes, rows = self.classes, level.unbind(2)
        found = [merged([rows[own] for own in classes.of(label)], classes.merge) for label in classes.known]
        return torch.stack(found, dim=2)

    def _in_its_classes(self, pyramid: Pyramid, batch: Batch) -> tuple[Targets, ...]:
        targets = batch.targets
        labels = [self.first[one.labels] for one in targets]
        if self.classes.merges:
            with torch.no_grad():
                held = self._by_scores(pyramid, batch) if self._dense else self._by_boxes(batch)
            labels = [
                torch.where(one >= 0, torch.where(said >= 0, said, one), one)
                for one, said in zip(labels, held, strict=True)
            ]
        if not self.classes.unknown:
            return tuple(replace(one, labels=own) for one, own in zip(targets, labels, strict=True))
        return tuple(
            replace(one, labels=own.clamp(min=0), ignored=one.ignored | (own < 0), kept=None)
            for one, own in zip(targets, labels, strict=True)
        )

    def _by_scores(self, pyramid: Pyramid, batch: Batch) -> list[Int64[Tensor, " n"]]:
        """The class of its own that it holds each object for, by the highest score in its box; -1 for none."""
        seen = self.detector.observe(pyramid, batch, frozenset({Need.CLASS_LOGITS})).class_logits
        assert seen is not None
        return [self._highest(seen, image, target) for image, target in enumerate(batch.targets)]

    def _highest(self, seen: ClassLogits, image: int, target: Targets) -> Int64[Tensor, " n"]:
        best = target.boxes.new_full((len(target.labels), len(self.labels)), -torch.inf)
        own = self.labels == target.labels[:, None]
        for level, stride in zip(seen.levels, seen.strides, strict=True):
            scores = level[image].float().amax(0)
            within = _covered(target.boxes, stride, scores)
            # A class at a time: all at once would be objects x classes x cells.
            for label in (one for known in self.classes.known for one in self.classes.of(known)):
                at = torch.where(within, scores[label], -torch.inf).flatten(1)
                best[:, label] = torch.maximum(best[:, label], at.amax(1))
        score, chosen = torch.where(own, best, -torch.inf).max(1)
        return torch.where(score > -torch.inf, chosen, -1)

    def _by_boxes(self, batch: Batch) -> list[Int64[Tensor, " n"]]:
        """Likewise by the detection whose score times overlap with the object is highest."""
        found = []
        for target, said in zip(batch.targets, self.detector.detect(batch), strict=True):
            worth = box_iou(target.boxes, said.boxes) * said.scores
            worth = torch.where(self.labels[said.labels] == target.labels[:, None], worth, 0.0)
            worth = torch.cat([worth.new_zeros(len(worth), 1), worth], dim=1)
            chosen = torch.cat([said.labels.new_full((1,), -1), said.labels])
            found.append(chosen[worth.argmax(1)])
        return found


def _covered(boxes: Float[Tensor, "n 4"], stride: int, scores: Float[Tensor, "k h w"]) -> Tensor:
    """Which cells (n, h, w) of a level begin inside each box, or hold its beginning."""
    rows, columns = (torch.arange(side, device=boxes.device) * stride for side in scores.shape[-2:])
    first = (boxes[:, :2] / stride).floor() * stride
    high = (rows >= first[:, 1:]) & (rows < boxes[:, 3:])
    wide = (columns >= first[:, :1]) & (columns < boxes[:, 2:3])
    return high[:, :, None] & wide[:, None, :]


@torch.no_grad()
def _mute(detector: Detector, classes: ClassMap) -> None:
    """Lets a detector with a sigmoid score for every class never find those that the student lacks."""
    tensors = detector.state_dict()
    for name, labels in detector.class_rows().items():
        for row, label in enumerate(labels):
            if label >= 0 and classes.labels[label] < 0:
                tensors[name][row] = _MUTE if tensors[name].dim() == 1 else 0.0


def bare(detector: Detector) -> Detector:
    """The detector itself, with its own classes."""
    return detector.detector if isinstance(detector, MappedDetector) else detector


def in_classes_of(loaded: LoadedDetector, classes: ClassMap) -> LoadedDetector:
    """A detector as one of the student's classes; as it is where it has the same in the same order."""
    if classes.identical and classes.teacher == classes.student:
        return loaded
    known = tuple(classes.student[label] for label in classes.known)
    report = replace(loaded.report, classes=classes)
    return replace(loaded, detector=MappedDetector(loaded.detector, classes), class_names=known, report=report)
