"""The part of one COCO file that shows traffic, with AID's 13 classes; read as a stream, in little memory.

An image is kept if it shows at least one of nine deciding classes (crowds count): bicycle, car, motorcycle, bus,
train, truck, traffic light, fire hydrant, stop sign. People, parking meters, cats and dogs alone do not qualify an
image, but in a kept image all objects of the 13 classes are kept, crowd flags untouched. Classes are found by name,
whatever their ids are, and numbered 1 to 13 in COCO's order.

Images and annotations keep all that COCO says of them, but for polygons and masks (``segmentation``), which are left
out: detection needs boxes alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from detdistill.data.formats.coco_json import LISTS, whole
from detdistill.data.formats.json_stream import BEGIN, walk
from detdistill.errors import DataError
from detdistill.files import text_stream

TRAFFIC_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "bus", "train", "truck"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "cat", "dog"),
)
DECIDING_CLASSES = TRAFFIC_CLASSES[1:10]


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """What was kept of a split: images, of how many that COCO lists, and boxes of every class, crowds included."""

    images: int
    images_in_source: int
    boxes: Mapping[str, int]


class _Index(NamedTuple):
    """What the first pass over a file finds out."""

    label_of_id: Mapping[int, int]
    head: Mapping[str, Any]
    images: frozenset[int]


def filter_traffic(source: Path, target: Path, *, progress: Callable[[int], None] = lambda read: None) -> TrafficSplit:
    """Writes the traffic of one COCO file, of any size, reading it twice and holding image ids alone.

    Entries that are no objects or have no whole-number ids are left out; other flaws are copied, for the reader of
    the new file to report.

    Args:
        target: a new file in a folder that nobody sees yet.
        progress: called with the bytes read so far, in the end twice the file's size.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no COCO file, or lacks one of the 13 classes.
    """
    index = _index(source, progress)
    size = source.stat().st_size
    with text_stream(target) as write:
        return _copy(source, index, write, progress=lambda read: progress(size + read))


def _index(source: Path, progress: Callable[[int], None]) -> _Index:
    entries: dict[str, list[Any]] = {"categories": [], "licenses": []}
    shown: dict[int, set[int]] = {}
    seen: set[str] = set()
    for key, entry in walk(source, ("annotations", *entries), progress=progress):
        if entry is BEGIN:
            seen.add(key)
        elif key in entries:
            entries[key].append(entry)
        elif ids := _ids(entry, "image_id", "category_id"):
            shown.setdefault(ids[1], set()).add(ids[0])
    if missing := [key for key in LISTS if key not in seen]:
        raise DataError(
            f"{source} must be a COCO file with the lists {', '.join(LISTS)}, got no {' and no '.join(missing)}. "
            "Give an annotation file of COCO's object detection format."
        )
    label_of_id: dict[int, int] = {}
    described: dict[int, dict[str, Any]] = {}
    for entry in entries["categories"]:
        ids = _ids(entry, "id")
        if ids and entry.get("name") in TRAFFIC_CLASSES and ids[0] not in label_of_id:
            label = label_of_id[ids[0]] = TRAFFIC_CLASSES.index(entry["name"])
            described.setdefault(label, {**entry, "id": label + 1})
    if missing := [name for label, name in enumerate(TRAFFIC_CLASSES) if label not in described]:
        raise DataError(
            f"the categories of {source} must include {', '.join(TRAFFIC_CLASSES)}, got no {', '.join(missing)}. "
            "Give COCO's own file."
        )
    deciding = [own for own, label in label_of_id.items() if TRAFFIC_CLASSES[label] in DECIDING_CLASSES]
    head = {
        "info": {"description": "COCO traffic: the images of COCO that show traffic, 13 classes"},
        "licenses": entries["licenses"],
        "categories": [described[label] for label in range(len(TRAFFIC_CLASSES))],
    }
    return _Index(label_of_id, head, frozenset[int]().union(*(shown.get(own, ()) for own in deciding)))


def _copy(
    source: Path, index: _Index, write: Callable[[str], None], *, progress: Callable[[int], None]
) -> TrafficSplit:
    """Writes what is kept, the lists in the order of the source."""
    write(json.dumps(index.head)[:-1])
    kept = {"images": 0, "annotations": 0}
    images_in_source = 0
    boxes = dict.fromkeys(TRAFFIC_CLASSES, 0)
    closing = ""
    for key, entry in walk(source, kept, progress=progress):
        if entry is BEGIN:
            if key in kept:
                write(f'{closing},\n"{key}": [')
                closing = "\n]"
            continue
        if key == "images":
            images_in_source += 1
            copied = entry if index.images.issuperset(_ids(entry, "id") or [None]) else None
        else:
            copied = _annotation(entry, index)
        if copied is None:
            continue
        write(("," if kept[key] else "") + "\n" + json.dumps(copied))
        kept[key] += 1
        if key == "annotations":
            boxes[TRAFFIC_CLASSES[copied["category_id"] - 1]] += 1
    write(f"{closing}}}\n")
    return TrafficSplit(kept["images"], images_in_source, boxes)


def _annotation(entry: Any, index: _Index) -> dict[str, Any] | None:
    ids = _ids(entry, "image_id", "category_id")
    if not ids or ids[0] not in index.images or ids[1] not in index.label_of_id:
        return None
    return {k: v for k, v in entry.items() if k != "segmentation"} | {"category_id": index.label_of_id[ids[1]] + 1}


def _ids(entry: Any, *keys: str) -> list[int]:
    """The whole numbers under `keys`; none where the entry is no object or one of them is none."""
    found = [whole(entry.get(key)) for key in keys] if isinstance(entry, dict) else []
    return [] if None in found else [one for one in found if one is not None]
