"""A data set as a reproduction uses it: both splits with the papers' classes, written once beside links to images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.formats.kitti import IMAGES, KittiSplit
from detdistill.data.listing import CLASS_LIST, IMAGE_SUFFIXES, SPLITS, SplitName, by_stem, files_below
from detdistill.data.problems import Problems
from detdistill.data.sources import find_split
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import coco_dict
from detdistill.files import atomic_folder, read_json, write_json, write_text
from detdistill.jobs.opening import read_split
from detdistill.papers.class_groups import ClassMode, aid_classes
from detdistill.progress import Progress

MADE_FROM = "made_from.json"


@dataclass(frozen=True, slots=True)
class Made:
    """What was written.

    Attributes:
        images: how many by split.
        size: median height and width of a training image as stored.
        digest: of both splits' annotations.
    """

    images: Mapping[SplitName, int]
    size: tuple[int, int]
    digest: str


def prepare(
    folder: Path, source: Path, classes: ClassMode | None, *, limits: Mapping[SplitName, int], progress: Progress
) -> Made:
    """Writes both splits as COCO JSON beside links to their images, and lists of names, unless an earlier run did.

    Args:
        folder: where to.
        source: the data set, as `find_split` takes it.
        classes: what KITTI's other types are; None leaves the classes as they are.
        limits: the most images of a split, those with objects first; no entry for all.
        progress: told what was repaired or skipped.

    Raises:
        ConfigError: `folder` was made from other data, or from `source` as it was before its lists or labels changed.
        DataError: the data cannot be used, or an image is in both splits.
    """
    made_from = {
        "source": str(source.resolve()),
        "classes": classes,
        "limits": dict(limits),
        "files": _digest_of_files(source),
    }
    if folder.exists():
        return _made_before(folder, source, made_from)
    splits = read_both(source, progress)
    if classes is not None:
        splits = {split: aid_classes(annotations, classes) for split, annotations in splits.items()}
    contents: dict[SplitName, dict[str, Any]] = {split: coco_dict(splits[split]) for split in SPLITS}
    for split, content in contents.items():
        _keep_first(content, limits.get(split))
    made = Made(
        images={split: len(content["images"]) for split, content in contents.items()},
        size=median_size(splits["train"]),
        digest=_short(json.dumps(contents, sort_keys=True)),
    )
    with atomic_folder(folder) as partial:
        for split, content in contents.items():
            write_json(partial / "annotations" / f"instances_{split}.json", content)
            names = sorted(Path(image["file_name"]).stem for image in content["images"])
            write_text(partial / f"{split}.txt", "".join(f"{name}\n" for name in names))
            (partial / split).symlink_to(splits[split].images_dir.resolve(), target_is_directory=True)
        record = {"images": dict(made.images), "size": list(made.size), "digest": made.digest}
        write_json(partial / MADE_FROM, {"made_from": made_from, "made": record})
    return made


def _made_before(folder: Path, source: Path, made_from: Mapping[str, Any]) -> Made:
    record = read_json(folder / MADE_FROM)
    kept = record.get("made_from") if isinstance(record, dict) else None
    if kept != made_from:
        changed = isinstance(kept, dict) and {**kept, "files": ""} == {**made_from, "files": ""}
        got = "one made before its lists or labels changed" if changed else "one made from other data"
        raise ConfigError(f"{folder} must be made from {source}, got {got}. Give another --out, or delete it.")
    made = record["made"]
    height, width = made["size"]
    return Made(images=made["images"], size=(height, width), digest=made["digest"])


def _digest_of_files(source: Path) -> str:
    """Tells a data set from itself with other lists or labels: the images by name, sizes and times of the rest."""
    told: list[str] = []
    for split in SPLITS:
        found = find_split(source, split)
        files = [found.source]
        if isinstance(found, KittiSplit):
            labels = by_stem(files_below(found.labels_dir, frozenset({".txt"})))
            chosen = [entry.stem for entry in found.choice.choose(list(labels), Problems())]
            images = by_stem(files_below(found.training / IMAGES, IMAGE_SUFFIXES))
            told += [split, *(f"{stem} {images.get(stem)}" for stem in chosen)]
            files = [found.folder / CLASS_LIST]
            files += [found.labels_dir / labels[stem] for stem in chosen if stem in labels]
        for path in files:
            if path.is_file():
                status = path.stat()
                told.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return _short("\n".join(told))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read_both(folder: Path, progress: Progress) -> dict[SplitName, Annotations]:
    """Both splits of a data set.

    Raises:
        DataError: a split cannot be used, or an image is in both.
    """
    train = read_split(folder, "train", progress=progress)
    val = read_split(folder, "val", class_names=train.class_names, progress=progress)
    both = sorted(_images(train) & _images(val))
    if both:
        raise DataError(
            f"The train and val splits of {folder} must share no image, got {len(both)} in both, such as "
            f"{both[0].name}. Take them out of one of the two."
        )
    return {"train": train, "val": val}


def _images(annotations: Annotations) -> set[Path]:
    folder = annotations.images_dir.resolve()
    return {folder / annotations.file_name(index) for index in range(len(annotations))}


def median_size(annotations: Annotations) -> tuple[int, int]:
    """Median height and width of the images as stored, pixels."""
    height, width = np.median(annotations.sizes, axis=0).astype(int).tolist()
    return height, width


def _keep_first(content: dict[str, Any], limit: int | None) -> None:
    """Leaves the first images that show an object, with their objects."""
    if limit is None:
        return
    shown = {box["image_id"] for box in content["annotations"] if not box["iscrowd"]}
    images: Sequence[dict[str, Any]] = [image for image in content["images"] if image["id"] in shown][:limit]
    kept = {image["id"] for image in images}
    content["images"] = list(images)
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] in kept]
