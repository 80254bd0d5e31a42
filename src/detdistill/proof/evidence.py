"""What is known of a distillation that is to be explained: figures, and names for what can be typed then."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from detdistill.proof.checks import Check
from detdistill.proof.thresholds import WORTH
from detdistill.store.layout import RunFolder


class Interval(Protocol):
    """A difference of AP with its 95 % interval, in points."""

    @property
    def mean(self) -> float:
        """The difference."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


@dataclass(frozen=True, slots=True)
class Span:
    """A difference with the ends of its interval."""

    mean: float
    low: float
    high: float


def shown(one: Interval) -> str:
    """A difference in words."""
    return f"{one.mean:+.1f} AP [{one.low:+.1f}, {one.high:+.1f}]"


@dataclass(frozen=True, slots=True)
class Part:
    """A class, or one of COCO's ranges of sizes: AP in percent, and the difference by distillation with its interval.

    Attributes:
        name: such as "car", or "small objects".
        teacher: its AP; None where it has none.
        gain: None where nobody measured how far it may be off.
    """

    kind: Literal["class", "size"]
    name: str
    teacher: float | None
    alone: float
    distilled: float
    gain: Interval | None = None

    @property
    def change(self) -> float:
        """By distillation, in points."""
        return self.distilled - self.alone

    @property
    def hurts(self) -> bool:
        """Whether that is a loss, beyond noise where this is known."""
        return self.change < 0 if self.gain is None else self.gain.high < 0


@dataclass(frozen=True, slots=True)
class Pull:
    """How a method's gradient stands to the task's, at the maps that the student's heads read.

    Attributes:
        asked: the strength that was asked for; None where the gains are taken as they are.
        first: how many times as long it is as the method counts, in a run's first steps.
        last: likewise with what a run ended with.
        first_cosine: to the task's, in the first steps.
        last_cosine: with what a run ended with.
    """

    asked: float | None = None
    first: float | None = None
    last: float | None = None
    first_cosine: float | None = None
    last_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Classes:
    """How a teacher's classes fit the data's.

    Attributes:
        missing: the data's classes that it does not know.
        known: its own, in its order.
        boxes: share of the training boxes that are of missing classes.
        ordered: whether what both have stands in the same order.
    """

    missing: tuple[str, ...]
    known: tuple[str, ...]
    boxes: float
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Sizes:
    """At what size a teacher was trained and at what size it sees the images, in words, and its AP at either."""

    own: str
    seen: str
    own_ap: float | None = None
    seen_ap: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a distillation; what nobody knows is None, or empty.

    Attributes:
        gain: AP of the distilled student minus that of the student alone.
        same_time: likewise, over the student alone that trained for as long.
        slower: how many times as long a step took as alone.
        worth: the smallest difference that is worth a distillation.
        settle: how many seeds or images would settle whether it is that much, in words; empty where nobody knows.
        images: validation images.
        seeds: how many pairs were trained.
        teacher_ap: in percent, as the teacher sees the images here.
        alone_ap: of the student alone.
        headroom: the first minus the second.
        parts: classes and sizes.
        rise: of the distilled student's AP over the last quarter of its steps.
        steps: done.
        planned: that were to be done.
        epochs: how often it sees each training image in these.
        left_out: steps that were skipped, as their loss or gradient was not finite.
        mixed: whether the run computed in 16 bits.
        clip: share of the steps that were clipped, distilled and alone.
        pulls: by method, or by term where the gains are taken as they are.
        on: mean factor of warm-up and fades over the run; 1 where every term is on all along.
        ends: the keys of the settings that switch the method off before the end.
        falls: by what share of its first value each term's cost fell over the run.
        weights: what a look at the teacher's weights found.
        sizes: of the teacher's images.
        pixels: what a look at how the teacher's pixels are normalised found.
        classes: the teacher's.
        differing: in what the student alone was trained otherwise, the teaching aside.
        leaked: validation images that are training images too.
        method: its text.
        config: the run's settings file.
        teacher: where the teacher was read from.
        data: where the data are.
    """

    gain: Interval | None = None
    same_time: Interval | None = None
    slower: float | None = None
    worth: float = WORTH
    settle: str = ""
    images: int | None = None
    seeds: int = 1
    teacher_ap: float | None = None
    alone_ap: float | None = None
    headroom: Interval | None = None
    parts: tuple[Part, ...] = ()
    rise: Interval | None = None
    steps: int | None = None
    planned: int | None = None
    epochs: float | None = None
    left_out: int | None = None
    mixed: bool = False
    clip: tuple[float, float] | None = None
    pulls: Mapping[str, Pull] = field(default_factory=dict)
    on: float | None = None
    ends: tuple[str, ...] = ()
    falls: Mapping[str, float] = field(default_factory=dict)
    weights: Check | None = None
    sizes: Sizes | None = None
    pixels: Check | None = None
    classes: Classes | None = None
    differing: tuple[str, ...] | None = None
    leaked: int | None = None
    method: str = "METHOD"
    config: str = str(RunFolder(Path("RUN")).config)
    teacher: str = "TEACHER"
    data: str = "DATA"

    @property
    def study(self) -> str:
        """A folder beside the run, or beside the proof that it is of, for further pairs like it."""
        run = Path(self.config).parent
        return f"{run.parent.parent if run.parent.name.startswith('seed_') else run}_again"


def put_together(*parts: Evidence) -> Evidence:
    """What several know of one thing: of each field what the first says of it that says anything."""
    empty, known = Evidence(), dict[str, Any]()
    for one in fields(Evidence):
        values = [getattr(part, one.name) for part in parts]
        known[one.name] = next((value for value in values if value != getattr(empty, one.name)), values[0])
    return Evidence(**known)


def averaged(runs: Sequence[Evidence]) -> Evidence:
    """What runs of one setup say of their training, as one: means of figures, medians of pulls, of steps the fewest."""
    first = runs[0]
    rises = [one.rise for one in runs if one.rise is not None]
    names = dict.fromkeys(name for one in runs for name in one.pulls)
    terms = dict.fromkeys(name for one in runs for name in one.falls)
    clips = [one.clip for one in runs if one.clip is not None]
    return replace(
        first,
        rise=_mean_span(rises) if rises else None,
        steps=min((one.steps for one in runs if one.steps is not None), default=None),
        left_out=max((one.left_out for one in runs if one.left_out is not None), default=None),
        clip=(statistics.fmean(ours for ours, _ in clips), statistics.fmean(alone for _, alone in clips))
        if clips
        else None,
        slower=_mean(one.slower for one in runs),
        falls={name: statistics.fmean(one.falls[name] for one in runs if name in one.falls) for name in terms},
        pulls={name: _median_pull([one.pulls[name] for one in runs if name in one.pulls]) for name in names},
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if known else None


def _mean_span(spans: Sequence[Interval]) -> Span:
    mean = statistics.fmean(one.mean for one in spans)
    half = math.hypot(*((one.high - one.low) / 2 for one in spans)) / len(spans)
    return Span(mean, mean - half, mean + half)


def _median_pull(pulls: Sequence[Pull]) -> Pull:
    known = {
        one.name: [value for pull in pulls if (value := getattr(pull, one.name)) is not None] for one in fields(Pull)
    }
    return Pull(**{name: statistics.median(values) if values else None for name, values in known.items()})
