"""FRS on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import WarmUp
from detdistill.methods.frs import FRSSettings, build_frs
from detdistill.methods.parts.focus import richness
from detdistill.types import Clock, Observation
from observations import batch, observation, spec

CLOCK = Clock(step=0, total_steps=1)


def losses(
    student: Observation,
    teacher: Observation,
    sizes: list[tuple[int, int]],
    *,
    strides: tuple[int, ...] = (8,),
    channels: int = 4,
    classes: int = 1,
    settings: FRSSettings | None = None,
) -> dict[str, Tensor]:
    names = tuple(str(index) for index in range(classes))
    layout = spec(family="retinanet", strides=strides, channels=channels, classes=names)
    recipe = build_frs(layout, layout, settings or FRSSettings(aligner="identity"))
    return {
        weighted.name: weighted.gain * weighted.term(Pair(student, teacher, batch(sizes)), CLOCK).values.sum(1).mean()
        for weighted in recipe.terms
    }


@pytest.mark.parametrize("logit", [-30.0, 0.0, 5.0])
def test_f1_a_constant_mask_does_not_matter(logit: float) -> None:
    # T − S = 0.5 in 4 channels: Σ_c diff² = 4 · 0.25 = 1 at every cell, so 1 per level; 5 levels · 0.005 = 0.025
    strides = (8, 16, 32, 64, 128)
    size = (256, 256)
    grids = [256 // stride for stride in strides]
    teacher = observation(
        [torch.full((1, 4, g, g), 0.5) for g in grids],
        [torch.full((1, 1, 1, g, g), logit) for g in grids],
        strides=strides,
    )
    student = observation(
        [torch.zeros(1, 4, g, g) for g in grids], [torch.zeros(1, 1, 1, g, g) for g in grids], strides=strides
    )
    loss = losses(student, teacher, [size], strides=strides)["frs.features"]
    torch.testing.assert_close(loss, torch.tensor(0.025))


def test_f2_masks_weigh_positions() -> None:
    # masks sigmoid(0) = 0.5 and sigmoid(ln 3) = 0.75; Σ_c diff² = 1 and 2: (0.5·1 + 0.75·2) / 1.25 = 1.6
    teacher = observation(
        [torch.tensor([1.0, math.sqrt(2.0)]).reshape(1, 1, 1, 2)],
        [torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 1, 1, 2)],
        strides=(8,),
    )
    student = observation([torch.zeros(1, 1, 1, 2)], [torch.zeros(1, 1, 1, 1, 2)], strides=(8,))
    settings = FRSSettings(aligner="identity", feature_gain=1.0)
    loss = losses(student, teacher, [(8, 16)], channels=1, settings=settings)["frs.features"]
    torch.testing.assert_close(loss, torch.tensor(1.6))


@pytest.mark.parametrize("seed", [0, 1])
def test_f3_an_undecided_student_pays_ln_2_per_class(seed: int) -> None:
    # p = 0.5: BCE = ln 2 whatever the target; K = 3 classes: 3 ln 2 = 2.0794415 per level; 5 levels · 0.02 = 0.2079442
    strides = (8, 16, 32, 64, 128)
    generator = torch.Generator().manual_seed(seed)
    grids = [128 // stride for stride in strides]
    teacher = observation(
        [torch.zeros(1, 4, g, g) for g in grids],
        [torch.randn(1, 1, 3, g, g, generator=generator) for g in grids],
        strides=strides,
    )
    student = observation(
        [torch.zeros(1, 4, g, g) for g in grids], [torch.zeros(1, 1, 3, g, g) for g in grids], strides=strides
    )
    loss = losses(student, teacher, [(128, 128)], strides=strides, classes=3)["frs.classes"]
    torch.testing.assert_close(loss, torch.tensor(0.2079442))


def test_f4_equal_detectors_keep_the_entropy_and_no_feature_loss() -> None:
    # identical logits 0: the BCE's minimum is the entropy K ln 2, K = 2: 1.3862944; features identical: 0
    both = observation([torch.ones(1, 4, 2, 2)], [torch.zeros(1, 1, 2, 2, 2)], strides=(8,))
    settings = FRSSettings(aligner="identity", class_gain=1.0)
    result = losses(both, both, [(16, 16)], classes=2, settings=settings)
    torch.testing.assert_close(result["frs.classes"], torch.tensor(2 * math.log(2.0)))
    assert result["frs.features"] == 0


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0), (125, 0.25), (250, 0.5), (499, 0.998), (500, 1.0), (9999, 1.0)])
def test_f5_warm_up(step: int, factor: float) -> None:
    # min(1, step / 500); a run of 10,000 steps leaves the 500 uncapped (5 % of it)
    warm_up = WarmUp(steps=500, longest=0.05)
    assert warm_up(Clock(step=step, total_steps=10_000)) == pytest.approx(factor)


def test_f5_warm_up_is_capped_at_five_percent_of_a_short_run() -> None:
    # 5 % of 600 steps are 30: half of it at step 15
    assert WarmUp(steps=500, longest=0.05)(Clock(step=15, total_steps=600)) == pytest.approx(0.5)


def test_f6_only_the_rich_position_counts() -> None:
    # logits −30 but one at +20: the loss is that position's Σ_c diff² = 3² (the rest, 1 each, weighs e^-30)
    logits = torch.full((1, 1, 1, 2, 2), -30.0)
    logits[..., 1, 1] = 20.0
    features = torch.ones(1, 1, 2, 2)
    features[..., 1, 1] = 3.0
    teacher = observation([features], [logits], strides=(8,))
    student = observation([torch.zeros(1, 1, 2, 2)], [torch.zeros(1, 1, 1, 2, 2)], strides=(8,))
    settings = FRSSettings(aligner="identity", feature_gain=1.0)
    loss = losses(student, teacher, [(16, 16)], channels=1, settings=settings)["frs.features"]
    torch.testing.assert_close(loss, torch.tensor(9.0), rtol=1e-3, atol=0)


def test_f7_the_mask_is_the_largest_of_all_class_scores() -> None:
    # logits 0 and ln 3: max(0.5, 0.75) = 0.75
    teacher = observation(
        [torch.zeros(1, 1, 1, 1)], [torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 2, 1, 1)], strides=(8,)
    )
    pair = Pair(teacher, teacher, batch([(8, 8)]))
    mask = richness(pair.level(8), pair)
    torch.testing.assert_close(mask, torch.full((1, 1, 1, 1), 0.75))


def test_per_channel_scale_is_the_published_strength() -> None:
    # 4 channels instead of 256: × 64; 1 anchor × 3 classes instead of 1 × 80: × 80/3; 3 × 3 instead of 9 × 80: × 80
    for family, share in (("fcos", 80 / 3), ("retinanet", 80.0)):
        _require_strength(family, share)


def _require_strength(family: str, share: float) -> None:
    layout = spec(family=family, strides=(8,), channels=4, classes=("a", "b", "c"))
    source = build_frs(layout, layout, FRSSettings())
    scaled = build_frs(layout, layout, FRSSettings(scale="per_channel"))
    assert [b.gain / a.gain for a, b in zip(source.terms, scaled.terms, strict=True)] == pytest.approx([64.0, share])
