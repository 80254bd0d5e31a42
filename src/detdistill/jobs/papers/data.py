"""The data sets of the papers' rows: found below one folder, checked, and brought to the papers' classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.class_groups import ClassMode, aid_classes
from detdistill.data.coco_files import is_coco
from detdistill.data.coco_traffic import make_coco_traffic
from detdistill.data.kitti import is_kitti
from detdistill.data.scenes import make_scenes
from detdistill.data.split import SplitNames, write_split
from detdistill.errors import ConfigError, DataError
from detdistill.evaluate.coco import coco_dict
from detdistill.files import atomic_folder, read_json, write_json
from detdistill.jobs.opening import read_split
from detdistill.jobs.papers.rows import DataName
from detdistill.progress import Progress

MADE_FROM = "made_from.json"
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
Split = Literal["train", "val"]
_SPLITS: tuple[Split, ...] = ("train", "val")


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
    """

    folder: Path
    identity: str
    train_images: int
    val_images: int
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


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
    if root is None:
        source = out / DATA / "scenes"
        progress.start("draw scenes", _SMOKE_TRAIN + _SMOKE_VAL)
        make_scenes(
            source,
            train=_SMOKE_TRAIN,
            val=_SMOKE_VAL,
            seed=0,
            kitti=True,
            progress=lambda done, total: progress.advance(done),
        )
        progress.finish()
        source, shown = (source / "kitti" if name == "kitti" else source), "drawn street scenes"
    else:
        source = _smoke_source(name, root)
        shown = source.name
        if name == "coco_traffic":
            made = out / DATA / f"coco_traffic_of_{source.name}"
            make_coco_traffic(source, made)
            source = made
    folder = out / DATA / f"{name}_{classes}" if name == "kitti" else out / DATA / name
    limits: dict[Split, int] = {"train": _SMOKE_TRAIN, "val": _SMOKE_VAL}
    counts = _prepared(folder, source, classes if name == "kitti" else None, limits=limits, progress=progress)
    words = {"kitti": "KITTI", "coco_traffic": "COCO traffic", "coco": "COCO"}[name]
    note = f"{counts['train']} training and {counts['val']} validation images of {shown} stand for {words}."
    return PreparedData(folder, folder.name, counts["train"], counts["val"], tuple(counts["size"]), notes=(note,))


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
        DataError: it cannot be used, or images are missing.
    """
    source = _full_source(name, root)
    notes: tuple[str, ...] = ()
    if name == "coco_traffic":
        folder = out / DATA / name
        progress.say(f"COCO traffic of {source}: read four times")
        make_coco_traffic(source, folder)
        splits = _opened(folder, progress)
    elif name == "kitti":
        folder = out / DATA / f"{name}_{classes}"
        _prepared(folder, source, classes, limits={}, progress=progress)
        splits = _opened(folder, progress)
    else:
        folder, splits = source, _opened(source, progress)
    for split in _SPLITS:
        _require_images(splits[split], split)
    train, val = len(splits["train"]), len(splits["val"])
    counted = train + val if name == "kitti" else train
    published = _PUBLISHED_IMAGES.get(name)
    if published is not None and counted != published:
        notes = (f"The {name} folder has {counted} images, the paper's {published}: figures cannot be compared.",)
    identity = folder.name if folder != source else str(source.resolve())
    return PreparedData(folder, identity, train, val, _median_size(splits["train"]), notes=notes)


def _smoke_source(name: DataName, root: Path) -> Path:
    fits: Callable[[Path], bool] = (lambda path: is_kitti(path) or is_coco(path)) if name == "kitti" else is_coco
    folders = _SMOKE_FOLDERS[name]
    for place in (*(root / folder for folder in folders), *([root] if _fits_itself(name, root) else [])):
        if place.is_dir() and fits(place):
            return place
    raise ConfigError(
        f"--data {root} must hold one of {', '.join(folders)}, or be such a data set, got none of them for {name}. "
        "Leave --data out to use drawn scenes."
    )


def _fits_itself(name: DataName, root: Path) -> bool:
    return is_kitti(root) if name == "kitti" else is_coco(root) and not is_kitti(root)


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


def _opened(folder: Path, progress: Progress) -> dict[Split, Annotations]:
    train = read_split(folder, "train", progress=progress)
    return {"train": train, "val": read_split(folder, "val", class_names=train.class_names, progress=progress)}


def _median_size(annotations: Annotations) -> tuple[int, int]:
    height, width = np.median(annotations.sizes, axis=0).astype(int).tolist()
    return height, width


def _require_images(annotations: Annotations, split: str) -> None:
    """Refuses a split with images that are not on the disk; one look into each folder."""
    names = [annotations.file_name(index) for index in range(len(annotations))]
    folders = {os.path.dirname(name) for name in names}
    present = {
        os.path.join(folder, entry)
        for folder in folders
        if (annotations.images_dir / folder).is_dir()
        for entry in os.listdir(annotations.images_dir / folder)
    }
    missing = [name for name in names if name not in present]
    if missing:
        raise DataError(
            f"The {split} images in {annotations.images_dir} must be all {len(names)}, got {len(missing)} missing, "
            f"such as {missing[0]}. Put them there."
        )


def _prepared(
    folder: Path, source: Path, classes: ClassMode | None, *, limits: Mapping[Split, int], progress: Progress
) -> dict[str, Any]:
    """Writes both splits as COCO JSON beside links to their images, unless an earlier run did; returns the counts."""
    made_from = {"source": str(source.resolve()), "classes": classes, "limits": dict(limits)}
    if folder.exists():
        record = read_json(folder / MADE_FROM)
        if not isinstance(record, dict) or record.get("made_from") != made_from:
            raise ConfigError(
                f"{folder} must be made from {source}, got one made from other data. Give another --out, or delete it."
            )
        return dict(record["counts"])
    splits = _opened(source, progress)
    if classes is not None:
        splits = {split: aid_classes(annotations, classes) for split, annotations in splits.items()}
    counts: dict[str, Any] = {"size": _median_size(splits["train"])}
    names: dict[Split, tuple[str, ...]] = {}
    with atomic_folder(folder) as partial:
        for split in _SPLITS:
            content = coco_dict(splits[split])
            _keep_first(content, limits.get(split))
            counts[split] = len(content["images"])
            names[split] = tuple(sorted(Path(image["file_name"]).stem for image in content["images"]))
            write_json(partial / "annotations" / f"instances_{split}.json", content)
            (partial / split).symlink_to(splits[split].images_dir.resolve(), target_is_directory=True)
        write_split(partial, SplitNames(train=names["train"], val=names["val"]))
        write_json(partial / MADE_FROM, {"made_from": made_from, "counts": counts})
    return counts


def _keep_first(content: dict[str, Any], limit: int | None) -> None:
    """Leaves the first images that show an object, with their objects."""
    if limit is None:
        return
    shown = {box["image_id"] for box in content["annotations"] if not box["iscrowd"]}
    images: Sequence[dict[str, Any]] = [image for image in content["images"] if image["id"] in shown][:limit]
    kept = {image["id"] for image in images}
    content["images"] = list(images)
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] in kept]
