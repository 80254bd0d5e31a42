"""COCO traffic: the part of COCO that shows traffic, with AID's 13 classes; made in little memory.

An image is kept if it shows at least one of nine deciding classes (crowds count): bicycle, car, motorcycle, bus,
train, truck, traffic light, fire hydrant, stop sign. People, parking meters, cats and dogs alone do not qualify an
image, but in a kept image all objects of the 13 classes are kept, crowd flags untouched. Classes are found by name,
whatever their ids are, and numbered 1 to 13 in COCO's order.

What is written is COCO's own layout, so that every reader of COCO finds it::

    OUT/annotations/instances_train2017.json
    OUT/annotations/instances_val2017.json
    OUT/annotations/coco_traffic.json            what it was made from, and counts
    OUT/train2017  ->  the images of COCO        a symbolic link: no image is copied
    OUT/val2017    ->  the images of COCO

Images and annotations keep all that COCO says of them, but for polygons and masks (``segmentation``), which are left
out: detection needs boxes alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from detdistill.data.formats.coco import CocoSplit, find
from detdistill.data.formats.coco_json import LISTS, whole
from detdistill.data.formats.json_stream import BEGIN, walk
from detdistill.data.listing import SPLITS, SplitName
from detdistill.errors import ConfigError, DataError
from detdistill.files import atomic_file, atomic_folder, read_json, write_json
from detdistill.progress import Progress, Silence
from detdistill.report.tables import Cell, Table

TRAFFIC_CLASSES = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "bus",
    "train",
    "truck",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "cat",
    "dog",
)
DECIDING_CLASSES = TRAFFIC_CLASSES[1:10]
RECORD = "annotations/coco_traffic.json"


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """What was kept of a split.

    Attributes:
        images: images kept.
        images_in_source: images that COCO's file lists.
        boxes: boxes kept of every class, crowds included, in label order.
    """

    images: int
    images_in_source: int
    boxes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Index:
    """What the first pass over a file finds out."""

    label_of_id: Mapping[int, int]
    categories: tuple[dict[str, Any], ...]
    licenses: tuple[Any, ...]
    images: frozenset[int]


def make_coco_traffic(
    coco: Path, out: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, TrafficSplit]:
    """Makes COCO traffic of both splits of COCO; the folder appears whole or not at all.

    Args:
        coco: COCO's folder, with ``annotations/instances_train2017.json`` and ``train2017``, or any layout that
            `detdistill.data.formats.coco` knows.
        out: a new or empty folder; one made of the same files is left as it is.
        progress: called with (bytes read, bytes in all); every file is read twice.

    Returns:
        What was kept, by split.

    Raises:
        ConfigError: a file is missing, or `out` holds something else.
        DataError: a file is no COCO file, or lacks one of the 13 classes.
    """
    sources = {split: find(coco, split) for split in SPLITS}
    sizes = {split: 2 * source.json.stat().st_size for split, source in sources.items()}
    total = sum(sizes.values())
    made = _made_before(out, sources)
    if made is not None:
        if progress is not None:
            progress(total, total)
        return made
    counts: dict[str, TrafficSplit] = {}
    before = 0
    with atomic_folder(out) as folder:
        for split, source in sources.items():

            def advance(done: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + done, total)

            name = _tail(source.json, split)
            counts[split] = filter_traffic(
                source.json, folder / "annotations" / f"instances_{name}.json", progress=advance
            )
            (folder / name).symlink_to(source.images_dir.resolve(), target_is_directory=True)
            before += sizes[split]
        write_json(
            folder / RECORD,
            {"sources": _described(sources), "splits": {split: asdict(kept) for split, kept in counts.items()}},
        )
    return counts


def filter_traffic(source: Path, target: Path, *, progress: Callable[[int], None] | None = None) -> TrafficSplit:
    """Writes the traffic of one COCO file, reading it twice and holding image ids alone.

    Entries that are no objects or have no whole-number ids are left out; other flaws are copied, for the reader of
    the new file to report.

    Args:
        source: COCO's file, of any size.
        target: written whole or not at all.
        progress: called with the bytes read so far, in the end twice the file's size.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no COCO file, or lacks one of the 13 classes.
    """
    index = _index(source, progress)
    size = source.stat().st_size

    def advance(read: int) -> None:
        if progress is not None:
            progress(size + read)

    with atomic_file(target) as partial, partial.open("w", encoding="utf-8") as out:
        return _copy(source, index, out, progress=advance)


def _index(source: Path, progress: Callable[[int], None] | None) -> _Index:
    """Reads the categories, and which images show which of them."""
    entries: list[dict[str, Any]] = []
    licenses: list[Any] = []
    shown: dict[int, set[int]] = {}
    seen: set[str] = set()
    for key, entry in walk(source, ("annotations", "categories", "licenses"), progress=progress):
        if entry is BEGIN:
            seen.add(key)
        elif key == "licenses":
            licenses.append(entry)
        elif isinstance(entry, dict):
            if key == "categories":
                entries.append(entry)
                continue
            image, category = whole(entry.get("image_id")), whole(entry.get("category_id"))
            if image is not None and category is not None:
                shown.setdefault(category, set()).add(image)
    missing_lists = [key for key in LISTS if key not in seen]
    if missing_lists:
        raise DataError(
            f"{source} must be a COCO file with the lists {', '.join(LISTS)}, got no {' and no '.join(missing_lists)}. "
            "Give an annotation file of COCO's object detection format."
        )
    label_of_id: dict[int, int] = {}
    described: dict[int, dict[str, Any]] = {}
    for entry in entries:
        own, name = whole(entry.get("id")), entry.get("name")
        if own is not None and name in TRAFFIC_CLASSES and own not in label_of_id:
            label = TRAFFIC_CLASSES.index(name)
            label_of_id[own] = label
            described.setdefault(label, {**entry, "id": label + 1})
    missing = [name for label, name in enumerate(TRAFFIC_CLASSES) if label not in described]
    if missing:
        raise DataError(
            f"the categories of {source} must include {', '.join(TRAFFIC_CLASSES)}, got no {', '.join(missing)}. "
            "Give COCO's own file."
        )
    deciding = {TRAFFIC_CLASSES.index(name) for name in DECIDING_CLASSES}
    images = frozenset[int]().union(*(shown.get(own, ()) for own, label in label_of_id.items() if label in deciding))
    categories = tuple(described[label] for label in range(len(TRAFFIC_CLASSES)))
    return _Index(label_of_id=label_of_id, categories=categories, licenses=tuple(licenses), images=images)


def _copy(source: Path, index: _Index, out: TextIO, *, progress: Callable[[int], None]) -> TrafficSplit:
    """Writes what is kept, the lists in the order of the source."""
    head = {
        "info": {"description": "COCO traffic: the images of COCO that show traffic, 13 classes"},
        "licenses": index.licenses,
        "categories": index.categories,
    }
    out.write(json.dumps(head)[:-1])
    wanted = ("images", "annotations")
    images = images_in_source = 0
    boxes = [0] * len(TRAFFIC_CLASSES)
    opened, separator = False, ""
    for key, entry in walk(source, wanted, progress=progress):
        if entry is BEGIN:
            out.write("\n]" if opened else "")
            opened, separator = key in wanted, "\n"
            out.write(f',\n"{key}": [' if opened else "")
            continue
        images_in_source += key == "images"
        kept = _kept_image(entry, index) if key == "images" else _kept_annotation(entry, index)
        if kept is None:
            continue
        if key == "images":
            images += 1
        else:
            boxes[kept["category_id"] - 1] += 1
        out.write(separator + json.dumps(kept))
        separator = ",\n"
    out.write("\n]}\n" if opened else "}\n")
    return TrafficSplit(images, images_in_source, dict(zip(TRAFFIC_CLASSES, boxes, strict=True)))


def _kept_image(entry: Any, index: _Index) -> dict[str, Any] | None:
    return entry if isinstance(entry, dict) and whole(entry.get("id")) in index.images else None


def _kept_annotation(entry: Any, index: _Index) -> dict[str, Any] | None:
    if not isinstance(entry, dict) or whole(entry.get("image_id")) not in index.images:
        return None
    category = whole(entry.get("category_id"))
    label = None if category is None else index.label_of_id.get(category)
    if label is None:
        return None
    kept = {key: value for key, value in entry.items() if key != "segmentation"}
    return {**kept, "category_id": label + 1}


def _tail(json_path: Path, split: str) -> str:
    """``train2017`` of ``instances_train2017.json``: what names the images' folder."""
    tail = json_path.stem.removeprefix("instances_")
    return tail if tail.startswith(split) else split


