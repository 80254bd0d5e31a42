"""Finds the annotation file and the images of a split, in a folder or beside a JSON file, and opens them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.data.coco import first_file_names, read_coco
from detdistill.data.image_files import candidate_folders, images_folder
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError, DataError

SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class DataSplit:
    """Where one split is: its annotation file, and the folder that file names are relative to."""

    json: Path
    images_dir: Path


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
    shown = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
    raise ConfigError(
        f"{folder} must hold {split}.json or annotations/instances_{split}*.json, got {shown or 'no JSON file'}. "
        f"Rename the file, or give the JSON file itself."
    )


def _json_of_split(path: Path, split: str) -> Path:
    """The file itself, or the sibling that is named like it for the split, where its name says another one."""
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


def find_split(data: Path, split: str, *, exact: bool = False) -> DataSplit:
    """Finds one split of a data set.

    Layouts:
        - ``FOLDER/train.json``, ``FOLDER/val.json``, images in ``FOLDER/images`` or in ``FOLDER`` itself;
        - ``FOLDER/annotations/instances_train2017.json`` with images in ``FOLDER/train2017`` (any year or none);
        - a JSON file, images in ``images`` beside it or in its own folder. It is the split asked for, unless its
          name says another one: for ``traffic_train.json`` the val split is ``traffic_val.json`` beside it.

    Of the folders that may hold the images, the one with most of the first twenty is taken.

    Args:
        data: a folder or a JSON file.
        split: ``"train"`` or ``"val"``.
        exact: take a JSON file for the split whatever its name says, as where a user names what to evaluate on.

    Raises:
        ConfigError: there is no such path, or no file for the split.
        DataError: the file is no COCO file, or none of its first images is in any of the folders.
    """
    if data.is_dir():
        json = _json_in_folder(data, split)
    elif data.is_file():
        json = data if exact else _json_of_split(data, split)
    else:
        raise ConfigError(f"data {data} must be a folder or a COCO JSON file, got no such path. Check the path.")
    names = first_file_names(json)
    folder, found = images_folder(json, names)
    if names and not found:
        looked = ", ".join(str(place) for place in candidate_folders(json))
        raise DataError(
            f"the images of {json} must be in one of the folders {looked}, got none of the first {len(names)} "
            f"(such as {names[0]}). Put them there, or correct file_name in the JSON."
        )
    return DataSplit(json, folder)


def open_split(
    data: Path,
    split: str,
    *,
    class_names: tuple[str, ...] | None = None,
    exact: bool = False,
    check_images: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Annotations, Problems]:
    """Finds and reads one split of a data set.

    Args:
        data: a folder or a JSON file, as `find_split` takes it.
        split: ``"train"`` or ``"val"``.
        class_names: the classes it must have, by name; labels then follow this order.
        exact: as in `find_split`.
        check_images: decode every image, as `read_coco` does.
        progress: called with (images settled, all images) where images are looked at.

    Returns:
        Annotations of at least one image, and what was repaired or skipped.

    Raises:
        ConfigError: there is no such path, or no file for the split.
        DataError: the file cannot be used, its classes are others, or no image is left.
    """
    found = find_split(data, split, exact=exact)
    annotations, problems = read_coco(
        found.json,
        images_dir=found.images_dir,
        check_images=check_images,
        class_names=class_names,
        progress=progress,
    )
    if len(annotations) == 0:
        skipped = f"; {problems.skipped} entries were skipped: {', '.join(problems.counts)}" if problems.skipped else ""
        raise DataError(
            f"the {split} split {found.json} must list at least one image that can be used, got none{skipped}. "
            f"Add images to it, or give another file."
        )
    return annotations, problems
