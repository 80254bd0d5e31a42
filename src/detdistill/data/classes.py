"""The classes of a split, whatever format it was read from: some of them kept, in an order that somebody wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detdistill.data.annotations import Annotations, find_regions
from detdistill.data.builder import MOST_CLASSES_FOR_REGIONS, match_classes


def with_classes(annotations: Annotations, names: Sequence[str]) -> Annotations:
    """The same images with the classes `names` alone, matched by name.

    Boxes of other classes are dropped, ignored ones among them; of a class that the source lacks there are none. What
    was ignored for every class still is, up to `MOST_CLASSES_FOR_REGIONS` classes. Category ids stay the source's own;
    classes that it lacks get the numbers after them.
    """
    if tuple(names) == annotations.class_names:
        return annotations
    own = {name: label for label, name in enumerate(annotations.class_names)}
    new_label = np.full(len(own), -1, dtype=np.int32)
    new_label[[own[name] for name in names if name in own]] = [k for k, name in enumerate(names) if name in own]
    labels, regions = new_label[annotations.labels], find_regions(annotations)
    owners = annotations.owners()
    spread = len(names) <= MOST_CLASSES_FOR_REGIONS
    kept = np.flatnonzero((labels >= 0) & ~(regions.members & spread))
    copies = len(names) if spread else 0
    everywhere = np.repeat(regions.boxes, copies, axis=0)
    images = np.concatenate([owners[kept], np.repeat(regions.images, copies)])
    order = np.argsort(images, kind="stable")
    every_label = np.tile(np.arange(len(names), dtype=np.int32), len(everywhere) // max(copies, 1))
    areas = (everywhere[:, 2:] - everywhere[:, :2]).prod(axis=1)
    new_ids = np.arange(len(names)) + 1 + max(annotations.category_ids.tolist(), default=0)
    ids = [annotations.category_ids[own[name]] if name in own else new_ids[k] for k, name in enumerate(names)]
    counts = np.bincount(images, minlength=len(annotations))
    return replace(
        annotations,
        class_names=tuple(names),
        category_ids=np.array(ids, dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.concatenate([annotations.boxes[kept], everywhere])[order],
        labels=np.concatenate([labels[kept], every_label])[order],
        ignored=np.concatenate([annotations.ignored[kept], np.ones(len(everywhere), dtype=np.bool_)])[order],
        areas=np.concatenate([annotations.areas[kept], areas]).astype(np.float32)[order],
    )


def boxes_by_class(annotations: Annotations) -> dict[str, int]:
    """How many boxes each class has, those to ignore left out."""
    counts = np.bincount(annotations.labels[~annotations.ignored], minlength=len(annotations.class_names))
    return dict(zip(annotations.class_names, counts.tolist(), strict=True))


def left_out(annotations: Annotations, names: Sequence[str]) -> str:
    """What keeping the classes `names` alone leaves out, in words; empty where that is nothing."""
    counts = boxes_by_class(annotations)
    wanted = set(names)
    others = [f"{name} ({counts[name]} boxes)" for name in counts if name not in wanted]
    if not others:
        return ""
    emptied = _images_with_boxes(annotations) - _images_with_boxes(with_classes(annotations, names))
    lost = f"; {emptied} of {len(annotations)} images keep no box and count as images without objects"
    return f"left out {', '.join(others)}{lost if emptied else ''}"


def _images_with_boxes(annotations: Annotations) -> int:
    owners = annotations.owners()
    return len(np.unique(owners[~annotations.ignored]))


def require_shared(own: Sequence[str], names: Sequence[str], *, source: Path) -> None:
    """Refuses a source of which no class is among `names`, or one is but for the spelling.

    Raises:
        DataError: with both lists.
    """
    theirs, wanted = set(own), set(names)
    others = {_plain(name) for name in own if name not in wanted}
    missing = [name for name in names if name not in theirs]
    if len(missing) == len(names) or any(_plain(name) in others for name in missing):
        match_classes(source, own, names)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name


def take_classes(annotations: Annotations, names: Sequence[str], *, source: Path) -> tuple[Annotations, list[str]]:
    """The annotations of `source` as a detector of the classes `names` is measured on them, and notes on what differs.

    Raises:
        DataError: no class is shared, or one is but for the spelling.
    """
    require_shared(annotations.class_names, names, source=source)
    missing = ", ".join(name for name in names if name not in annotations.class_names)
    notes = [left_out(annotations, names), f"no class {missing}, whose figures stay unknown" if missing else ""]
    return with_classes(annotations, names), list(filter(None, notes))
