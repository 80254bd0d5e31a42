"""AID's classes of KITTI, and its way to measure: Pascal VOC's AP of three, the other types ignored or merged.

The protocols are found by name through the package's entry points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError, suggestion
from detdistill.evaluation.coco import Backend, ImageDetections
from detdistill.evaluation.protocols import Measure, Protocol
from detdistill.evaluation.voc import evaluate_voc

ClassMode = Literal["ignored", "merged"]
AID_IOU = 0.5
AID_CLASSES = ("Car", "Pedestrian", "Cyclist")
AID_GROUPS: Mapping[ClassMode, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ignored": MappingProxyType({name: (name,) for name in AID_CLASSES}),
        "merged": MappingProxyType(
            {
                "Car": ("Car", "Van", "Truck", "Tram"),
                "Pedestrian": ("Pedestrian", "Person_sitting"),
                "Cyclist": ("Cyclist",),
            }
        ),
    }
)
"""The two readings of AID's three KITTI classes: the other types are ignored, or most of them merged into the three."""


def aid_classes(annotations: Annotations, mode: ClassMode) -> Annotations:
    """KITTI's annotations with AID's classes Car, Pedestrian and Cyclist, by one of `AID_GROUPS`.

    Raises:
        DataError: one of the three classes has no member.
    """
    if mode not in AID_GROUPS:
        raise ConfigError(
            f"The class mode must be one of {', '.join(AID_GROUPS)}, got '{mode}'. "
            f"{suggestion(mode, AID_GROUPS, listed=True)}"
        )
    return group_classes(annotations, AID_GROUPS[mode])


def group_classes(annotations: Annotations, groups: Mapping[str, Sequence[str]]) -> Annotations:
    """The same images with the classes `groups` alone.

    A box of a class in no group becomes an ignored box of every group: training leaves it out, and evaluation
    calls a detection on it neither right nor wrong. Ignored boxes of a grouped class stay ignored; the same ignored
    box twice in one class is kept once.

    Args:
        annotations: the source; its classes must hold at least one member of every group.
        groups: members by the new class, in the new label order; new category ids are 1, 2, ...

    Raises:
        DataError: a group has no member among the classes.
    """
    label_of: dict[str, int] = {}
    for label, (name, members) in enumerate(groups.items()):
        if not set(members) & set(annotations.class_names):
            wanted = name if tuple(members) == (name,) else f"one of {', '.join(members)} for {name}"
            raise DataError(
                f"The data's classes must include {wanted}, got {list(annotations.class_names)}. "
                "Give data whose classes are spelled so, capitals included."
            )
        label_of.update(dict.fromkeys(members, label))
    new_labels = np.array([label_of.get(name, -1) for name in annotations.class_names], dtype=np.int32)
    given = new_labels[annotations.labels]
    # A grouped box is one row, any other one a row of every group.
    rows = np.repeat(np.arange(len(given)), np.where(given < 0, len(groups), 1))
    everywhere = given[rows] < 0
    labels = given[rows]
    labels[everywhere] = np.resize(np.arange(len(groups), dtype=np.int32), int(everywhere.sum()))
    ignored = annotations.ignored[rows] | everywhere
    owners = annotations.owners()
    key = np.column_stack([owners[rows], labels, annotations.boxes[rows]]).astype(np.float64)
    # An object is like no other row.
    key[~ignored, 0] = -1.0 - np.flatnonzero(~ignored)
    single = np.sort(np.unique(key, axis=0, return_index=True)[1])
    rows = rows[single]
    counts = np.bincount(owners[rows], minlength=len(annotations))
    return replace(
        annotations,
        class_names=tuple(groups),
        category_ids=np.arange(1, len(groups) + 1, dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=annotations.boxes[rows],
        labels=labels[single],
        ignored=ignored[single],
        areas=annotations.areas[rows],
    )


def _aid(annotations: Annotations, class_names: tuple[str, ...], backend: Backend, *, mode: ClassMode) -> Measure:
    """VOC's AP (area) over Car, Pedestrian and Cyclist, averaged; what else the detector finds is left out."""
    label_of = {member.lower(): label for label, members in enumerate(AID_GROUPS[mode].values()) for member in members}
    labels = np.array([label_of.get(name.lower(), -1) for name in class_names], dtype=np.int64)
    missing = [name for label, name in enumerate(AID_CLASSES) if label not in labels]
    if missing:
        raise ConfigError(
            f"The detector's classes must include {', '.join(AID_CLASSES)} for AID's protocol, got "
            f"{list(class_names)} without {', '.join(missing)}. Evaluate a detector trained on KITTI's classes."
        )
    truth = aid_classes(annotations, mode)

    def relabelled(found: ImageDetections) -> ImageDetections:
        new = labels[found.labels]
        kept = new >= 0
        return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=new[kept])

    return lambda detections: evaluate_voc(truth, [relabelled(found) for found in detections], iou=AID_IOU)


AID = Protocol("aid", "AID, other types ignored", partial(_aid, mode="ignored"))
AID_MERGED = Protocol("aid_merged", "AID, other types merged", partial(_aid, mode="merged"))
