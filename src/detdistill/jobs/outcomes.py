"""What runs come to: figures side by side, for people and for ``results.json``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detdistill.data.transforms import ImageSettings
from detdistill.errors import DiskError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.evaluation.error_types import ErrorTypes
from detdistill.jobs.alone import Comparison
from detdistill.jobs.found import Found
from detdistill.jobs.profile import ProfileOutcome
from detdistill.progress import counted
from detdistill.proof.diagnosis import Diagnosis
from detdistill.proof.verdict import Verdict
from detdistill.report.climb import Climb, climb_lines
from detdistill.report.tables import AGNOSTIC, Table, class_change, error_costs, per_class, results_json, side_by_side
from detdistill.store.best import Best
from detdistill.store.layout import RunFolder
from detdistill.training.clipping import Clipped

STUDENT = "student"
RESULTS = TEACHER, ALONE, DISTILLED = "teacher", "alone", "distilled"
TEACHER_OWN_SIZE = "teacher_own_size"
# How a table calls what results.json has under another name.
_ROWS = {TEACHER_OWN_SIZE: "teacher at its own size"}


def page_line(out: Path) -> list[str]:
    """Where the page of a run, a demo or a study is, where there is one."""
    page = RunFolder(out).page
    return [f"{page} shows it all in a browser"] if page.is_file() else []


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A trained detector, beside its teacher and its twin where it was taught.

    Attributes:
        out: the run folder.
        results: figures of the student, or of teacher, student alone and distilled student; None where not known.
        seconds: that the training took, without evaluation.
        method: the recipe's name, such as ``"aid(frs)"``; empty without a teacher.
        sample_specific: shares of the images that sample-specific augmentation reaches; None where it is off.
        alone: how the student alone differs from the distilled one but for the teaching; None where there is none.
        best: how detectors were chosen that are the best of several evaluations, by the names of `results`.
        stopped_early: whether the training ended before all steps that were planned.
        sizes: the size at which each detector saw the images, where these are not all the same.
        clipping: how often the gradient was clipped; None where that is off.
        left_out: the steps that were skipped, as their loss or gradient was not finite.
        strength: what each calibrated method's gradient was beside the task's, and by what it was scaled.
        agnostic: whether the figures are with boxes suppressed across classes.
        costs: what teacher and distilled student cost on an image.
        longer: steps and seconds of the student alone where it was trained for longer, by the names of `results`.
        undrawn: why pictures of the run are missing; None where all are there.
        climbs: whether students were still climbing when their training ended, by the names of `results`.
        errors: what kinds of errors the detectors make and what these cost, by the names of `results`.
        gain: whether distillation gained over the student alone, for this one seed; None where nobody can tell.
        diagnosis: why distillation did not help; None where it did, or there is no student alone.
        found: what each measured detector found in the validation images, by the names of `results`.
    """

    out: Path
    results: Mapping[str, CocoMetrics | None]
    steps: int
    seconds: float
    method: str = ""
    sample_specific: Mapping[str, float] | None = None
    alone: Comparison | None = None
    best: Mapping[str, Best] = field(default_factory=dict)
    stopped_early: bool = False
    clipping: Clipped | None = None
    left_out: tuple[int, ...] = ()
    strength: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    agnostic: bool = False
    sizes: Mapping[str, ImageSettings] = field(default_factory=dict)
    costs: Mapping[str, ProfileOutcome] = field(default_factory=dict)
    longer: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    undrawn: DiskError | None = None
    climbs: Mapping[str, Climb] = field(default_factory=dict)
    errors: Mapping[str, ErrorTypes] = field(default_factory=dict)
    gain: Verdict | None = None
    diagnosis: Diagnosis | None = None
    found: Mapping[str, Found] = field(default_factory=dict, repr=False, compare=False)

    @property
    def failure(self) -> str | None:
        """Why the run's folder is not whole: all but pictures is there. None where it is whole."""
        return None if self.undrawn is None else str(self.undrawn.of_run())

    def table(self) -> list[str]:
        """The figures side by side and by class, what a distillation gains in cost, and where the run is."""
        baselines = (ALONE, *self.longer)
        lines = [*side_by_side(_named(self.results), baselines=baselines).text().splitlines(), *self._sizes()]
        lines += [AGNOSTIC] if self.agnostic else []
        lines += [*_notes(self.alone, self.best), *climb_lines(self.climbs)]
        early = " (stopped early)" if self.stopped_early else ""
        clipped = f"; {self.clipping.text()}" if self.clipping is not None and self.clipping.clipped else ""
        skipped = f"; {counted(len(self.left_out), 'step')} left out, not finite" if self.left_out else ""
        took = f"{counted(self.steps, 'step')}{early} in {self.seconds:.0f} s{clipped}{skipped}; run folder {self.out}"
        against = self._against() if self.method else None
        change = None if against is None else (DISTILLED, against)
        if self.errors:
            errors = {_ROWS.get(name, name): one for name, one in self.errors.items()}
            lines += ["", *error_costs(errors, change=change).text().splitlines()]
        if not self.method:
            return [*lines, "", *per_class(self.results).text().splitlines(), "", took]
        if against is not None:
            shown = {name: self.results[name] for name in (TEACHER, against, DISTILLED)}
            lines += ["", *per_class(shown, change=change).text().splitlines()]
        if self.longer:
            rows = tuple((name, *cost) for name, cost in self._training().items())
            lines += ["", *Table(("model", "steps", "training seconds"), rows).text(decimals=0).splitlines()]
        if self.costs:
            lines += ["", self._cost()]
        if against is None:
            config = shlex.quote(str(RunFolder(self.out).config))
            train, then = (
                f"detdistill train {config} --out runs/alone",
                f"detdistill distill {config} --alone runs/alone",
            )
            lines += ["", f"The student alone is not known. To see it beside: {train}; then {then} --resume."]
        if self.diagnosis is not None:
            lines += ["", *self.diagnosis.lines()]
        return [*lines, "", f"{self.method}: {took}", *page_line(self.out)]

    def _against(self) -> str | None:
        """The student alone that the distilled one is compared with by class."""
        return next((name for name in (ALONE, *self.longer) if self.results.get(name) is not None), None)

    def _training(self) -> dict[str, tuple[int, float]]:
        return {**self.longer, DISTILLED: (self.steps, self.seconds)}

    def _ratios(self) -> dict[str, float]:
        student, teacher = self.costs[DISTILLED], self.costs[TEACHER]
        return {
            "parameters": student.complexity.parameters / teacher.complexity.parameters,
            "macs": student.complexity.total_macs / teacher.complexity.total_macs,
            "seconds_per_image": student.seconds / teacher.seconds,
        }

    def _cost(self) -> str:
        student, teacher = self.costs[DISTILLED], self.costs[TEACHER]
        ratios, sides = self._ratios(), (student.complexity.parameters, teacher.complexity.parameters)
        held = " of ".join(f"{count / 1e6:.2f}" for count in sides)
        took = " of ".join(f"{1000 * one.seconds:.1f}" for one in (student, teacher))
        return (
            f"student ÷ teacher: {ratios['parameters']:.2f} of the parameters ({held} M), {ratios['macs']:.2f} of the "
            f"multiply-adds, {ratios['seconds_per_image']:.2f} of the time of an image ({took} ms)"
        )

    def _sizes(self) -> list[str]:
        told = (f"{_ROWS.get(name, name)}: {size.text()}" for name, size in self.sizes.items())
        return ["", f"images seen by {'; '.join(told)}"] if self.sizes else []

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        return {
            **results_json(self.results),
            **({"method": self.method} if self.method else {}),
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            **({} if self.sample_specific is None else {"sample_specific": dict(self.sample_specific)}),
            **_facts(self.alone, self.best),
            **({"stopped_early": True} if self.stopped_early else {}),
            **({} if self.clipping is None else {"clipping": self.clipping.as_dict()}),
            **({"left_out": list(self.left_out)} if self.left_out else {}),
            **({"strength": self.strength} if self.strength else {}),
            **({"sizes": {name: asdict(size) for name, size in self.sizes.items()}} if self.sizes else {}),
            **({"agnostic": True} if self.agnostic else {}),
            **({"climb": {name: one.as_dict() for name, one in self.climbs.items()}} if self.climbs else {}),
            **({"error_types": {name: one.as_dict() for name, one in self.errors.items()}} if self.errors else {}),
            **self._compared(),
        }

    def _compared(self) -> dict[str, Any]:
        against, found = self._against() if self.method else None, dict[str, Any]()
        if against is not None:
            found["change_by_class"] = {"against": against, "points": class_change(self.results, DISTILLED, against)}
        if self.longer:
            training = self._training().items()
            found["training"] = {name: {"steps": steps, "seconds": round(took, 2)} for name, (steps, took) in training}
        if self.gain is not None:
            found["gain"] = self.gain.as_dict()
        if self.diagnosis is not None:
            found["diagnosis"] = self.diagnosis.as_dict()
        if self.costs:
            costs = {name: one.as_dict() for name, one in self.costs.items()}
            found["cost"] = {**costs, "student_over_teacher": self._ratios()}
        return found


