"""The data sets of the papers' rows: found below one folder, checked, and brought to the papers' classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.formats.coco import recognises as is_coco
from detdistill.data.formats.kitti import recognises as is_kitti
from detdistill.data.listing import SPLITS, TRAIN_SHARE, SplitName
from detdistill.data.sources import find_split
from detdistill.errors import ConfigError, DataError
from detdistill.papers.class_groups import ClassMode
from detdistill.papers.coco_traffic import make_coco_traffic_job
from detdistill.papers.prepared import prepare, read_both
from detdistill.papers.rows import DataName
from detdistill.progress import Progress
from detdistill.scenes import make_scenes

DATA = "data"

_SMOKE_TRAIN, _SMOKE_VAL = 64, 24
# Training and validation images of the papers; KITTI's are all 7481, divided 8 : 2.
_PUBLISHED_IMAGES = MappingProxyType({"kitti": 7481, "coco": 118287})
_SMOKE_FOLDERS: Mapping[DataName, tuple[str, ...]] = MappingProxyType(
    {"kitti": ("kitti33", "kitti"), "coco_traffic": ("coco_mini", "coco"), "coco": ("bccd", "coco_mini", "coco")}
)
_FULL_FOLDERS: Mapping[DataName, str] = MappingProxyType({"kitti": "kitti", "coco_traffic": "coco", "coco": "coco"})
_LAYOUTS = MappingProxyType(
    {
        "kitti": "training/image_2 and training/label_2",
        "coco": "annotations/instances_train2017.json, annotations/instances_val2017.json, train2017 and val2017",
    }
)
_WORDS: Mapping[DataName, str] = MappingProxyType({"kitti": "KITTI", "coco_traffic": "COCO traffic", "coco": "COCO"})
# How far the share of training images in a folder's own lists may be from the paper's.
_SHARE_SLACK = 0.01


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A data set ready for training.

    Attributes:
        folder: as `open_split` takes it.
        identity: what tells it from other data in the same folder of runs.
        train_images: how many images there are to learn from.
        val_images: how many there are to be measured on.
        size: median height and width of a training image as stored.
        notes: in which way it is not the paper's, a sentence each.
        digest: of the annotations where they were written for this reproduction; runs on others are other runs.
    """

    folder: Path
    identity: str
    train_images: int
    val_images: int
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    digest: str = ""


def smoke_data(name: DataName, classes: ClassMode, *, root: Path | None, out: Path, progress: Progress) -> PreparedData:
    """A few real images in the place of a data set, or drawn scenes where none are given.

    Args:
        name: the paper's data set.
        classes: what KITTI's other types are.
        root: a folder with some of kitti33, coco_mini, bccd, kitti and coco in it, or one data set itself; None for
            drawn scenes.
        out: folder of the reproduction.
        progress: told how it goes.

    Raises:
        ConfigError: nothing below `root` can stand for the data set, or another folder did before.
    """
    limits: dict[SplitName, int] = {"train": _SMOKE_TRAIN, "val": _SMOKE_VAL}
    if root is None:
        source, shown = out / DATA / "scenes", "drawn street scenes"
        progress.start("draw scenes", sum(limits.values()))
        make_scenes(source, **limits, seed=0, kitti=True, progress=lambda done, total: progress.advance(done))
        progress.finish()
        source = source / "kitti" if name == "kitti" else source
    else:
        source = _smoke_source(name, root)
        shown = source.name
        if name == "coco_traffic":
            source = make_coco_traffic_job(source, out / DATA / f"coco_traffic_of_{shown}").out
    folder = out / DATA / (f"{name}_{classes}" if name == "kitti" else name)
    made = prepare(folder, source, classes if name == "kitti" else None, limits=limits, progress=progress)
    train, val = made.images["train"], made.images["val"]
    note = f"{train} training and {val} validation images of {shown} stand for {_WORDS[name]}."
    return PreparedData(
        folder, folder.name, train, val, _median_size(made.splits["train"]), notes=(note,), digest=made.digest
    )


