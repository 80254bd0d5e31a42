"""By whose rules a detector is measured: COCO's, KITTI's, Pascal VOC's, or those of a protocol that is added.

Whatever a protocol refuses, it refuses before the detector runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, final

from detdistill.data.annotations import Annotations
from detdistill.data.classes import take_classes
from detdistill.data.formats.kitti import read_kitti_truths
from detdistill.data.sources import find_split, open_split, recognise
from detdistill.errors import ConfigError
from detdistill.evaluation import kitti, voc
from detdistill.evaluation.coco import Backend, CocoMetrics, ImageDetections, evaluate_coco
from detdistill.progress import Progress
from detdistill.registry import Registry

Metrics = CocoMetrics | kitti.KittiMetrics | voc.VocMetrics
Measure = Callable[[Sequence[ImageDetections]], Metrics]
Prepare = Callable[[Annotations, tuple[str, ...], Backend], Measure]


@dataclass(frozen=True, slots=True)
class Examination:
    """What a detector is measured on, and how; the labels of what it found are the detector's own."""

    annotations: Annotations
    measure: Measure


@final
@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to measure a detector on a split.

    Attributes:
        name: what people write.
        rules: whose they are, in words.
        prepare: the measure for a split, the detector's class names and a backend. It refuses what it cannot measure,
            if not at once then of no detections.
        same_classes: it is measured on the classes that data and detector share, matched by name, and what else the
            data shows is left out; else `prepare` goes by the names.
        label_files: the data must be in KITTI's own layout.
        backends: there is more than one program that computes its figures.
    """

    name: str
    rules: str
    prepare: Prepare
    same_classes: bool = False
    label_files: bool = False
    backends: bool = False

    def open(
        self,
        data: Path,
        *,
        split: Literal["train", "val", "test"],
        class_names: tuple[str, ...],
        backend: Backend = "hotcoco",
        progress: Progress,
    ) -> Examination:
        """Reads the ground truth that a detector with `class_names` is measured against.

        Args:
            data: data set folder, or a COCO JSON or list that is taken as it is.
            class_names: none for those of the data.
            backend: computes COCO's figures.

        Raises:
            ConfigError: there is no such data, a backend was chosen where there is no choice, the data is not in
                KITTI's layout where it must be, or the detector lacks the protocol's classes.
            DataError: the data cannot be used, or has none of the detector's classes, or one spelled differently.
        """
        if backend != "hotcoco" and not self.backends:
            raise ConfigError(f"The backend {backend} must come with the protocol coco, got {self.name}. Leave it out.")
        if self.label_files and recognise(data).name != "kitti":
            found = find_split(data, split, exact=data.is_file())
            raise ConfigError(
                f"The data {data} must be in KITTI's own layout for the protocol {self.name}, got a data set read as "
                f"{found.text()}. Give the folder with label_2 and image_2: only KITTI's label files tell which "
                "objects are hidden."
            )
        annotations, problems = open_split(data, split, exact=data.is_file(), say=progress.say)
        notes, class_names = problems.summary(), class_names or annotations.class_names
        if self.same_classes:
            annotations, differing = take_classes(annotations, class_names, source=data)
            notes += differing
        for line in notes:
            progress.say(f"{split} data: {line}")
        measure = self.prepare(annotations, class_names, backend)
        # Nothing found is quickly measured, and what cannot be measured at all is refused here.
        measure([])
        return Examination(annotations, measure)


def _coco(annotations: Annotations, _: tuple[str, ...], backend: Backend) -> Measure:
    return partial(evaluate_coco, annotations, backend=backend)


def _kitti(points: kitti.Points) -> Prepare:
    return lambda annotations, class_names, _: partial(
        kitti.evaluate_kitti, read_kitti_truths(annotations), class_names=class_names, points=points
    )


def _voc(points: voc.Points) -> Prepare:
    return lambda annotations, *_: partial(voc.evaluate_voc, annotations, points=points)


OWN = (
    Protocol("coco", "COCO", _coco, same_classes=True, backends=True),
    Protocol("kitti", "KITTI, 40 recall points", _kitti(40), label_files=True),
    Protocol("kitti11", "KITTI, 11 recall points", _kitti(11), label_files=True),
    Protocol("voc", "Pascal VOC, area under the curve", _voc("area"), same_classes=True),
    Protocol("voc11", "Pascal VOC, 11 recall points", _voc(11), same_classes=True),
)

PROTOCOLS: Registry[Protocol] = Registry(
    "protocol", group="detdistill.protocols", package="detdistill.evaluation", attribute="OWN", entry_type=Protocol
)
"""Every protocol by name: those above, and those that entry points add, as the papers' are."""