@dataclass(frozen=True, slots=True)
class GenerationsOutcome:
    """A chain of students, each taught by the one before, the first by the chain's teacher; `out` holds their runs."""

    out: Path
    generations: Sequence[RunOutcome]

    @property
    def results(self) -> dict[str, CocoMetrics | None]:
        """Figures of teacher, student alone and every generation."""
        first = self.generations[0].results
        shown = (TEACHER, ALONE, TEACHER_OWN_SIZE)
        return {
            **{name: first[name] for name in shown if name in first},
            **{one.out.name: one.results[DISTILLED] for one in self.generations},
        }

    @property
    def seconds(self) -> float:
        """That all trainings took, without evaluation."""
        return sum(one.seconds for one in self.generations)

    def table(self) -> list[str]:
        """The figures side by side, and where the runs are."""
        last = self.generations[-1]
        steps = ", ".join(dict.fromkeys(str(one.steps) for one in self.generations))
        took = f"{len(self.generations)} generations of {steps} steps in {self.seconds:.0f} s"
        return [
            *side_by_side(_named(self.results)).text().splitlines(),
            *([AGNOSTIC] if last.agnostic else []),
            *_notes(self.generations[0].alone, self._best()),
            *climb_lines(self._climbs()),
            *([] if last.diagnosis is None else ["", f"{last.out.name}:", *last.diagnosis.lines()]),
            "",
            f"{last.method}: {took}; run folders in {self.out}",
            *page_line(self.out),
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds: the last generation counts as the distilled student."""
        results, last = self.results, self.generations[-1]
        return {
            **results_json({TEACHER: results[TEACHER], ALONE: results[ALONE], DISTILLED: last.results[DISTILLED]}),
            "generations": [one.as_dict()[DISTILLED] for one in self.generations],
            "method": last.method,
            "steps": last.steps,
            "seconds": round(self.seconds, 2),
            **_facts(self.generations[0].alone, self._best()),
            **({"agnostic": True} if last.agnostic else {}),
            "climb": {name: one.as_dict() for name, one in self._climbs().items()},
            **({} if last.diagnosis is None else {"diagnosis": last.diagnosis.as_dict()}),
        }

    def _climbs(self) -> dict[str, Climb]:
        alone = {name: one for name, one in self.generations[0].climbs.items() if name == ALONE}
        return alone | {one.out.name: one.climbs[DISTILLED] for one in self.generations if DISTILLED in one.climbs}

    def _best(self) -> dict[str, Best]:
        first = self.generations[0].best
        students = {one.out.name: one.best[DISTILLED] for one in self.generations if DISTILLED in one.best}
        return {name: first[name] for name in (TEACHER, ALONE) if name in first} | students


def _notes(alone: Comparison | None, best: Mapping[str, Best]) -> list[str]:
    """What a table says about the detectors whose figures it has."""
    told = [] if alone is None else [alone.text()]
    return told + [f"{name}: {one.text()}" for name, one in best.items()]


def _facts(alone: Comparison | None, best: Mapping[str, Best]) -> dict[str, Any]:
    """The same for ``results.json``."""
    told = {} if alone is None else {"alone_run": alone.as_dict()}
    return told | ({"best": {name: one.as_dict() for name, one in best.items()}} if best else {})


def _named(results: Mapping[str, CocoMetrics | None]) -> dict[str, CocoMetrics | None]:
    return {_ROWS.get(name, name): metrics for name, metrics in results.items()}
