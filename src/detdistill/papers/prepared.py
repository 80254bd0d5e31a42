"""A data set as a reproduction uses it: both splits with the papers' classes, written once beside links to images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.data.annotations import Annotations
from detdistill.data.listing import SPLITS, SplitName
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
        splits: both, with all their images.
        images: how many were written, by split.
        digest: of what was written of both.
    """

    splits: Mapping[SplitName, Annotations]
    images: Mapping[SplitName, int]
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
    splits = read_both(source, progress)
    if classes is not None:
        splits = {split: aid_classes(annotations, classes) for split, annotations in splits.items()}
    contents = {split: _first(coco_dict(splits[split]), limits.get(split)) for split in SPLITS}
    images = {split: len(content["images"]) for split, content in contents.items()}
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:16]
    made_from = {"source": str(source.resolve()), "classes": classes, "limits": dict(limits)}
    if folder.exists():
        _require_same(folder, source, made_from, digest)
        return Made(splits, images, digest)
    with atomic_folder(folder) as partial:
        for split, content in contents.items():
            write_json(partial / "annotations" / f"instances_{split}.json", content)
            names = sorted(Path(image["file_name"]).stem for image in content["images"])
            write_text(partial / f"{split}.txt", "".join(f"{name}\n" for name in names))
            (partial / split).symlink_to(splits[split].images_dir.resolve(), target_is_directory=True)
        write_json(partial / MADE_FROM, {"made_from": made_from, "digest": digest})
    return Made(splits, images, digest)


def _require_same(folder: Path, source: Path, made_from: Mapping[str, Any], digest: str) -> None:
    record = read_json(folder / MADE_FROM)
    same_source = isinstance(record, dict) and record.get("made_from") == made_from
    if same_source and record["digest"] == digest:
        return
    got = "one made before its lists or labels changed" if same_source else "one made from other data"
    raise ConfigError(f"{folder} must be made from {source}, got {got}. Give another --out, or delete it.")


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


def _first(content: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """The first images that show an object, with their objects; all without a limit."""
    if limit is None:
        return content
    shown = {box["image_id"] for box in content["annotations"] if not box["iscrowd"]}
    images = [image for image in content["images"] if image["id"] in shown][:limit]
    kept = {image["id"] for image in images}
    boxes = [box for box in content["annotations"] if box["image_id"] in kept]
    return {**content, "images": images, "annotations": boxes}
