"""Whether distillation helps: for every seed the student alone and the distilled one, and the verdict on all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DistillError
from detdistill.jobs import stages
from detdistill.jobs.alone import compare_records
from detdistill.jobs.found import read_found
from detdistill.jobs.inputs import require_free
from detdistill.jobs.longer import ALONE_EQUAL_TIME
from detdistill.jobs.outcomes import ALONE, DISTILLED, STUDENT, TEACHER, RunOutcome
from detdistill.jobs.page import write_page
from detdistill.jobs.plan import MEASURED, RunPlan, plan_of, require_room, saves_of
from detdistill.jobs.run import distill_job, train_job
from detdistill.jobs.samples import Opened
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.side_by_side import side_by_side
from detdistill.jobs.trial import tried
from detdistill.jobs.verdicts import ProveOutcome, judged, require_measurable
from detdistill.progress import Progress, Silence, counted, duration
from detdistill.proof.verdict import require_worth, rule_of
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import RunFolder, StudyFolder
from detdistill.training.logs import read_rows
from detdistill.training.world import launched_by_torchrun

_SECONDS_BETWEEN_LOOKS = 1.0
Key = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Study:
    """What is trained and asked.

    Attributes:
        seeds: how many pairs of twins.
        worth: the gain in points of AP that makes distillation worth it.
        jobs: trainings at a time, each in a process of its own.
    """

    seeds: int = 3
    worth: float = 0.5
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= 1000:
            raise ConfigError(f"--seeds must be 1 to 1000 pairs of students, got {self.seeds}. Give 3.")
        if not 1 <= self.jobs <= 64:
            raise ConfigError(f"--jobs must be 1 to 64 trainings at a time, got {self.jobs}. Give 1.")
        require_worth(self.worth)


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One training of a study, as a process is told of it; `config` is the run's own."""

    place: StudyFolder
    seed: int
    name: str
    config: RunConfig

    @property
    def students(self) -> tuple[str, ...]:
        """The students that it trains."""
        return (self.name, ALONE_EQUAL_TIME) if self.config.equal_time else (self.name,)

    def folder(self, student: str) -> Path:
        """The run folder of one of them."""
        return self.config.out / ALONE_EQUAL_TIME if student == ALONE_EQUAL_TIME else self.config.out

    def run(self, progress: Progress | None = None) -> None:
        """Trains, from the last checkpoint on, and keeps what every detector finds in the validation images.

        Raises:
            DiskError: the run's folder is not whole; a resumed study makes it so.
        """
        work = train_job if self.name == ALONE else distill_job
        outcome: RunOutcome = work(self.config, resume=True, progress=progress)
        if outcome.undrawn is not None:
            raise outcome.undrawn
        if self.name == ALONE:
            outcome.found[STUDENT].write(self.place.found(self.seed, ALONE))
            return
        for name in (TEACHER, *self.students):
            if name in outcome.found:
                outcome.found[name].write(self.place.found(self.seed, name))

    @property
    def steps(self) -> int:
        """Of all its trainings, where one for equal time counts as one of as many steps as the others."""
        return len(self.students) * self.config.train.steps

    def steps_done(self) -> int:
        """How many of them are done, as far as they are logged."""
        done = 0.0
        for student in self.students:
            run = RunFolder(self.folder(student))
            if rows := read_rows(run.metrics):
                planned = load_yaml(run.config)["train"]["steps"] if student == ALONE_EQUAL_TIME else 0
                share = self.config.train.steps / planned if planned else 1.0
                done += share * (rows[-1]["step"] or 0)
        return round(done)

    def is_finished(self, annotations: Annotations) -> bool:
        """Whether its trainings are over, and what their students find in these images is kept."""
        for student in self.students:
            if not RunFolder(self.folder(student)).steps():
                return False
            try:
                record = read_record(self.folder(student))
                if record is None or record.step != record.finished:
                    return False
                self.found(student, annotations)
            except DistillError:  # what cannot be read is made anew
                return False
        return True

    def found(self, student: str, annotations: Annotations) -> Any:
        """What a student found in the validation images."""
        agnostic = self.config.evaluate.agnostic
        return read_found(self.place.found(self.seed, student), annotations, agnostic=agnostic)


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study before its first step.

    Attributes:
        alone: the first student alone.
        distilled: the first distilled student.
        seeds: of the pairs.
        steps: still to do, of students alone and of distilled ones.
        jobs: trainings at a time.
        equal_time: whether students alone are trained for as long as distilled ones too.
    """

    alone: RunPlan
    distilled: RunPlan
    seeds: tuple[int, ...]
    steps: tuple[int, int]
    jobs: int
    equal_time: bool
    rule: str

    @property
    def seconds(self) -> float | None:
        """About how long the steps take one after the other; None where none was measured."""
        if self.alone.step_seconds is None or self.distilled.step_seconds is None:
            return None
        distilled = self.steps[1] * self.distilled.step_seconds
        return self.steps[0] * self.alone.step_seconds + distilled * (2 if self.equal_time else 1)

    def table(self) -> list[str]:
        """Both kinds of runs, and all of them together."""
        seeds = ", ".join(map(str, self.seeds))
        kinds = "alone, distilled and alone for equal time" if self.equal_time else "alone and distilled"
        lines = [*self.alone.table(), *self.distilled.table()]
        lines.append(f"study: the student {kinds} for {counted(len(self.seeds), 'seed')}: {seeds}")
        lines.append(f"  steps to do: {self.steps[0]:,} alone, {self.steps[1]:,} distilled")
        if self.seconds is not None:
            lines.append(f"  time: about {duration(self.seconds)} of training, {counted(self.jobs, 'run')} at a time")
        return [*lines, f"  {self.rule}"]

    def as_dict(self) -> Mapping[str, Any]:
        """Every figure by its name."""
        return {
            "alone": self.alone.as_dict(),
            "distilled": self.distilled.as_dict(),
            "seeds": list(self.seeds),
            "steps": list(self.steps),
            "jobs": self.jobs,
            "seconds": self.seconds,
            "rule": self.rule,
        }


@dataclass(frozen=True, slots=True)
class _Opened:
    """A study whose first pair was opened, built and proved; what is trained, and what of it is there already."""

    runs: Mapping[Key, StudyRun]
    finished: tuple[Key, ...]
    annotations: Annotations
    proved: tuple[stages.Proved, stages.Proved]
    plan: StudyPlan


def prove_job(
    config: RunConfig, study: Study, *, resume: bool = False, progress: Progress | None = None
) -> ProveOutcome:
    """Trains the pairs of twins below the folder, takes those that are there, and leaves the verdict beside them.

    Args:
        config: of a distillation, the first seed's; its folder becomes the study's.
        resume: go on with a study, with more seeds too.

    Raises:
        ConfigError: the study cannot be made so, or the folder holds something else or other runs.
        Interrupted: stopped by a signal; every run has its checkpoint.
    """
    watcher, place = progress or Silence(), StudyFolder(config.out)
    opened = _open(config, study, resume=resume, progress=watcher)
    watcher.say("\n".join(opened.plan.table()))
    runs, annotations = opened.runs, opened.annotations
    waiting = {key: run for key, run in runs.items() if key not in opened.finished}
    if opened.finished:
        watcher.say(f"{len(opened.finished)} of {counted(len(runs), 'run')} are there, and taken")
    del opened
    with stages.held(place.path):
        _train(waiting, [runs[key] for key in runs if key not in waiting], study.jobs, watcher)
        outcome = _judged(place, runs, annotations, study.worth, watcher)
        outcome.write()
        if config.report:
            write_page(place.path, truth=annotations, progress=watcher)
        return outcome


def prove_plan(config: RunConfig, study: Study, *, resume: bool = False, progress: Progress | None = None) -> StudyPlan:
    """What `prove_job` would do: everything is opened and checked, a few steps of copies are measured."""
    watcher = progress or Silence()
    opened = _open(config, study, resume=resume, progress=watcher)
    watcher.say(f"measuring {counted(MEASURED, 'step')} of both kinds")
    alone, distilled = (tried(one, MEASURED).step_seconds for one in opened.proved)
    plan = opened.plan
    return replace(
        plan,
        alone=replace(plan.alone, step_seconds=alone),
        distilled=replace(plan.distilled, step_seconds=distilled),
    )


def _open(config: RunConfig, study: Study, *, resume: bool, progress: Progress) -> _Opened:
    """Opens, builds and proves the first pair, and finds out which runs are there."""
    place = StudyFolder(config.out)
    _require_own(config)
    require_free(place.path, resume=resume, owns=place.owns)
    config = replace(config, out=place.run(config.seed, DISTILLED))
    opened = stages.open_inputs(config, resume=True, progress=progress)
    # Both twins see images of the size that the teacher has told.
    config = replace(config, data=replace(config.data, image=opened.data.image))
    opened = replace(opened, config=config)
    require_measurable(opened.data.val, study.worth)
    distilled = stages.prove(stages.build(opened, progress=progress), progress=progress)
    if config.twins.folder is None and plan_of(distilled).twins is not None:
        config = replace(config, twins=replace(config.twins, folder=place.twins))
    looks = distilled.built.changes.found is not None or opened.unlabelled is not None
    if config.teacher is not None and config.teacher.cache_folder is None and (looks or config.teacher.cache == "maps"):
        config = replace(config, teacher=replace(config.teacher, cache_folder=place.finds))
    distilled = replace(distilled, built=replace(distilled.built, opened=replace(opened, config=config)))
    seeds = tuple(range(config.seed, config.seed + study.seeds))
    runs = {(seed, name): _run(place, config, seed, name) for seed in seeds for name in (ALONE, DISTILLED)}
    alone = stages.prove(stages.build(replace(opened, config=runs[seeds[0], ALONE].config).untaught()))
    finished = tuple(key for key, run in runs.items() if run.is_finished(opened.data.val))
    for key in finished:
        _require_same(runs[key], opened)
    plan = _planned(runs, finished, (plan_of(alone), plan_of(distilled)), study)
    return _Opened(runs, finished, opened.data.val, (alone, distilled), plan)


def _require_own(config: RunConfig) -> None:
    if launched_by_torchrun():
        raise ConfigError(
            "prove must be started by itself, got torchrun, which starts it several times. Train the runs with "
            "torchrun, and compare them by --runs and --against."
        )
    if given := [name for name in ("alone", "longer") if getattr(config, name) is not None]:
        raise ConfigError(
            f"{' and '.join(given)} must be left out of a study, which trains its students alone itself, got "
            f"{getattr(config, given[0])}. Take it out of the settings."
        )


def _run(place: StudyFolder, config: RunConfig, seed: int, name: str) -> StudyRun:
    # The study has one page of its own.
    config = replace(config, out=place.run(seed, name), train=replace(config.train, seed=seed), report=False)
    if name == ALONE:
        return StudyRun(place, seed, name, config.untaught())
    # Weights that are inherited are the teaching's: the student alone has none of them.
    return StudyRun(place, seed, name, replace(config, alone=place.run(seed, ALONE), alone_differs=config.inherit))


def _require_same(run: StudyRun, opened: Opened) -> None:
    """Refuses a run that is there and was trained otherwise than asked for (ConfigError)."""
    config = replace(run.config, alone=None, alone_differs=False)
    one = replace(opened, config=config)
    stages.require_same_run(stages.Proved(stages.build(one.untaught() if run.name == ALONE else one), ()))


def _planned(
    runs: Mapping[Key, StudyRun], finished: tuple[Key, ...], plans: tuple[RunPlan, RunPlan], study: Study
) -> StudyPlan:
    """The plan of all runs; refused where the disk has no room for them."""
    left, to_write = {ALONE: 0, DISTILLED: 0}, []
    alone, distilled = plans
    for key, run in runs.items():
        if key in finished:
            continue
        kinds = {run.name: alone if run.name == ALONE else distilled}
        kinds |= {name: alone for name in run.students if name != run.name}
        for name, plan in kinds.items():
            done = RunFolder(run.folder(name)).latest() or 0
            to_write.append(replace(plan, out=run.folder(name), saves=saves_of(run.config, plan.steps - done)))
            if name == run.name:
                left[name] += plan.steps - done
    require_room(to_write)
    return StudyPlan(
        alone,
        distilled,
        tuple(dict.fromkeys(seed for seed, _ in runs)),
        (left[ALONE], left[DISTILLED]),
        study.jobs,
        equal_time=any(run.config.equal_time for run in runs.values()),
        rule=rule_of(study.worth),
    )


@final
class _Steps:
    """Watches a run's steps for the whole study's progress; its lines are dropped, as the first pair's were told."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look, self._seen = look, time.monotonic()

    def say(self, line: str) -> None:
        """Drops the line."""

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        """A stage begins."""

    def advance(self, done: int, note: str = "") -> None:
        """Looks at what is logged, now and then."""
        if time.monotonic() - self._seen >= _SECONDS_BETWEEN_LOOKS:
            self._look()
            self._seen = time.monotonic()

    def finish(self) -> None:
        """The stage is over."""


