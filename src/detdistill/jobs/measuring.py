"""How good detectors are on a run's validation images, and what the run's folder shows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.errors import DiskError
from detdistill.evaluation.coco import CocoMetrics, ImageDetections, evaluate_coco
from detdistill.evaluation.confusion import confusion_matrix
from detdistill.files import write_json
from detdistill.jobs import sizes
from detdistill.jobs.finds import finds_to_measure
from detdistill.jobs.found import Found
from detdistill.jobs.opening import detect
from detdistill.jobs.outcomes import ALONE, TEACHER, TEACHER_OWN_SIZE
from detdistill.jobs.samples import Opened
from detdistill.output import LOST
from detdistill.progress import Progress, Silence
from detdistill.report.confusion import draw_confusion
from detdistill.report.curves import learning_curves
from detdistill.report.sheet import comparison_sheet, sheet_rows
from detdistill.store.layout import RunFolder
from detdistill.store.lock import require_in_place
from detdistill.training.launch import own_device
from detdistill.training.loop import Evaluate
from detdistill.training.world import leads, watched_by_leader


@dataclass(frozen=True, slots=True)
class Measured:
    """What a detector found in the validation images, and how good that is."""

    metrics: CocoMetrics
    found: list[ImageDetections]

    def kept(self, opened: Opened) -> Found:
        """What it found, with what it was found on."""
        return Found(opened.data.val.digest(), opened.config.evaluate.agnostic, self.found)


def evaluation(opened: Opened) -> Evaluate:
    """Measures a student in training on the run's validation images, where it is."""

    def evaluate(student: Detector) -> dict[str, Any]:
        return _measured(opened, student, "", next(student.parameters()).device, Silence()).metrics.as_dict()

    return evaluate


def beside(opened: Opened) -> tuple[dict[str, Detector], dict[str, ImageSettings]]:
    """What a distilled student is compared with, as far as its figures mean anything, and at what sizes it sees images.

    A teacher that was trained at another size than it sees here is measured at its own, too.
    """
    teacher, val = opened.teacher if opened.teacher_measures else None, opened.data.val
    others = {name: one.detector for name, one in ((TEACHER, teacher), (ALONE, opened.alone)) if one is not None}
    at = {TEACHER: opened.taught_at}
    if teacher is not None and (own := sizes.other_own_size(teacher, opened.taught_at, val)):
        others[TEACHER_OWN_SIZE], at[TEACHER_OWN_SIZE] = teacher.detector, own
    if opened.alone is not None and (own := sizes.other_own_size(opened.alone, opened.data.image, val)):
        at[ALONE] = own
    return others, at


def measure(
    opened: Opened,
    detectors: Mapping[str, Detector],
    *,
    at: Mapping[str, ImageSettings] = MappingProxyType({}),
    teacher: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Measured]:
    """COCO's figures of detectors on the run's validation images, by the names that progress calls them.

    Images are brought to the run's size, or to that of `at` for the detectors named there.

    Args:
        teacher: the digest of the run's own, by which what it found before is known again, where the run keeps that.
    """
    device, watcher, found = own_device(opened.config.train), watched_by_leader(progress), dict[str, Measured]()
    for name, detector in detectors.items():
        if name == TEACHER and teacher is not None and at.get(name) == opened.taught_at:
            kept = finds_to_measure(opened, teacher=teacher, progress=watcher)
            if kept is not None:
                found[name] = _rated(opened, kept)
                continue
        found[name] = _measured(opened, detector, f"evaluate {name}", device, watcher, at=at.get(name))
    return found


def _measured(
    opened: Opened,
    detector: Detector,
    label: str,
    device: torch.device,
    progress: Progress,
    *,
    at: ImageSettings | None = None,
) -> Measured:
    settings, data = opened.config.evaluate, opened.data
    found = detect(
        detector,
        data.val,
        at or data.image,
        label=label,
        batch_size=settings.batch_size,
        agnostic=settings.agnostic,
        device=device,
        progress=progress,
    )
    return _rated(opened, found)


def _rated(opened: Opened, found: list[ImageDetections]) -> Measured:
    return Measured(evaluate_coco(opened.data.val, found, backend=opened.config.evaluate.backend), found)


def report(
    out: Path,
    results: Mapping[str, Any],
    *,
    curves: Mapping[str, Path],
    levels: Mapping[str, CocoMetrics | None] | None = None,
) -> DiskError | None:
    """Writes ``results.json`` into a run's folder, and draws the learning curves of trainings by their folders.

    Args:
        levels: figures of detectors by name; the AP of one that was not evaluated in training is a line across.

    Returns:
        Why the curves could not be drawn; None where they were.

    Raises:
        DiskError: ``results.json`` cannot be written.
    """
    if not leads():
        return None
    require_in_place(out)
    folder, runs = RunFolder(out), {name: RunFolder(path) for name, path in curves.items()}
    # What nobody could read was said nevertheless.
    write_json(folder.results, {**results, **({"unheard": dict(LOST)} if LOST else {})})
    return _spared(
        lambda: learning_curves(
            {name: run.metrics for name, run in runs.items()},
            folder.curves,
            evaluations={name: run.evaluations for name, run in runs.items() if run.evaluations.is_file()},
            levels={name: one.ap for name, one in (levels or {}).items() if one is not None and one.ap is not None},
        )
    )


def _spared(draw: Callable[[], None]) -> DiskError | None:
    """Draws what shows what is known already: a disk that refuses it ends nothing, and is returned."""
    try:
        draw()
    except DiskError as error:
        return error
    return None


def draw_pictures(opened: Opened, measured: Mapping[str, Measured]) -> DiskError | None:
    """Draws what each measured detector found in the same validation images into the run's folder.

    Returns:
        What the disk refused; None for nothing.
    """
    data = opened.data
    rows = sheet_rows(data.val, {name: one.found for name, one in measured.items()})
    sheet = RunFolder(opened.config.out).pictures
    return _spared(lambda: comparison_sheet(sheet, rows, class_names=data.val.class_names))


def count_confusion(opened: Opened, measured: Mapping[str, Measured]) -> DiskError | None:
    """Counts and draws what each measured detector took the validation objects for, into the run's folder.

    Returns:
        What the disk refused; None for nothing.
    """
    folder = RunFolder(opened.config.out)
    matrices = {name: confusion_matrix(opened.data.val, one.found) for name, one in measured.items()}

    def write() -> None:
        write_json(folder.confusion_counts, {name: one.as_dict() for name, one in matrices.items()})
        draw_confusion(matrices, folder.confusion)

    return _spared(write)
