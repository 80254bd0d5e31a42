"""Measures a detector as COCO, KITTI or Pascal VOC does, or by another protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detdistill.evaluation.coco import Backend, CocoMetrics
from detdistill.evaluation.protocols import PROTOCOLS, Metrics, Protocol
from detdistill.jobs.opening import detect, image_settings, open_detector
from detdistill.progress import Progress, Silence
from detdistill.report.tables import per_class, side_by_side


@dataclass(frozen=True, slots=True)
class EvaluateOutcome:
    """One detector's figures.

    Attributes:
        checkpoint: what was measured.
        metrics: in percent.
        protocol: by whose rules.
        images: on how many images.
    """

    checkpoint: str
    metrics: Metrics
    protocol: Protocol
    images: int

    def table(self) -> list[str]:
        """By whose rules and on how many images, then the figures, all and by class."""
        lines = [f"{self.checkpoint} on {self.images} images by the rules of {self.protocol.rules}, in percent", ""]
        if not isinstance(self.metrics, CocoMetrics):
            return [*lines, *self.metrics.text().splitlines()]
        named = {self.checkpoint: self.metrics}
        return [*lines, *side_by_side(named).text().splitlines(), "", *per_class(named).text().splitlines()]

    def as_dict(self) -> Mapping[str, Any]:
        """The checkpoint, the protocol and the figures."""
        described = {"checkpoint": self.checkpoint, "protocol": self.protocol.name, "images": self.images}
        return {**described, **self.metrics.as_dict()}


def evaluate_job(
    checkpoint: str,
    data: Path,
    *,
    split: Literal["train", "val"] = "val",
    protocol: str | Protocol = "coco",
    backend: Backend = "hotcoco",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> EvaluateOutcome:
    """The figures of a checkpoint on a split; the words are those of `detdistill.evaluate`.

    Raises:
        ConfigError: the checkpoint or the data are not there, or do not fit the protocol.
        DataError: the data cannot be used, or its classes are not the detector's.
    """
    watcher = progress or Silence()
    rules = PROTOCOLS.find(protocol) if isinstance(protocol, str) else protocol
    loaded = open_detector(checkpoint, progress=watcher)
    examination = rules.open(data, split=split, class_names=loaded.class_names, backend=backend, progress=watcher)
    found = detect(
        loaded.detector,
        examination.annotations,
        image_settings(loaded.image, examination.annotations),
        label=f"evaluate {checkpoint}",
        batch_size=batch_size,
        progress=watcher,
    )
    return EvaluateOutcome(
        checkpoint=checkpoint,
        metrics=examination.measure(found),
        protocol=rules,
        images=len(examination.annotations),
    )
