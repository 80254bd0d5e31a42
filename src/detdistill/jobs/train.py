"""Trains a detector without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.distillation.step import SupervisedStep
from detdistill.evaluation.coco import CocoMetrics
from detdistill.files import write_json
from detdistill.jobs.fitting import (
    CURVES,
    RESULTS,
    fit,
    measure_fitted,
    new_student,
    require_free,
)
from detdistill.jobs.opening import open_data
from detdistill.jobs.samples import own_changes, reached
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress
from detdistill.report.curves import learning_curves
from detdistill.report.tables import per_class, results_json, side_by_side
from detdistill.store.layout import RunFolder
from detdistill.training.world import by_leader, watched_by_leader

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
    watcher = watched_by_leader(progress)
    require_free(config.out, resume=resume)
    data = open_data(config.data, image=None, progress=watcher)
    changes = own_changes(config.data)
    step = SupervisedStep(new_student(config, data))
    fitted = fit(
        step,
        config,
        data,
        label=f"train {config.student.detector}",
        identity={"method": None, **changes.identity()},
        resume=resume,
        progress=watcher,
        changes=changes,
    )

    def outcome() -> TrainOutcome:
        measured = measure_fitted(fitted.student, config, data, what=config.student.detector, progress=watcher)
        found = TrainOutcome(
            out=config.out,
            metrics=measured.metrics,
            steps=fitted.training.steps,
            seconds=fitted.training.seconds,
            sample_specific=reached(changes, data, progress=watcher),
        )
        write_json(config.out / RESULTS, found.as_dict())
        learning_curves({STUDENT: RunFolder(config.out).metrics}, config.out / CURVES)
        return found

    return by_leader(outcome)
