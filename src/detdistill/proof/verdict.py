"""What the differences say, in words, by a rule that is fixed before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detdistill.errors import ConfigError, DataError
from detdistill.progress import counted
from detdistill.proof.differences import Difference, Differences
from detdistill.proof.quantile import half_width
from detdistill.proof.thresholds import WORTH

Kind = Literal["gains", "hurts", "no measurable effect"]
_MOST_SEEDS, _MOST_IMAGES = 100, 1_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether distillation helped over the same steps, and over the same time where that was measured.

    Attributes:
        kind: by the interval of AP over the same steps.
        worth_it: whether the gain is worth it by the rule; None with one seed, which cannot tell.
        worth: AP in points from which on it is.
        same_steps: the differences over the same steps.
        same_time: likewise, from students alone that trained for as long as the distilled ones; None if not measured.
    """

    kind: Kind
    worth_it: bool | None
    worth: float
    same_steps: Differences
    same_time: Differences | None = None

    @property
    def rule(self) -> str:
        """How the verdict is found, with nothing of what was found."""
        return rule_of(self.worth)

    def sentence(self) -> str:
        """The verdict in one sentence."""
        steps = self.same_steps.figures["AP"]
        time = None if self.same_time is None else self.same_time.figures["AP"]
        if self.kind == "no measurable effect":
            said = f"no measurable effect: {_between(steps)}"
            if time is not None:
                said = f"no measurable effect over the same steps: {_between(steps)}; over the same time {_alone(time)}"
            return f"{said}; {self._outlook(steps)}"
        said = f"distillation gains {_amount(steps)}"
        if self.kind == "hurts":
            said = f"distillation hurts: it loses {_amount(steps)}"
        said += " over the same steps"
        compared = [one for one in (steps, time) if one is not None and kind_of(one) == self.kind]
        if time is not None and len(compared) == 2:
            said += f" and {_amount(time, unit=False)} over the same time"
        each = zip(*(one.per_seed for one in compared), strict=True)
        said += self._seeds(sum(all(value * steps.mean > 0 for value in values) for values in each))
        if time is not None and len(compared) == 1:
            said += f", but over the same time {_alone(time)}"
        return f"{said}; {self._value(steps, time)}" if self.kind == "gains" else said

    def lines(self) -> list[str]:
        """The rule, the differences by figure and class, and the verdict."""
        told = [self.rule, "", *_table("over the same steps", self.same_steps)]
        if self.same_time is not None:
            told += ["", *_table("over the same time", self.same_time)]
        return [*told, "", self.sentence()]

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "verdict": self.kind,
            "sentence": self.sentence(),
            "worth_it": self.worth_it,
            "worth": self.worth,
            "rule": self.rule,
            "same_steps": self.same_steps.as_dict(),
            "same_time": None if self.same_time is None else self.same_time.as_dict(),
        }

    def _seeds(self, agreeing: int) -> str:
        count = len(self.same_steps.seeds)
        if count == 1:
            return " (1 seed: the interval covers other images, not other trainings)"
        return f" ({agreeing} of {counted(count, 'seed')})"

    def _value(self, steps: Difference, time: Difference | None) -> str:
        if self.worth_it is None:
            return "one seed cannot tell whether it is worth it"
        if self.worth_it:
            return "worth it"
        least = min(one.mean for one in (steps, time) if one is not None)
        if least < self.worth:
            return f"less than the {self.worth:g} AP that make it worth it"
        return "not shown to be worth it"

    def _outlook(self, steps: Difference) -> str:
        far, half = abs(steps.mean), (steps.high - steps.low) / 2
        if far + half < self.worth:
            ruled_out = f"an effect of {self.worth:g} AP is ruled out"
            return f"{ruled_out} for this seed alone" if steps.of_seeds is None else ruled_out
        # Of a narrow interval what would put it off 0, or within what is worth nothing, whichever is less to ask for.
        width = self.worth if half > self.worth else max(far, self.worth - far)
        return to_settle(steps, images=self.same_steps.images, width=width)


def judge(same_steps: Differences, same_time: Differences | None = None, *, worth: float = WORTH) -> Verdict:
    """The verdict on AP.

    Args:
        same_steps: distilled students against students alone of as many steps.
        same_time: against students alone of as much time.
        worth: the gain in points of AP that makes distillation worth it.

    Raises:
        ConfigError: `worth` is not a positive number.
        DataError: AP cannot be measured, or both differences are of other seeds or numbers of images.
    """
    require_worth(worth)
    given = [same_steps, *([] if same_time is None else [same_time])]
    for one in given:
        if "AP" not in one.figures:
            raise DataError(
                f"The validation split must have objects in enough of its images for an interval of AP, got "
                f"{counted(one.images, 'image')} with too few. Give more labelled images."
            )
        if (one.seeds, one.images) != (same_steps.seeds, same_steps.images):
            raise DataError(
                f"Both comparisons must be of the seeds {_listed(same_steps.seeds)} on "
                f"{counted(same_steps.images, 'image')}, got {_listed(one.seeds)} on {counted(one.images, 'image')}. "
                "Compare the same runs on the same split."
            )
    kind = kind_of(same_steps.figures["AP"])
    told = [one.figures["AP"] for one in given]
    worth_it: bool | None = all(kind_of(one) == "gains" and one.mean >= worth for one in told)
    if kind == "gains" and len(same_steps.seeds) == 1:
        worth_it = None
    return Verdict(kind, worth_it, worth, same_steps, same_time)


