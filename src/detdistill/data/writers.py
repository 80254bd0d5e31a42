"""Writes splits as COCO, Pascal VOC, YOLO or KITTI; what a format cannot say is counted and reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

from detdistill.data.annotations import Annotations
from detdistill.data.kitti import IMAGES, KITTI_TYPES, LABELS
from detdistill.data.kitti_labels import DONT_CARE, is_dont_care
from detdistill.data.listing import CLASS_LIST, without_suffix
from detdistill.data.problems import Problems
from detdistill.data.voc import ANNOTATIONS, IMAGE_SETS
from detdistill.data.writable import Box, WritableSplit, WrittenImage, decimal, place_image, plain_classes, prepare
from detdistill.errors import ConfigError, DataError
from detdistill.files import atomic_folder
from detdistill.settings.strict_yaml import dump_yaml

Format = Literal["coco", "voc", "yolo", "kitti"]
Place = Callable[[WritableSplit, WrittenImage, Path], None]
_UNKNOWN_3D = "-1 -1 -1 -1000 -1000 -1000 -10"


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: images and boxes of every split, and what could not be."""

    images: Mapping[str, int]
    boxes: Mapping[str, int]
    problems: Mapping[str, Problems]


def write_data_set(
    splits: Mapping[str, Annotations],
    out: Path,
    *,
    to: Format,
    kitti_labels: Mapping[str, Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Writes a data set in one of the formats; the folder appears whole or not at all.

    Args:
        splits: annotations by split, with the same classes.
        out: a new or empty folder.
        to: the format.
        kitti_labels: folder of the label files of every split that comes from KITTI's layout; written in it again,
            they are copied, as they tell more than boxes.
        progress: called with (images settled, all images); every image is settled twice, on looking and on placing.

    Raises:
        ConfigError: the folder is in use.
        DataError: an image cannot be read, the splits have other classes, or the format cannot tell two apart.
    """
    require_empty(out)
    classes = {annotations.class_names for annotations in splits.values()}
    if len(classes) != 1:
        raise DataError(f"The splits to write must have the same classes, got {len(classes)} lists. Read them alike.")
    total = 2 * sum(len(annotations) for annotations in splits.values())
    tell = progress or _nobody
    prepared = prepare(splits, kitti_labels=kitti_labels or {}, advance=lambda done: tell(done, total))
    done = total // 2
    boxes = dict.fromkeys(splits, 0)

    def place(split: WritableSplit, image: WrittenImage, target: Path) -> None:
        nonlocal done
        place_image(split.annotations.path(image.row), target)
        done += 1
        tell(done, total)

    with atomic_folder(out) as folder:
        _WRITERS[to](folder, prepared, next(iter(classes)), place)
    for name, split in prepared.items():
        kept = [split.annotations.objects(row) for row in split.images()]
        boxes[name] = sum(int((~split.annotations.ignored[at]).sum()) for at in kept)
    return Converted(
        images={name: len(split.names) for name, split in prepared.items()},
        boxes=boxes,
        problems={name: split.problems for name, split in prepared.items()},
    )


def require_empty(out: Path) -> None:
    """Refuses a folder that something is in.

    Raises:
        ConfigError: it is in use, or no folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"The folder to write, {out}, must be new or empty, got one in use. Give another folder.")


def _nobody(done: int, total: int) -> None:
    del done, total


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_lists(folder: Path, splits: Mapping[str, WritableSplit]) -> None:
    """Both lists, so that a reader finds a pair; an empty one says that there is no such split."""
    for name in ("train", "val"):
        split = splits.get(name)
        stems = [split.image(row).stem for row in split.images()] if split else []
        _write(folder / f"{name}.txt", "".join(f"{stem}\n" for stem in stems))


# COCO.


def _write_coco(folder: Path, splits: Mapping[str, WritableSplit], names: tuple[str, ...], place: Place) -> None:
    for split_name, split in splits.items():
        ids = split.annotations.category_ids.tolist()
        with (folder / f"{split_name}.json").open("w", encoding="utf-8") as file:
            categories = [{"id": own, "name": name} for own, name in zip(ids, names, strict=True)]
            file.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
            _write_entries(file.write, (_coco_image(split, row) for row in split.images()))
            file.write('],\n"annotations": [')
            _write_entries(file.write, _coco_boxes(split))
            file.write("]}\n")
        for row in split.images():
            image = split.image(row)
            place(split, image, folder / "images" / image.name)


def _write_entries(write: Callable[[str], Any], entries: Iterator[dict[str, Any]]) -> None:
    for index, entry in enumerate(entries):
        write(("\n" if index == 0 else ",\n") + json.dumps(entry, allow_nan=False))


def _xywh(box: Box) -> list[float]:
    return [box[0], box[1], round(box[2] - box[0], 6), round(box[3] - box[1], 6)]


def _coco_image(split: WritableSplit, row: int) -> dict[str, Any]:
    image = split.image(row)
    height, width = split.size(row)
    own = int(split.annotations.image_ids[row])
    entry: dict[str, Any] = {"id": own, "file_name": image.name, "width": width, "height": height}
    if image.regions:
        entry["ignore_regions"] = [_xywh(box) for box in image.regions]
    return entry


def _coco_boxes(split: WritableSplit) -> Iterator[dict[str, Any]]:
    number = 0
    ids = split.annotations.category_ids.tolist()
    for row in split.images():
        for item in split.image(row).boxes:
            number += 1
            yield {
                "id": number,
                "image_id": int(split.annotations.image_ids[row]),
                "category_id": ids[item.label],
                "bbox": _xywh(item.box),
                "area": item.area,
                "iscrowd": int(item.ignored),
            }


# Pascal VOC.


def _write_voc(folder: Path, splits: Mapping[str, WritableSplit], names: tuple[str, ...], place: Place) -> None:
    plain = plain_classes(names)
    _write(folder / CLASS_LIST, "".join(f"{name}\n" for name in plain))
    _write_lists(folder / IMAGE_SETS / "Main", splits)
    (folder / ANNOTATIONS).mkdir()
    for split in splits.values():
        for row in split.images():
            image = split.image(row)
            _write(folder / ANNOTATIONS / f"{image.stem}.xml", _voc_xml(image, split.size(row), plain))
            place(split, image, folder / "JPEGImages" / image.name)


def _voc_xml(image: WrittenImage, size: tuple[int, int], names: tuple[str, ...]) -> str:
    height, width = size
    lines = [
        "<annotation>",
        f"\t<filename>{escape(image.name)}</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    # A region that nothing counts in is a difficult object of every class.
    everywhere = [(box, label, True) for box in image.regions for label in range(len(names))]
    for box, label, ignored in [*((item.box, item.label, item.ignored) for item in image.boxes), *everywhere]:
        # VOC counts pixels from 1, and its last pixel belongs to the box.
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
        written = "".join(f"<{tag}>{decimal(value)}</{tag}>" for tag, value in corners)
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(names[label])}</name>",
            f"\t\t<difficult>{int(ignored)}</difficult>",
            f"\t\t<bndbox>{written}</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>"]) + "\n"


