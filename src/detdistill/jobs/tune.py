"""Which method at which strength helps this student on this data: short trainings judged on images held out.

The validation images are never looked at. Every trial starts from the same weights and sees the same images in the same
order as the student alone, which is the first of them and may win.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from detdistill.data.held_out import held_images
from detdistill.errors import ConfigError
from detdistill.files import write_json, write_text
from detdistill.jobs import stages
from detdistill.jobs.halving import Rung, Study, rungs_of
from detdistill.jobs.paths import written_from
from detdistill.jobs.samples import held_out
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.side_by_side import side_by_side
from detdistill.methods.catalogue import MethodSettings, method_text
from detdistill.methods.composition import structure
from detdistill.progress import Progress, Silence, counted
from detdistill.report.tables import Table
from detdistill.report.trials import draw_trials
from detdistill.settings.strict_yaml import dump_yaml
from detdistill.store.checkpoints import read_record
from detdistill.store.searches import SearchFolder

ALONE = "alone"
BUDGET = 4.0
"""What a search costs unless told, in trainings of all steps, with two more for every fold beyond the first."""
JUDGED = 30
"""Held-out images that the last comparison is made on, in as many folds as that takes."""
_METHOD, _STRENGTH = "method", "strength"


@dataclass(frozen=True, slots=True)
class Search:
    """What `tune` tries.

    Attributes:
        methods: each at every strength.
        strengths: above 0; the student alone is strength 0 of them all.
        budget: what the search may cost, in trainings of all steps; None for `BUDGET`.
        held_out: share of the training images that trials are judged on.
        jobs: trials at a time, each in a process of its own.
        folds: how many times images are held out, others each time, for the student alone and the best trial; None for
            as many as make `JUDGED` images, as far as the budget goes.
    """

    methods: tuple[MethodSettings, ...]
    strengths: tuple[float, ...]
    budget: float | None
    held_out: float
    jobs: int
    folds: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ConfigError(f"--held-out must be a share above 0 and below 1, got {self.held_out:g}. Give 0.25.")
        if not 1 <= self.jobs <= 64:
            raise ConfigError(f"--jobs must be 1 to 64 trials at a time, got {self.jobs}. Give 1.")
        if not self.methods or not self.strengths or any(not 0 < one <= 1000 for one in self.strengths):
            raise ConfigError(
                f"--strengths must be numbers above 0 and at most 1000, got {list(self.strengths)}. Leave it "
                "out, or write for example --strengths 1 --strengths 3; the student alone is tried in any case."
            )
        if self.folds is not None and not 1 <= self.folds <= int(1 / self.held_out):
            raise ConfigError(
                f"--folds must be 1 to {int(1 / self.held_out)}, since each holds out {self.held_out:g} of the images, "
                f"got {self.folds}. Leave it out."
            )
        least = 2 * (self.folds or 1)
        if self.budget is not None and not least < self.budget <= 1000:
            raise ConfigError(
                f"--budget must be above {least} and at most 1000 trainings, one for the student alone and one for the "
                f"best trial in every fold, got {self.budget:g}. Give {least + 2}."
            )

    def as_dict(self) -> dict[str, Any]:
        """What must be the same when a search goes on."""
        methods = [method_text(one) for one in self.methods]
        asked = {"methods": methods, "strengths": list(self.strengths), "held_out": self.held_out}
        return asked | {"budget": self.budget or BUDGET} | ({"folds": self.folds} if self.folds else {})

    def folds_of(self, images: int) -> int:
        """In how many folds the last comparison is made, where there are so many training images."""
        if self.folds is not None:
            return self.folds
        held = held_images(images, self.held_out)
        wanted = min(math.ceil(JUDGED / held), images // held, int(1 / self.held_out))
        return wanted if self.budget is None else min(wanted, max(math.ceil(self.budget / 2) - 1, 1))

    def trials(self) -> list[MethodSettings]:
        """Every method at every strength, the strength that is tried first changing last."""
        texts = [method_text(replace(one, strength=self.strengths[0])) for one in self.methods]
        if len(set(texts)) < len(texts) or len(set(self.strengths)) < len(self.strengths):
            raise ConfigError(
                f"--methods and --strengths must each be named once, got {', '.join(texts)}. Leave one out."
            )
        whole = [int(one) if float(one).is_integer() else one for one in self.strengths]  # shown as people write them
        return [replace(one, strength=strength) for strength in whole for one in self.methods]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a search, as a process is told of it.

    Attributes:
        config: as the final training's, but for method and folder.
        name: its method with its strength.
        held_out: share of the training images that it is judged on.
        fold: which of them.
    """

    config: RunConfig
    name: str
    held_out: float
    fold: int = 0

    def run(self, steps: int) -> float:
        """AP in percent on the held-out images after so many steps, on from the trial's last checkpoint."""
        opened = held_out(stages.open_inputs(self.config, resume=True), self.held_out, fold=self.fold)
        fitted = stages.fit(stages.prove(stages.build(opened)), until=steps)
        return stages.measure(opened, {ALONE: fitted.student})[ALONE].metrics.ap or 0.0


