"""What holds for every recipe on any observation: padding, batches, order, equality, empty images."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from detdistill.distillation.pair import inside_cells
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import Seen
from detdistill.distillation.view import CLEAN
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.ikd import ADVERSARIAL
from detdistill.types import Batch, Cost, Knowledge
from every_method import (
    OBJECTS_ALONE,
    ON_MAPS,
    WRAPPING,
    aligned_by,
    compared_by,
    cost_of,
    costs_of,
    images_of,
    leaves,
    require_equal_in_any_batch,
    require_equal_without_padding,
)
from observations import batch, random_losses, random_observation, spec, with_boxes
from scenes_in_memory import targets_of
from thorough import cases

# Left out are the options that couple images on purpose, as the sources do: frs(normalizer=batch), attention's
# coupling=batch and norm=batch, ssim(rescale_over=batch), aid's granularity of level and batch.
VARIANTS = [
    *ON_MAPS,
    "hint(p=1, normalized=false, aligner=conv3x3)",
    "attention(channel_mask=false)",
    "attention(normalize=true)",
    "attention(student_mask=0.0)",
    "frs(standardize=true, relu=true)",
    "ssim(rescale_over=channel, window=5)",
    "ssim(alpha=0, beta=0)",
    "ld(temperature=3.0, valuable_region=true, class_gain=10.0)",
    "fgd(features=standardized)",
    "aid(frs, alpha=0.5)",
    "aid(ld, granularity=image)",
    "aid(ikd(frs + ssim))",
]
# More of the same kinds, when there is time.
SELDOM = [
    "fgd(temperature=0.2)",
    "mgd(drop=0.2, aligner=conv3x3)",
    "mgd(features=standardized)",
    "attention(features=standardized) + ssim(features=standardized)",
    "ikd(hint)",
    "ikd(aid(fgd), bounds=source)",
]
CASES = [*VARIANTS, *(pytest.param(variant, marks=pytest.mark.slow) for variant in SELDOM)]
# A generator has to learn to be the identity: at equality, what it paints is not the teacher's map.
NEVER_ZERO = {"mgd", "mgd(drop=0.2, aligner=conv3x3)", "mgd(features=standardized)"}
GRID, BINS = (64, 96), 5
STUDENT, TEACHER = spec(channels=3, bins=BINS), spec(channels=4, bins=BINS)
image_size = st.tuples(st.integers(1, GRID[0]), st.integers(1, GRID[1]))
seeds = st.integers(0, 1000)
few = settings(max_examples=cases(2, 8), deadline=None)


@functools.cache
def recipe_of(variant: str) -> Recipe:
    """Not to be trained."""
    return build_recipe(variant, STUDENT, TEACHER, seed=3)


def observed(
    recipe: Recipe, scene: Batch, *, seed: int, requires_grad: bool = False, channels: int = 4, same: bool = False
) -> Seen:
    """What both sides show of a batch on the recipe's views; where they are the `same`, both show the teacher's."""
    scene = replace(scene, twins={ADVERSARIAL: torch.ones_like(scene.images)})
    students, teachers = {}, {}
    for view in recipe.views():
        own = seed + 2000 * (view != CLEAN)
        teachers[view] = random_observation(scene, seed=own + 1, channels=channels, bins=BINS)
        students[view] = random_observation(
            scene, seed=own + same, channels=channels if same else 3, bins=BINS, requires_grad=requires_grad
        )
    teachers[CLEAN] = replace(teachers[CLEAN], task_loss=random_losses(len(scene), seed=seed))
    return Seen(scene, students, teachers)


def scene_of(sizes: list[tuple[int, int]], *, seed: int) -> Batch:
    """Images with 0 to 3 boxes each."""
    return with_boxes(batch(sizes, grid=GRID), seed=seed)


@pytest.mark.parametrize("variant", CASES)
@few
@given(sizes=st.lists(image_size, min_size=1, max_size=3), seed=seeds)
def test_padding_never_teaches(variant: str, sizes: list[tuple[int, int]], seed: int) -> None:
    recipe = recipe_of(variant)
    seen = observed(recipe, scene_of(sizes, seed=seed), seed=seed, requires_grad=True)
    require_equal_without_padding(recipe, seen, seed=seed + 2)


@pytest.mark.parametrize("variant", CASES)
@few
@given(sizes=st.lists(image_size, min_size=2, max_size=3), seed=seeds)
@example(sizes=[(1, 1), (1, 1), (1, 17)], seed=316)  # nearly flat maps
def test_an_image_costs_the_same_in_any_batch(variant: str, sizes: list[tuple[int, int]], seed: int) -> None:
    recipe = recipe_of(variant)
    # SSIM's variances are differences of numbers near 1: float32 leaves some 6e-8 of them, and c2 = 9e-4 divides it.
    atol = 1e-4 if "ssim" in variant else 1e-5
    together = require_equal_in_any_batch(recipe, observed(recipe, scene_of(sizes, seed=seed), seed=seed), atol=atol)
    assert together.min() >= 0
    assert together.isfinite().all()


@pytest.mark.parametrize("variant", CASES)
@few
@given(sizes=st.lists(image_size, min_size=3, max_size=3), order=st.permutations([0, 1, 2]), seed=seeds)
def test_the_order_of_images_does_not_matter(
    variant: str, sizes: list[tuple[int, int]], order: list[int], seed: int
) -> None:
    recipe = recipe_of(variant)
    seen = observed(recipe, scene_of(sizes, seed=seed), seed=seed)
    with torch.no_grad():
        straight, permuted = costs_of(recipe, seen), costs_of(recipe, images_of(seen, order))
    torch.testing.assert_close(straight[order], permuted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", CASES)
def test_equal_observations_are_a_minimum_with_a_finite_zero_gradient(variant: str) -> None:
    same = spec(channels=3, bins=BINS)
    recipe = build_recipe(aligned_by(variant, "identity"), same, same)
    scene = scene_of([(64, 96), (40, 50)], seed=1)
    seen = observed(recipe, scene, seed=0, channels=3, same=True, requires_grad=True)
    value = costs_of(recipe, seen)
    gradients = torch.autograd.grad(value.sum(), leaves(seen), allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            assert gradient.isfinite().all()
            if variant not in NEVER_ZERO:
                torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=2e-5, rtol=0)
    if variant not in NEVER_ZERO:
        other = observed(recipe, scene, seed=9, channels=3, same=True)
        # Classes keep the teacher's entropy, and a ReLU is no identity: minimal, not zero.
        assert (value <= costs_of(recipe, replace(seen, students=other.students)) + 1e-6).all()


@pytest.mark.parametrize("variant", CASES)
def test_only_the_student_and_the_aligner_get_gradients(variant: str) -> None:
    recipe = recipe_of(variant)
    scene = replace(batch([(64, 96)]), targets=(targets_of([(4, 6, 22, 24), (20, 8, 70, 60)]),))
    seen = observed(recipe, scene, seed=0, requires_grad=True)
    for weighted in recipe.terms:
        value = cost_of(weighted, seen).values.sum()
        read = compared_by(weighted.term, seen.students[weighted.view]).levels
        trained = [*weighted.term.parameters()]
        gradients = torch.autograd.grad(value, [*read, *trained], allow_unused=True)
        assert all(one is not None and one.abs().sum() > 0 for one in gradients[: len(read)]), weighted.name
        assert bool(trained) == (weighted.term.knowledge is Knowledge.FEATURE)
        if trained:
            assert any(one is not None and one.abs().sum() > 0 for one in gradients[len(read) :]), weighted.name


@pytest.mark.parametrize("variant", CASES)
def test_an_image_without_boxes_stays_in_the_graph(variant: str) -> None:
    """A term that finds no position costs a connected 0; all others cost something."""
    recipe = recipe_of(variant)
    seen = observed(recipe, batch([(64, 96), (40, 50)], grid=GRID), seed=0, requires_grad=True)
    for weighted in recipe.terms:
        cost: Cost = cost_of(weighted, seen)
        read = compared_by(weighted.term, seen.students[weighted.view]).levels
        gradients = torch.autograd.grad(cost.values.sum(), read)
        assert all(gradient.isfinite().all() for gradient in gradients)
        silent = weighted.name.startswith("ld.") or weighted.name == "fgd.foreground"
        assert cost.values.any() == any(gradient.any() for gradient in gradients) == (not silent), weighted.name
        assert not silent or weighted.name in OBJECTS_ALONE | {"ld.region", "ld.classes"}


def test_every_method_is_here() -> None:
    assert {*ON_MAPS} <= {*VARIANTS}
    assert all(any(f"{wrapper}(" in variant for variant in VARIANTS) for wrapper in WRAPPING)
    assert {*VARIANTS, *SELDOM} >= NEVER_ZERO


@few
@given(seed=seeds, sizes=st.lists(image_size, min_size=1, max_size=3))
def test_batch_normalizer_is_the_sources_sum_over_the_batch(seed: int, sizes: list[tuple[int, int]]) -> None:
    seen = observed(recipe_of("frs"), batch(sizes, grid=GRID), seed=seed)
    ours, theirs = (costs_of(recipe_of(method), seen) for method in ("frs", "frs(normalizer=batch)"))
    if len(sizes) == 1:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    logits = seen.teachers[CLEAN].class_logits
    assert logits is not None
    masks = [
        level.sigmoid().amax((1, 2))[:, None]
        * inside_cells(seen.batch.sizes, stride, grid=(level.shape[-2], level.shape[-1]), device=level.device)
        for level, stride in zip(logits.levels, (8, 16), strict=True)
    ]
    mass: Tensor = torch.stack([mask.flatten(1).sum(1) for mask in masks], dim=1).repeat(1, 2)
    torch.testing.assert_close(theirs.mean(0), (ours * mass).sum(0) / mass.sum(0), rtol=1e-4, atol=1e-4)
