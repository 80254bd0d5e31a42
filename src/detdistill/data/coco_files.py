"""Finds the COCO JSON file and the images of a split, in a folder or beside a JSON file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from detdistill.data.annotations import Annotations
from detdistill.data.coco import first_file_names, read_coco
from detdistill.data.image_files import candidate_folders, images_folder
from detdistill.data.listing import shown
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError, DataError

SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")


@final
@dataclass(frozen=True, slots=True)
class DataSplit:
    """Where one split is: its COCO JSON, and the folder that file names are relative to."""

    json: Path
    images_dir: Path

    @property
    def source(self) -> Path:
        """What messages call the split's data."""
        return self.json

    def text(self) -> str:
        """What is read, in a line."""
        images = shown(self.images_dir, self.json.parent)
        return f"COCO: {self.json.name}, images in {'the folder itself' if images == '.' else images}"

    def read(
        self,
        *,
        class_names: Sequence[str] | None = None,
        check_images: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Annotations, Problems]:
        """Reads the split; see `read_coco` for the arguments."""
        return read_coco(
            self.json,
            images_dir=self.images_dir,
            check_images=check_images,
            class_names=class_names,
            progress=progress,
        )


def _json_in_folder(folder: Path, split: str) -> Path:
    plain = folder / f"{split}.json"
    if plain.is_file():
        return plain
    native = sorted((folder / "annotations").glob(f"instances_{split}*.json"))
    if len(native) == 1:
        return native[0]
    if native:
        names = ", ".join(path.name for path in native)
        raise ConfigError(
            f"{folder / 'annotations'} must hold one instances_{split}*.json, got {names}. Give the JSON file itself."
        )
    present = sorted(path.relative_to(folder).as_posix() for path in (*folder.glob("*.json"), *folder.glob("*/*.json")))
    shortened = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
    raise ConfigError(
        f"{folder} must hold {split}.json or annotations/instances_{split}*.json, got {shortened or 'no JSON file'}. "
        f"Rename the file, or give the JSON file itself."
    )


def is_coco(folder: Path) -> bool:
    """Whether a folder holds COCO JSON files by the names looked for."""
    return bool(coco_splits(folder))


def coco_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder holds as COCO JSON."""
    native = folder / "annotations"
    return tuple(
        split
        for split in SPLITS
        if (folder / f"{split}.json").is_file() or any(native.glob(f"instances_{split}*.json"))
    )


def file_of_split(path: Path, split: str) -> Path:
    """The file itself, or the sibling that is named like it for the split, where its name says another one.

    Raises:
        ConfigError: there is no such sibling.
    """
    for other in SPLITS:
        stem = re.sub(rf"(?<![A-Za-z]){other}(?![A-Za-z])", split, path.stem)
        if other == split or stem == path.stem or split in path.stem:
            continue
        sibling = path.with_name(f"{stem}{path.suffix}")
        if not sibling.is_file():
            raise ConfigError(
                f"the {split} split beside {path} must be {sibling.name}, got no such file. "
                f"Give a folder with both, or name the file so."
            )
        return sibling
    return path


def find_coco(data: Path, split: str, *, exact: bool = False) -> DataSplit:
    """Finds one split as COCO JSON; see `find_split`.

    Raises:
        ConfigError: there is no file for the split.
        DataError: the file is no COCO file, or none of its first images is in any of the folders.
    """
    if not data.exists():
        raise ConfigError(f"data {data} must be a data set folder or file, got no such path. Check the path.")
    beside = data if exact or data.is_dir() else file_of_split(data, split)
    json = _json_in_folder(data, split) if data.is_dir() else beside
    names = first_file_names(json)
    folder, found = images_folder(json, names)
    if names and not found:
        looked = ", ".join(str(place) for place in candidate_folders(json))
        raise DataError(
            f"the images of {json} must be in one of the folders {looked}, got none of the first {len(names)} "
            f"(such as {names[0]}). Put them there, or correct file_name in the JSON."
        )
    return DataSplit(json, folder)