@dataclass(frozen=True, slots=True)
class TuneOutcome:
    """What a search found.

    Attributes:
        out: its folder.
        tuned: the settings that `distill` takes.
        winner: the method's text with its strength; None where the student alone is as good as the best trial.
        ap: on the held-out images after all steps, of the student alone and of every trial that got there, by name; of
            the student alone and the best of them the mean over all folds.
        trials: AP of every trial by steps, by name, in the first fold.
        folds: AP of the student alone and of the best trial in each fold, by name.
        images: learned from, and held out, in one fold.
        trainings: what the search cost in steps, as a multiple of one training.
        seconds: that its trainings took.
    """

    out: Path
    tuned: Path
    winner: str | None
    ap: Mapping[str, float]
    trials: Mapping[str, Mapping[int, float]]
    folds: Mapping[str, tuple[float, ...]]
    images: tuple[int, int]
    trainings: float
    seconds: float

    def sentence(self) -> str:
        """What was found, in one sentence."""
        best = next(name for name in self.folds if name != ALONE)
        against = f"{self.ap[best]:.1f} AP against {self.ap[ALONE]:.1f} alone"
        count = len(self.folds[ALONE])
        where = f"on {counted(self.images[1] * count, 'image')} held out of training, "
        where += "one run each" if count == 1 else f"{self.images[1]} of them in each of {count} runs"
        if self.winner is None:
            return f"nothing helped: the best trial, {best}, has {against} {where}; train the student alone"
        return f"{best} helps most: {against} {where}"

    def table(self) -> list[str]:
        """AP of every trial at every rung, the best first; the sentence; how to go on."""
        steps = sorted({step for curve in self.trials.values() for step in curve})
        order = sorted(self.trials, key=lambda name: [-(self.trials[name].get(step) or -1.0) for step in steps[::-1]])
        rows = tuple((name, *(self.trials[name].get(step) for step in steps)) for name in order)
        picture = SearchFolder(self.out).picture
        go_on = f"detdistill distill {self.tuned}" if self.winner else f"detdistill train {self.tuned}"
        return [
            *Table(("trial", *(f"AP at {step}" for step in steps)), rows).text().splitlines(),
            "",
            self.sentence(),
            f"cost: {self.trainings:.1f} times one training, {self.seconds:.0f} s; drawn in {picture}",
            f"the final training, judged on validation once: {go_on}",
        ]

    def as_dict(self) -> Mapping[str, Any]:
        """What ``results.json`` holds."""
        return {
            "winner": self.winner,
            "sentence": self.sentence(),
            "ap": dict(self.ap),
            "trials": {name: {str(step): ap for step, ap in curve.items()} for name, curve in self.trials.items()},
            "folds": {name: list(values) for name, values in self.folds.items()},
            "images": {"learned": self.images[0], "held_out": self.images[1]},
            "trainings": round(self.trainings, 3),
            "seconds": round(self.seconds, 2),
        }


def tune_job(
    config: RunConfig, search: Search, *, resume: bool = False, progress: Progress | None = None
) -> TuneOutcome:
    """Searches, and leaves ``tuned.yaml``, ``trials.png``, ``results.json`` and Optuna's ``study.db`` in the folder.

    Args:
        config: of the final training; its folder becomes the search's.
        search: what is tried.
        resume: go on with a search that was interrupted.

    Raises:
        ConfigError: the search cannot be made so, or the folder holds something else.
        DataError: there are too few labelled images to hold some out.
        Interrupted: stopped by a signal; every trial has its checkpoint.
    """
    watcher, methods, place = progress or Silence(), search.trials(), SearchFolder(config.out)
    asked = json.loads(json.dumps({**search.as_dict(), "run": written_from(config.as_dict(), place.path)}, default=str))
    place.require(asked, resume=resume)
    inputs = stages.open_inputs(replace(config, out=place.trial(0)), resume=True, progress=watcher)
    opened = held_out(inputs, search.held_out)
    # So that no trial chooses a size of its own by the images that it is left with.
    config = replace(config, data=replace(config.data, image=opened.data.image))
    images = len(opened.data.train), len(opened.data.val)
    folds = search.folds_of(sum(images))
    budget, reserved = (BUDGET, 0) if search.budget is None else (search.budget, 2 * (folds - 1))
    rungs = rungs_of(len(methods), steps=config.train.steps, budget=budget, reserved=reserved)
    watcher.say(f"{counted(images[0], 'training image')} to learn from, {images[1]} held out to judge by")
    if folds > 1:
        watcher.say(
            f"the best trial and the student alone are trained {folds} times, each time with other {images[1]} images "
            f"held out; the search costs {search.budget or budget + 2 * (folds - 1):g} trainings"
        )
    names = [ALONE, *map(method_text, methods)]
    configs = [config.untaught(), *(replace(config, method=one) for one in methods)]
    trials = [
        Trial(replace(one, out=place.trial(number)), name, search.held_out)
        for number, (name, one) in enumerate(zip(names, configs, strict=True))
    ]
    choices: list[dict[str, str | float]] = [{_METHOD: ALONE, _STRENGTH: 0.0}]
    choices += [{_METHOD: structure(one), _STRENGTH: float(one.strength)} for one in methods]
    with stages.held(place.path):
        place.begin(asked)
        study = Study(place.study, choices, rungs)
        _climb(study, trials, rungs, search.jobs, watcher)
        compared = (0, _best(study.curves(), config.train.steps))
        again = {
            (number, fold): replace(
                trials[number], fold=fold, config=replace(trials[number].config, out=place.trial(number, fold))
            )
            for fold in range(1, folds)
            for number in compared
        }
        if again:
            _again(study, again, config.train.steps, search.jobs, watcher)
        return _report(study, methods, replace(config, out=place.final), images, place, folds=folds)