def require_worth(worth: float) -> None:
    """Refuses what is no positive number of points (ConfigError)."""
    if not (math.isfinite(worth) and worth > 0):
        raise ConfigError(
            f"--worth must be points of AP above 0, got {worth:g}. Give the gain that pays for a teacher."
        )


def rule_of(worth: float) -> str:
    """The rule of the verdict in words, to be shown before anything is measured."""
    return (
        "the rule: distillation gains where the 95 % interval of the difference in AP, distilled minus alone over the "
        "same steps, lies above 0, and hurts where it lies below; otherwise no effect is measurable. The interval "
        "covers other seeds and other images. It is worth it where it gains over the same steps, and over the same "
        f"time if that is measured, and each mean gain is at least {worth:g} AP"
    )


def kind_of(difference: Difference) -> Kind:
    """On which side of 0 the interval lies."""
    return "gains" if difference.low > 0 else "hurts" if difference.high < 0 else "no measurable effect"


def to_settle(difference: Difference, *, images: int, width: float) -> str:
    """How many seeds or validation images would make half the interval `width`, from the parts of its variance.

    Args:
        images: that the difference was measured on.
        width: in points of AP, less than half the interval now.
    """
    aim = f"to settle ±{width:.2g}"
    if difference.of_seeds is None:
        more = _images_needed(difference, 1, images, width)
        told = f"about {more:,} validation images" if more else f"more than {_MOST_IMAGES:,} validation images"
        return f"{aim} for this one seed takes {told}; how much seeds differ is told from two on"
    now = len(difference.per_seed)
    seeds = next((n for n in range(now + 1, _MOST_SEEDS + 1) if _half(difference, n, 1.0) <= width), None)
    more = _images_needed(difference, now, images, width)
    ways = [f"{seeds} seeds"] if seeds else []
    ways += [f"{more:,} validation images"] if more else []
    if ways:
        return f"{aim} takes about {' or '.join(ways)}"
    pairs = ((n, _images_needed(difference, n, images, width)) for n in range(now + 1, _MOST_SEEDS + 1))
    known = [(n * found, n, found) for n, found in pairs if found]
    if not known:
        return f"{aim} takes more than {_MOST_SEEDS} seeds and {_MOST_IMAGES:,} validation images"
    _, seeds, both = min(known)
    return f"{aim} takes both more seeds and more images: about {seeds} seeds and {both:,} validation images"


def _half(difference: Difference, seeds: int, times: float) -> float:
    """Half the width of the interval with so many seeds, and `times` as many images."""
    trainings = ((difference.of_seeds or 0.0) ** 2 + (difference.of_both or 0.0) ** 2 / times) / seeds
    return half_width(trainings, difference.of_images**2 / times, seeds - 1)


def _images_needed(difference: Difference, seeds: int, images: int, width: float) -> int | None:
    """The least number of two digits and noughts that does, above what there are; None where even very many do not."""
    numbers = (digits * 10**power for power in range(len(str(_MOST_IMAGES)) - 1) for digits in range(10, 100))
    enough = (one for one in numbers if one > images and _half(difference, seeds, one / images) <= width)
    return next(enough, None)


def _table(over: str, found: Differences) -> Iterator[str]:
    count = len(found.seeds)
    yield (
        f"distilled minus alone {over}, in points, on {counted(found.images, 'image')}: mean, 95 % interval over "
        + (f"{counted(count, 'seed')} and images" if count > 1 else "the images (1 seed: not over other trainings)")
    )
    yield from _rows(found.figures, "figure")
    if found.classes:
        yield ""
        yield from _rows(found.classes, "class")
        chance = 0.05 * len(found.classes)
        yield f"* the interval excludes 0; without any difference about {chance:.1f} of these classes would have one"
    if found.rare:
        yield f"in too few images for an interval: {', '.join(found.rare)}"


def _rows(rows: Mapping[str, Difference], head: str) -> Iterator[str]:
    width = max(len(head), *map(len, rows))
    yield f"{head:<{width}}    mean  95 % interval    each seed"
    for name, one in rows.items():
        mark = "*" if one.excludes_zero else ""
        ends = f"{one.low:+.1f} to {one.high:+.1f}{mark}"
        yield f"{name:<{width}}  {one.mean:+6.1f}  {ends:<16}  {', '.join(f'{value:+.1f}' for value in one.per_seed)}"


def _amount(one: Difference, *, unit: bool = True) -> str:
    """Size and interval, without a sign where it hurts: the verb has it."""
    sign = 1 if one.mean >= 0 else -1
    low, high = sorted((sign * one.low, sign * one.high))
    return f"{abs(one.mean):.1f}{' AP' if unit else ''} [{low:.1f}, {high:.1f}]"


def _alone(one: Difference) -> str:
    """A comparison that the other one does not agree with."""
    kind = kind_of(one)
    if kind == "no measurable effect":
        return f"none is measurable: {_between(one)}"
    return f"it {'gains' if kind == 'gains' else 'loses'} {_amount(one)}"


def _between(one: Difference) -> str:
    return f"between {_signed(one.low)} and {_signed(one.high)} AP"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))
