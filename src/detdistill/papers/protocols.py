"""AID's way to measure a detector on KITTI: Pascal VOC's AP of three classes, the other types ignored or merged.

Nothing imports this file: its protocols are found by name through the package's entry points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import Backend, ImageDetections
from detdistill.evaluation.protocols import Measure, Protocol
from detdistill.evaluation.voc import VocMetrics, evaluate_voc
from detdistill.papers.class_groups import AID_CLASSES, AID_GROUPS, ClassMode, aid_classes

AID_IOU = 0.5


def _aid(annotations: Annotations, class_names: tuple[str, ...], backend: Backend, *, mode: ClassMode) -> Measure:
    """VOC's AP (area) over Car, Pedestrian and Cyclist, averaged, of a detector with any classes, the three among them.

    The data has KITTI's type names, or the three classes already. What else the detector finds is left out.
    """
    label_of = {member.lower(): label for label, members in enumerate(AID_GROUPS[mode].values()) for member in members}
    labels = np.array([label_of.get(name.lower(), -1) for name in class_names], dtype=np.int64)
    missing = [name for label, name in enumerate(AID_CLASSES) if label not in labels]
    if missing:
        raise ConfigError(
            f"The detector's classes must include {', '.join(AID_CLASSES)} for AID's protocol, got "
            f"{list(class_names)} without {', '.join(missing)}. Evaluate a detector trained on KITTI's classes."
        )
    truth = aid_classes(annotations, mode)

    def measure(detections: Sequence[ImageDetections]) -> VocMetrics:
        return evaluate_voc(truth, [_relabelled(found, labels) for found in detections], iou=AID_IOU)

    return measure


def _relabelled(found: ImageDetections, labels: np.ndarray) -> ImageDetections:
    """The detections under new labels, without those whose new label is -1."""
    new = labels[found.labels]
    kept = new >= 0
    return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=new[kept])


AID = Protocol("aid", "AID, other types ignored", partial(_aid, mode="ignored"))
AID_MERGED = Protocol("aid_merged", "AID, other types merged", partial(_aid, mode="merged"))
