"""COCO average precision of the detections of one split.

Three programs can compute it. All are fed the same ground truth and results, and all are read through the same
array of precisions, so that they differ in speed alone.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError, MissingDependencyError, installing, suggestion

Backend = Literal["hotcoco", "faster", "pycocotools"]
# Axes of the precisions: IoU 0.50:0.05:0.95, recall, class, area (all, small, medium, large), limit (1, 10, 100).
_ANY_IOU, _MOST_DETECTIONS = slice(None), 2
# The processes in which hotcoco has threads: one forked from them would wait for those forever, and counts by itself.
_THREADS: set[int] = set()
# Attribute, overlaps and area of every figure, under the name that people print.
FIGURES = {
    "AP": ("ap", _ANY_IOU, 0),
    "AP50": ("ap50", slice(0, 1), 0),
    "AP75": ("ap75", slice(5, 6), 0),
    "APs": ("ap_small", _ANY_IOU, 1),
    "APm": ("ap_medium", _ANY_IOU, 2),
    "APl": ("ap_large", _ANY_IOU, 3),
}


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """What a detector found in one image, in pixels of the image as stored.

    Attributes:
        image_id: the data set's own image id.
        boxes: x1, y1, x2, y2; (n, 4).
        scores: in [0, 1]; (n,).
        labels: 0..K-1; (n,).
        probabilities: how probable each class is, where the detector says it, see `Detections`; (n, k).
    """

    image_id: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None = None

    @classmethod
    def none(cls, image_id: int) -> ImageDetections:
        """No detection at all."""
        return cls(image_id, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def above(self, score: float) -> ImageDetections:
        """The detections whose score is at least `score`."""
        keep = self.scores >= score
        classes = None if self.probabilities is None else self.probabilities[keep]
        return ImageDetections(self.image_id, self.boxes[keep], self.scores[keep], self.labels[keep], classes)


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """COCO's figures in percent; None where there is no ground truth to measure against.

    Attributes:
        ap: mean over IoU 0.50:0.05:0.95 and over the classes that have ground truth.
        ap50: at IoU 0.50.
        ap75: at IoU 0.75.
        ap_small: of objects below 32² square pixels.
        ap_medium: of objects between 32² and 96² square pixels.
        ap_large: of objects above 96² square pixels.
        per_class: `ap` of every class by name, in label order.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: Mapping[str, float | None]

    def figures(self) -> dict[str, float | None]:
        """The six figures under the names people print: AP, AP50, AP75, APs, APm, APl."""
        return {name: getattr(self, attribute) for name, (attribute, _, _) in FIGURES.items()}

    def as_dict(self) -> dict[str, Any]:
        """The six figures and ``per_class``, ready for JSON."""
        return {**self.figures(), "per_class": dict(self.per_class)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CocoMetrics:
        """The metrics that `as_dict` wrote; figures that are absent are None."""
        figures = {attribute: content.get(name) for name, (attribute, _, _) in FIGURES.items()}
        return cls(**figures, per_class=dict(content.get("per_class") or {}))


def evaluate_coco(
    annotations: Annotations, detections: Sequence[ImageDetections], *, backend: Backend = "hotcoco"
) -> CocoMetrics:
    """COCO average precision of `detections` against `annotations`.

    Ignored objects count as crowds: matching one is neither right nor wrong. At most 100 detections of an image
    and class count, the best ones. Boxes on images without ground truth are false positives.

    Args:
        annotations: the ground truth; every image of it counts.
        detections: at most one entry per image, in any order; an image without an entry has no detections.
        backend: the program that computes: ``"hotcoco"`` (fast), ``"faster"`` (faster-coco-eval) or
            ``"pycocotools"`` (the original, slow). Their figures are the same.

    Returns:
        Figures in [0, 100]; a class without ground truth is None and left out of the means.

    Raises:
        DataError: a detection is of an unknown image or class, is not finite, or has x2 < x1 or y2 < y1, or an
            image has two entries.
    """
    if backend not in _BACKENDS:
        raise ConfigError(
            f"The evaluation backend must be one of {', '.join(_BACKENDS)}, got '{backend}'. "
            f"{suggestion(backend, _BACKENDS, listed=True)}"
        )
    names = annotations.class_names
    check_detections(detections, annotations.image_ids.tolist(), classes=len(names))
    if backend == "hotcoco" and _THREADS and os.getpid() not in _THREADS:
        from detdistill.evaluation.intervals import metrics_of
        from detdistill.evaluation.matches import match

        return metrics_of(match(annotations, detections))
    precisions: NDArray[np.float64] = np.full((10, 101, len(names), 4, 3), -1.0)
    if len(annotations) and names:
        with redirect_stdout(io.StringIO()):
            evaluation = _BACKENDS[backend](coco_dict(annotations), _results(annotations, detections))
            evaluation.evaluate()
            evaluation.accumulate()
        # The backends sort classes by category id.
        by_label = np.argsort(np.argsort(annotations.category_ids))
        precisions = np.asarray(evaluation.eval["precision"], dtype=np.float64)[:, :, by_label]

    def mean(iou: slice, area: int, classes: slice = slice(None)) -> float | None:
        values = precisions[iou, :, classes, area, _MOST_DETECTIONS]
        measured = values[values > -1]
        return 100.0 * float(measured.mean()) if measured.size else None

    return CocoMetrics(
        **{attribute: mean(iou, area) for attribute, iou, area in FIGURES.values()},
        per_class={name: mean(_ANY_IOU, 0, slice(label, label + 1)) for label, name in enumerate(names)},
    )


def coco_dict(annotations: Annotations) -> dict[str, Any]:
    """The ground truth in COCO's JSON form, with the source's own image and category ids.

    Object ids are 1, 2, 3, ... (pycocotools takes an object of id 0 for no match). Ignored objects are crowds.
    """
    images = zip(annotations.image_ids.tolist(), annotations.sizes.tolist(), strict=True)
    categories = zip(annotations.category_ids.tolist(), annotations.class_names, strict=True)
    objects = zip(
        np.repeat(annotations.image_ids, np.diff(annotations.offsets)).tolist(),
        annotations.category_ids[annotations.labels].tolist(),
        _corner_and_size(annotations.boxes),
        annotations.areas.tolist(),
        annotations.ignored.astype(int).tolist(),
        strict=True,
    )
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": image_id, "file_name": annotations.file_name(index), "height": height, "width": width}
            for index, (image_id, (height, width)) in enumerate(images)
        ],
        "categories": [{"id": category_id, "name": name} for category_id, name in categories],
        "annotations": [
            {"id": number, "image_id": i, "category_id": c, "bbox": box, "area": area, "iscrowd": crowd}
            for number, (i, c, box, area, crowd) in enumerate(objects, start=1)
        ],
    }