def _described(sources: Mapping[SplitName, CocoSplit]) -> dict[str, dict[str, Any]]:
    return {
        split: {
            "json": str(source.json.resolve()),
            "bytes": source.json.stat().st_size,
            "images": str(source.images_dir.resolve()),
        }
        for split, source in sources.items()
    }


def _made_before(out: Path, sources: Mapping[SplitName, CocoSplit]) -> dict[str, TrafficSplit] | None:
    """The counts of an earlier run on the same files; None for a new or empty folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if (out / RECORD).is_file():
        record = read_json(out / RECORD)
        if isinstance(record, dict) and record.get("sources") == _described(sources):
            return {split: TrafficSplit(**counts) for split, counts in record["splits"].items()}
    raise ConfigError(
        f"{out} must be a new or an empty folder, or COCO traffic made from the same files, got something else. "
        "Give another folder, or delete that one."
    )


@dataclass(frozen=True, slots=True)
class TrafficOutcome:
    """What was taken of COCO.

    Attributes:
        out: the folder of COCO traffic.
        splits: what was kept, by split.
    """

    out: Path
    splits: Mapping[str, TrafficSplit]

    def table(self) -> list[str]:
        """Images of every split, then boxes of every class."""
        lines = [f"{name}: {kept.images} of {kept.images_in_source} images kept" for name, kept in self.splits.items()]
        kept_boxes = [kept.boxes for kept in self.splits.values()]
        rows: list[tuple[Cell, ...]] = [(name, *(boxes[name] for boxes in kept_boxes)) for name in TRAFFIC_CLASSES]
        rows.append(("all", *(sum(boxes.values()) for boxes in kept_boxes)))
        boxes = Table(("boxes", *self.splits), tuple(rows))
        return [*lines, "", *boxes.text().splitlines(), "", f"written to {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """The counts."""
        return {"out": str(self.out), "splits": {name: asdict(kept) for name, kept in self.splits.items()}}


def make_coco_traffic_job(coco: Path, out: Path, *, progress: Progress | None = None) -> TrafficOutcome:
    """Writes the part of COCO that shows traffic, with 13 classes; images are linked.

    Args:
        coco: COCO's folder.
        out: a new or empty folder; one made of the same files is left as it is.
        progress: told how many megabytes of COCO's files are read, each twice.

    Raises:
        ConfigError: a file is missing, or the folder holds something else.
        DataError: a file is no COCO file, or lacks one of the 13 classes.
    """
    watcher = progress or Silence()
    started = False

    def advance(done: int, total: int) -> None:
        nonlocal started
        if not started:
            watcher.start("read COCO, in MB", math.ceil(total / 1e6))
            started = True
        watcher.advance(math.ceil(done / 1e6))

    splits = make_coco_traffic(coco, out, progress=advance)
    watcher.finish()
    return TrafficOutcome(out=out, splits=splits)
