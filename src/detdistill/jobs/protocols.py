"""By whose rules a detector is measured: COCO's, KITTI's, Pascal VOC's, or AID's for KITTI.

Whatever a protocol refuses, it refuses before the detector runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.formats.kitti import KittiSplit, read_kitti_truths
from detdistill.data.sources import find_split
from detdistill.errors import ConfigError, suggestion
from detdistill.evaluation.coco import Backend, CocoMetrics, ImageDetections, evaluate_coco
from detdistill.evaluation.kitti import KittiMetrics, evaluate_kitti
from detdistill.evaluation.voc import VocMetrics, evaluate_aid, evaluate_voc
from detdistill.jobs.opening import read_split
from detdistill.papers.class_groups import AID_CLASSES, AID_GROUPS, ClassMode
from detdistill.progress import Progress

ProtocolName = Literal["coco", "kitti", "kitti11", "voc", "voc11", "aid", "aid_merged"]
Metrics = CocoMetrics | KittiMetrics | VocMetrics
Measure = Callable[[Sequence[ImageDetections]], Metrics]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)


@dataclass(frozen=True, slots=True)
class Examination:
    """What a detector is measured on, and how.

    Attributes:
        annotations: the images to look at.
        measure: the figures of what the detector found in them; its labels are the detector's own.
    """

    annotations: Annotations
    measure: Measure


def open_examination(
    protocol: ProtocolName,
    data: Path,
    *,
    split: Literal["train", "val"],
    class_names: tuple[str, ...],
    backend: Backend,
    progress: Progress,
) -> Examination:
    """Reads the ground truth that a protocol measures a detector against.

    Args:
        protocol: ``"coco"``; ``"kitti"`` or ``"kitti11"`` for KITTI's 2D AP at 40 or 11 recall points; ``"voc"`` or
            ``"voc11"`` for VOC's AP as an area or over 11 points; ``"aid"`` or ``"aid_merged"`` for AID's, see
            `aid_classes`.
        data: data set folder, or a COCO JSON or list that is taken as it is.
        split: which images of a folder.
        class_names: the detector's. COCO's and VOC's rules want the data to have the same, in any order; KITTI's and
            AID's go by the names of their three classes.
        backend: computes COCO's figures.
        progress: told what was read, and its problems.

    Raises:
        ConfigError: there is no such protocol or data, a backend was chosen for another protocol than COCO's, the
            data is not in KITTI's layout where it must be, or the detector lacks the protocol's classes.
        DataError: the data cannot be used, or its classes are others.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"The protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'. "
            f"{suggestion(protocol, PROTOCOLS, listed=True)}"
        )
    if protocol != "coco" and backend != "hotcoco":
        raise ConfigError(f"The backend {backend} must come with the protocol coco, got {protocol}. Leave it out.")
    if protocol in ("kitti", "kitti11"):
        _require_kitti(data, split, protocol)
    by_same_classes = protocol in ("coco", "voc", "voc11")
    annotations = read_split(
        data, split, class_names=class_names if by_same_classes else None, exact=data.is_file(), progress=progress
    )
    measure: Measure
    if protocol == "coco":
        return Examination(annotations, partial(evaluate_coco, annotations, backend=backend))
    if protocol in ("kitti", "kitti11"):
        truths = read_kitti_truths(annotations)
        measure = partial(evaluate_kitti, truths, class_names=class_names, points=40 if protocol == "kitti" else 11)
    elif protocol in ("voc", "voc11"):
        measure = partial(evaluate_voc, annotations, points="area" if protocol == "voc" else 11)
    else:
        measure = _aid(annotations, class_names, "ignored" if protocol == "aid" else "merged")
    # Nothing found is quickly measured, and what cannot be measured at all is refused here.
    measure([])
    return Examination(annotations, measure)


def _require_kitti(data: Path, split: str, protocol: ProtocolName) -> None:
    found = find_split(data, split, exact=data.is_file())
    if not isinstance(found, KittiSplit):
        raise ConfigError(
            f"The data {data} must be in KITTI's own layout for the protocol {protocol}, got a data set read as "
            f"{found.text()}. Give the folder with label_2 and image_2: only KITTI's label files tell which objects "
            "are hidden."
        )


def _aid(annotations: Annotations, class_names: tuple[str, ...], mode: ClassMode) -> Measure:
    """AID's measure of a detector with any classes, the three of AID among them; what else it finds is left out."""
    label_of = {member.lower(): label for label, members in enumerate(AID_GROUPS[mode].values()) for member in members}
    labels = np.array([label_of.get(name.lower(), -1) for name in class_names], dtype=np.int64)
    missing = [name for label, name in enumerate(AID_CLASSES) if label not in labels]
    if missing:
        raise ConfigError(
            f"The detector's classes must include {', '.join(AID_CLASSES)} for AID's protocol, got "
            f"{list(class_names)} without {', '.join(missing)}. Evaluate a detector trained on KITTI's classes."
        )

    def measure(detections: Sequence[ImageDetections]) -> VocMetrics:
        return evaluate_aid(annotations, [_relabelled(found, labels) for found in detections], classes=mode)

    return measure


def _relabelled(found: ImageDetections, labels: np.ndarray) -> ImageDetections:
    """The detections under new labels, without those whose new label is -1."""
    new = labels[found.labels]
    kept = new >= 0
    return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=new[kept])
