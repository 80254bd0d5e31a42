"""Why distillation did not help: of a run just trained, of one that lies in a folder, and of several pairs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from detdistill.errors import ConfigError
from detdistill.evaluation.matches import match
from detdistill.jobs import evidence, measuring, stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.measuring import Measured
from detdistill.jobs.outcomes import ALONE, DISTILLED, TEACHER, TEACHER_OWN_SIZE
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress, Silence, counted
from detdistill.proof.diagnosis import Diagnosis, diagnose
from detdistill.proof.differences import Differences, Twins, differences
from detdistill.proof.evidence import put_together, shown
from detdistill.proof.thresholds import WORTH
from detdistill.store.layout import RunFolder
from detdistill.store.students import load_detector


def explained(
    built: stages.Built,
    looks: Mapping[str, Measured],
    written: Mapping[str, Any],
    *,
    run: Path,
    against: str,
    alone: Path | None,
    progress: Progress | None = None,
) -> tuple[Differences, Diagnosis | None]:
    """How much better a distilled student is, and why it gained nothing; None where it gained, or nobody can tell.

    Args:
        built: the distillation.
        looks: what its detectors found in the validation images, by the names of results.
        written: what its ``results.json`` holds.
        run: its folder.
        against: the student alone that it is compared with.
        alone: the folder of that one's run.
    """
    truth = built.opened.data.val
    found = {name: match(truth, looks[name].found) for name in (against, DISTILLED, TEACHER) if name in looks}
    steps = differences([Twins(0, found[against], found[DISTILLED])], progress=progress)
    metrics = {name: one.metrics for name, one in looks.items()}
    figures = evidence.of_figures(
        steps, teacher=metrics.get(TEACHER), alone=metrics[against], distilled=metrics[DISTILLED], worth=WORTH
    )
    if diagnose(figures) is None:
        return steps, None
    known = put_together(evidence.of_setup(built, run), figures)
    if TEACHER in found:
        lead = differences([Twins(0, found[against], found[TEACHER])], progress=progress)
        known = replace(known, headroom=lead.figures.get("AP"))
    if known.sizes is not None and TEACHER_OWN_SIZE in looks:
        ours, own = metrics[TEACHER].ap, metrics[TEACHER_OWN_SIZE].ap
        known = replace(known, sizes=replace(known.sizes, own_ap=own, seen_ap=ours))
    known = evidence.with_teacher(known, built.opened, progress=progress or Silence())
    known = put_together(known, evidence.of_run(run, written, alone=alone))
    return steps, diagnose(evidence.with_end(known, built, run))


@dataclass(frozen=True, slots=True)
class DiagnoseOutcome:
    """Whether a distilled student is better than the student alone, and why not.

    Attributes:
        run: the distilled student's.
        alone: the student alone's.
        differences: of the first minus the second.
        diagnosis: None where it is better.
    """

    run: Path
    alone: Path
    differences: Differences
    diagnosis: Diagnosis | None

    def table(self) -> list[str]:
        """The difference, and the causes."""
        gain = self.differences.figures.get("AP")
        told = "no difference of AP can be measured" if gain is None else shown(gain)
        lines = [f"{self.run} minus {self.alone} on {counted(self.differences.images, 'image')}: {told}"]
        if self.diagnosis is not None:
            return [*lines, *self.diagnosis.lines()]
        return lines if gain is None else [*lines, "it gained: there is nothing to explain"]

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON."""
        diagnosis = None if self.diagnosis is None else self.diagnosis.as_dict()
        places = {"run": str(self.run), "alone": str(self.alone)}
        return {**places, "differences": self.differences.as_dict(), "diagnosis": diagnosis}


def diagnose_job(run: Path, *, alone: Path | None = None, progress: Progress | None = None) -> DiagnoseOutcome:
    """Measures a distilled student, its teacher and the student alone anew, and says why there is no gain.

    Args:
        run: the folder of a distillation.
        alone: of the student alone; None for the one that the distillation was compared with.

    Raises:
        ConfigError: there is no such run, or nothing to compare it with.
    """
    config = _config(run, alone=alone)
    with TemporaryDirectory() as nowhere:
        apart = replace(config, out=Path(nowhere) / "run")
        built = stages.build(stages.open_inputs(apart, progress=progress), progress=progress)
    others, at = measuring.beside(built.opened)
    detectors = {**others, DISTILLED: load_detector(run).detector}
    looks = measuring.measure(built.opened, detectors, at=at, progress=progress)
    found, why = explained(
        built, looks, evidence.results_of(run), run=run, against=ALONE, alone=config.alone, progress=progress
    )
    return DiagnoseOutcome(run, Path(str(config.alone)), found, why)


def _config(run: Path, *, alone: Path | None) -> RunConfig:
    file = RunFolder(run).config
    if not file.is_file():
        raise ConfigError(f"{run} must be the folder of a distillation, got one without {file.name}. Give its folder.")
    config = read_run_config(file, purpose="distill", options={"alone": alone})
    if config.alone is None:
        raise ConfigError(f"{run} must be compared with the student alone, got none. Pass --alone RUN.")
    return replace(config, alone_differs=True)
