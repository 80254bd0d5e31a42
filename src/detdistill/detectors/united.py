"""Several detectors as one that finds what any of them finds."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import final

import torch
from torch import nn
from torchvision.ops import batched_nms

from detdistill.detectors.base import Detector, DetectorSpec, suppressing
from detdistill.types import Batch, Detections, Need, Observation, Pyramid

_USUAL_NMS = 0.5


@final
class UnitedDetector(Detector):
    """What several detectors of the same classes find, of each as much as it knows of them.

    Of boxes of one class that overlap the best is kept, whoever found it. It shows no maps of its own.

    Args:
        members: taken over; their specs have the same class names.
    """

    def __init__(self, members: Sequence[Detector]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        specs = [one.spec for one in members]
        unknown = tuple(name for name in specs[0].class_names if all(name in one.unknown for one in specs))
        names = " + ".join(one.name for one in specs)
        self.spec = DetectorSpec(names, specs[0].class_names, unknown=unknown)
        self.agnostic = None if any(one.agnostic is None for one in members) else False
        settings = [one.settings for one in members if one.settings is not None]
        self._threshold = min((one.nms_threshold for one in settings), default=_USUAL_NMS)

    def extract(self, batch: Batch) -> Pyramid:
        """The last one's feature maps, after all have looked."""
        return [one.extract(batch) for one in self._each()][-1]

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`: there are no heads of its own."""
        return Observation()

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`."""
        found = []
        for one in self._each():
            with suppressing(one, agnostic=bool(self.agnostic)):
                found.append(one.detect(batch))
        threshold, agnostic = self._threshold, bool(self.agnostic)
        return tuple(joined(parts, threshold=threshold, agnostic=agnostic) for parts in zip(*found, strict=True))

    def _each(self) -> list[Detector]:
        return [one for one in self.members if isinstance(one, Detector)]


def joined(parts: Sequence[Detections], *, threshold: float = _USUAL_NMS, agnostic: bool = False) -> Detections:
    """What several detectors found in one image: of boxes of one class that overlap, or of any, the best."""
    if len(parts) == 1:
        return parts[0]
    said = [one.probabilities for one in parts if one.probabilities is not None]
    found = Detections(
        torch.cat([one.boxes for one in parts]),
        torch.cat([one.scores for one in parts]),
        torch.cat([one.labels for one in parts]),
        torch.cat(said) if len(said) == len(parts) else None,
    )
    rivals = torch.zeros_like(found.labels) if agnostic else found.labels
    keep = batched_nms(found.boxes, found.scores, rivals, threshold)
    probabilities = None if found.probabilities is None else found.probabilities[keep]
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep], probabilities)
