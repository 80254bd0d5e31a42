"""How far COCO's figures may be off because other images could have been drawn: a bootstrap over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import FIGURES, CocoMetrics, ImageDetections
from detdistill.evaluation.matches import Matches, match
from detdistill.evaluation.resample import average_precisions
from detdistill.progress import Progress, Silence

CHOICES = 1000
_ENDS = (2.5, 97.5)


def figures_of(precisions: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """COCO's six figures in percent of every choice, by name; NaN where a choice has nothing to measure one by.

    Args:
        precisions: what `average_precisions` gives; (r, K, 4, 10).
    """
    found = {}
    for name, (_, overlaps, area) in FIGURES.items():
        values = precisions[:, :, area, overlaps].reshape(len(precisions), -1)
        known = ~np.isnan(values)
        sums, counts = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
        found[name] = np.divide(100 * sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    return found


def metrics_of(matches: Matches) -> CocoMetrics:
    """COCO's figures of a split as it is; they are those of `evaluate_coco`, to 1e-9."""
    precisions = average_precisions(matches, np.ones((1, matches.objects.shape[2]), dtype=np.int64))

    def known(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    figures = {FIGURES[name][0]: known(values[0]) for name, values in figures_of(precisions).items()}
    of_classes = 100 * precisions[0, :, 0].mean(axis=1)
    per_class = {name: known(value) for name, value in zip(matches.class_names, of_classes, strict=True)}
    return CocoMetrics(**figures, per_class=per_class)


def image_intervals(
    annotations: Annotations,
    detections: Sequence[ImageDetections],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Mapping[str, tuple[float, float]]:
    """95 % intervals of COCO's figures: the percentiles over 1,000 draws of as many images, with replacement.

    They say how the figure would vary over validation sets of this size, of one and the same detector; another training
    varies beside that.

    Args:
        annotations: the ground truth.
        detections: as for `evaluate_coco`.
        seed: decides the draws.
        progress: watches, class by class.

    Returns:
        Lower and upper end in percent by name, for the figures that every draw or nearly every one can measure.

    Raises:
        DataError: as `evaluate_coco`.
    """
    count = len(annotations)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=CHOICES)
    watcher, found = progress or Silence(), {}
    watcher.start("intervals", len(annotations.class_names), unit="class")
    precisions = average_precisions(match(annotations, detections), drawn, told=watcher.advance)
    watcher.finish()
    for name, values in figures_of(precisions).items():
        known = values[~np.isnan(values)]
        if len(known) >= 0.95 * CHOICES:
            low, high = np.percentile(known, _ENDS)
            found[name] = (float(low), float(high))
    return found
