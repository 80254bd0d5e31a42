"""A run from end to end: trains a detector, alone or with a teacher's help, and shows all of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.detectors.base import Detector
from detdistill.evaluation.coco import CocoMetrics
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.stages import (
    Opened,
    build,
    draw_pictures,
    fit,
    measure,
    open_inputs,
    prove,
    report,
    require_method,
)
from detdistill.progress import Progress
from detdistill.report.tables import per_class, results_json, side_by_side
from detdistill.store.layout import RunFolder
from detdistill.training.launch import forks
from detdistill.training.world import by_leader, leads

STUDENT = "student"
RESULTS = TEACHER, ALONE, DISTILLED = "teacher", "alone", "distilled"


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A trained detector, beside its teacher and its twin where it was taught.

    Attributes:
        out: the run folder.
        results: figures of the student, or of teacher, student alone and distilled student; None where not known.
        steps: of the training.
        seconds: that the training took, without evaluation.
        method: the recipe's name, such as ``"aid(frs)"``; empty without a teacher.
        sample_specific: shares of the images that sample-specific augmentation reaches; None where it is off.
    """

    out: Path
    results: Mapping[str, CocoMetrics | None]
    steps: int
    seconds: float
    method: str = ""
    sample_specific: Mapping[str, float] | None = None

    def table(self) -> list[str]:
        """The figures side by side, those of a student alone by class too, and where the run is."""
        lines = side_by_side(self.results).text().splitlines()
        took = f"{self.steps} steps in {self.seconds:.0f} s; run folder {self.out}"
        if not self.method:
            return [*lines, "", *per_class(self.results).text().splitlines(), "", took]
        if self.results[ALONE] is None:
            lines += [
                "",
                "The student alone is not known: train it with `detdistill train` and pass its run as --alone.",
            ]
        return [*lines, "", f"{self.method}: {took}"]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        return {
            **results_json(self.results),
            **({"method": self.method} if self.method else {}),
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            **({} if self.sample_specific is None else {"sample_specific": dict(self.sample_specific)}),
        }


def train_job(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> RunOutcome:
    """Trains a detector alone, whatever teacher and method the run has, measures it, and leaves a run folder.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    untaught = replace(config, teacher=None, method=None, inherit=False, alone=None)
    opened = open_inputs(untaught, resume=resume, progress=progress)
    built = build(opened, progress=progress)
    fitted = fit(prove(built, progress=progress), progress=progress)
    name = config.student.detector

    def outcome() -> RunOutcome:
        measured = measure(opened, {name: fitted.student}, progress=progress)[name]
        found = RunOutcome(
            out=config.out,
            results={STUDENT: measured.metrics},
            steps=fitted.training.steps,
            seconds=fitted.training.seconds,
            sample_specific=built.shares,
        )
        report(found, curves={STUDENT: config.out})
        return found

    return by_leader(outcome)


def distill_job(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> RunOutcome:
    """Distils a teacher into a student, and measures all on the same validation images.

    Before the first step it proves that every term of the recipe reaches the student.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    require_method(config)
    opened = open_inputs(config, resume=resume, progress=progress)
    built = build(opened, progress=progress)
    proved = prove(built, progress=progress)
    others = _others(opened)
    # Several processes are forked from this one, which must not have touched a GPU before.
    early = leads() and not forks(config.train)
    before = measure(opened, others, progress=progress) if early else {}
    fitted = fit(proved, progress=progress)

    def outcome() -> RunOutcome:
        measured = before or measure(opened, others, progress=progress)
        measured |= measure(opened, {DISTILLED: fitted.student}, progress=progress)
        found = RunOutcome(
            out=config.out,
            results={name: measured[name].metrics if name in measured else None for name in RESULTS},
            steps=fitted.training.steps,
            seconds=fitted.training.seconds,
            method=built.method,
            sample_specific=built.shares,
        )
        curves = {DISTILLED: config.out}
        if config.alone is not None and RunFolder(config.alone).metrics.is_file():
            curves = {ALONE: config.alone, **curves}
        report(found, curves=curves)
        draw_pictures(opened, measured)
        return found

    return by_leader(outcome)


def _others(opened: Opened) -> dict[str, Detector]:
    """The detectors that the distilled student is compared with, as far as their figures mean anything."""
    others = {}
    if opened.teacher is not None and opened.same_classes:
        others[TEACHER] = opened.teacher.detector
    if opened.alone is not None:
        others[ALONE] = opened.alone.detector
    return others
