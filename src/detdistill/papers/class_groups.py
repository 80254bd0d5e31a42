"""Groups the classes of a data set into fewer ones; what belongs to no group is ignored, not dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError, suggestion

ClassMode = Literal["ignored", "merged"]
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
    everywhere = np.array([name not in label_of for name in annotations.class_names])[annotations.labels]
    owners = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    kept = np.flatnonzero(~everywhere)
    spread = np.repeat(np.flatnonzero(everywhere), len(groups))
    new_labels = np.array([label_of.get(name, 0) for name in annotations.class_names], dtype=np.int32)
    rows = np.concatenate([kept, spread])
    copies = np.tile(np.arange(len(groups), dtype=np.int32), len(spread) // len(groups))
    labels = np.concatenate([new_labels[annotations.labels[kept]], copies])
    ignored = np.concatenate([annotations.ignored[kept], np.ones(len(spread), dtype=np.bool_)])
    order = np.lexsort((rows, owners[rows]))
    rows, labels, ignored = rows[order], labels[order], ignored[order]
    single = _first_of_each(owners[rows], annotations.boxes[rows], labels, ignored)
    rows, labels, ignored = rows[single], labels[single], ignored[single]
    counts = np.bincount(owners[rows], minlength=len(annotations))
    return replace(
        annotations,
        class_names=tuple(groups),
        category_ids=np.arange(1, len(groups) + 1, dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=annotations.boxes[rows],
        labels=labels,
        ignored=ignored,
        areas=annotations.areas[rows],
    )


def aid_classes(annotations: Annotations, mode: ClassMode) -> Annotations:
    """KITTI's annotations with AID's classes Car, Pedestrian and Cyclist.

    Args:
        annotations: with KITTI's type names.
        mode: ``"ignored"``: all other types are ignored; ``"merged"``: Van, Truck and Tram are cars and
            Person_sitting a pedestrian, the rest is ignored.

    Raises:
        ConfigError: there is no such mode.
        DataError: one of the three classes has no member.
    """
    if mode not in AID_GROUPS:
        raise ConfigError(
            f"The class mode must be one of {', '.join(AID_GROUPS)}, got '{mode}'. "
            f"{suggestion(mode, AID_GROUPS, listed=True)}"
        )
    return group_classes(annotations, AID_GROUPS[mode])


def _first_of_each(owners: np.ndarray, boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Which rows to keep: all objects, and of equal ignored boxes of an image and class the first."""
    key = np.column_stack([owners, labels, boxes]).astype(np.float64)
    key[~ignored, 0] = -1.0 - np.flatnonzero(~ignored)
    _, first = np.unique(key, axis=0, return_index=True)
    return np.sort(first)
