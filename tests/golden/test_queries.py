"""queries on numbers worked out by hand, its gradients, and that the order of a set means nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detdistill.detectors.base import DetectorSpec, PyramidLayout, QueryLayout
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Fade
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Batch, ClassKind, Clock, Observation, Pyramid, Queries, Targets

pytest.importorskip("scipy")

CLOCK = Clock(step=0, total_steps=1)
# Height and width in pixels of both images.
SIZES = ((10, 20), (10, 20))
NONE = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
SIGMOID, SOFTMAX = ClassKind.SIGMOID, ClassKind.SOFTMAX


def spec(kind: ClassKind = SIGMOID, classes: tuple[str, ...] = ("car", "dog"), name: str = "one") -> DetectorSpec:
    return DetectorSpec(name, classes, PyramidLayout((8,), 4), queries=QueryLayout(3, kind, classes))


def batch(count: int) -> Batch:
    images = torch.zeros(count, 3, 16, 32)
    return Batch(images, SIZES[:count], SIZES[:count], (NONE,) * count, (*range(count),), (*range(count),))


def seen(logits: Any, boxes: Any, kind: ClassKind = SIGMOID) -> Observation:
    logits, boxes = (torch.as_tensor(one, dtype=torch.float32) for one in (logits, boxes))
    pyramid = Pyramid((torch.zeros(len(logits), 4, 2, 4),), (8,))
    return Observation(pyramid, queries=Queries(logits, boxes, kind))


def costs(ours: Observation, theirs: Observation, method: str = "queries", **specs: DetectorSpec) -> list[Tensor]:
    """The cost of each term, by image."""
    student, teacher = (specs.get(side) or spec(one.queries.kind) for side, one in (("s", ours), ("t", theirs)))
    recipe = build_recipe(method, student, teacher)
    pair = Pair(ours, theirs, batch(len(ours.queries.logits)))
    found = [one.term(pair, CLOCK) for one in recipe.terms]
    assert all(one.strides == (None,) for one in found)
    return [one.values[:, 0] for one in found]


def test_one_pair_by_hand() -> None:
    """The teacher is sure of a car by 3/4 and of a dog by 1/4; the student of both by 1/2.

    KL of each class: 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812, twice; the weight is 3/4, the divisor max(1, 3/4) = 1.
    Boxes: in shares of 20 x 10 pixels the student's is centred at (0.5, 0.25), 1 x 0.5, the teacher's at (0.25, 0.25),
    0.5 x 0.5: L1 = 0.75. IoU = GIoU = 1/2. So 3/4 (5 · 0.75 + 2 · 0.5) = 3.5625.
    """
    ours = seen([[[0.0, 0.0]]], [[[0, 0, 20, 5]]])
    theirs = seen([[[math.log(3), -math.log(3)]]], [[[0, 0, 10, 5]]])
    classes, boxes = costs(ours, theirs)
    assert float(classes) == pytest.approx(0.75 * 2 * 0.1308120, rel=1e-5)
    assert float(boxes) == pytest.approx(3.5625, rel=1e-5)


def test_a_softmax_counts_no_object_too() -> None:
    """KL of (1/2, 1/4, 1/4) and (1/3, 1/3, 1/3): ln 3 − (3/2) ln 2 = 0.0588915; the weight is 1/2."""
    ours = seen([[[0.0, 0.0, 0.0]]], [[[0, 0, 10, 5]]], SOFTMAX)
    theirs = seen([[[math.log(2), 0.0, 0.0]]], [[[0, 0, 10, 5]]], SOFTMAX)
    classes, boxes = costs(ours, theirs)
    assert float(classes) == pytest.approx(0.5 * (math.log(3) - 1.5 * math.log(2)), rel=1e-4)
    assert float(boxes) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("ours_are", "theirs_are"), [(SIGMOID, SOFTMAX), (SOFTMAX, SIGMOID)])
def test_equal_probabilities_cost_nothing_whatever_the_logits_mean(ours_are: ClassKind, theirs_are: ClassKind) -> None:
    """(1/2, 1/4) is a softmax of (ln 2, 0, 0) and sigmoids of 0 and −ln 3."""
    by_kind = {SOFTMAX: [[[math.log(2), 0.0, 0.0]]], SIGMOID: [[[0.0, -math.log(3)]]]}
    box = [[[0, 0, 10, 5]]]
    classes, _ = costs(seen(by_kind[ours_are], box, ours_are), seen(by_kind[theirs_are], box, theirs_are))
    assert float(classes) == pytest.approx(0.0, abs=1e-5)


def test_the_match_costs_least_together_and_the_surest_are_taken() -> None:
    """Both student queries lie nearest to the teacher's first; the teacher's third, unsure one is left over."""
    ours = seen([[[0.0, 0.0], [0.0, 0.0]]], [[[0, 0, 10, 10], [2, 0, 12, 10]]])
    theirs = seen([[[0.0, -9.0], [0.0, -9.0], [-6.0, -9.0]]], [[[1, 0, 11, 10], [3, 0, 13, 10], [0, 0, 10, 10]]])
    _, boxes = costs(ours, theirs, "queries(giou_cost=0)")
    # 1/20 between centres each, five times; both weights 1/2, together 1.
    assert float(boxes) == pytest.approx(5 * 0.05, rel=1e-5)


def random_pair(seed: int, *, count: int = 2, kind: ClassKind = SIGMOID) -> tuple[Observation, Observation]:
    generator = torch.Generator().manual_seed(seed)

    def side(queries: int) -> Observation:
        first = torch.rand((count, queries, 2), generator=generator) * 6
        extent = torch.rand((count, queries, 2), generator=generator) * 4 + 0.5
        columns = 2 + (kind is SOFTMAX)
        logits = torch.randn((count, queries, columns), generator=generator)
        return seen(logits, torch.cat([first, first + extent], dim=2), kind)

    return side(5), side(4)


def permuted(one: Observation, seed: int) -> Observation:
    queries = one.queries
    order = torch.randperm(queries.logits.shape[1], generator=torch.Generator().manual_seed(seed))
    return seen(queries.logits[:, order], queries.boxes[:, order], queries.kind)


@pytest.mark.parametrize("kind", [SIGMOID, SOFTMAX])
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_queries_means_nothing(seed: int, kind: ClassKind) -> None:
    ours, theirs = random_pair(seed, kind=kind)
    before, after = costs(ours, theirs), costs(permuted(ours, seed), permuted(theirs, seed + 9))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert (one > 0).all()


@pytest.mark.parametrize("kind", [SIGMOID, SOFTMAX])
def test_who_says_the_same_set_pays_nothing_and_an_image_the_same_in_any_batch(kind: ClassKind) -> None:
    ours, theirs = random_pair(3, kind=kind)
    for cost in costs(permuted(theirs, 1), theirs):
        torch.testing.assert_close(cost, torch.zeros(2), rtol=0, atol=1e-5)
    first = [seen(one.queries.logits[:1], one.queries.boxes[:1], one.queries.kind) for one in (ours, theirs)]
    for alone, together in zip(costs(*first), costs(ours, theirs), strict=True):
        torch.testing.assert_close(alone, together[:1])


@pytest.mark.parametrize("kind", [SIGMOID, SOFTMAX])
def test_gradients_are_those_of_differences_and_reach_the_student_alone(kind: ClassKind) -> None:
    ours, theirs = random_pair(5, kind=kind)
    logits, boxes, their_logits = (
        one.double().requires_grad_() for one in (ours.queries.logits, ours.queries.boxes, theirs.queries.logits)
    )

    def total(logits: Tensor, boxes: Tensor) -> Tensor:
        own = Observation(ours.pyramid, queries=Queries(logits, boxes, kind))
        other = Observation(theirs.pyramid, queries=Queries(their_logits, theirs.queries.boxes, kind))
        return sum(cost.sum() for cost in costs(own, other))

    value = total(logits, boxes)
    gradients = torch.autograd.grad(value, (logits, boxes, their_logits), allow_unused=True)
    assert gradients[2] is None or not gradients[2].any()
    for at, start in enumerate((logits, boxes)):
        direction = torch.sign(gradients[at])
        step = 1e-3
        moved = [
            float(total(*(one + sign * step * direction if one is start else one for one in (logits, boxes))).detach())
            for sign in (1, -1)
        ]
        slope = (moved[0] - moved[1]) / (2 * step)
        assert slope == pytest.approx(float((gradients[at] * direction).sum()), rel=2e-2)


def test_a_teacher_that_is_unsure_of_everything_teaches_little() -> None:
    ours, _ = random_pair(1, count=1)
    unsure = seen(torch.full((1, 4, 2), -7.0), [[[0, 0, 10, 5]] * 4])
    classes, boxes = costs(ours, unsure)
    assert float(boxes) < 0.05
    assert float(classes) < 0.05


def test_a_teacher_of_some_of_the_classes_is_compared_on_those() -> None:
    ours = seen([[[5.0, 0.0]]], [[[0, 0, 10, 5]]])
    theirs = seen([[[0.0]]], [[[0, 0, 10, 5]]])
    classes, _ = costs(ours, theirs, s=spec(), t=spec(classes=("dog",)))
    assert float(classes) == pytest.approx(0.0, abs=1e-6)


def test_what_has_no_queries_or_other_classes_is_refused_in_a_sentence() -> None:
    dense = DetectorSpec("fcos/tiny", ("car", "dog"), PyramidLayout((8,), 4))
    with pytest.raises(
        CapabilityError, match=r"must get a set of queries from both detectors, got none from fcos/tiny"
    ):
        build_recipe("queries", spec(), dense)
    with pytest.raises(CapabilityError, match=r"must say the student's classes, got 'cat' \(one\)"):
        build_recipe("queries", spec(), spec(classes=("cat",)))
    with pytest.raises(ConfigError, match="At least one gain"):
        build_recipe("queries(class_gain=0, box_gain=0)", spec(), spec())


def test_it_ends_as_its_schedule_says() -> None:
    recipe = build_recipe("queries(until=0.5, decay=cosine)", spec(), spec())
    assert {one.name: one.fades for one in recipe.terms} == {
        name: (Fade(0.5, "cosine"),) for name in ("queries.classes", "queries.boxes")
    }
