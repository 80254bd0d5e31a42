"""Recognises a data set by its files, and opens a split of it: COCO, Pascal VOC, YOLO or KITTI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from detdistill.data.annotations import Annotations
from detdistill.data.coco_files import SPLITS, DataSplit, coco_splits, file_of_split, find_coco, is_coco
from detdistill.data.kitti import find_kitti, is_kitti, kitti_splits
from detdistill.data.problems import Problems
from detdistill.data.voc import ANNOTATIONS, find_voc, is_voc, voc_splits
from detdistill.data.yolo import find_yolo, yaml_of, yolo_splits
from detdistill.errors import ConfigError, DataError

__all__ = ["SPLITS", "DataSplit", "Split", "find_split", "open_split", "present_splits"]

_YAML = (".yaml", ".yml")


class Split(Protocol):
    """One split of a data set in some format, found but not read."""

    @property
    def source(self) -> Path:
        """What messages call the split's data: a file or a folder."""

    def text(self) -> str:
        """The format, the list or file, and the images' folder, in a line."""

    def read(
        self,
        *,
        class_names: Sequence[str] | None = None,
        check_images: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Annotations, Problems]:
        """The annotations, possibly of no image, and what was repaired or skipped."""


def find_split(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> Split:
    """Finds one split of a data set.

    Layouts, in the order in which they are looked for:
        - COCO: ``FOLDER/train.json``, ``FOLDER/val.json``, images in ``FOLDER/images`` or in ``FOLDER`` itself; or
          ``FOLDER/annotations/instances_train2017.json`` with images in ``FOLDER/train2017`` (any year or none);
        - YOLO: ``FOLDER/data.yaml``, or a YAML file of another name, see `yaml_of`;
        - KITTI: ``FOLDER/training/label_2`` and ``image_2``, lists in ``FOLDER/ImageSets``;
        - Pascal VOC: ``FOLDER/Annotations/*.xml``, ``JPEGImages`` and lists in ``ImageSets/Main``; or folders
          ``train`` and ``val`` of images and XML files; or one such folder.

    A file may be given instead, to take one format of several or other lists:
        - a JSON file, images in ``images`` beside it or in its own folder. It is the split asked for, unless its
          name says another one: for ``traffic_train.json`` the val split is ``traffic_val.json`` beside it;
        - a ``data.yaml``;
        - a list of Pascal VOC or KITTI, such as ``ImageSets/Main/trainval.txt``, taken as a JSON file is.

    Args:
        data: a folder or a file.
        split: ``"train"`` or ``"val"``.
        exact: take a JSON file or list for the split whatever its name says, as where a user names what to evaluate.
        split_seed: divides KITTI and Pascal VOC where they have no lists.

    Raises:
        ConfigError: there is no such path, or nothing for the split.
        DataError: a file cannot be used, or none of its first images is in any of the folders.
    """
    if data.is_file():
        return _find_by_file(data, split, exact=exact)
    if not is_coco(data):
        data_yaml = yaml_of(data)
        if data_yaml is not None:
            return find_yolo(data_yaml, split)
        if is_kitti(data):
            return find_kitti(data, split, split_seed=split_seed)
        if is_voc(data):
            return find_voc(data, split, split_seed=split_seed)
    return find_coco(data, split, exact=exact)


def _find_by_file(data: Path, split: str, *, exact: bool) -> Split:
    if data.suffix.lower() in _YAML:
        return find_yolo(data, split)
    if data.suffix.lower() != ".txt":
        return find_coco(data, split, exact=exact)
    listed = data if exact else file_of_split(data, split)
    for folder in list(listed.resolve().parents)[:3]:
        if is_kitti(folder):
            return find_kitti(folder, split, listed=listed.resolve())
        if (folder / ANNOTATIONS).is_dir():
            return find_voc(folder, split, listed=listed.resolve())
    raise ConfigError(
        f"data {data} must be a list of a Pascal VOC or KITTI data set, got a text file with no Annotations or label_2 "
        f"near it. Give the data set's folder, or for YOLO its data.yaml."
    )


def present_splits(data: Path) -> tuple[str, ...]:
    """The splits that a data set has; a JSON file or list alone counts as ``"val"``.

    A split of Pascal VOC or KITTI whose list is empty is left out.

    Raises:
        ConfigError: there is no data set of a known format, or no pair of its lists divides it.
        DataError: a ``data.yaml`` or list cannot be used.
    """
    if data.is_file():
        return yolo_splits(data) if data.suffix.lower() in _YAML else ("val",)
    if not data.is_dir():
        raise ConfigError(f"data {data} must be a data set folder or file, got no such path. Check the path.")
    present = coco_splits(data)
    if present:
        return present
    data_yaml = yaml_of(data)
    if data_yaml is not None:
        present = yolo_splits(data_yaml)
    elif is_kitti(data):
        present = kitti_splits(data)
    elif is_voc(data):
        present = voc_splits(data)
    if not present:
        raise ConfigError(
            f"{data} must hold train.json, val.json or annotations/instances_*.json (COCO), data.yaml with train or "
            f"val (YOLO), training/label_2 (KITTI) or Annotations/*.xml (Pascal VOC), got none of them. "
            f"Give the folder of a data set, or a JSON file."
        )
    return present


def open_split(
    data: Path,
    split: str,
    *,
    class_names: tuple[str, ...] | None = None,
    exact: bool = False,
    split_seed: int = 0,
    check_images: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Annotations, Problems]:
    """Finds and reads one split of a data set.

    Args:
        data: a folder or a file, as `find_split` takes it.
        split: ``"train"`` or ``"val"``.
        class_names: the classes it must have, by name; labels then follow this order. A data set without a list of
            its classes (Pascal VOC, KITTI) may show fewer.
        exact: as in `find_split`.
        split_seed: as in `find_split`.
        check_images: decode every image, as `read_coco` does.
        progress: called with (images settled, all images) where images are looked at.
        say: told in a line what the data was recognised as.

    Returns:
        Annotations of at least one image, and what was repaired or skipped.

    Raises:
        ConfigError: there is no such path, or no file for the split.
        DataError: the file cannot be used, its classes are others, or no image is left.
    """
    found = find_split(data, split, exact=exact, split_seed=split_seed)
    if say is not None:
        say(f"{split} data read as {found.text()}")
    annotations, problems = found.read(class_names=class_names, check_images=check_images, progress=progress)
    if len(annotations) == 0:
        skipped = f"; {problems.skipped} entries were skipped: {', '.join(problems.counts)}" if problems.skipped else ""
        raise DataError(
            f"the {split} split {found.source} must list at least one image that can be used, got none{skipped}. "
            f"Add images to it, or give other data."
        )
    return annotations, problems