def _results(annotations: Annotations, detections: Sequence[ImageDetections]) -> list[dict[str, Any]]:
    category_ids = annotations.category_ids.tolist()
    return [
        {"image_id": int(found.image_id), "category_id": category_ids[label], "bbox": box, "score": score}
        for found in detections
        for label, box, score in zip(found.labels, _corner_and_size(found.boxes), found.scores.tolist(), strict=True)
    ]


def check_detections(
    detections: Sequence[ImageDetections], image_ids: Iterable[int], *, classes: int
) -> dict[int, ImageDetections]:
    """The entry of every image of a split, in its order, an empty one where there is none.

    Raises:
        DataError: as in `evaluate_coco`.
    """
    by_image = {image_id: ImageDetections.none(image_id) for image_id in image_ids}
    missing = set(by_image)
    for found in detections:
        if found.image_id not in missing:
            raise DataError(
                f"The image id of every detection must be an image of the data set's, or the only entry of it, "
                f"got {found.image_id}. Evaluate on the split that the detections were made for, each image once."
            )
        missing.remove(found.image_id)
        _check(found, classes)
        by_image[found.image_id] = found
    return by_image


def _check(found: ImageDetections, classes: int) -> None:
    where = f"Detections of image {found.image_id}"
    n = len(found.boxes)
    if found.boxes.shape != (n, 4) or found.scores.shape != (n,) or found.labels.shape != (n,):
        raise DataError(
            f"{where} must be boxes (n, 4), scores (n,) and labels (n,), got {found.boxes.shape}, "
            f"{found.scores.shape} and {found.labels.shape}. Give one score and one label per box."
        )
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise DataError(f"{where} must be finite, got NaN or infinity. Leave out such boxes or fix the detector.")
    if n and (found.labels.min() < 0 or found.labels.max() >= classes):
        raise DataError(
            f"{where} must have labels in 0..{classes - 1}, got {found.labels.min()}..{found.labels.max()}. "
            "Evaluate on a data set with the classes of the detector."
        )
    if (found.boxes[:, 2:] < found.boxes[:, :2]).any():
        raise DataError(f"{where} must be boxes x1 <= x2, y1 <= y2, got a box of negative size. Give xyxy boxes.")


def _corner_and_size(boxes: NDArray[np.float32]) -> list[list[float]]:
    wide = boxes.astype(np.float64)
    rows: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1).tolist()
    return rows


def _hotcoco(truth: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    hotcoco = _module("hotcoco")
    _THREADS.add(os.getpid())
    ground_truth = hotcoco.COCO(truth)
    return hotcoco.COCOeval(ground_truth, ground_truth.load_res(results), "bbox")


def _faster(truth: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    faster = _module("faster_coco_eval")
    ground_truth = faster.COCO(truth)
    return faster.COCOeval_faster(ground_truth, ground_truth.loadRes(results), "bbox", print_function=lambda *_: None)


def _pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    coco, cocoeval = _module("pycocotools.coco"), _module("pycocotools.cocoeval")

    def loaded(dataset: dict[str, Any]) -> Any:
        made = coco.COCO()
        made.dataset = dataset
        made.createIndex()
        return made

    ground_truth = loaded(truth)
    # loadRes looks into the first result.
    found = ground_truth.loadRes(results) if results else loaded({**truth, "annotations": []})
    return cocoeval.COCOeval(ground_truth, found, "bbox")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise MissingDependencyError(
            f"The package {package} must be installed to evaluate with it, got an import error. {installing(package)}"
        ) from error


_BACKENDS: Mapping[str, Callable[[dict[str, Any], list[dict[str, Any]]], Any]] = MappingProxyType(
    {"hotcoco": _hotcoco, "faster": _faster, "pycocotools": _pycocotools}
)
