"""COCO: one JSON file a split, ``FOLDER/train.json`` or ``FOLDER/annotations/instances_train2017.json``.

The images are in ``images`` beside the file, in its own folder, or in ``train2017`` (any year or none).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.builder import Box, lay_out, match_classes
from detdistill.data.formats import Format
from detdistill.data.formats.coco_json import CocoFile, first_file_names
from detdistill.data.listing import SPLITS, file_of_split, shown
from detdistill.data.problems import Problems
from detdistill.data.writable import Place, WritableSplit
from detdistill.errors import ConfigError, DataError

# One file for a whole run would be both of its splits.
_RENAME = "Rename a file, or name it: data.train=TRAIN.json data.val=VAL.json in a run, --data FILE.json elsewhere."
_JSON_OBJECT = re.compile(rb'\s*\{\s*"')


@final
@dataclass(frozen=True, slots=True)
class CocoSplit(Split):
    """Where one split is: its JSON file, and the folder that file names are relative to."""

    json: Path
    images_dir: Path

    @property
    def source(self) -> Path:
        """The JSON file."""
        return self.json

    def text(self) -> str:
        """Names of the JSON file and the images' folder."""
        return f"COCO: {self.json.name}, images in {shown(self.images_dir, self.json.parent)}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the file; see `read_coco`."""
        return read_coco(self.json, reading, images_dir=self.images_dir)


def read_coco(
    json_path: Path, reading: Reading | None = None, *, images_dir: Path | None = None
) -> tuple[Annotations, Problems]:
    """Reads one COCO JSON file; its file names are relative to `images_dir`, or None to where the first images are."""
    asked, problems = reading or Reading(), Problems()
    file = CocoFile(json_path, problems)
    classes = match_classes(json_path, file.class_names, asked.class_names, ids=file.class_ids)
    folder = images_folder(json_path, first_file_names(json_path))[0] if images_dir is None else images_dir
    file.settle_images(folder, asked)
    return lay_out(file.objects(), file.regions(), classes=classes, images_dir=folder), problems


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> CocoSplit:
    """Finds one split as COCO JSON, in a folder or at, or beside, a file; there is nothing to draw by a seed."""
    del split_seed
    if not data.exists():
        raise ConfigError(f"data {data} must be a data set folder or file, got no such path. Check the path.")
    beside = data if exact or data.is_dir() else file_of_split(data, split)
    json_path = _json_in_folder(data, split) if data.is_dir() else beside
    names = first_file_names(json_path)
    folder, found = images_folder(json_path, names)
    if names and not found:
        looked = ", ".join(map(str, candidate_folders(json_path)))
        raise DataError(
            f"the images of {json_path} must be in one of the folders {looked}, got none of the first {len(names)} "
            f"(such as {names[0]}). Put them there, or correct file_name in the JSON."
        )
    return CocoSplit(json_path, folder)


def _json_in_folder(folder: Path, split: str) -> Path:
    plain = folder / f"{split}.json"
    if plain.is_file():
        return plain
    native = sorted((folder / "annotations").glob(f"instances_{split}*.json"))
    if len(native) == 1:
        return native[0]
    if native:
        names = ", ".join(path.name for path in native)
        raise ConfigError(f"{folder / 'annotations'} must hold one instances_{split}*.json, got {names}. {_RENAME}")
    present = sorted(path.relative_to(folder).as_posix() for path in (*folder.glob("*.json"), *folder.glob("*/*.json")))
    shortened = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
    raise ConfigError(
        f"{folder} must hold {split}.json or annotations/instances_{split}*.json, got {shortened or 'no JSON file'}. "
        f"{_RENAME}"
    )


def candidate_folders(json_path: Path) -> list[Path]:
    """The folders where the images of a JSON file may be, likeliest first; not all of them exist."""
    parent = json_path.parent
    near = [parent / "images", parent]
    if parent.name != "annotations":
        return near
    base = parent.parent
    tail = json_path.stem.removeprefix("instances_")
    named = [base / tail, base / "images" / tail]
    for split in ("train", "val", "test"):
        if tail.startswith(split):
            named += sorted(base.glob(f"{split}*")) + sorted(base.glob(f"images/{split}*"))
    return list(dict.fromkeys([*named, base / "images", base, *near]))


def images_folder(json_path: Path, names: Sequence[str]) -> tuple[Path, int]:
    """The folder that holds most of some named images, and how many; with none the first folder that exists."""
    folders = [folder for folder in candidate_folders(json_path) if folder.is_dir()] or [json_path.parent]
    found = [sum((folder / name).is_file() for name in names) for folder in folders]
    best = max(range(len(folders)), key=lambda index: (found[index], -index))
    return folders[best], found[best]


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder holds as COCO JSON, by the names looked for; a file is ``"val"``."""
    if not data.is_dir():
        return ("val",)
    native = data / "annotations"
    return tuple(
        split for split in SPLITS if (data / f"{split}.json").is_file() or any(native.glob(f"instances_{split}*.json"))
    )


def recognises(data: Path) -> bool:
    """Whether a folder holds COCO JSON files by the names looked for, or a file is JSON."""
    if not data.is_file():
        return bool(splits(data))
    if data.suffix.lower() == ".json":
        return True
    try:
        with data.open("rb") as file:
            return _JSON_OBJECT.match(file.read(64)) is not None
    except OSError:
        return False


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``train.json``, ``val.json`` and ``images``."""
    for split_name, split in splits.items():
        ids = split.annotations.category_ids.tolist()
        with (folder / f"{split_name}.json").open("w", encoding="utf-8") as file:
            categories = [{"id": own, "name": name} for own, name in zip(ids, class_names, strict=True)]
            file.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
            _write_entries(file.write, _image_entries(split))
            file.write('],\n"annotations": [')
            _write_entries(file.write, _box_entries(split))
            file.write("]}\n")
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


FORMAT = Format(
    name="coco",
    title="COCO",
    precedence=10,
    holds="train.json, val.json or annotations/instances_*.json",
    file="a JSON file of COCO's object detection format",
    recognises=recognises,
    splits=splits,
    find=find,
    write=write,
)
