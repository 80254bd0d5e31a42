"""Measures a detector as COCO does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detdistill.evaluate.coco import Backend, CocoMetrics
from detdistill.jobs.opening import (
    available_device,
    image_of,
    measure,
    open_detector,
    read_split,
    require_same_classes,
)
from detdistill.progress import Progress, Silence
from detdistill.report.tables import per_class, side_by_side


@dataclass(frozen=True, slots=True)
class EvaluateOutcome:
    """One detector's figures.

    Attributes:
        checkpoint: what was measured.
        metrics: in percent.
    """

    checkpoint: str
    metrics: CocoMetrics

    def table(self) -> list[str]:
        """The figures, then those of every class."""
        named = {self.checkpoint: self.metrics}
        return [*side_by_side(named).text().splitlines(), "", *per_class(named).text().splitlines()]

    def as_dict(self) -> Mapping[str, Any]:
        """The checkpoint and its figures."""
        return {"checkpoint": self.checkpoint, **self.metrics.as_dict()}


def evaluate_job(
    checkpoint: str,
    data: Path,
    *,
    split: Literal["train", "val"] = "val",
    backend: Backend = "hotcoco",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> EvaluateOutcome:
    """COCO's figures of a checkpoint on a split.

    Args:
        checkpoint: run folder, checkpoint, or ``"torchvision:NAME[=FILE]"``.
        data: data set folder, or a COCO JSON that is taken as it is.
        split: which images of a folder.
        backend: computes the figures.
        batch_size: images at a time.
        progress: told how far it is.

    Raises:
        ConfigError: the checkpoint or the data are not there, or their classes differ.
        DataError: the data cannot be used.
    """
    watcher = progress or Silence()
    loaded = open_detector(checkpoint, progress=watcher)
    annotations = read_split(data, split, exact=data.is_file(), progress=watcher)
    require_same_classes(loaded, annotations, source=checkpoint, allow=())
    measured = measure(
        loaded.detector,
        annotations,
        image_of(loaded, annotations),
        what=checkpoint,
        backend=backend,
        batch_size=batch_size,
        device=available_device(),
        progress=watcher,
    )
    return EvaluateOutcome(checkpoint=checkpoint, metrics=measured.metrics)