def full_data(name: DataName, classes: ClassMode, *, root: Path, out: Path, progress: Progress) -> PreparedData:
    """The paper's data set, checked for completeness before anything is trained.

    Args:
        name: the paper's data set.
        classes: what KITTI's other types are.
        root: a folder with ``kitti`` and ``coco`` in it, or the one data set itself.
        out: folder of the reproduction; COCO traffic and KITTI with the paper's classes are written there, their
            images linked.
        progress: told how it goes.

    Raises:
        ConfigError: the data set is not there, or another one was used in this folder before.
        DataError: it cannot be used, images are missing, or one is in both splits.
    """
    source = _full_source(name, root)
    folder, identity, digest = source, str(source.resolve()), ""
    notes: list[str] = []
    if name == "kitti":
        folder = out / DATA / f"{name}_{classes}"
        made = prepare(folder, source, classes, limits={}, progress=progress)
        splits, identity, digest = made.splits, folder.name, made.digest
        notes += _division(source, made.images)
    else:
        if name == "coco_traffic":
            progress.say(f"COCO traffic of {source}: read four times")
            folder = make_coco_traffic_job(source, out / DATA / name).out
            identity = folder.name
        splits = read_both(folder, progress)
    for split in SPLITS:
        _require_images(splits[split], split)
    train, val = len(splits["train"]), len(splits["val"])
    counted = train + val if name == "kitti" else train
    published = _PUBLISHED_IMAGES.get(name, counted)
    if counted != published:
        notes.append(f"The {name} folder has {counted} images, the paper's {published}: figures cannot be compared.")
    return PreparedData(folder, identity, train, val, _median_size(splits["train"]), notes=tuple(notes), digest=digest)


def _median_size(annotations: Annotations) -> tuple[int, int]:
    """Median height and width of the images as stored, pixels."""
    height, width = np.median(annotations.sizes, axis=0).astype(int).tolist()
    return height, width


def _division(source: Path, images: Mapping[SplitName, int]) -> list[str]:
    """What to know where KITTI is divided by lists that came with the folder, and not by our seed."""
    if find_split(source, "train").drawn:
        return []
    train, val = images["train"], images["val"]
    other = abs(train / (train + val) - TRAIN_SHARE) > _SHARE_SLACK
    lists = f"KITTI is divided by the folder's own lists, {train} training and {val} validation images"
    return [f"{lists}, the paper's 8 : 2: figures cannot be compared." if other else f"{lists}."]


def _smoke_source(name: DataName, root: Path) -> Path:
    fits: Callable[[Path], bool] = (lambda path: is_kitti(path) or is_coco(path)) if name == "kitti" else is_coco
    itself = is_kitti(root) if name == "kitti" else is_coco(root) and not is_kitti(root)
    folders = _SMOKE_FOLDERS[name]
    for place in (*(root / folder for folder in folders), *([root] if itself else [])):
        if place.is_dir() and fits(place):
            return place
    raise ConfigError(
        f"--data {root} must hold one of {', '.join(folders)}, or be such a data set, got none of them for {name}. "
        "Leave --data out to use drawn scenes."
    )


def _full_source(name: DataName, root: Path) -> Path:
    folder = _FULL_FOLDERS[name]
    fits = is_kitti if folder == "kitti" else is_coco
    for place in (root / folder, root):
        if place.is_dir() and fits(place):
            return place
    raise ConfigError(
        f"--data {root} must hold {folder}/ with {_LAYOUTS[folder]}, or be that folder, got none of it. "
        f"Put {folder.upper()} there, or try --scale smoke first."
    )


def _require_images(annotations: Annotations, split: str) -> None:
    """Refuses a split with images that are not on the disk; one look into each folder."""
    names = [annotations.file_name(index) for index in range(len(annotations))]
    present: set[str] = set()
    for folder in {os.path.dirname(name) for name in names}:
        place = annotations.images_dir / folder
        present |= {os.path.join(folder, entry) for entry in os.listdir(place)} if place.is_dir() else set()
    missing = [name for name in names if name not in present]
    if missing:
        raise DataError(
            f"The {split} images in {annotations.images_dir} must be all {len(names)}, got {len(missing)} missing, "
            f"such as {missing[0]}. Put them there."
        )
