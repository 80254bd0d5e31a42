"""Trains a student with a teacher's help, and compares teacher, student alone and distilled student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.detectors.base import Detector
from detdistill.evaluation.coco import CocoMetrics
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.stages import build, draw_pictures, fit, measure, open_inputs, prove, report, require_method
from detdistill.progress import Progress
from detdistill.report.tables import results_json, side_by_side
from detdistill.store.layout import RunFolder

TEACHER, ALONE, DISTILLED = "teacher", "alone", "distilled"


@dataclass(frozen=True, slots=True)
class DistillOutcome:
    """A distilled student beside its teacher and its twin.

    Attributes:
        out: the run folder.
        method: the recipe's name, such as ``"aid(frs)"``.
        results: figures of teacher, student alone and distilled student; None where not known.
        steps: of the training.
        seconds: that the training took, without evaluation.
        sample_specific: shares of the images that sample-specific augmentation reaches; None where it is off.
    """

    out: Path
    method: str
    results: Mapping[str, CocoMetrics | None]
    steps: int
    seconds: float
    sample_specific: Mapping[str, float] | None = None

    def table(self) -> list[str]:
        """The figures side by side, and where the run is."""
        lines = side_by_side(self.results).text().splitlines()
        if self.results[ALONE] is None:
            lines += [
                "",
                "The student alone is not known: train it with `detdistill train` and pass its run as --alone.",
            ]
        return [*lines, "", f"{self.method}: {self.steps} steps in {self.seconds:.0f} s; run folder {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        content = {
            **results_json(self.results),
            "method": self.method,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
        }
        if self.sample_specific is not None:
            content["sample_specific"] = dict(self.sample_specific)
        return content


def distill_job(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> DistillOutcome:
    """Distils a teacher into a student, and measures all on the same validation images.

    Before the first step it proves that every term of the recipe reaches the student.

    Args:
        config: of the run, with teacher and method.
        resume: go on from the latest checkpoint.
        progress: told how it goes.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    require_method(config)
    opened = open_inputs(config, resume=resume, progress=progress)
    built = build(opened, progress=progress)
    proved = prove(built, progress=progress)
    others: dict[str, Detector] = {}
    if opened.teacher is not None and opened.same_classes:
        others[TEACHER] = opened.teacher.detector
    if opened.alone is not None:
        others[ALONE] = opened.alone.detector
    # Several processes are forked from this one, which must not have touched a GPU before.
    forks = config.train.devices > 1
    measured = {} if forks else measure(opened, others, progress=progress)
    fitted = fit(proved, progress=progress)
    if forks:
        measured = measure(opened, others, progress=progress)
    measured |= measure(opened, {DISTILLED: fitted.student}, progress=progress)
    outcome = DistillOutcome(
        out=config.out,
        method=built.method,
        results={name: measured[name].metrics if name in measured else None for name in (TEACHER, ALONE, DISTILLED)},
        steps=fitted.training.steps,
        seconds=fitted.training.seconds,
        sample_specific=built.shares,
    )
    curves = {DISTILLED: config.out}
    if config.alone is not None and RunFolder(config.alone).metrics.is_file():
        curves = {ALONE: config.alone, **curves}
    report(outcome, curves=curves)
    draw_pictures(opened, measured)
    return outcome
