"""LD on numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.detectors.base import BoxLayout, DetectorSpec
from detdistill.distillation.pair import Pair
from detdistill.methods.ld import LDSettings, build_ld
from detdistill.methods.parts.distributions import softened_divergence
from detdistill.types import Batch, BoxDistributions, Clock, Observation
from observations import batch, observation, spec
from scenes_in_memory import targets_of

CLOCK = Clock(step=0, total_steps=1)


def layout() -> DetectorSpec:
    boxes = BoxLayout(strides=(8,), anchors=1, bins=2, anchor_scale=2.0)
    return replace(spec(family="gfl", strides=(8,), classes=("a", "b")), box_distributions=boxes)


def scene() -> Batch:
    """One image of 4 x 4 cells of 8 pixels and two objects, the anchors of the cells (1, 1) and (2, 2) themselves.

    The cells' points are at 0, 8, 16, 24; an anchor reaches 8 pixels to each side. An object is 16 x 16 around its
    cell's point, so that cell overlaps it fully, IoU 1; its neighbours reach less than mean + deviation.
    """
    boxes = targets_of(((0.0, 0.0, 16.0, 16.0), (8.0, 8.0, 24.0, 24.0)))
    return replace(batch([(32, 32)]), targets=(boxes,))


def shown(edges: dict[tuple[int, int], Tensor], logits: dict[tuple[int, int], Tensor]) -> Observation:
    """Zero everywhere but at the given cells: edges (4, bins) and class logits (k,)."""
    distributions, classes = torch.zeros(1, 1, 4, 2, 4, 4), torch.zeros(1, 1, 2, 4, 4)
    for (row, column), values in edges.items():
        distributions[0, 0, :, :, row, column] = values
    for (row, column), values in logits.items():
        classes[0, 0, :, row, column] = values
    seen = observation([torch.zeros(1, 4, 4, 4)], [classes], strides=(8,))
    return replace(seen, box_distributions=BoxDistributions((distributions,), (8,)))


def losses(student: Observation, teacher: Observation, settings: LDSettings) -> dict[str, float]:
    recipe = build_ld(layout(), layout(), settings)
    return {
        w.name: w.gain * w.term(Pair(student, teacher, scene()), CLOCK).values.sum(1).mean().item()
        for w in recipe.terms
    }


@pytest.mark.parametrize(("temperature", "factor"), [(1.0, 1.0), (10.0, 100.0)])
def test_the_divergence_of_two_bins(temperature: float, factor: float) -> None:
    # teacher softened to (3/4, 1/4), student to (1/2, 1/2): KL = 0.75 ln 1.5 + 0.25 ln 0.5 = 0.1308120; · T² / 2 bins
    teacher = temperature * torch.tensor([math.log(3.0), 0.0])
    value = softened_divergence(torch.zeros(2), teacher, temperature=temperature)
    torch.testing.assert_close(value, torch.tensor(factor * 0.1308120 / 2))


def test_positives_count_by_the_students_scores() -> None:
    # The two positives have the student's highest scores sigmoid(ln 3) = 0.75 and sigmoid(0) = 0.5 (of two classes).
    # At the first all four edges differ (KL 0.1308120 each), at the second one edge of four:
    # T² / bins · KL · (0.75 · 4 + 0.5 · 1) / 4 = 100 / 2 · 0.1308120 · 0.875 = 5.7230250; gain 0.25
    sharp = 10 * torch.tensor([math.log(3.0), 0.0])
    edges = {(1, 1): sharp.repeat(4, 1), (2, 2): torch.stack((sharp, *torch.zeros(3, 2)))}
    student = shown({}, {(1, 1): torch.tensor([math.log(3.0), -2.0])})
    value = losses(student, shown(edges, {}), LDSettings())
    assert value == {"ld.boxes": pytest.approx(0.25 * 5.723025, rel=1e-5)}


def test_cells_that_learn_nothing_do_not_count() -> None:
    # The same difference at a background cell costs nothing.
    sharp = torch.tensor([30.0, 0.0]).repeat(4, 1)
    assert losses(shown({}, {}), shown({(0, 3): sharp, (3, 0): sharp}, {}), LDSettings()) == {"ld.boxes": 0.0}


def test_the_region_is_the_ring_of_cells_that_overlap_less() -> None:
    # Overlap of a neighbour, 8 pixels aside: 8·16 / (512 − 128) = 1/3; diagonal: 64 / (512 − 64) = 1/7; 16 pixels
    # aside or more: 0. Object 1, around point (8, 8), has the 9 nearest cells 0..2 x 0..2: overlaps 1, 4 · 1/3,
    # 4 · 1/7: mean 0.3227513, deviation of the sample 0.2700735, threshold 0.5928248; object 2 likewise at (16, 16).
    # DIoU subtracts d²/hull²: neighbour 64 / (24² + 16²) = 1/13: 0.2564; diagonal 128 / (2 · 24²) = 1/9: 0.0317.
    # In the ring are DIoU from 0.1482 to 0.5928: the neighbours of (1, 1) and of (2, 2): (0,1), (1,0), (1,2), (2,1),
    # (2,3), (3,2): 6 cells, with the overlap 1/3 each. A difference on all four edges at two of them:
    # 100 / 2 · 0.1308120 · 4 · (1/3 + 1/3) / 16.
    sharp = (10 * torch.tensor([math.log(3.0), 0.0])).repeat(4, 1)
    teacher = shown({(0, 1): sharp, (2, 3): sharp, (0, 0): sharp, (0, 2): sharp}, {})
    value = losses(shown({}, {}), teacher, LDSettings(valuable_region=True))
    assert value == {"ld.boxes": 0.0, "ld.region": pytest.approx(0.25 * 50 * 0.1308120 / 6, rel=1e-5)}


def test_the_class_term_is_a_mean_over_positives() -> None:
    # At one of two positives the teacher's classes, softened by T = 2, are (3/4, 1/4) and the student's (1/2, 1/2):
    # T² / 2 classes · 0.1308120 / 2 positives = 0.1308120, gain 10
    teacher = shown({}, {(1, 1): 2 * torch.tensor([math.log(3.0), 0.0])})
    value = losses(shown({}, {}), teacher, LDSettings(class_gain=10.0))
    assert value == {"ld.boxes": 0.0, "ld.classes": pytest.approx(1.308120, rel=1e-5)}


STRIDES, CELLS = (8, 16), (16, 8)
OBJECTS = ((8.0, 8.0, 120.0, 120.0), (20.0, 20.0, 70.0, 70.0))


def published_loss(objects: Sequence[Sequence[Sequence[float]]], settings: LDSettings) -> dict[str, float]:
    """What images of 128 x 128 cost whose student shows nothing, and whose teacher 17 bins of 0..16 and classes (2, 0).

    The expected values are those of the authors' own code on the same numbers.
    """
    boxes = BoxLayout(strides=STRIDES, anchors=1, bins=17, anchor_scale=8.0)
    side = replace(spec(family="gfl", strides=STRIDES, classes=("a", "b")), box_distributions=boxes)
    count = len(objects)

    def shows(edge: Tensor, logits: Tensor) -> Observation:
        edges = tuple(edge[:, None, None].expand(count, 1, 4, 17, cells, cells) for cells in CELLS)
        classes = [logits[:, None, None].expand(count, 1, 2, cells, cells) for cells in CELLS]
        seen = observation([torch.zeros(count, 4, cells, cells) for cells in CELLS], classes, strides=STRIDES)
        return replace(seen, box_distributions=BoxDistributions(edges, STRIDES))

    student = shows(torch.zeros(17), torch.zeros(2))
    teacher = shows(torch.arange(17.0), torch.tensor([2.0, 0.0]))
    images = replace(batch([(128, 128)] * count), targets=tuple(map(targets_of, objects)))
    pair = Pair(student, teacher, images)
    return {
        w.name: w.gain * w.term(pair, CLOCK).values.sum(1).mean().item() for w in build_ld(side, side, settings).terms
    }


@pytest.mark.parametrize(("objects", "expected"), [(OBJECTS[:1], 0.41146), (OBJECTS, 0.74064)])
def test_boxes_are_as_strong_as_the_sources(objects: Sequence[Sequence[float]], expected: float) -> None:
    # 5 positives of weight sigmoid(0) = 0.5 and then 9; the divergence of an edge is the same at all of them.
    assert published_loss([objects], LDSettings()) == {"ld.boxes": pytest.approx(expected, abs=5e-6)}


def test_classes_are_averaged_level_by_level() -> None:
    value = published_loss([OBJECTS], LDSettings(gain=0, class_gain=10.0))
    assert value["ld.classes"] == pytest.approx(4.4378, abs=5e-5)


def test_a_batch_of_two_counts_as_in_the_source() -> None:
    # Boxes: (0.41146 + 0.74064) / 2 by image, their sum by batch. Classes: the divergence is the same everywhere, so
    # every mean over positives is 2.2189 a level; an image without objects halves the mean over images alone.
    pair = [OBJECTS[:1], OBJECTS]
    assert published_loss(pair, LDSettings())["ld.boxes"] == pytest.approx(0.57605, abs=1e-5)
    assert published_loss(pair, LDSettings(reduction="batch"))["ld.boxes"] == pytest.approx(1.15210, abs=1e-5)
    with_none = [OBJECTS, ()]
    for reduction, expected in (("image", 2.2189), ("batch", 4.4378)):
        settings = LDSettings(gain=0, class_gain=10.0, reduction=reduction)
        assert published_loss(with_none, settings)["ld.classes"] == pytest.approx(expected, abs=5e-5)
