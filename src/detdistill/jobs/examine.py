"""Looks at a teacher and a student before a run: what they find in a sample of the validation images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.drift import NormDrift, norm_drifts
from detdistill.detectors.preprocess import USUAL_PIXELS, normalised_by, normaliser_of
from detdistill.errors import DistillError
from detdistill.evaluation.coco import ImageDetections, evaluate_coco
from detdistill.evaluation.confusion import confusion_matrix
from detdistill.evaluation.intervals import image_intervals
from detdistill.evaluation.matches import match
from detdistill.files import read_json
from detdistill.jobs.opening import detect
from detdistill.jobs.outcomes import DISTILLED, STUDENT
from detdistill.jobs.paths import read_from
from detdistill.jobs.samples import Opened
from detdistill.progress import Progress
from detdistill.proof.checks import Measure, Pixels
from detdistill.proof.differences import Difference, Twins, differences
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.layout import RunFolder
from detdistill.types import Batch

_FIRST, _LEAST, _MOST, _SECONDS = 8, 16, 256, 12.0
_FEW = 32
_PASSED = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """Some validation images of a run, to measure detectors on."""

    opened: Opened
    images: Annotations
    progress: Progress

    def found_by(self, detector: Detector, at: ImageSettings, *, label: str) -> list[ImageDetections]:
        """What a detector finds in them at a size."""
        settings = self.opened.config.evaluate
        return detect(
            detector,
            self.images,
            at,
            label=label,
            batch_size=settings.batch_size,
            agnostic=settings.agnostic,
            device=self.opened.first_device,
            progress=self.progress,
        )

    def ap(self, found: Sequence[ImageDetections]) -> float | None:
        """In percent; None where there is nothing to find."""
        return evaluate_coco(self.images, found, backend=self.opened.config.evaluate.backend).ap

    def measured(self, found: Sequence[ImageDetections]) -> Measure | None:
        """AP with its interval; None where there is nothing to find."""
        ap = self.ap(found)
        if ap is None:
            return None
        low, high = image_intervals(self.images, found).get("AP", (None, None))
        return Measure(ap, low, high, len(self.images))

    def gap(self, teacher: Sequence[ImageDetections], student: Sequence[ImageDetections]) -> Difference | None:
        """AP of the teacher minus the student's on the same images; None where these are too few."""
        twins = Twins(0, alone=match(self.images, student), distilled=match(self.images, teacher))
        return differences([twins]).figures.get("AP")

    def some(self, count: int) -> Sample:
        """The first of them."""
        return replace(self, images=self.images.of(np.arange(min(count, len(self.images)))))


def sample_of(opened: Opened, detector: Detector, *, progress: Progress) -> Sample:
    """So many validation images, drawn by the run's seed, as a detector looks at in some seconds."""
    val = opened.data.val
    order = np.random.default_rng(opened.config.seed).permutation(len(val))
    first = Sample(opened, val.of(np.sort(order[:_FIRST])), progress)
    began = time.perf_counter()
    first.found_by(detector, opened.taught_at, label="look at a few images")
    each = (time.perf_counter() - began) / len(first.images)
    count = max(_LEAST, min(_MOST, int(_SECONDS / each)))
    return replace(first, images=val.of(np.sort(order[:count])))


def drifts_of(opened: Opened, detector: Detector) -> tuple[NormDrift, ...]:
    """The drift of a teacher's batch-norm layers on training images, as it sees them."""
    train, device = opened.data.train, opened.first_device
    rows = np.random.default_rng(opened.config.seed).permutation(len(train))[:_PASSED]
    shown = DetectionDataset(train.of(np.sort(rows)), image=opened.taught_at)

    def batches() -> Iterator[Batch]:
        for batch in evaluation_loader(shown, batch_size=opened.config.evaluate.batch_size):
            yield batch.to(device)

    return norm_drifts(detector.to(device), batches())


def other_pixels(sample: Sample, detector: Detector, at: ImageSettings) -> tuple[Measure | None, list[Pixels]]:
    """A detector's AP on a few images by its own normalisation, and by others that are usual elsewhere."""
    few = sample.some(_FEW)
    own = few.measured(few.found_by(detector, at, label="by its own normalisation"))
    part, found = normaliser_of(detector), []
    if part is None or own is None:
        return own, []
    now = np.array(part.numbers())
    for what, numbers in USUAL_PIXELS.items():
        if not np.allclose(now, numbers, atol=2e-3):
            with normalised_by(part, *numbers):
                try:
                    ap = few.ap(few.found_by(detector, at, label=f"by {what}"))
                except DistillError:  # what overflows is not what it was trained on
                    ap = 0.0
            found.append(Pixels(what, *numbers, ap=ap or 0.0))
    return own, found


def fitting_order(sample: Sample, found: Sequence[ImageDetections]) -> tuple[list[int], float | None]:
    """Which label is what a detector means by each of its own, one to one by what it finds where, and its AP so."""
    counts = confusion_matrix(sample.images, found, score=0.05).counts[:-1, :-1].T
    order = [-1] * len(counts)
    pairs = sorted(np.ndindex(*counts.shape), key=lambda pair: (-counts[pair], pair[0] != pair[1]))
    for own, label in pairs:
        if order[own] < 0 and label not in order:
            order[own] = label
    exchanged = [replace(one, labels=np.array(order, dtype=np.int64)[one.labels]) for one in found]
    return order, sample.ap(exchanged)


def recorded_ap(source: str, opened: Opened) -> float | None:
    """AP that a detector's own run measured on the same validation images; None where it did not."""
    run = RunFolder(Path(source))
    if not (run.results.is_file() and run.config.is_file()):
        return None
    try:
        results, data = read_json(run.results), read_from(load_yaml(run.config), run.config)["data"]
        given = data["val"] or data["folder"]
        places = {Path(one).resolve() for one in ([given] if isinstance(given, str) else given)}
        same = places == {one.resolve() for one in opened.config.data.sources("val")}
        figures = next(results[name] for name in (DISTILLED, STUDENT) if results.get(name))
        return (
            float(figures["AP"]) if same and results.get("agnostic", False) == opened.config.evaluate.agnostic else None
        )
    except (DistillError, KeyError, TypeError, ValueError, StopIteration):
        return None
