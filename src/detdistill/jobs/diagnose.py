"""Why distillation did not help: of a run just trained, of one that lies in a folder, and of several pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from detdistill.errors import ConfigError, DistillError
from detdistill.evaluation.coco import CocoMetrics, ImageDetections
from detdistill.evaluation.matches import match
from detdistill.jobs import evidence, measuring, stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.longer import ALONE_EQUAL_TIME
from detdistill.jobs.outcomes import ALONE, DISTILLED, STUDENT, TEACHER, TEACHER_OWN_SIZE
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress, Silence, counted
from detdistill.proof.diagnosis import Diagnosis, diagnose
from detdistill.proof.differences import Differences, Twins, differences
from detdistill.proof.evidence import Span, averaged, put_together, shown
from detdistill.proof.thresholds import WORTH
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.layout import RunFolder
from detdistill.store.students import load_detector

T = TypeVar("T")


def explained(
    built: stages.Built,
    found: Mapping[str, Sequence[ImageDetections]],
    results: Mapping[str, CocoMetrics | None],
    written: Mapping[str, Any],
    *,
    run: Path,
    students: Mapping[str, Path],
    progress: Progress | None = None,
) -> tuple[tuple[Differences, Differences | None], Diagnosis | None]:
    """How much better a distilled student is, and why it gained nothing; None where it gained, or nobody can tell.

    The first is over the same steps, the second over the same time, where that was measured.

    Args:
        built: the distillation.
        found: what its detectors found in the validation images, by the names of results.
        results: their figures.
        written: what its ``results.json`` holds.
        run: its folder.
        students: folders of students alone by name; the first is what it is compared with.
    """
    truth, against = built.opened.data.val, next(iter(students))
    matched = {name: match(truth, found[name]) for name in (*students, DISTILLED, TEACHER) if name in found}

    def minus(name: str, other: str) -> Differences:
        return differences([Twins(0, matched[other], matched[name])], progress=progress)

    steps, longer = minus(DISTILLED, against), ALONE_EQUAL_TIME in students and against != ALONE_EQUAL_TIME
    time = minus(DISTILLED, ALONE_EQUAL_TIME) if longer else None
    figures = evidence.of_figures(
        steps,
        teacher=results.get(TEACHER),
        alone=results[against],
        distilled=results[DISTILLED],
        worth=WORTH,
        same_time=time,
    )
    if diagnose(figures) is None:
        return (steps, time), None
    known = put_together(evidence.of_setup(built, run), figures)
    if TEACHER in matched:
        known = replace(known, headroom=minus(TEACHER, against).figures.get("AP"))
    own = results.get(TEACHER_OWN_SIZE)
    if known.sizes is not None and own is not None:
        known = replace(known, sizes=replace(known.sizes, own_ap=own.ap, seen_ap=known.teacher_ap))
    known = evidence.with_teacher(known, built.opened, progress=progress or Silence())
    known = put_together(known, evidence.of_run(run, written, alone=students[against]))
    return (steps, time), diagnose(evidence.with_end(known, built, run))


def diagnose_runs(
    pairs: Sequence[tuple[Path, Path]],
    same_steps: Differences,
    *,
    same_time: Differences | None = None,
    lead: Callable[[], Differences] | None = None,
    worth: float = WORTH,
    progress: Progress | None = None,
) -> Diagnosis | None:
    """Why students that were taught are no better than their twins; None where they are, or nobody can tell.

    What their folders do not hold stays unknown: predictions of another program have nothing but differences.

    Args:
        pairs: folders of the student alone and of the distilled one, for each seed.
        same_steps: of the distilled students minus those alone.
        same_time: likewise, over students alone that trained for as long.
        lead: measures AP of the teacher minus the students alone; None where nobody kept what it found. Then it is
            taken to be as uncertain as the gain.
        worth: the smallest difference that is worth a distillation.
    """
    alone, distilled = ([evidence.results_of(pair[side]) for pair in pairs] for side in (0, 1))
    known = evidence.of_figures(
        same_steps,
        teacher=evidence.averages(distilled, TEACHER),
        alone=evidence.averages(alone, STUDENT),
        distilled=evidence.averages(distilled, DISTILLED),
        worth=worth,
        same_time=same_time,
    )
    gain = known.gain
    if gain is None or diagnose(known) is None:
        return None
    if lead is not None:
        known = replace(known, headroom=lead().figures.get("AP"))
    elif known.teacher_ap is not None and known.alone_ap is not None:
        ahead, half = known.teacher_ap - known.alone_ap, (gain.high - gain.low) / 2
        known = replace(known, headroom=Span(ahead, ahead - half, ahead + half))
    runs = [
        evidence.of_run(run, written, alone=twin)
        for (twin, run), written in zip(pairs, distilled, strict=True)
        if run.is_dir() and twin.is_dir()
    ]
    known = put_together(known, averaged(runs)) if runs else known
    run = next((run for _, run in pairs if RunFolder(run).config.is_file()), None)
    if run is None:
        return diagnose(known)
    try:
        built = built_apart(read_run_config(RunFolder(run).config, purpose="distill"), progress)
    except DistillError:  # its data or teacher are not here any more
        return diagnose(known)
    known = put_together(known, evidence.of_setup(built, run))
    known = evidence.with_teacher(known, built.opened, progress=progress or Silence())
    return diagnose(evidence.with_end(known, built, run))


def sparing(find: Callable[[], T | None], progress: Progress | None) -> T | None:
    """What is found, of a training that is over: what stands in the way is said, and ends nothing."""
    try:
        return find()
    except DistillError as error:
        (progress or Silence()).say(f"why distillation did not help is not known: {error}")
        return None


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
    config, twin = _config(run, alone=alone)
    built = built_apart(config, progress)
    others, at = measuring.beside(built.opened)
    detectors = {**others, DISTILLED: load_detector(run).detector}
    looks = measuring.measure(built.opened, detectors, at=at, progress=progress)
    (found, _), why = explained(
        built,
        {name: one.found for name, one in looks.items()},
        {name: one.metrics for name, one in looks.items()},
        evidence.results_of(run),
        run=run,
        students={ALONE: twin},
        progress=progress,
    )
    return DiagnoseOutcome(run, twin, found, why)


def built_apart(config: RunConfig, progress: Progress | None) -> stages.Built:
    """A distillation that lies somewhere, built as it was before its first step, without touching its folder."""
    with TemporaryDirectory() as nowhere:
        apart = replace(config, out=Path(nowhere) / "run")
        return stages.build(stages.open_inputs(apart, progress=progress), progress=progress)


def _config(run: Path, *, alone: Path | None) -> tuple[RunConfig, Path]:
    file = RunFolder(run).config
    if not file.is_file():
        raise ConfigError(f"{run} must be the folder of a distillation, got one without {file.name}. Give its folder.")
    content = load_yaml(file)
    if isinstance(content, dict) and content.get("teacher") is None:
        raise ConfigError(
            f"{run} must be the folder of a distillation, got one without a teacher. Give the distilled student's."
        )
    config = read_run_config(file, purpose="distill", options={"alone": alone})
    if config.alone is None:
        raise ConfigError(f"{run} must be compared with the student alone, got none. Pass --alone RUN.")
    return replace(config, alone_differs=True), config.alone
