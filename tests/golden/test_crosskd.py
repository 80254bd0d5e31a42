"""CrossKD on numbers worked out by hand: what the teacher's heads say of the student's maps is made up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.methods.catalogue import build_recipe
from detdistill.types import BoxDistributions, Boxes, Clock, Observation
from observations import batch, observation, spec

# One level of two cells beside one in the padding, one class. The teacher's scores are 3/4 and 3/4.
SCORE = math.log(3)
SCENE = batch([(8, 16)], grid=(8, 24))


def seen(logits: list[float], boxes: list[list[float]], bins: list[list[float]] | None = None) -> Observation:
    cells = len(logits)
    one = observation([torch.zeros(1, 1, 1, cells)], [torch.tensor(logits).reshape(1, 1, 1, 1, cells)], strides=(8,))
    one = replace(one, boxes=Boxes((torch.tensor(boxes).T.reshape(1, 1, 4, 1, cells),), (8,)))
    if bins is not None:  # every edge alike
        edges = torch.tensor(bins).T.reshape(1, 1, 1, 2, 1, cells).expand(1, 1, 4, 2, 1, cells)
        one = replace(one, box_distributions=BoxDistributions((edges,), (8,)))
    return one


def costs(family: str, theirs: Observation, said: Observation) -> dict[str, tuple[float, float]]:
    """Gain and cost of every term."""
    bins = {"bins": 2} if family == "gfl" else {}
    teacher = spec(family=family, strides=(8,), channels=1, **bins)
    recipe = build_recipe("crosskd(reading=pyramid)", teacher, teacher)
    pair = Pair(theirs, theirs, SCENE, heads=lambda *given, after: said)
    clock = Clock(step=0, total_steps=1)

    def value(values: Tensor) -> float:
        return float(values.detach())

    return {one.name: (one.gain, value(one.term(pair, clock).values)) for one in recipe.terms}


def test_scores_and_boxes() -> None:
    box, half = [0.0, 0, 8, 8], [0.0, 0, 4, 8]
    theirs = seen([SCORE, SCORE, 9], [box, box, box])
    said = seen([0.0, SCORE, -9], [box, half, [5.0, 5, 5, 5]])
    # W = 3/4 + 3/4. First cell: p = 1/2, |3/4 - 1/2| · ln 2; second: as the teacher. Boxes: equal; GIoU 1/2.
    classes, boxes = 0.25 * math.log(2) / 1.5, 0.75 * 0.5 / 1.5
    assert costs("fcos", theirs, said) == {
        "crosskd.classes": (0.4, pytest.approx(classes, abs=1e-6)),
        "crosskd.boxes": (0.75, pytest.approx(boxes, abs=1e-6)),
    }
    assert [gain for gain, _ in costs("retinanet", theirs, said).values()] == [1.0, 1.0]


def test_a_teacher_that_sees_little_teaches_little() -> None:
    box = [0.0, 0, 8, 8]
    theirs, said = seen([-SCORE, -20, 9], [box] * 3), seen([0.0, -20, 9], [box] * 3)
    # W = 1/4 counts as 1; |1/4 - 1/2| · ln 2.
    found = costs("fcos", theirs, said)["crosskd.classes"][1]
    assert found == pytest.approx(0.25 * math.log(2), abs=1e-6)


def test_distributions() -> None:
    box = [0.0, 0, 8, 8]
    theirs = seen([SCORE, SCORE, 9], [box] * 3, [[SCORE, 0], [0, 0], [0, 0]])
    said = seen([SCORE, SCORE, 9], [box] * 3, [[0, 0], [0, 0], [9, 0]])
    # First cell: KL((3/4, 1/4) ‖ (1/2, 1/2)), a mean over 2 bins; second: equal.
    divergence = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert costs("gfl", theirs, said) == {
        "crosskd.classes": (1.0, pytest.approx(0.0, abs=1e-6)),
        "crosskd.boxes": (2.0, pytest.approx(0.0, abs=1e-6)),
        "crosskd.distributions": (3.0, pytest.approx(0.75 * divergence / 1.5, abs=1e-6)),
    }
