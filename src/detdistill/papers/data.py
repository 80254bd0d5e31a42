"""The data sets of the papers' rows: found below one folder, checked, and brought to the papers' classes.

What a reproduction writes of a data set are both splits with the papers' classes, once, beside links to the images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.formats.coco import recognises as is_coco
from detdistill.data.formats.kitti import recognises as is_kitti
from detdistill.data.listing import SPLITS, TRAIN_SHARE, SplitName
from detdistill.data.sources import find_split
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import coco_dict
from detdistill.files import atomic_folder, link_folder, read_json, write_json, write_text
from detdistill.jobs.opening import read_split
from detdistill.papers.coco_traffic import make_coco_traffic_job
from detdistill.papers.protocols import ClassMode, aid_classes
from detdistill.papers.rows import DataName
from detdistill.progress import Progress
from detdistill.scenes import make_scenes

DATA, MADE_FROM = "data", "made_from.json"

_SMOKE_TRAIN, _SMOKE_VAL = 64, 24
# Training and validation images of the papers; KITTI's are all 7481, divided 8 : 2.
_PUBLISHED_IMAGES = MappingProxyType({"kitti": 7481, "coco": 118287})
_WORDS: Mapping[DataName, str] = MappingProxyType({"kitti": "KITTI", "coco_traffic": "COCO traffic", "coco": "COCO"})
_SMOKE_FOLDERS: Mapping[DataName, tuple[str, ...]] = MappingProxyType(
    {"kitti": ("kitti33", "kitti"), "coco_traffic": ("coco_mini", "coco"), "coco": ("bccd", "coco_mini", "coco")}
)
_LAYOUTS = MappingProxyType(
    {
        "kitti": "training/image_2 and training/label_2",
        "coco": "annotations/instances_train2017.json, annotations/instances_val2017.json, train2017 and val2017",
    }
)
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
        root: a folder with some of kitti33, coco_mini, bccd, kitti and coco in it, or one data set itself; None for
            drawn scenes.

    Raises:
        ConfigError: nothing below `root` can stand for the data set, or another folder did before.
    """
    limits: dict[SplitName, int] = {"train": _SMOKE_TRAIN, "val": _SMOKE_VAL}
    kitti = name == "kitti"
    if root is None:
        source, shown = out / DATA / "scenes", "drawn street scenes"
        progress.start("draw scenes", sum(limits.values()), unit="image")
        make_scenes(source, **limits, seed=0, kitti=True, progress=lambda done, total: progress.advance(done))
        progress.finish()
        source = source / "kitti" if kitti else source
    else:
        folders = _SMOKE_FOLDERS[name]
        places = [place for folder in folders if (place := root / folder).is_dir()]
        found = next((place for place in places if is_coco(place) or (kitti and is_kitti(place))), None)
        if found is None and (is_kitti(root) if kitti else is_coco(root) and not is_kitti(root)):
            found = root
        if found is None:
            raise ConfigError(
                f"--data {root} must hold one of {', '.join(folders)}, or be such a data set, got none of them for "
                f"{name}. Leave --data out to use drawn scenes."
            )
        source, shown = found, found.name
        if name == "coco_traffic":
            source = make_coco_traffic_job(source, out / DATA / f"coco_traffic_of_{shown}").out
    folder = out / DATA / (f"{name}_{classes}" if kitti else name)
    made, counts, digest = _prepare(folder, source, classes if kitti else None, limits=limits, progress=progress)
    note = f"{counts['train']} training and {counts['val']} validation images of {shown} stand for {_WORDS[name]}."
    return PreparedData(folder, folder.name, counts["train"], counts["val"], _median_size(made), (note,), digest)