# YOLO.


def _write_yolo(folder: Path, splits: Mapping[str, WritableSplit], names: tuple[str, ...], place: Place) -> None:
    plain = plain_classes(names)
    places = {name: f"images/{name}" for name in splits}
    content = {"path": ".", **places, "names": dict(enumerate(plain))}
    _write(folder / "data.yaml", dump_yaml(content))
    for name, split in splits.items():
        for row in split.images():
            image = split.image(row)
            left_out = len(image.regions) + sum(item.ignored for item in image.boxes)
            if left_out:
                what = f"{left_out} ignored boxes or regions, which YOLO has no word for"
                split.problems.add("ignored boxes left out", split.place(row), what=what, action="skipped")
            lines = [_yolo_line(item.label, item.box, split.size(row)) for item in image.boxes if not item.ignored]
            # The last folder named images is the one that labels stand beside.
            before, _, after = f"images/{name}/{image.stem}".rpartition("images/")
            _write(folder / f"{before}labels/{after}.txt", "".join(f"{line}\n" for line in lines))
            place(split, image, folder / places[name] / image.name)


def _yolo_line(label: int, box: Box, size: tuple[int, int]) -> str:
    height, width = size
    x1, y1, x2, y2 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    digits = 6 if min(x2 - x1, y2 - y1) >= 1e-4 else 10
    values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return " ".join([str(label), *(f"{value:.{digits}f}" for value in values)])


# KITTI.


def _write_kitti(folder: Path, splits: Mapping[str, WritableSplit], names: tuple[str, ...], place: Place) -> None:
    types = plain_classes(names, space="_")
    for name in types:
        if is_dont_care(name):
            raise DataError(f"Class names must differ from KITTI's {DONT_CARE}, got {name!r}. Rename the class.")
    if types != KITTI_TYPES:
        _write(folder / CLASS_LIST, "".join(f"{name}\n" for name in types))
    _write_lists(folder / IMAGE_SETS, splits)
    training = folder / "training"
    (training / LABELS).mkdir(parents=True)
    for split in splits.values():
        for row in split.images():
            image = split.image(row)
            place(split, image, training / IMAGES / image.name)
            target = training / LABELS / f"{image.stem}.txt"
            if split.kitti_labels is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(split.kitti_labels / f"{without_suffix(split.annotations.file_name(row))}.txt", target)
                continue
            ignored = sum(item.ignored for item in image.boxes)
            if ignored:
                what = f"{ignored} boxes ignored for one class become {DONT_CARE}, ignored for all"
                split.problems.add("ignored boxes widened", split.place(row), what=what, action="repaired")
            lines = [_kitti_line(DONT_CARE if item.ignored else types[item.label], item.box) for item in image.boxes]
            lines += [_kitti_line(DONT_CARE, box) for box in image.regions]
            _write(target, "".join(f"{line}\n" for line in lines))


def _kitti_line(kind: str, box: Box) -> str:
    corners = " ".join(f"{value:.2f}" if round(value, 2) == value else decimal(value) for value in box)
    return f"{kind} -1 -1 -10 {corners} {_UNKNOWN_3D}"


_Writer = Callable[[Path, Mapping[str, WritableSplit], tuple[str, ...], Place], None]
_WRITERS: dict[Format, _Writer] = {
    "coco": _write_coco,
    "voc": _write_voc,
    "yolo": _write_yolo,
    "kitti": _write_kitti,
}
