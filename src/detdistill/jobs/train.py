"""Trains a detector without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.evaluation.coco import CocoMetrics
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.stages import build, fit, measure, open_inputs, prove, report
from detdistill.progress import Progress
from detdistill.report.tables import per_class, results_json, side_by_side

STUDENT = "student"


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """A trained detector.

    Attributes:
        out: its run folder.
        metrics: on the validation images, in percent.
        steps: of the training.
        seconds: that the training took, without evaluation.
        sample_specific: shares of the images that sample-specific augmentation reaches; None where it is off.
    """

    out: Path
    metrics: CocoMetrics
    steps: int
    seconds: float
    sample_specific: Mapping[str, float] | None = None

    def table(self) -> list[str]:
        """Its figures, overall and by class, and where it is."""
        named = {STUDENT: self.metrics}
        return [
            *side_by_side(named).text().splitlines(),
            "",
            *per_class(named).text().splitlines(),
            "",
            f"{self.steps} steps in {self.seconds:.0f} s; run folder {self.out}",
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        content = {**results_json({STUDENT: self.metrics}), "steps": self.steps, "seconds": round(self.seconds, 2)}
        if self.sample_specific is not None:
            content["sample_specific"] = dict(self.sample_specific)
        return content


def train_job(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> TrainOutcome:
    """Trains a detector alone, measures it, and leaves a run folder.

    Args:
        config: of the run; teacher and method are not looked at.
        resume: go on from the latest checkpoint.
        progress: told how it goes.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    untaught = replace(config, teacher=None, method=None, inherit=False, alone=None)
    opened = open_inputs(untaught, resume=resume, progress=progress)
    built = build(opened, progress=progress)
    fitted = fit(prove(built, progress=progress), progress=progress)
    name = config.student.detector
    measured = measure(opened, {name: fitted.student}, progress=progress)[name]
    outcome = TrainOutcome(
        out=config.out,
        metrics=measured.metrics,
        steps=fitted.training.steps,
        seconds=fitted.training.seconds,
        sample_specific=built.shares,
    )
    report(outcome, curves={STUDENT: config.out})
    return outcome
