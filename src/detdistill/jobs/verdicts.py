"""What a study of twins came to: the verdict with its differences, for people and for ``verdict.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.error_types import ErrorTypes, error_types, mean_errors
from detdistill.evaluation.intervals import metrics_of
from detdistill.evaluation.matches import Matches, match
from detdistill.files import write_json
from detdistill.jobs.alone import Comparison
from detdistill.jobs.diagnose import diagnose_runs, sparing
from detdistill.jobs.longer import ALONE_EQUAL_TIME
from detdistill.jobs.outcomes import ALONE, DISTILLED, TEACHER, page_line
from detdistill.progress import Progress
from detdistill.proof.diagnosis import Diagnosis
from detdistill.proof.differences import Differences, Twins, differences
from detdistill.proof.verdict import Verdict, judge
from detdistill.report.differences import draw_verdict
from detdistill.report.tables import Table, error_costs
from detdistill.store.layout import StudyFolder


class Told(Protocol):
    """What a verdict is shown with."""

    def table(self) -> Sequence[str]:
        """Lines of text for people."""

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON."""


@dataclass(frozen=True, slots=True)
class ErrorsOfTwins:
    """What kinds of errors teacher and students make, by seed and name."""

    errors: Mapping[int, Mapping[str, ErrorTypes]]

    def table(self) -> list[str]:
        """The AP50 that each kind costs each detector, the mean over the seeds."""
        told = dict.fromkeys(name for of_seed in self.errors.values() for name in of_seed)
        names = sorted(told, key=lambda name: name != TEACHER)
        means = {
            name: mean_errors([of_seed[name] for of_seed in self.errors.values() if name in of_seed]) for name in names
        }
        return error_costs(means, change=(DISTILLED, ALONE)).text().splitlines()

    def as_dict(self) -> Mapping[str, Any]:
        """Count and cost of each kind, by seed and name."""
        return {str(seed): {n: one.as_dict() for n, one in of_seed.items()} for seed, of_seed in self.errors.items()}


@dataclass(frozen=True, slots=True)
class ProveOutcome:
    """Whether distillation helped.

    Attributes:
        out: the folder of the study.
        verdict: over all seeds.
        students: the six figures in percent of every student, by seed and name.
        twins: how far the students alone are trained as the distilled ones but for the teaching, by seed.
        training: steps and seconds of every student where they are known, by seed and name.
        beside: what else is told, by its key in ``verdict.json``.
    """

    out: Path
    verdict: Verdict
    students: Mapping[int, Mapping[str, Mapping[str, float | None]]]
    twins: Mapping[int, Comparison]
    training: Mapping[int, Mapping[str, tuple[int, float]]] = field(default_factory=dict)
    beside: Mapping[str, Told] = field(default_factory=dict)

    def table(self) -> list[str]:
        """AP of every student, in what twins differ, the differences with their intervals, and the verdict."""
        names = list(next(iter(self.students.values())))
        rows = [(str(seed), *(of_seed[name]["AP"] for name in names)) for seed, of_seed in self.students.items()]
        place = StudyFolder(self.out)
        return [
            *Table(("seed", *(f"AP {name}" for name in names)), tuple(rows)).text().splitlines(),
            *self._twins(),
            "",
            *self.verdict.lines(),
            *(line for one in self.beside.values() for line in ("", *one.table())),
            "",
            f"all figures in {place.verdict}, drawn in {place.picture}",
            *page_line(self.out),
        ]

    def _twins(self) -> list[str]:
        told: dict[str, list[str]] = {}
        for seed, one in self.twins.items():
            told.setdefault(one.text(), []).append(str(seed))
        return [f"seed {', '.join(seeds)}: {text}" for text, seeds in told.items()]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``verdict.json`` holds."""
        training = {
            seed: {name: {"steps": steps, "seconds": round(took, 2)} for name, (steps, took) in of_seed.items()}
            for seed, of_seed in self.training.items()
        }
        return {
            **self.verdict.as_dict(),
            "students": {
                str(seed): {n: dict(one) for n, one in of_seed.items()} for seed, of_seed in self.students.items()
            },
            "twins": {str(seed): one.as_dict() for seed, one in self.twins.items()},
            **({"training": {str(seed): one for seed, one in training.items()}} if training else {}),
            **{key: one.as_dict() for key, one in self.beside.items()},
        }

    def write(self) -> None:
        """Leaves ``verdict.json`` and ``verdict.png`` in the study's folder."""
        place = StudyFolder(self.out)
        write_json(place.verdict, self.as_dict())
        draw_verdict(self.verdict, place.picture)


def require_measurable(annotations: Annotations, worth: float) -> None:
    """Refuses images on which no verdict can be found, whatever detectors find there (DataError)."""
    nothing = match(annotations, [])
    judge(differences([Twins(0, nothing, nothing)]), worth=worth)


def judged(
    out: Path,
    annotations: Annotations,
    found: Mapping[int, Mapping[str, Callable[[], Sequence[ImageDetections]]]],
    *,
    worth: float,
    twins: Mapping[int, Comparison],
    training: Mapping[int, Mapping[str, tuple[int, float]]] = MappingProxyType({}),
    places: Sequence[tuple[Path, Path]],
    progress: Progress,
) -> ProveOutcome:
    """The verdict on what students found in the same images.

    Args:
        out: the study's folder.
        found: by seed, then alone, distilled and perhaps alone_equal_time and the teacher; each is called once.
        worth: the gain in points of AP that makes distillation worth it.
        places: of the run alone and the distilled one, by seed.
    """
    count = sum(len(of_seed) for of_seed in found.values())
    progress.start("match boxes", count, unit="detector")
    matched: dict[int, dict[str, Matches]] = {}
    errors: dict[int, dict[str, ErrorTypes]] = {}
    for seed, of_seed in found.items():
        matched[seed], errors[seed] = {}, {}
        for name, look in of_seed.items():
            detections = look()
            matched[seed][name] = match(annotations, detections)
            errors[seed][name] = error_types(annotations, detections)
            progress.advance(sum(map(len, matched.values())))
    progress.finish()
    longer, watched = (all(name in one for one in matched.values()) for name in (ALONE_EQUAL_TIME, TEACHER))

    def compared(alone: str, better: str = DISTILLED) -> list[Twins]:
        return [Twins(seed, of_seed[alone], of_seed[better]) for seed, of_seed in matched.items()]

    def lead() -> Differences:
        return differences(compared(ALONE, TEACHER), progress=progress)

    same_steps = differences(compared(ALONE), progress=progress)
    same_time = differences(compared(ALONE_EQUAL_TIME), progress=progress) if longer else None
    verdict = judge(same_steps, same_time, worth=worth)
    students = {
        seed: {name: metrics_of(one).figures() for name, one in of_seed.items() if name != TEACHER}
        for seed, of_seed in matched.items()
    }

    def find() -> Diagnosis | None:
        ahead = lead if watched else None
        return diagnose_runs(places, same_steps, same_time=same_time, lead=ahead, worth=worth, progress=progress)

    why = sparing(find, progress)
    beside: dict[str, Told] = {"error_types": ErrorsOfTwins(errors), **({} if why is None else {"diagnosis": why})}
    return ProveOutcome(out, verdict, students, twins, training, beside)
