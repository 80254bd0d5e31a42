"""What detectors found in the images of a split, kept on the disk, and COCO's results JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from detdistill.data.annotations import Annotations
from detdistill.data.formats.json_stream import walk_list
from detdistill.detectors.results import RESULTS, checked_result
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections, check_detections
from detdistill.files import require_regular, write_bytes
from detdistill.json_text import used_as

_FORMAT = "detdistill-found/1"
_TENSORS = ("image_ids", "counts", "boxes", "scores", "labels")


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector found in every image of a split.

    Attributes:
        annotations: the digest of what the images show, and of their sizes.
        agnostic: whether boxes suppressed each other across classes.
        images: one entry an image, in the split's order.
    """

    annotations: str
    agnostic: bool
    images: Sequence[ImageDetections]

    def write(self, path: Path) -> None:
        """Writes it as safetensors, whole or not at all."""
        tensors = {
            "image_ids": np.array([one.image_id for one in self.images], dtype=np.int64),
            "counts": np.array([len(one.scores) for one in self.images], dtype=np.int64),
            "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(one.boxes for one in self.images)]),
            "scores": np.concatenate([np.zeros(0, np.float32), *(one.scores for one in self.images)]),
            "labels": np.concatenate([np.zeros(0, np.int64), *(one.labels for one in self.images)]),
        }
        # Several entries would be written in no fixed order.
        write_bytes(path, save(tensors, metadata={_FORMAT: _told(self.annotations, agnostic=self.agnostic)}))


def _told(annotations: str, *, agnostic: bool) -> str:
    return json.dumps({"annotations": annotations, "agnostic": agnostic})


def read_found(path: Path, annotations: Annotations, *, agnostic: bool) -> list[ImageDetections]:
    """What `Found.write` wrote of these images.

    Raises:
        ConfigError: it is not there, was not written so, or is of other images or annotations.
    """
    require_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            told, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} must hold what a detector found, got: {error}. Make it anew.") from error
    with used_as(path, "what a detector found"):
        ids, counts, boxes, scores, labels = (tensors[name] for name in _TENSORS)
        same = told[_FORMAT] == _told(annotations.digest(), agnostic=agnostic)
        if not same or not np.array_equal(ids, annotations.image_ids):
            raise ConfigError(
                f"{path} must be of these {len(annotations)} images as they are labelled now, got {len(ids)} images of "
                "others or measured otherwise. Make it anew."
            )
        if len(counts) != len(ids) or counts.min(initial=0) < 0 or counts.sum() != len(boxes):
            raise ValueError("counts of other images")
        edges = np.cumsum([0, *counts.tolist()]).tolist()
        parts = [
            ImageDetections(int(image), boxes[first:last], scores[first:last], labels[first:last])
            for image, (first, last) in zip(ids, pairwise(edges), strict=True)
        ]
        return list(
            check_detections(parts, annotations.image_ids.tolist(), classes=len(annotations.class_names)).values()
        )


def read_results(path: Path, annotations: Annotations) -> list[ImageDetections]:
    """The detections of a COCO results JSON, such as another program wrote, in the split's order.

    Args:
        path: a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, in pixels of the images
            as stored.

    Raises:
        ConfigError: it cannot be read.
        DataError: it is no such list, or an entry is of an image or class that the data has not, or is no box.
    """
    rows: dict[int | str, int] = {int(image): row for row, image in enumerate(annotations.image_ids)}
    labels = {int(category): label for label, category in enumerate(annotations.category_ids)}
    found: list[tuple[int, int, float, float, float, float, float]] = []
    for number, entry in enumerate(walk_list(path, what=RESULTS), start=1):
        where = f"Entry {number} of {path}"
        one = checked_result(entry, where=where)
        if one.image not in rows:
            raise DataError(
                f"image_id of {where} must be an image of the validation data, got {one.image!r}. Give what was "
                "found in the same images."
            )
        if one.category not in labels:
            raise DataError(
                f"category_id of {where} must be a class of the validation data, {', '.join(map(str, labels))}, got "
                f"{one.category!r}. Write the ids of the annotations."
            )
        found.append((rows[one.image], labels[one.category], *one.box, one.score))
    columns: NDArray[np.float64] = np.array(found, dtype=np.float64).reshape(-1, 7)
    order = np.argsort(columns[:, 0], kind="stable")
    columns = columns[order]
    edges = np.searchsorted(columns[:, 0], np.arange(len(annotations) + 1)).tolist()
    return [
        ImageDetections(
            int(image),
            columns[first:last, 2:6].astype(np.float32),
            columns[first:last, 6].astype(np.float32),
            columns[first:last, 1].astype(np.int64),
        )
        for image, (first, last) in zip(annotations.image_ids, pairwise(edges), strict=True)
    ]
