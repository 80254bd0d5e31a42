"""How much better distilled students are than their twins alone, with intervals over seeds and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.errors import DataError
from detdistill.evaluation.coco import FIGURES
from detdistill.evaluation.intervals import figures_of
from detdistill.evaluation.matches import Matches
from detdistill.evaluation.resample import average_precisions
from detdistill.progress import Progress, Silence
from detdistill.proof.quantile import t_quantile

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

    The variance of the mean over S seeds is of_seeds² / S + of_images² + of_both² / S.

    Attributes:
        per_seed: of each pair of twins on the images as they are; (S,).
        mean: over the seeds.
        low: lower end of the interval; over seeds and images, with one seed over images alone.
        high: its upper end.
        of_seeds: standard deviation from one training to another, on whatever images; None with one seed.
        of_images: from one such set of images to another, whatever the seed; with one seed, for this one.
        of_both: of what is particular to a seed and a set of images; None with one seed.
    """

    per_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    of_seeds: float | None
    of_images: float
    of_both: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies above 0, or below."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "per_seed": list(self.per_seed), "excludes_zero": self.excludes_zero}


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
        progress: watches, detector by detector.

    Raises:
        DataError: no twins, a seed twice, or twins of other objects or classes than the first.
    """
    first = _checked(twins)
    names, count = first.class_names, first.objects.shape[2]
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    times = np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])
    watcher = progress or Silence()
    watcher.start("intervals", 2 * len(twins), unit="student")
    values = np.zeros((len(twins), len(FIGURES) + len(names), draws + 1))
    for place, pair in enumerate(twins):
        values[place] -= _measured(pair.alone, times)
        watcher.advance(2 * place + 1)
        values[place] += _measured(pair.distilled, times)
        watcher.advance(2 * place + 2)
    watcher.finish()
    found = {}
    for place, name in enumerate([*FIGURES, *names]):
        whole, resampled = values[:, place, 0], values[:, place, 1:]
        resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
        if not np.isnan(whole).any() and resampled.shape[1] >= max(_ENOUGH * draws, 2):
            found[place, name] = difference_of(whole, resampled)
    figures = {name: one for (place, name), one in found.items() if place < len(FIGURES)}
    classes = {name: one for (place, name), one in found.items() if place >= len(FIGURES)}
    present = first.objects[0].any(axis=1)
    rare = tuple(name for name, there in zip(names, present, strict=True) if there and name not in classes)
    return Differences(tuple(pair.seed for pair in twins), count, figures, classes, rare)


def difference_of(whole: NDArray[np.float64], drawn: NDArray[np.float64]) -> Difference:
    """The mean over seeds with its interval, from the parts of its variance.

    The seeds' part is what their sample variance has above what the images explain, the images' part the variance of
    the mean over the draws; Student's t has the degrees of freedom of Welch and Satterthwaite, so that few seeds make a
    wide interval.

    Args:
        whole: of each seed on the images as they are; (S,).
        drawn: of each seed on drawn images, the same draws for all; (S, draws), no NaN.
    """
    seeds, mean = len(whole), float(whole.mean())
    of_mean = float(drawn.mean(axis=0).var(ddof=1))
    if seeds == 1:
        half = t_quantile(math.inf) * math.sqrt(of_mean)
        return Difference(tuple(whole.tolist()), mean, mean - half, mean + half, None, math.sqrt(of_mean), None)
    both = float((drawn - drawn.mean(axis=0)).var(axis=1, ddof=1).sum()) / (seeds - 1)
    sample = float(whole.var(ddof=1))
    images, of_seeds = max(of_mean - both / seeds, 0.0), max(sample - both, 0.0)
    variance = (of_seeds + both) / seeds + images
    freedom = math.inf if sample == 0 else (seeds - 1) * (variance / (sample / seeds)) ** 2
    half = t_quantile(freedom) * math.sqrt(variance)
    return Difference(
        tuple(whole.tolist()), mean, mean - half, mean + half, math.sqrt(of_seeds), math.sqrt(images), math.sqrt(both)
    )


def _measured(matches: Matches, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """COCO's figures, then AP of each class, of every choice in percent; (6 + K, r)."""
    precisions = average_precisions(matches, times)
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
