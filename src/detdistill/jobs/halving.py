"""Successive halving: how many trials go on at which steps for a budget, and a study on disk that remembers them."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from detdistill.errors import ConfigError
from detdistill.files import refused

KEPT = 4
"""Of so many trials one goes on at every rung."""
_LONGER = 3
_NAME = "tune"


@dataclass(frozen=True, slots=True)
class Rung:
    """Where trials are compared: after `steps` steps, which `trials` of them reach."""

    steps: int
    trials: int


def rungs_of(trials: int, *, steps: int, budget: float, reserved: float = 0.0) -> tuple[Rung, ...]:
    """The rungs of a search that trains its last trial, and the student alone beside it, for all steps.

    One in four goes on at each rung, and every rung but the last is three times as long as the one before. Lengths are
    what the budget leaves: Σ trials · steps of the rungs, and once all steps for the student alone.

    Args:
        trials: without the student alone.
        steps: of the training that is searched for.
        budget: what the search may cost, in trainings of that many steps.
        reserved: how much of it other trainings than these cost.

    Raises:
        ConfigError: the budget has no room for the student alone, a winner, and a step of everything else.
    """
    counts = [trials]
    while counts[-1] > 1:
        counts.append(math.ceil(counts[-1] / KEPT))
    early = range(len(counts) - 1)
    if not early:
        return (Rung(steps, 1),)
    # In units of the first rung: all early rungs, less what the winner has then done of its last.
    units = sum(counts[k] * (_LONGER**k - (_LONGER ** (k - 1) if k else 0)) for k in early) - _LONGER ** early[-1]
    first = (budget - reserved - 2) * steps / units
    if first < 1:
        least = math.ceil(10 * (reserved + 2 + units / steps)) / 10
        raise ConfigError(
            f"--budget must be at least {least:g} trainings for {trials} trials of {steps} steps, got {budget:g}. Give "
            "that, or search among fewer methods and strengths."
        )
    lengths = [min(steps, round(first * _LONGER**k)) for k in early] + [steps]
    last = lengths.index(steps)  # a large budget trains several to the end
    return tuple(Rung(length, count) for length, count in zip(lengths[: last + 1], counts, strict=False))


@final
class Halving(optuna.pruners.BasePruner):
    """Prunes a trial at a rung that it is not among the best of, once all that reach the rung have been measured there.

    The first trial, which the others are compared with, is never pruned and takes no place.

    Args:
        going_on: how many trials go on from a rung, by its steps.
    """

    def __init__(self, going_on: Mapping[int, int]) -> None:
        self._going_on = going_on

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial ends here."""
        step = trial.last_step
        if trial.number == 0 or step is None or step not in self._going_on:
            return False
        others = study.get_trials(deepcopy=False)[1:]
        found = {one.number: one.intermediate_values.get(step, -math.inf) for one in others}
        # Of equal ones the earlier goes on.
        order = sorted(found, key=lambda number: (-found[number], number))
        return trial.number not in order[: self._going_on[step]]


@final
class Study:
    """The trials of a search in an SQLite file, which Optuna's own tools read: each kill loses the trial in hand alone.

    Args:
        file: made where it is not there yet.
        choices: of every trial, in the order in which they run; the first is what all others are compared with.
        rungs: of the search.
    """

    def __init__(self, file: Path, choices: Sequence[Mapping[str, Any]], rungs: Sequence[Rung]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._file = file
        going_on = {one.steps: after.trials for one, after in pairwise(rungs)}
        values = {key: list(dict.fromkeys(choice[key] for choice in choices)) for key in choices[0]}
        kinds: dict[str, BaseDistribution] = {key: CategoricalDistribution(of_key) for key, of_key in values.items()}
        with self._told():
            # A path may hold what means something in a URL.
            options = {"creator": lambda: sqlite3.connect(file), "poolclass": NullPool}
            self._study = optuna.create_study(
                study_name=_NAME,
                storage=optuna.storages.RDBStorage("sqlite://", engine_kwargs=options),
                direction="maximize",
                pruner=Halving(going_on),
                load_if_exists=True,
            )
            for choice in choices[len(self._trials()) :]:
                self._study.enqueue_trial(dict(choice))
                self._study.ask(kinds)

    def running(self) -> list[int]:
        """The trials that no rung has ended."""
        return [one.number for one in self._trials() if one.state == TrialState.RUNNING]

    def value(self, number: int, steps: int) -> float | None:
        """What a trial measured at a rung; None where it did not yet."""
        return self._trials()[number].intermediate_values.get(steps)

    def report(self, number: int, steps: int, value: float) -> None:
        """Takes in what a trial measured at a rung."""
        with self._told():
            self._trial(number).report(value, steps)

    def fold(self, number: int, fold: int) -> float | None:
        """What a trial measured in a fold beyond the first; None where it did not yet."""
        return self._trials()[number].user_attrs.get(f"fold_{fold}")

    def report_fold(self, number: int, fold: int, value: float) -> None:
        """Takes in what a trial measured in a fold beyond the first."""
        with self._told():
            self._trial(number).set_user_attr(f"fold_{fold}", value)

    def prune(self) -> list[int]:
        """Ends the trials that do not go on from the rung that all running ones have reached; returns which."""
        ended = [number for number in self.running() if self._trial(number).should_prune()]
        for number in ended:
            with self._told():
                self._study.tell(number, state=TrialState.PRUNED)
        return ended

    def finish(self, number: int, value: float) -> None:
        """Ends a trial that was trained for all steps."""
        with self._told():
            self._study.tell(number, value)

    def curves(self) -> list[dict[int, float]]:
        """What every trial measured, by steps."""
        return [dict(one.intermediate_values) for one in self._trials()]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says what the file refuses as of any other file."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
            raise refused(self._file, OSError(str(error.__cause__ or error).partition("\n")[0])) from error

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._trials()[number]._trial_id)
