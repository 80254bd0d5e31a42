"""Measures a detector as COCO, KITTI or Pascal VOC does, or by another protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detdistill.evaluation.coco import Backend, CocoMetrics
from detdistill.evaluation.protocols import PROTOCOLS, Metrics, Protocol
from detdistill.jobs.opening import detect, open_detector, seen_size
from detdistill.progress import Progress, Silence
from detdistill.report.tables import per_class, side_by_side
from detdistill.store.best import Best, chosen_as


@dataclass(frozen=True, slots=True)
class EvaluateOutcome:
    """One detector's figures in percent, by whose rules, on how many images, and of what it is the best."""

    checkpoint: str
    metrics: Metrics
    protocol: Protocol
    images: int
    best: Best | None = None

    def table(self) -> list[str]:
        """By whose rules and on how many images, then the figures, all and by class."""
        lines = [f"{self.checkpoint} on {self.images} images by the rules of {self.protocol.rules}, in percent"]
        lines += ["", *([] if self.best is None else [f"{self.checkpoint}: {self.best.text()}", ""])]
        if not isinstance(self.metrics, CocoMetrics):
            return [*lines, *self.metrics.text().splitlines()]
        named = {self.checkpoint: self.metrics}
        return [*lines, *side_by_side(named).text().splitlines(), "", *per_class(named).text().splitlines()]

    def as_dict(self) -> Mapping[str, Any]:
        """The checkpoint, the protocol and the figures."""
        described = {"checkpoint": self.checkpoint, "protocol": self.protocol.name, "images": self.images}
        return described | self.metrics.as_dict() | ({} if self.best is None else {"best": self.best.as_dict()})


def evaluate_job(
    checkpoint: str,
    data: Path,
    *,
    split: Literal["train", "val"] = "val",
    protocol: str | Protocol = "coco",
    backend: Backend = "hotcoco",
    progress: Progress | None = None,
) -> EvaluateOutcome:
    """The figures of a checkpoint on a split; the words are those of `detdistill.evaluate`."""
    watcher = progress or Silence()
    rules = PROTOCOLS.find(protocol) if isinstance(protocol, str) else protocol
    loaded = open_detector(checkpoint, progress=watcher)
    examination = rules.open(data, split=split, class_names=loaded.class_names, backend=backend, progress=watcher)
    truth = examination.annotations
    size = seen_size(loaded, truth, source=checkpoint, progress=watcher)
    found = detect(loaded.detector, truth, size, label=f"evaluate {checkpoint}", progress=watcher)
    best = chosen_as(Path(checkpoint))
    return EvaluateOutcome(checkpoint, examination.measure(found), protocol=rules, images=len(truth), best=best)
