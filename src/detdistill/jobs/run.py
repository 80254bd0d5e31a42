"""A run from end to end: trains a detector, alone or with a teacher's help, or a chain where each teaches the next."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from detdistill.detectors.base import Detector
from detdistill.detectors.mapped import bare
from detdistill.errors import ConfigError
from detdistill.evaluation.error_types import error_types
from detdistill.jobs import measuring, samples, stages
from detdistill.jobs.diagnose import explained, sparing
from detdistill.jobs.doctor import early_checks, measured_checks, tell
from detdistill.jobs.inputs import require_free
from detdistill.jobs.longer import longer_configs, require_measurable
from detdistill.jobs.outcomes import (
    ALONE,
    DISTILLED,
    RESULTS,
    STUDENT,
    TEACHER,
    TEACHER_OWN_SIZE,
    GenerationsOutcome,
    RunOutcome,
)
from detdistill.jobs.page import write_page
from detdistill.jobs.plan import announce
from detdistill.jobs.profile import ProfileOutcome, profiled
from detdistill.jobs.settings import RunConfig, TeacherSettings
from detdistill.jobs.tracked import tell_loggers
from detdistill.progress import Progress
from detdistill.proof.diagnosis import Diagnosis
from detdistill.proof.verdict import Verdict, judge
from detdistill.report.climb import Climb, climb_of
from detdistill.store.best import chosen_as
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import GENERATION, RunFolder
from detdistill.training.callbacks import Callbacks
from detdistill.training.launch import forks, own_device
from detdistill.training.logs import read_rows
from detdistill.training.world import by_leader, leads, watched_by_leader

__all__ = [
    "ALONE",
    "DISTILLED",
    "RESULTS",
    "STUDENT",
    "TEACHER",
    "GenerationsOutcome",
    "RunOutcome",
    "distill_job",
    "generations_job",
    "train_job",
]

_ROUNDS = 5


def train_job(
    config: RunConfig, *, resume: bool = False, callbacks: Callbacks | None = None, progress: Progress | None = None
) -> RunOutcome:
    """Trains a detector alone, whatever teacher and method the run has, measures it, and leaves a run folder."""
    with ExitStack() as locks:
        built, fitted = _trained(config.untaught(), locks, resume=resume, callbacks=callbacks, progress=progress)
        return by_leader(lambda: _measured_alone(built, fitted, config.student.detector, progress))


def _trained(
    config: RunConfig, locks: ExitStack, *, resume: bool, callbacks: Callbacks | None, progress: Progress | None
) -> tuple[stages.Built, stages.Fitted]:
    """A detector that nobody taught; its folder is held until `locks` are closed."""
    built = stages.build(stages.open_inputs(config, resume=resume, progress=progress), progress=progress)
    proved = stages.prove(built, progress=progress)
    announce(proved, progress=progress)
    locks.enter_context(stages.held(config.out))
    return built, stages.fit(proved, callbacks=callbacks, progress=progress)


def _measured_alone(built: stages.Built, fitted: stages.Fitted, name: str, progress: Progress | None) -> RunOutcome:
    """Measures a detector that nobody taught, and writes what its run folder says of it."""
    opened, training = built.opened, fitted.training
    config = opened.config
    measured = stages.measure(opened, {name: fitted.student}, progress=progress)[name]
    found = RunOutcome(
        config.out,
        {STUDENT: measured.metrics},
        training.steps,
        training.seconds,
        sample_specific=built.shares,
        best={} if training.best is None else {STUDENT: training.best},
        stopped_early=training.stopped_early,
        clipping=training.clipping,
        left_out=training.left_out,
        agnostic=config.evaluate.agnostic,
        climbs={STUDENT: _climb(config.out, training.steps)},
        errors={STUDENT: error_types(opened.data.val, measured.found)},
        found={STUDENT: measured.kept(opened)},
    )
    curves = stages.report(found.out, found.as_dict(), curves={STUDENT: config.out})
    found = replace(found, undrawn=stages.count_confusion(opened, {STUDENT: measured}) or curves)
    tell_loggers(config, found, progress)
    return found


def distill_job(
    config: RunConfig,
    *,
    resume: bool = False,
    runs: int = 1,
    callbacks: Callbacks | None = None,
    progress: Progress | None = None,
) -> RunOutcome:
    """Distils a teacher into a student, and measures all on the same validation images.

    Before the first step it proves that every term of the recipe reaches the student, and that the disk has room for
    so many such `runs`, of which this is the first. The `callbacks` hear of every training that it does.
    """
    stages.require_method(config)
    require_measurable(config)
    opened = stages.open_inputs(config, resume=resume, progress=progress)
    proved = stages.prove(stages.build(opened, progress=progress), progress=progress)
    announce(proved, runs=runs, progress=progress)
    tell(early_checks(proved), progress)
    with ExitStack() as locks:
        locks.enter_context(stages.held(config.out))
        return _distilled(proved, locks, resume=resume, callbacks=callbacks, progress=progress)


def _distilled(
    proved: stages.Proved, locks: ExitStack, *, resume: bool, callbacks: Callbacks | None, progress: Progress | None
) -> RunOutcome:
    """Trains and measures a student whose terms were proved; further folders are held until `locks` are closed."""
    built = proved.built
    opened, config = built.opened, built.opened.config
    teacher = stages.require_same_run(proved)["teacher"]
    others, at = measuring.beside(opened)
    # Several processes are forked from this one, which must not have touched a GPU before.
    early = leads() and not forks(config.train)
    before = stages.measure(opened, others, at=at, teacher=teacher, progress=progress) if early else {}
    figures = {name: one.metrics for name, one in before.items()}
    tell(measured_checks(opened, figures.get(TEACHER), figures.get(ALONE)), progress)
    fitted = stages.fit(proved, callbacks=callbacks, progress=progress)
    watcher, seconds = watched_by_leader(progress), fitted.training.seconds
    further = {
        name: _trained(one, locks, resume=resume, callbacks=callbacks, progress=progress)
        for name, one in longer_configs(built, seconds=seconds, progress=watcher).items()
    }

    def outcome() -> RunOutcome:
        longer = {name: _measured_alone(*runs, name, progress) for name, runs in further.items()}
        student = fitted.student
        measured = before or stages.measure(opened, others, at=at, teacher=teacher, progress=progress)
        measured |= stages.measure(opened, {DISTILLED: student}, progress=progress)
        alone = {name: one.results[STUDENT] for name, one in longer.items()}
        results = {
            **{name: measured[name].metrics if name in measured else None for name in (TEACHER, ALONE)},
            **alone,
            DISTILLED: measured[DISTILLED].metrics,
        }
        if TEACHER_OWN_SIZE in measured:
            results[TEACHER_OWN_SIZE] = measured[TEACHER_OWN_SIZE].metrics
        errors = {name: error_types(opened.data.val, one.found) for name, one in measured.items()}
        errors |= {name: one.errors[STUDENT] for name, one in longer.items()}
        training = fitted.training
        seen = at | {DISTILLED: opened.data.image} if len({*at.values(), opened.data.image}) > 1 else {}
        chosen = {
            TEACHER: None if config.teacher is None else chosen_as(Path(config.teacher.text)),
            ALONE: None if config.alone is None else chosen_as(config.alone),
            **{name: one.best.get(STUDENT) for name, one in longer.items()},
            DISTILLED: training.best,
        }
        found = RunOutcome(
            config.out,
            results,
            training.steps,
            training.seconds,
            method=built.method,
            sample_specific=built.shares,
            alone=built.alone,
            best={name: best for name, best in chosen.items() if best is not None},
            stopped_early=training.stopped_early,
            clipping=training.clipping,
            left_out=training.left_out,
            strength=training.strength,
            sizes=seen,
            agnostic=config.evaluate.agnostic,
            costs=_costs(opened, student),
            longer={name: (one.steps, one.seconds) for name, one in longer.items()},
            climbs={
                **({} if config.alone is None else {ALONE: _climb(config.alone, None)}),
                **{name: one.climbs[STUDENT] for name, one in longer.items()},
                DISTILLED: _climb(config.out, training.steps),
            },
            errors={name: errors[name] for name in results if name in errors},
            found={
                **{name: one.kept(opened) for name, one in measured.items()},
                **{name: one.found[STUDENT] for name, one in longer.items()},
            },
        )
        twin = {} if config.alone is None else {ALONE: config.alone}
        if students := {**twin, **{name: one.out for name, one in longer.items()}}:
            gain, why = _gain(built, found, students, progress)
            found = replace(found, gain=gain, diagnosis=why)
        curves = {**{name: one.out for name, one in longer.items()}, DISTILLED: config.out}
        if config.alone is not None and RunFolder(config.alone).metrics.is_file():
            curves = {ALONE: config.alone, **curves}
        shown = {name: one for name, one in measured.items() if name in RESULTS}
        levels = {name: results[name] for name in (*shown, *longer)}
        undrawn = (
            *(one.undrawn for one in longer.values()),
            stages.report(found.out, found.as_dict(), curves=curves, levels=levels),
            stages.draw_pictures(opened, shown),
            stages.count_confusion(opened, shown),
        )
        found = replace(found, undrawn=next((one for one in undrawn if one is not None), None))
        tell_loggers(config, found, progress)
        if config.report:
            write_page(found.out, truth=opened.data.val, looks=found.found, progress=progress)
        return found

    return by_leader(outcome)


def _gain(
    built: stages.Built, found: RunOutcome, students: Mapping[str, Path], progress: Progress | None
) -> tuple[Verdict | None, Diagnosis | None]:
    """Whether a distillation gained over the students alone, of which the first counts, and why not."""
    looks, told = {name: one.images for name, one in found.found.items()}, found.as_dict()

    def find() -> tuple[Verdict | None, Diagnosis | None]:
        gain, why = explained(built, looks, found.results, told, run=found.out, students=students, progress=progress)
        return judge(*gain) if "AP" in gain[0].figures else None, why

    return sparing(find, progress) or (None, None)


def _climb(run: Path, steps: int | None) -> Climb:
    """Whether the student of a run, of so many steps where that is known, was still climbing at its end."""
    record = None if steps is not None else read_record(run)
    return climb_of(read_rows(RunFolder(run).evaluations), steps=steps if record is None else record.step)


def _costs(opened: samples.Opened, student: Detector) -> dict[str, ProfileOutcome]:
    """What teacher and student cost on an image as each sees the validation images, of these one of the usual size.

    What a teacher costs that says boxes alone, nobody knows.
    """
    if opened.teacher is None or opened.teacher.detector.spec.pyramid is None:
        return {}
    stored = opened.data.val.sizes[:]
    height, width = stored[np.argsort(stored.prod(1), kind="stable")[len(stored) // 2]].tolist()
    found, device = {}, own_device(opened.config.train)
    sides = {TEACHER: (bare(opened.teacher.detector), opened.taught_at), DISTILLED: (student, opened.data.image)}
    for name, (detector, image) in sides.items():
        high, wide = (-(-side // image.pad_multiple) * image.pad_multiple for side in image.resized(height, width))
        found[name] = profiled(name, detector.to(device), height=high, width=wide, rounds=_ROUNDS)
    return found


def generations_job(
    config: RunConfig,
    *,
    generations: int,
    resume: bool = False,
    callbacks: Callbacks | None = None,
    progress: Progress | None = None,
) -> GenerationsOutcome:
    """Distils a student from its teacher, the next student from that one, and so on.

    Every generation begins with the same weights, fresh or those of `RunConfig.init`, and sees the same images in the
    same order: only its teacher differs from the generation before. An interrupted chain goes on where it was. `config`
    is the first generation's, but that its folder holds the folders of all.
    """
    if generations < 1:
        raise ConfigError(f"The number of generations must be at least 1, got {generations}. Give --generations 2.")
    if config.equal_time or config.longer is not None:
        raise ConfigError(
            "equal_time and longer must be left out of a chain of generations, got one of them. Leave out --equal-time "
            "and --longer."
        )
    watcher = watched_by_leader(progress)
    require_free(config.out, resume=resume, first=GENERATION.format(1))
    found: list[RunOutcome] = []
    teacher = config.teacher
    with stages.held(config.out):
        for number in range(1, generations + 1):
            out = config.out / GENERATION.format(number)
            watcher.say(f"generation {number} of {generations}: {out}")
            taught, left = replace(config, out=out, teacher=teacher), generations - number + 1
            found.append(distill_job(taught, resume=resume, runs=left, callbacks=callbacks, progress=watcher))
            if teacher is not None:
                # A student saw the data's own size.
                teacher = TeacherSettings(str(out))
        outcome = GenerationsOutcome(config.out, tuple(found))
        curves = {one.out.name: one.out for one in found}
        if refused := stages.report(outcome.out, outcome.as_dict(), curves=curves, levels=outcome.results):
            raise refused
        if config.report:
            write_page(outcome.out, looks=found[-1].found, progress=watcher)
    return outcome