def _train(waiting: Mapping[Key, StudyRun], taken: list[StudyRun], jobs: int, watcher: Progress) -> None:
    """Trains the runs, the student alone of a seed before the distilled one."""
    before, over = sum(run.steps for run in taken), list[Key]()
    jobs = min(jobs, max(len(waiting), 1))

    def look() -> None:
        done = (run.steps if key in over else run.steps_done() for key, run in waiting.items())
        watcher.advance(before + sum(done), f"{len(over)} of {counted(len(waiting), 'run')}")

    def here(run: StudyRun) -> None:
        look()
        run.run(_Steps(look))

    work: dict[Key, Callable[[], None]] = {
        key: partial(here, run) if jobs == 1 else run.run for key, run in waiting.items()
    }
    after = {key: (key[0], ALONE) for key in waiting if key[1] == DISTILLED}

    total = before + sum(run.steps for run in waiting.values())
    watcher.start("prove", total, done=before + sum(run.steps_done() for run in waiting.values()))
    for key, _ in side_by_side(work, jobs, after=after, look=look):
        over.append(key)
        look()
    watcher.finish()


def _judged(
    place: StudyFolder, runs: Mapping[Key, StudyRun], annotations: Annotations, worth: float, watcher: Progress
) -> ProveOutcome:
    found: dict[int, dict[str, Callable[[], Any]]] = {}
    training: dict[int, dict[str, tuple[int, float]]] = {}
    for (seed, _), run in runs.items():
        for student in run.students:
            record = read_record(run.folder(student))
            found.setdefault(seed, {})[student] = partial(run.found, student, annotations)
            if record is not None:
                training.setdefault(seed, {})[student] = record.step, record.seconds
        if place.found(seed, TEACHER).is_file():
            found[seed][TEACHER] = partial(run.found, TEACHER, annotations)
    places = {seed: (place.run(seed, ALONE), place.run(seed, DISTILLED)) for seed in found}
    twins = {seed: compare_records(*pair) for seed, pair in places.items()}
    pairs = [*places.values()]
    return judged(
        place.path, annotations, found, worth=worth, twins=twins, training=training, places=pairs, progress=watcher
    )
