"""What `evidence.py` trains: sets, and rows in the order of their importance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SEEDS = (0, 1, 2)
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


BCCD = ("train.lr=4e-3",)
DRAWN = ("train.lr=8e-3", "train.schedule=step")
FIRST_40, FIRST_ALL = "bccd, 40 labels", "bccd"
SECOND, ERRING, SHORT = (
    f"{FIRST_40}, {note}" for note in ("second teacher", "teacher of wrong labels", "teacher of few steps")
)
SECOND_ALL, SECOND_80 = "bccd, second teacher", "bccd, 80 labels, second teacher"
SECOND_DRAWN, DEMO = "drawn, second teachers", "drawn, 400 steps"
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


def planned(sets: Sequence[str], seeds: Sequence[int], rows: Sequence[str] | None = None) -> list[Run]:
    """All runs of these sets and rows, the most important first; None is all rows."""

    def taught(name: str, methods: Sequence[str], *, note: str = "", **changes: Any) -> Iterator[Run]:
        for seed in seeds:
            for method in methods:
                yield Run(name, f"{method}{note}", seed, method, **changes)

    def alone(name: str, row: str = ALONE, **changes: Any) -> Iterator[Run]:
        return (Run(name, row, seed, **changes) for seed in seeds)

    def rescaled(name: str) -> Iterator[Run]:
        """The methods whose features are on one scale at a strength, with features as they are."""
        for method in ("frs", "ssim", "fgd", "mgd", "attention"):
            for seed in seeds:
                yield Run(name, f"{method}, raw", seed, f"{method}(features=raw)")

    runs: list[Run] = [*alone("drawn"), *alone("bccd, 40 labels")]
    runs += [*taught("drawn", FEATURES), *rescaled("drawn")]
    runs += taught("bccd, 40 labels", FEW)
    runs += taught("bccd, 40 labels", ("hint", "frs", "pkd"), note=" + unlabelled", unlabelled=True)
    runs += [*alone("bccd"), *taught("bccd", FEW)]
    runs += [*alone("microcontrollers"), *taught("microcontrollers", FEW)]
    runs += taught("bccd, 40 labels", ("fgd", "attention", "cwd"))
    runs += alone("drawn, long")
    for name in ("bccd, 40 labels", "bccd", "microcontrollers"):
        runs += alone(name, DOUBLED, times=2.0)
    runs += alone("bccd, 40 labels", EQUAL_TIME)
    runs += [*alone("carla_sim"), *alone("bccd, 80 labels")]
    runs += taught("drawn", ("hint", "frs", "pkd"), note=", strength 1", strength="1")
    # With other teachers, since those of the rows above were not kept.
    weighed = ("aid(frs)", "aid(frs, control=true)", "frs + ssim", "ikd(frs)")
    running, fading = ("method.calibration=running",), ("method.decay=last_third",)
    runs += taught(SECOND, ("frs", "fgd", "hint"))
    runs += taught(SECOND, ("frs", "fgd"), note=" + unlabelled", unlabelled=True)
    runs += [*taught(SECOND_DRAWN, ("hint", "frs")), *alone(DEMO)]
    for name in (SECOND, SECOND_DRAWN):
        runs += taught(name, ("hint", "frs"), note=", calibration running", settings=running)
        runs += taught(name, ("hint", "frs"), note=", decay last_third", settings=fading)
        for strength in ("10", "0.3"):
            methods = ("frs",) if name == SECOND else ("hint", "frs")
            runs += taught(name, methods, note=f", strength {strength}", strength=strength)
    runs += taught(DEMO, ("frs",))
    runs += [Run(DEMO, "frs, the demo's searched gains", seed, SEARCHED, "published") for seed in seeds]
    runs += taught("drawn, long", ("hint", "frs"))
    for name in (ERRING, SHORT):
        runs += taught(name, ("frs", "aid(frs, alpha=auto)", "aid(frs, alpha=auto, control=true)"))
    runs += taught(SECOND, weighed)
    runs += taught("carla_sim", ("hint", "frs"))
    runs += taught(SECOND_ALL, FEW)
    for alpha in ("1", "5"):
        for name in (ERRING, SHORT):
            runs += taught(name, (f"aid(frs, alpha={alpha})", f"aid(frs, alpha={alpha}, control=true)"))
    runs += taught(DEMO, ("frs",), note=" + unlabelled, equal time", unlabelled=True, times=UNLABELLED_STEPS)
    runs += taught(SECOND_80, FEW)
    runs += taught(SECOND, ("pkd", "ssim"))
    runs += taught("carla_sim", ("ssim", "pkd"))
    runs += alone("carla_sim", DOUBLED, times=2.0)
    for alpha in ("0.5", "0.1"):
        for name in (ERRING, SHORT):
            runs += taught(name, (f"aid(frs, alpha={alpha})", f"aid(frs, alpha={alpha}, control=true)"))
    runs += taught("drawn, long", ("pkd",))
    for strength in ("1", "10", "0.3", "published"):
        for name in (SECOND, SECOND_DRAWN):
            runs += taught(name, FEW, note=f", strength {strength}", strength=strength)
    runs += alone("drawn, long", DOUBLED, times=2.0)
    for name in (SECOND_ALL, "carla_sim"):
        runs += taught(name, ("fgd", "attention", "cwd", *weighed))
    runs += rescaled(SECOND)
    runs = list(dict.fromkeys(runs))
    runs = [run for run in runs if run.set in sets and (not rows or run.row in rows)]
    teachers = dict.fromkeys(teacher_of(run) for run in runs if run.method is not None)
    return [*teachers, *runs]