def _climb(study: Study, trials: Sequence[Trial], rungs: Sequence[Rung], jobs: int, watcher: Progress) -> None:
    """Trains the trials from rung to rung, as few of them as go on."""
    befores = (0, *(rung.steps for rung in rungs))
    # At every rung the student alone is trained as well.
    total = sum((one.trials + 1) * (one.steps - before) for one, before in zip(rungs, befores, strict=False))
    done = 0
    watcher.start("tune", total)
    for rung, before in zip(rungs, befores, strict=False):
        running = study.running()
        waiting = {number: trials[number] for number in running if study.value(number, rung.steps) is None}
        done += (len(running) - len(waiting)) * (rung.steps - before)
        work = {number: partial(trial.run, rung.steps) for number, trial in waiting.items()}
        for number, ap in side_by_side(work, jobs):
            study.report(number, rung.steps, ap)
            done += rung.steps - before
            watcher.say(f"{trials[number].name} after {counted(rung.steps, 'step')}: AP {ap:.1f}")
            watcher.advance(done)
        if rung is not rungs[-1] and (ended := study.prune()):
            left = ", ".join(trials[number].name for number in study.running())
            watcher.say(f"after {counted(rung.steps, 'step')} {len(ended)} of {len(running)} end; going on: {left}")
    watcher.finish()


def _best(curves: Sequence[Mapping[int, float]], steps: int) -> int:
    """The trial with the highest AP after all steps, the student alone aside; of equal ones the first."""
    ended = (number for number, curve in enumerate(curves) if number and steps in curve)
    return max(ended, key=lambda number: curves[number][steps])


def _again(study: Study, trials: Mapping[tuple[int, int], Trial], steps: int, jobs: int, watcher: Progress) -> None:
    """Trains trials, by number and fold, with other images held out: one split alone does not say what helps."""
    work = {key: partial(trial.run, steps) for key, trial in trials.items() if study.fold(*key) is None}
    done = (len(trials) - len(work)) * steps
    watcher.start("tune, other images held out", len(trials) * steps)
    for key, ap in side_by_side(work, jobs):
        study.report_fold(*key, ap)
        done += steps
        watcher.say(f"{trials[key].name} with other images held out: AP {ap:.1f}")
        watcher.advance(done)
    watcher.finish()


def _report(
    study: Study,
    methods: Sequence[MethodSettings],
    config: RunConfig,
    images: tuple[int, int],
    place: SearchFolder,
    *,
    folds: int,
) -> TuneOutcome:
    names = [ALONE, *map(method_text, methods)]
    curves, steps = study.curves(), config.train.steps
    ap = {number: curve[steps] for number, curve in enumerate(curves) if steps in curve}
    for number in study.running():
        study.finish(number, ap[number])
    best = _best(curves, steps)
    judged = {
        number: (ap[number], *(study.fold(number, fold) or 0.0 for fold in range(1, folds))) for number in (0, best)
    }
    ap |= {number: mean(values) for number, values in judged.items()}
    winner = best if ap[best] > ap[0] else None
    places = (place.trial(number, fold) for number in range(len(names)) for fold in range(folds))
    found = TuneOutcome(
        place.path,
        place.tuned,
        None if winner is None else names[winner],
        {names[number]: value for number, value in ap.items()},
        dict(zip(names, curves, strict=True)),
        {names[number]: values for number, values in judged.items()},
        images,
        sum(max(curve, default=0) for curve in curves) / steps + 2 * (folds - 1),
        sum(map(_seconds, filter(Path.is_dir, places))),
    )
    chosen = methods[best - 1] if winner is not None else replace(methods[best - 1], strength=0.0)
    tree = written_from(replace(config, method=chosen).as_dict(), place.path)
    write_text(place.tuned, f"# {found.sentence()}\n{dump_yaml(tree)}")
    draw_trials(found.trials, place.picture, winner=found.winner or ALONE)
    write_json(place.results, found.as_dict())
    return found


def _seconds(trial: Path) -> float:
    """That a trial's training took so far."""
    record = read_record(trial)
    return 0.0 if record is None else record.seconds
