"""How much better distilled students are than their twins alone, with intervals over seeds and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.errors import DataError
from detdistill.evaluation.coco import FIGURES
from detdistill.evaluation.intervals import figures_of
from detdistill.evaluation.matches import Matches
from detdistill.evaluation.resample import average_precisions
from detdistill.progress import Progress, Silence
from detdistill.proof.quantile import half_width

_ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class Twins:
    """What two students of one seed found in the same images: the same initial weights, order and schedule."""

    seed: int
    alone: Matches
    distilled: Matches


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure, distilled minus alone, in points of percent, with its 95 % interval and where its spread is from.

    The variance of the mean over S seeds is (of_seeds² + of_both²) / S + of_images².

    Attributes:
        per_seed: of each pair of twins on the images as they are; (S,).
        mean: over the seeds.
        low: lower end of the interval; over seeds and images, with one seed over images alone.
        high: its upper end.
        of_seeds: standard deviation from one training to another, on whatever images; None with one seed.
        of_images: from one such set of images to another, whatever the seed; with one seed, for this one.
        of_both: of what one training does on one such set of images alone; None with one seed.
        per_seed_half: half of each pair's own 95 % interval, over images alone; (S,).
    """

    per_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    of_seeds: float | None
    of_images: float
    of_both: float | None
    per_seed_half: tuple[float, ...] = ()

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies above 0, or below."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        by_seed = {"per_seed": list(self.per_seed), "per_seed_half": list(self.per_seed_half)}
        return {**asdict(self), **by_seed, "excludes_zero": self.excludes_zero}


@dataclass(frozen=True, slots=True)
class Differences:
    """The differences of COCO's figures and of each class's AP.

    Attributes:
        seeds: of the twins, in their order.
        images: that were measured.
        figures: by COCO's names, AP, AP50, AP75, APs, APm and APl, those that can be measured.
        classes: AP by class name, likewise, in label order.
        rare: classes with objects in too few images for an interval.
    """

    seeds: tuple[int, ...]
    images: int
    figures: Mapping[str, Difference]
    classes: Mapping[str, Difference]
    rare: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "seeds": list(self.seeds),
            "images": self.images,
            "figures": {name: one.as_dict() for name, one in self.figures.items()},
            "classes": {name: one.as_dict() for name, one in self.classes.items()},
            "rare": list(self.rare),
        }


def differences(
    twins: Sequence[Twins], *, draws: int = 1000, seed: int = 0, progress: Progress | None = None
) -> Differences:
    """Distilled minus alone, over all twins, with 95 % intervals that cover other seeds and other images.

    Images are drawn with replacement, as many as there are, the same for all twins and seeds.

    Args:
        twins: one pair a seed, all on the same images and objects.
        draws: how many sets of images are drawn.
        seed: decides them.
        progress: as for `resampled`.

    Raises:
        DataError: no twins, a seed twice, or twins of other objects or classes than the first.
    """
    first = _checked(twins)
    names, count = first.class_names, first.objects.shape[2]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    times = np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])
    values = resampled(twins, times, progress=progress)
    found = {}
    for place, name in enumerate([*FIGURES, *names]):
        whole, others = values[:, place, 0], values[:, place, 1:]
        others = others[:, ~np.isnan(others).any(axis=0)]
        if not np.isnan(whole).any() and others.shape[1] >= max(_ENOUGH * draws, 2):
            found[place, name] = difference_of(whole, others)
    figures = {name: one for (place, name), one in found.items() if place < len(FIGURES)}
    classes = {name: one for (place, name), one in found.items() if place >= len(FIGURES)}
    present = first.objects[0].any(axis=1)
    rare = tuple(name for name, there in zip(names, present, strict=True) if there and name not in classes)
    return Differences(tuple(pair.seed for pair in twins), count, figures, classes, rare)


def resampled(
    twins: Sequence[Twins], times: NDArray[np.int64], *, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Distilled minus alone where image i counts `times[r, i]` times, for both twins of every seed alike.

    It is the difference of what evaluating the data set with that many copies of each image gives.

    Args:
        times: (r, images), at least 0.
        progress: watches, class by class of each student.

    Returns:
        COCO's six figures, then AP of each class, in points of percent; NaN where a choice has nothing to measure one
        by; (S, 6 + K, r).
    """
    names = twins[0].alone.class_names
    students = [
        (row, sign, one) for row, two in enumerate(twins) for sign, one in ((-1, two.alone), (1, two.distilled))
    ]
    found = np.zeros((len(twins), len(FIGURES) + len(names), len(times)))
    watcher = progress or Silence()
    watcher.start("intervals", len(students) * len(names), unit="class")
    for before, (row, sign, one) in enumerate(students):
        told = partial(_tell, watcher, before * len(names))
        found[row] += sign * _measured(average_precisions(one, times, told=told))
    watcher.finish()
    return found


def difference_of(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> Difference:
    """The mean over seeds with its interval, from the parts of its variance.

    The seeds' sample variance has what a training changes, and what it changes on these images alone. The draws tell
    the second, and what images change for all seeds alike: the variance of the mean over the draws, less what is each
    seed's own in it, which their sample variance has already. It is known well, the seeds' from few: `half_width`.

    Args:
        whole: of each seed on the images as they are; (S,).
        drawn: of each seed on drawn images, the same draws for all; (S, draws), no NaN.
    """
    seeds, mean, values = len(whole), float(whole.mean()), tuple(whole.tolist())
    own = tuple(half_width(0.0, spread, 0) for spread in drawn.var(axis=1, ddof=1).tolist())
    images = float(drawn.mean(axis=0).var(ddof=1))
    if seeds == 1:
        half = half_width(0.0, images, 0)
        return Difference(values, mean, mean - half, mean + half, None, math.sqrt(images), None, own)
    sample = float(whole.var(ddof=1))
    both = float((drawn - drawn.mean(axis=0)).var(axis=1, ddof=1).sum()) / (seeds - 1)
    images = max(images - both / seeds, 0.0)
    half = half_width(sample / seeds, images, seeds - 1)
    of_seeds, of_images, of_both = (math.sqrt(one) for one in (max(sample - both, 0.0), images, min(both, sample)))
    return Difference(values, mean, mean - half, mean + half, of_seeds, of_images, of_both, own)


def _tell(progress: Progress, before: int, done: int) -> None:
    progress.advance(before + done)


def _measured(precisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's figures, then AP of each class, of every choice in percent; (6 + K, r)."""
    return np.stack([*figures_of(precisions).values(), *(100 * precisions[:, :, 0].mean(axis=2)).T])


def _checked(twins: Sequence[Twins]) -> Matches:
    if not twins:
        raise DataError("Twins must be at least one pair, got none. Train a seed, alone and distilled.")
    seeds = [pair.seed for pair in twins]
    if len(set(seeds)) < len(seeds):
        raise DataError(f"The twins' seeds must differ, got {', '.join(map(str, seeds))}. Give each seed once.")
    first = twins[0].alone
    for pair in twins:
        for name, one in (("alone", pair.alone), ("distilled", pair.distilled)):
            same = one.class_names == first.class_names and np.array_equal(one.objects, first.objects)
            if not same:
                raise DataError(
                    f"The student {name} of seed {pair.seed} must be measured on the same objects as the first one, "
                    "got others. Evaluate all of them on one split."
                )
    return first
