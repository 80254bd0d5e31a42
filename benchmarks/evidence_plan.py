"""What `evidence.py` trains: sets, and rows in the order of their importance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4, 5, 6, 7, 8, *SEEDS)
TEACHER, ALONE, DOUBLED, EQUAL_TIME = "teacher", "alone", "alone, twice the steps", "alone, equal time"
FEATURES = ("hint", "frs", "ssim", "pkd", "fgd", "attention", "mgd")
FEW = ("hint", "frs", "ssim", "pkd")
SEARCHED = "frs(feature_gain=0.02, class_gain=1.5, standardize=true, aligner=conv1x1)"
"""The demo's method with the gains that were searched for it."""
UNLABELLED_STEPS = 0.6
"""Of a distillation's steps, so many fit into its time where each sees as many unlabelled images beside."""
COMMON = ("train.batch_size=16", "train.warmup_steps=50", "train.ema_decay=0.98", "train.threads=1", "train.workers=1")
COMMON += ("data.augment.flip=0.5", "train.checkpoint_every=0", "train.log_every=50")


@dataclass(frozen=True)
class Set:
    """Images to learn from.

    Attributes:
        source: folder of the data; "drawn" is made from a seed.
        image: short and long side in pixels.
        steps: of the students, the teacher's aside.
        labels: how many training images have labels for the student; None for all.
        each: whether every seed has images and a teacher of its own.
        taught_by: the set whose teacher teaches; None for the first with the same source.
        alone: the set with the same students without a teacher; None for this one.
        wrong: share of the labels that were swapped or moved before the teacher learned from them.
        seeds: that its students are trained with.
    """

    source: str
    image: tuple[int, int]
    steps: int
    teacher_steps: int
    settings: tuple[str, ...]
    labels: int | None = None
    each: bool = False
    taught_by: str | None = None
    alone: str | None = None
    wrong: float = 0.0
    seeds: tuple[int, ...] = SEEDS