def full_data(name: DataName, classes: ClassMode, *, root: Path, out: Path, progress: Progress) -> PreparedData:
    """The paper's data set, checked for completeness before anything is trained.

    Args:
        root: a folder with ``kitti`` and ``coco`` in it, or the one data set itself.
        out: folder of the reproduction; COCO traffic and KITTI with the paper's classes are written there, their
            images linked.

    Raises:
        ConfigError: the data set is not there, or another one was used in this folder before.
        DataError: it cannot be used, images are missing, or one is in both splits.
    """
    home = "kitti" if name == "kitti" else "coco"
    fits = is_kitti if name == "kitti" else is_coco
    source = next((place for place in (root / home, root) if place.is_dir() and fits(place)), None)
    if source is None:
        raise ConfigError(
            f"--data {root} must hold {home}/ with {_LAYOUTS[home]}, or be that folder, got none of it. "
            f"Put {home.upper()} there, or try --scale smoke first."
        )
    folder, identity, digest = source, str(source.resolve()), ""
    notes: list[str] = []
    if name == "kitti":
        folder = out / DATA / f"{name}_{classes}"
        splits, _, digest = _prepare(folder, source, classes, limits={}, progress=progress)
        identity = folder.name
        notes += _division(source, len(splits["train"]), len(splits["val"]))
    else:
        if name == "coco_traffic":
            progress.say(f"COCO traffic of {source}: read four times")
            folder = make_coco_traffic_job(source, out / DATA / name).out
            identity = folder.name
        splits = _read_both(folder, progress, whole=True)
    train, val = len(splits["train"]), len(splits["val"])
    counted = train + val if name == "kitti" else train
    published = _PUBLISHED_IMAGES.get(name, counted)
    if counted != published:
        notes.append(f"The {name} folder has {counted} images, the paper's {published}: figures cannot be compared.")
    return PreparedData(folder, identity, train, val, _median_size(splits), tuple(notes), digest)


def _median_size(splits: Mapping[SplitName, Annotations]) -> tuple[int, int]:
    height, width = np.median(splits["train"].sizes, axis=0).astype(int).tolist()
    return height, width


def _division(source: Path, train: int, val: int) -> list[str]:
    """What to know where KITTI is divided by lists that came with the folder, and not by our seed."""
    if find_split(source, "train").drawn:
        return []
    other = abs(train / (train + val) - TRAIN_SHARE) > _SHARE_SLACK
    lists = f"KITTI is divided by the folder's own lists, {train} training and {val} validation images"
    return [f"{lists}, the paper's 8 : 2: figures cannot be compared." if other else f"{lists}."]


def _prepare(
    folder: Path, source: Path, classes: ClassMode | None, *, limits: Mapping[SplitName, int], progress: Progress
) -> tuple[dict[SplitName, Annotations], dict[SplitName, int], str]:
    """Writes both splits as COCO JSON beside links to their images, and lists of names, unless an earlier run did.

    Args:
        classes: what KITTI's other types are; None leaves the classes as they are.
        limits: the most images of a split, those with objects first; no entry for all.

    Returns:
        Both splits with all their images, how many were written of each, and a digest of what was.
    """
    splits = _read_both(source, progress)
    if classes is not None:
        splits = {split: aid_classes(annotations, classes) for split, annotations in splits.items()}
    contents = {split: _first(coco_dict(splits[split]), limits.get(split)) for split in SPLITS}
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16]
    record = {
        "made_from": {"source": str(source.resolve()), "classes": classes, "limits": dict(limits)},
        "digest": digest,
    }
    if folder.exists():
        before = read_json(folder / MADE_FROM)
        if before != record:
            same = isinstance(before, dict) and before.get("made_from") == record["made_from"]
            got = "one made before its lists or labels changed" if same else "one made from other data"
            raise ConfigError(f"{folder} must be made from {source}, got {got}. Give another --out, or delete it.")
    else:
        with atomic_folder(folder) as partial:
            for split, content in contents.items():
                write_json(partial / "annotations" / f"instances_{split}.json", content)
                names = sorted(Path(image["file_name"]).stem for image in content["images"])
                write_text(partial / f"{split}.txt", "".join(f"{name}\n" for name in names))
                link_folder(partial / split, splits[split].images_dir.resolve())
            write_json(partial / MADE_FROM, record)
    return splits, {split: len(content["images"]) for split, content in contents.items()}, digest


def _read_both(folder: Path, progress: Progress, *, whole: bool = False) -> dict[SplitName, Annotations]:
    train = read_split(folder, "train", whole=whole, progress=progress)
    val = read_split(folder, "val", class_names=train.class_names, whole=whole, progress=progress)
    of_train, of_val = (
        {one.images_dir.resolve() / one.file_name(index) for index in range(len(one))} for one in (train, val)
    )
    if both := sorted(of_train & of_val):
        raise DataError(
            f"The train and val splits of {folder} must share no image, got {len(both)} in both, such as "
            f"{both[0].name}. Take them out of one of the two."
        )
    return {"train": train, "val": val}


def _first(content: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """The first images that show an object, with their objects; all without a limit."""
    if limit is None:
        return content
    shown = {box["image_id"] for box in content["annotations"] if not box["iscrowd"]}
    images = [image for image in content["images"] if image["id"] in shown][:limit]
    kept = {image["id"] for image in images}
    boxes = [box for box in content["annotations"] if box["image_id"] in kept]
    return {**content, "images": images, "annotations": boxes}
