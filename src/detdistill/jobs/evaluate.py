"""Measures a detector as COCO, KITTI or Pascal VOC does, or by another protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detdistill.errors import ConfigError
from detdistill.evaluation.coco import Backend, CocoMetrics
from detdistill.evaluation.confusion import ConfusionMatrix, confusion_matrix
from detdistill.evaluation.error_types import ErrorTypes, error_types
from detdistill.evaluation.intervals import image_intervals
from detdistill.evaluation.precision_recall import precision_recall
from detdistill.evaluation.protocols import PROTOCOLS, Metrics, Protocol
from detdistill.evaluation.shared import require_score
from detdistill.files import CONFUSION, CURVES
from detdistill.jobs.opening import acquainted, detect, open_detector, seen_size
from detdistill.progress import Progress, Silence, counted
from detdistill.report.confusion import draw_confusion
from detdistill.report.palette import require_png
from detdistill.report.precision_recall import draw_precision_recall
from detdistill.report.tables import AGNOSTIC, error_costs, per_class, side_by_side
from detdistill.store.best import Best, chosen_as


@dataclass(frozen=True, slots=True)
class EvaluateOutcome:
    """One detector's figures in percent, by whose rules, on how many images, and of what it is the best.

    Attributes:
        backend: the program that computed the figures, where there are several.
        agnostic: whether boxes were suppressed across classes.
        confusion: which class is taken for which, where the protocol's classes are the detector's.
        picture: where that was drawn.
        curves: where precision was drawn against recall.
        intervals: 95 % intervals of the figures over the images, where they were asked for.
        errors: what kinds of errors there are and what they cost, by COCO's rules alone.
    """

    checkpoint: str
    metrics: Metrics
    protocol: Protocol
    images: int
    best: Best | None = None
    backend: Backend = "hotcoco"
    agnostic: bool = False
    confusion: ConfusionMatrix | None = None
    picture: Path | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None
    errors: ErrorTypes | None = None
    curves: Path | None = None

    def table(self) -> list[str]:
        """By whose rules and on how many images, then the figures, all and by class."""
        note = f", {AGNOSTIC}" if self.agnostic else ""
        images = counted(self.images, "image")
        by = f" ({self.backend})" if self.protocol.backends else ""
        lines = [f"{self.checkpoint} on {images} by the rules of {self.protocol.rules}{by}, in percent{note}"]
        lines += ["", *([] if self.best is None else [f"{self.checkpoint}: {self.best.text()}", ""])]
        drawn = {"confusion matrix": self.picture, "precision against recall": self.curves}
        last = [f"{what} in {path}" for what, path in drawn.items() if path is not None]
        last = ["", *last] if last else []
        if not isinstance(self.metrics, CocoMetrics):
            return [*lines, *self.metrics.text().splitlines(), *last]
        named = {self.checkpoint: self.metrics}
        figures, classes = side_by_side(named).text().splitlines(), per_class(named).text().splitlines()
        errors = {} if self.errors is None else {self.checkpoint: self.errors}
        lost = ["", *error_costs(errors).text().splitlines()] if errors else []
        return [*lines, *figures, *self._spread(), *lost, "", *classes, *last]

    def _spread(self) -> list[str]:
        if self.intervals is None:
            return []
        told = ", ".join(f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in self.intervals.items())
        return [
            "",
            f"95 % intervals over the images, of this detector: {told or 'none, there is too little to draw from'}",
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """The checkpoint, the protocol, the figures and the confusion matrix."""
        return {
            "checkpoint": self.checkpoint,
            "protocol": self.protocol.name,
            "images": self.images,
            **({"backend": self.backend} if self.protocol.backends else {}),
            **self.metrics.as_dict(),
            **({} if self.best is None else {"best": self.best.as_dict()}),
            **({"agnostic": True} if self.agnostic else {}),
            **({} if self.intervals is None else {"intervals": {k: list(ends) for k, ends in self.intervals.items()}}),
            **({} if self.errors is None else {"error_types": self.errors.as_dict()}),
            **({} if self.confusion is None else {"confusion": self.confusion.as_dict()}),
        }


def evaluate_job(
    checkpoint: str,
    data: Path,
    *,
    split: Literal["train", "val", "test"] = "val",
    protocol: str | Protocol = "coco",
    backend: Backend = "hotcoco",
    agnostic: bool = False,
    confusion: Path | None = None,
    curves: Path | None = None,
    score: float = 0.3,
    interval: bool = False,
    progress: Progress | None = None,
) -> EvaluateOutcome:
    """The figures of a checkpoint on a split; the words are those of `detdistill.evaluate`."""
    watcher = progress or Silence()
    rules = PROTOCOLS.find(protocol) if isinstance(protocol, str) else protocol
    require_score(score)
    if interval and rules.name != "coco":
        raise ConfigError(f"--interval must come with COCO's rules, got {rules.name}. Add --protocol coco.")
    for picture, kind, option in ((confusion, CONFUSION, "--confusion"), (curves, CURVES, "--curves")):
        if picture is None:
            continue
        require_png(picture, kind, option=option)
        if not rules.same_classes:
            raise ConfigError(
                f"{option} must come with a protocol over the data's own classes, got {rules.name}. "
                "Add --protocol coco."
            )
    loaded = open_detector(checkpoint, progress=watcher)
    examination = rules.open(data, split=split, class_names=loaded.class_names, backend=backend, progress=watcher)
    truth = examination.annotations
    loaded = acquainted(loaded, {f"{split} images": truth}, progress=watcher)
    size = seen_size(loaded, truth, source=checkpoint, progress=watcher)
    label = f"evaluate {checkpoint}"
    found = detect(loaded.detector, truth, size, label=label, agnostic=agnostic, progress=watcher)
    matrix = confusion_matrix(truth, found, score=score) if rules.same_classes else None
    if matrix is not None and confusion is not None:
        draw_confusion({checkpoint: matrix}, confusion)
    if curves is not None:
        draw_precision_recall(precision_recall(truth, found), curves, title=f"{checkpoint}, IoU 0.5")
    return EvaluateOutcome(
        checkpoint,
        examination.measure(found),
        protocol=rules,
        images=len(truth),
        best=chosen_as(Path(checkpoint)),
        backend=backend,
        agnostic=agnostic,
        confusion=matrix,
        picture=confusion,
        curves=curves,
        intervals=image_intervals(truth, found, progress=watcher) if interval else None,
        errors=error_types(truth, found) if rules.name == "coco" else None,
    )