FADING = ("method.decay=last_third",)
RUNNING = ("method.calibration=running",)
BCCD = ("train.lr=4e-3",)
DRAWN = ("train.lr=8e-3", "train.schedule=step")
FIRST_40, FIRST_ALL = "bccd, 40 labels", "bccd"
SECOND, ERRING, SHORT = (
    f"{FIRST_40}, {note}" for note in ("second teacher", "teacher of wrong labels", "teacher of few steps")
)
SECOND_ALL, SECOND_80 = "bccd, second teacher", "bccd, 80 labels, second teacher"
THIRD, THIRD_80 = f"{FIRST_40}, third teacher", "bccd, 80 labels, third teacher"
ERRING_AGAIN, SHORTER = (f"{FIRST_40}, {note}" for note in ("second teacher of wrong labels", "teacher of 120 steps"))
SECOND_DRAWN, DEMO, DEMO_AGAIN = "drawn, second teachers", "drawn, 400 steps", "drawn, 400 steps, third teachers"
LONG_AGAIN = "drawn, long, fourth teachers"
SETS = {
    "drawn": Set("drawn", (96, 160), 200, 900, DRAWN, labels=300, each=True),
    "drawn, long": Set("drawn", (96, 160), 1200, 900, DRAWN, labels=300, each=True, taught_by=SECOND_DRAWN),
    "bccd, 40 labels": Set("bccd", (120, 160), 400, 1500, BCCD, labels=40),
    "bccd, 80 labels": Set("bccd", (120, 160), 400, 1500, BCCD, labels=80),
    "bccd": Set("bccd", (120, 160), 800, 1500, BCCD),
    "carla_sim": Set("carla_sim", (120, 208), 400, 1000, BCCD),
    "microcontrollers": Set("microcontrollers", (120, 160), 400, 800, BCCD),
    SECOND_DRAWN: Set(
        "drawn", (96, 160), 200, 900, DRAWN, labels=300, each=True, taught_by=SECOND_DRAWN, alone="drawn"
    ),
    DEMO: Set("drawn", (96, 160), 400, 900, DRAWN, labels=300, each=True, taught_by=SECOND_DRAWN),
    SECOND: Set("bccd", (120, 160), 400, 1500, BCCD, labels=40, taught_by=SECOND, alone=FIRST_40),
    SECOND_80: Set("bccd", (120, 160), 400, 1500, BCCD, labels=80, taught_by=SECOND, alone="bccd, 80 labels"),
    SECOND_ALL: Set("bccd", (120, 160), 800, 1500, BCCD, taught_by=SECOND, alone=FIRST_ALL),
    ERRING: Set("bccd", (120, 160), 400, 1500, BCCD, labels=40, taught_by=ERRING, alone=FIRST_40, wrong=0.1),
    THIRD: Set("bccd", (120, 160), 400, 1500, BCCD, labels=40, taught_by=THIRD, seeds=MORE_SEEDS),
    THIRD_80: Set("bccd", (120, 160), 400, 1500, BCCD, labels=80, taught_by=THIRD, alone="bccd, 80 labels"),
    ERRING_AGAIN: Set(
        "bccd", (120, 160), 400, 1500, BCCD, labels=40, taught_by=ERRING_AGAIN, alone=FIRST_40, wrong=0.1
    ),
    SHORTER: Set("bccd", (120, 160), 400, 120, BCCD, labels=40, taught_by=SHORTER, alone=FIRST_40),
    LONG_AGAIN: Set(
        "drawn", (96, 160), 1200, 900, DRAWN, labels=300, each=True, taught_by=LONG_AGAIN, alone="drawn, long"
    ),
    DEMO_AGAIN: Set("drawn", (96, 160), 400, 900, DRAWN, labels=300, each=True, taught_by=DEMO_AGAIN, alone=DEMO),
    SHORT: Set("bccd", (120, 160), 400, 300, BCCD, labels=40, taught_by=SHORT, alone=FIRST_40),
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        set: of `SETS`.
        row: how the table calls it.
        method: its text; None without a teacher.
        strength: `method.strength`; None for the default of `distill`, as everywhere but in `settings`.
        unlabelled: whether the images without labels are used.
        times: the set's steps times this.
    """

    set: str
    row: str
    seed: int
    method: str | None = None
    strength: str | None = None
    settings: tuple[str, ...] = ()
    unlabelled: bool = False
    times: float = 1.0

    @property
    def name(self) -> str:
        plain = (re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_") for text in (self.set, self.row))
        return f"{'/'.join(plain)}_{self.seed}"


def teacher_of(run: Run) -> Run:
    """The training of the teacher that a run learns from: of its seed's own images, or the one of all."""
    chosen = SETS[run.set]
    first = next(name for name, one in SETS.items() if one.source == chosen.source)
    return Run(chosen.taught_by or first, TEACHER, run.seed if chosen.each else 0)


@dataclass(frozen=True)
class Rows:
    """Makes the runs of a row, one for each seed that its set is trained with.

    Attributes:
        seeds: that are asked for.
    """

    seeds: Sequence[int]

    def of(self, name: str) -> list[int]:
        return [seed for seed in SETS[name].seeds if seed in self.seeds]

    def taught(self, name: str, methods: Sequence[str], *, note: str = "", **changes: Any) -> Iterator[Run]:
        for seed in self.of(name):
            for method in methods:
                yield Run(name, f"{method}{note}", seed, method, **changes)

    def alone(self, name: str, row: str = ALONE, **changes: Any) -> Iterator[Run]:
        return (Run(name, row, seed, **changes) for seed in self.of(name))

    def rescaled(self, name: str) -> Iterator[Run]:
        """The methods whose features are on one scale at a strength, with features as they are."""
        for method in ("frs", "ssim", "fgd", "mgd", "attention"):
            for seed in self.of(name):
                yield Run(name, f"{method}, raw", seed, f"{method}(features=raw)")


def first_rows(rows: Rows) -> list[Run]:
    """What answers most."""
    runs = [*rows.alone("drawn"), *rows.alone("bccd, 40 labels")]
    runs += [*rows.taught("drawn", FEATURES), *rows.rescaled("drawn")]
    runs += rows.taught("bccd, 40 labels", FEW)
    runs += rows.taught("bccd, 40 labels", ("hint", "frs", "pkd"), note=" + unlabelled", unlabelled=True)
    runs += [*rows.alone("bccd"), *rows.taught("bccd", FEW)]
    runs += [*rows.alone("microcontrollers"), *rows.taught("microcontrollers", FEW)]
    runs += rows.taught("bccd, 40 labels", ("fgd", "attention", "cwd"))
    runs += rows.alone("drawn, long")
    for name in ("bccd, 40 labels", "bccd", "microcontrollers"):
        runs += rows.alone(name, DOUBLED, times=2.0)
    runs += rows.alone("bccd, 40 labels", EQUAL_TIME)
    runs += [*rows.alone("carla_sim"), *rows.alone("bccd, 80 labels")]
    runs += rows.taught("drawn", ("hint", "frs", "pkd"), note=", strength 1", strength="1")
    return runs


def second_rows(rows: Rows) -> list[Run]:
    """With other teachers, since those of the rows above were not kept."""
    runs: list[Run] = []
    weighed = ("aid(frs)", "aid(frs, control=true)", "frs + ssim", "ikd(frs)")
    runs += rows.taught(SECOND, ("frs", "fgd", "hint"))
    runs += rows.taught(SECOND, ("frs", "fgd"), note=" + unlabelled", unlabelled=True)
    runs += [*rows.taught(SECOND_DRAWN, ("hint", "frs")), *rows.alone(DEMO)]
    for name in (SECOND, SECOND_DRAWN):
        runs += rows.taught(name, ("hint", "frs"), note=", calibration running", settings=RUNNING)
        runs += rows.taught(name, ("hint", "frs"), note=", decay last_third", settings=FADING)
        for strength in ("10", "0.3"):
            methods = ("frs",) if name == SECOND else ("hint", "frs")
            runs += rows.taught(name, methods, note=f", strength {strength}", strength=strength)
    runs += rows.taught(DEMO, ("frs",))
    for name in (DEMO, DEMO_AGAIN):
        runs += [Run(name, "frs, the demo's searched gains", seed, SEARCHED, "published") for seed in rows.of(name)]
    runs += rows.taught("drawn, long", ("hint", "frs"))
    for name in (ERRING, SHORT):
        runs += rows.taught(name, ("frs", "aid(frs, alpha=auto)", "aid(frs, alpha=auto, control=true)"))
    runs += rows.taught(SECOND, weighed)
    runs += rows.taught("carla_sim", ("hint", "frs"))
    runs += rows.taught(SECOND_ALL, FEW)
    for alpha in ("1", "5"):
        for name in (ERRING, SHORT):
            runs += rows.taught(name, (f"aid(frs, alpha={alpha})", f"aid(frs, alpha={alpha}, control=true)"))
    runs += rows.taught(DEMO, ("frs",), note=" + unlabelled, equal time", unlabelled=True, times=UNLABELLED_STEPS)
    runs += rows.taught(SECOND_80, FEW)
    runs += rows.taught(SECOND, ("pkd", "ssim"))
    runs += rows.taught("carla_sim", ("ssim", "pkd"))
    runs += rows.alone("carla_sim", DOUBLED, times=2.0)
    for alpha in ("0.5", "0.1"):
        for name in (ERRING, SHORT):
            runs += rows.taught(name, (f"aid(frs, alpha={alpha})", f"aid(frs, alpha={alpha}, control=true)"))
    runs += rows.taught("drawn, long", ("pkd",))
    for strength in ("1", "10", "0.3", "published"):
        for name in (SECOND, SECOND_DRAWN):
            runs += rows.taught(name, FEW, note=f", strength {strength}", strength=strength)
    runs += rows.alone("drawn, long", DOUBLED, times=2.0)
    for name in (SECOND_ALL, "carla_sim"):
        runs += rows.taught(name, ("fgd", "attention", "cwd", *weighed))
    runs += rows.rescaled(SECOND)
    return runs


def third_rows(rows: Rows) -> list[Run]:
    """With further teachers, for the same reason, and more seeds where few labels make them differ."""
    runs: list[Run] = []
    runs += [
        *rows.taught(LONG_AGAIN, ("frs", "fgd")),
        *rows.taught(DEMO_AGAIN, ("frs",)),
        *rows.taught(DEMO_AGAIN, ("frs",), note=", strength 10", strength="10"),
    ]
    runs += [
        *rows.alone(THIRD),
        *rows.taught(THIRD, ("fgd",)),
        *rows.taught(THIRD, ("fgd",), note=" + unlabelled", unlabelled=True),
    ]
    runs += rows.taught(THIRD, ("fgd",), note=", calibration running", settings=RUNNING)
    runs += [*rows.taught(THIRD, ("frs", "ssim")), *rows.taught(THIRD_80, ("fgd", "frs", "ssim"))]
    for name in (ERRING_AGAIN, SHORTER):
        runs += rows.taught(name, ("frs", "aid(frs)", "aid(frs, control=true)"))
        for alpha in ("1", "5"):
            runs += rows.taught(name, (f"aid(frs, alpha={alpha})", f"aid(frs, alpha={alpha}, control=true)"))
    runs += rows.taught(THIRD, ("fgd",), note=", strength 10", strength="10")
    runs += rows.taught(THIRD, ("ikd(frs)",))
    return runs


def planned(sets: Sequence[str], seeds: Sequence[int], rows: Sequence[str] | None = None) -> list[Run]:
    """All runs of these sets and rows, the most important first; None is all rows."""
    every = Rows(seeds)
    runs = list(dict.fromkeys([*first_rows(every), *second_rows(every), *third_rows(every)]))
    runs = [run for run in runs if run.set in sets and (not rows or run.row in rows)]
    teachers = dict.fromkeys(teacher_of(run) for run in runs if run.method is not None)
    return [*teachers, *runs]
