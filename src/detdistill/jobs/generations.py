"""Self-distillation: a teacher of the student's own architecture, and chains where each student teaches the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.detectors.torchvision_teachers import PREFIX
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.jobs.run import ALONE, DISTILLED, TEACHER, RunOutcome, distill_job
from detdistill.jobs.settings import RunConfig, StudentChoice
from detdistill.jobs.stages import report, require_free
from detdistill.progress import Progress
from detdistill.report.tables import results_json, side_by_side
from detdistill.store.students import saved_settings
from detdistill.training.world import watched_by_leader

GENERATION, GENERATIONS = "generation", "generations"


@dataclass(frozen=True, slots=True)
class GenerationsOutcome:
    """A chain of students, each taught by the one before.

    Attributes:
        out: folder of the chain, with a run folder per generation.
        generations: one outcome each; the first one's teacher is the chain's.
    """

    out: Path
    generations: Sequence[RunOutcome]

    @property
    def results(self) -> dict[str, CocoMetrics | None]:
        """Figures of teacher, student alone and every generation."""
        first = self.generations[0].results
        named = {generation_name(number): one.results[DISTILLED] for number, one in _numbered(self.generations)}
        return {TEACHER: first[TEACHER], ALONE: first[ALONE], **named}

    def table(self) -> list[str]:
        """The figures side by side, and where the runs are."""
        last = self.generations[-1]
        seconds = sum(one.seconds for one in self.generations)
        return [
            *side_by_side(self.results).text().splitlines(),
            "",
            f"{last.method}: {len(self.generations)} generations of {last.steps} steps in {seconds:.0f} s; "
            f"run folders in {self.out}",
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds: the last generation counts as the distilled student."""
        results, last = self.results, self.generations[-1]
        named = results_json({TEACHER: results[TEACHER], ALONE: results[ALONE], DISTILLED: last.results[DISTILLED]})
        return {
            **named,
            GENERATIONS: [one.as_dict()[DISTILLED] for one in self.generations],
            "method": last.method,
            "steps": last.steps,
            "seconds": round(sum(one.seconds for one in self.generations), 2),
        }


def same_architecture(source: str) -> StudentChoice:
    """A student with the architecture of a saved teacher, as its checkpoint describes it; no weights are read.

    Raises:
        ConfigError: there is no such checkpoint, or the teacher is none of ours.
    """
    if source.startswith(PREFIX):
        raise ConfigError(
            f"The teacher of a self-distillation must be a run or a checkpoint of ours, got {source}. "
            "Give --teacher RUN, or choose a student by --student."
        )
    settings = saved_settings(Path(source))
    return StudentChoice(detector=settings.name, settings=settings)


def generation_name(number: int) -> str:
    """The folder of a generation and its row in tables; the first student is number 1."""
    return f"{GENERATION}_{number}"


def generations_job(
    config: RunConfig, *, generations: int, resume: bool = False, progress: Progress | None = None
) -> GenerationsOutcome:
    """Distils a student from its teacher, the next student from that one, and so on.

    Every generation begins with the same fresh weights and sees the same images in the same order: only its teacher
    differs from the generation before. An interrupted chain goes on where it was.

    Args:
        config: of the first generation, but for its folder: `config.out` holds the folders of all.
        generations: how many students.
        resume: go on with the chain in `config.out`.

    Raises:
        DistillError: anything that cannot be used, in one sentence.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    if generations < 1:
        raise ConfigError(f"The number of generations must be at least 1, got {generations}. Give --generations 2.")
    watcher = watched_by_leader(progress)
    require_free(config.out, resume=resume)
    found: list[RunOutcome] = []
    teacher = config.teacher
    for number in range(1, generations + 1):
        out = config.out / generation_name(number)
        watcher.say(f"generation {number} of {generations}: {out}")
        found.append(distill_job(replace(config, out=out, teacher=teacher), resume=resume, progress=watcher))
        if teacher is not None:
            teacher = replace(teacher, source=str(out), allow=())
    outcome = GenerationsOutcome(out=config.out, generations=tuple(found))
    report(outcome, curves={generation_name(number): one.out for number, one in _numbered(found)})
    return outcome


def _numbered(generations: Sequence[RunOutcome]) -> list[tuple[int, RunOutcome]]:
    return list(enumerate(generations, start=1))
