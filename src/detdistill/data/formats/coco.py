"""COCO: one JSON file a split, ``FOLDER/train.json`` or ``FOLDER/annotations/instances_train2017.json``.

Others that people export are found too (`coco_places`). The images are in ``images`` beside the file, in its own
folder, or in ``train2017`` (any year or none). A file that holds both splits is divided 8:2 by a seed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.builder import Box, lay_out, match_classes
from detdistill.data.formats import Format
from detdistill.data.formats.coco_json import CocoFile, first_file_names
from detdistill.data.formats.coco_places import (
    ROBOFLOW,
    Images,
    Naming,
    file_in_folder,
    files_of_splits,
    find_images,
    is_coco,
    is_json_object,
    named_files,
    require_images,
    sibling,
    split_of_file,
)
from detdistill.data.listing import SPLITS, Share, shown
from detdistill.data.problems import Problems
from detdistill.data.writable import Place, WritableSplit
from detdistill.errors import ConfigError, astray
from detdistill.files import text_stream


@final
@dataclass(frozen=True, slots=True)
class CocoSplit(Split):
    """Where one split is: its JSON file, and the folder that file names are relative to once they are `naming`'s.

    `share` is the split's part of a file that holds both; None for all of it.
    """

    json: Path
    images_dir: Path
    share: Share | None = None
    naming: Naming = Naming()

    @property
    def source(self) -> Path:
        """The JSON file."""
        return self.json

    @property
    def drawn(self) -> bool:
        """Whether the file is divided by a seed."""
        return self.share is not None

    def named(self) -> Collection[Path]:
        """All images of the file."""
        return [self.images_dir / self.naming(name) for name in first_file_names(self.json, count=sys.maxsize)]

    def text(self) -> str:
        """Names of the JSON file and the images' folder."""
        part = "" if self.share is None else f"{self.share.text()}, "
        name = f"{self.json.parent.name}/{ROBOFLOW}" if self.json.name == ROBOFLOW else self.json.name
        return f"COCO: {name}, {part}images in {shown(self.images_dir, self.json.parent)}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the file, and of it what is the split's."""
        problems = Problems()
        file = CocoFile(self.json, problems, naming=self.naming)
        if self.share is not None:
            file.keep(self.share)
        classes = match_classes(self.json, file.class_names, reading.class_names, ids=file.class_ids)
        file.settle_images(self.images_dir, reading)
        return lay_out(file.objects(), file.regions(), classes=classes, images_dir=self.images_dir), problems


def read_coco(
    json_path: Path, reading: Reading | None = None, *, images_dir: Path | None = None
) -> tuple[Annotations, Problems]:
    """Reads one COCO JSON file; its file names are relative to `images_dir`, or None to where the first images are."""
    images = find_images(json_path, first_file_names(json_path)) if images_dir is None else None
    found = CocoSplit(json_path, images_dir or json_path.parent) if images is None else _split(json_path, images)
    return found.read(reading or Reading())


def _split(json_path: Path, images: Images, share: Share | None = None) -> CocoSplit:
    return CocoSplit(json_path, images.folder, share, images.naming)


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> CocoSplit:
    """Finds one split as COCO JSON, in a folder or at, or beside, a file; the seed divides a file that holds both."""
    if not data.exists():
        raise ConfigError(f"data {data} must be a data set folder or file, got no such path. {astray(data)}")
    if data.is_dir():
        json_path, both = file_in_folder(data, split)
    else:
        json_path, both = (data, False) if exact else sibling(data, split)
    names = first_file_names(json_path)
    images = find_images(json_path, names)
    require_images(json_path, names, images)
    return _split(json_path, images, Share(split, json_path, split_seed) if both else None)


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder holds as COCO JSON, by the names of COCO and Roboflow.

    A file is ``"val"``, or both where its name tells no split.
    """
    if data.is_file():
        return SPLITS if split_of_file(data) is None else ("val",)
    named = named_files(data).items()
    return tuple(split for split, files in named if files and (split in SPLITS or is_coco(files[0])))


def recognises(data: Path) -> bool:
    """Whether a folder holds COCO JSON files by the names looked for, or a file is JSON."""
    if data.is_dir():
        return bool(splits(data))
    return data.suffix.lower() == ".json" or is_json_object(data)


def _splits_under_any_name(data: Path) -> tuple[str, ...]:
    if data.is_file():
        return ()
    named, spare = files_of_splits(data)
    return tuple(split for split, files in named.items() if files) or (SPLITS if spare else ())


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``train.json``, ``val.json`` and ``images``."""
    for split_name, split in splits.items():
        ids = split.annotations.category_ids.tolist()
        with text_stream(folder / f"{split_name}.json") as write_to:
            categories = [{"id": own, "name": name} for own, name in zip(ids, class_names, strict=True)]
            write_to(f'{{"categories": {json.dumps(categories)},\n"images": [')
            _write_entries(write_to, _image_entries(split))
            write_to('],\n"annotations": [')
            _write_entries(write_to, _box_entries(split))
            write_to("]}\n")
        for image in split.images():
            place(image, folder / "images" / image.name)


def _write_entries(write: Callable[[str], Any], entries: Iterator[dict[str, Any]]) -> None:
    for index, entry in enumerate(entries):
        write(("\n" if index == 0 else ",\n") + json.dumps(entry, allow_nan=False))


def _xywh(box: Box) -> list[float]:
    return [box[0], box[1], round(box[2] - box[0], 6), round(box[3] - box[1], 6)]


def _image_entries(split: WritableSplit) -> Iterator[dict[str, Any]]:
    ids = split.annotations.image_ids.tolist()
    for image in split.images():
        height, width = image.size
        entry: dict[str, Any] = {"id": ids[image.row], "file_name": image.name, "width": width, "height": height}
        if image.regions:
            entry["ignore_regions"] = [_xywh(box) for box in image.regions]
        yield entry


def _box_entries(split: WritableSplit) -> Iterator[dict[str, Any]]:
    images, categories = split.annotations.image_ids.tolist(), split.annotations.category_ids.tolist()
    boxes = ((images[image.row], item) for image in split.images() for item in image.boxes)
    for number, (image_id, item) in enumerate(boxes, start=1):
        yield {
            "id": number,
            "image_id": image_id,
            "category_id": categories[item.label],
            "bbox": _xywh(item.box),
            "area": item.area,
            "iscrowd": int(item.ignored),
        }


FORMAT = (
    Format(
        name="coco",
        title="COCO",
        precedence=10,
        holds="train.json, val.json or annotations/instances_*.json",
        file="a JSON file of COCO's object detection format",
        recognises=recognises,
        splits=splits,
        find=find,
        write=write,
        tells_size=True,
    ),
    # A stray JSON file must not hide a data set of another format.
    Format(
        name="coco-by-content",
        title="COCO",
        precedence=55,
        holds="",
        file="",
        recognises=lambda data: bool(_splits_under_any_name(data)),
        splits=_splits_under_any_name,
        find=find,
    ),
)
