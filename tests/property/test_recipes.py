"""What holds for every recipe on any observation: padding, batches, order, equality, empty images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detdistill.distill.recipe import Recipe
from detdistill.parts.focus import inside_cells
from detdistill.recipes.catalogue import RECIPES, build_recipe
from detdistill.recipes.frs import FRSSettings
from detdistill.recipes.hint import HintSettings
from detdistill.recipes.ssim import SSIMSettings
from detdistill.types import Batch, Clock, Cost, Observation, Pyramid
from observations import batch, random_observation, spec

VARIANTS = {
    **{name: entry.settings_type() for name, entry in RECIPES.items()},
    "hint-l1-raw": HintSettings(p=1, normalized=False, aligner="conv3x3"),
    "frs-standardized": FRSSettings(standardize=True, relu=True),
    "ssim-channel": SSIMSettings(rescale_over="channel", window=5),
    "ssim-structure": SSIMSettings(alpha=0, beta=0),
}
GRID = (64, 96)
CLOCK = Clock(step=0, total_steps=1)
STUDENT, TEACHER = spec(channels=3), spec(channels=4)
image_size = st.tuples(st.integers(1, GRID[0]), st.integers(1, GRID[1]))
seeds = st.integers(0, 1000)
few = settings(max_examples=15, deadline=None)


def recipe_of(variant: str) -> Recipe:
    return build_recipe(VARIANTS[variant], STUDENT, TEACHER, seed=3)


def costs(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> list[Cost]:
    return [weighted.term(student, teacher, scene, CLOCK) for weighted in recipe.terms]


def total(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Tensor:
    return torch.cat([cost.values for cost in costs(recipe, student, teacher, scene)], dim=1)


def rows(seen: Observation, index: list[int]) -> Observation:
    assert seen.class_logits is not None
    return replace(
        seen,
        pyramid=Pyramid(tuple(level[index] for level in seen.pyramid.levels), seen.pyramid.strides),
        class_logits=replace(seen.class_logits, levels=tuple(level[index] for level in seen.class_logits.levels)),
    )


def with_noise_outside(seen: Observation, scene: Batch, seed: int) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    assert seen.class_logits is not None

    def spoil(level: Tensor, stride: int) -> Tensor:
        inside = inside_cells(scene.sizes, stride, grid=(level.shape[-2], level.shape[-1]), device=level.device)
        inside = inside.reshape(len(scene), *(1,) * (level.dim() - 3), *level.shape[-2:])
        noise = 100 * torch.randn(level.shape, generator=generator)
        return torch.where(inside, level.detach(), noise).requires_grad_(level.requires_grad)

    strides = seen.pyramid.strides
    return replace(
        seen,
        pyramid=Pyramid(tuple(map(spoil, seen.pyramid.levels, strides)), strides),
        class_logits=replace(seen.class_logits, levels=tuple(map(spoil, seen.class_logits.levels, strides))),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@few
@given(sizes=st.lists(image_size, min_size=1, max_size=3), seed=seeds)
def test_padding_never_teaches(variant: str, sizes: list[tuple[int, int]], seed: int) -> None:
    recipe, scene = recipe_of(variant), batch(sizes, grid=GRID)
    student = random_observation(scene, seed=seed, channels=3, requires_grad=True)
    teacher = random_observation(scene, seed=seed + 1)
    values, gradients = [], []
    for ours, theirs in (
        (student, teacher),
        (with_noise_outside(student, scene, seed + 2), with_noise_outside(teacher, scene, seed + 3)),
    ):
        assert ours.class_logits is not None
        value = total(recipe, ours, theirs, scene)
        leaves = [*ours.pyramid.levels, *ours.class_logits.levels]
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value.sum(), leaves, allow_unused=True))
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    for before, after in zip(*gradients, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@few
@given(sizes=st.lists(image_size, min_size=2, max_size=3), seed=seeds)
def test_an_image_costs_the_same_in_any_batch(variant: str, sizes: list[tuple[int, int]], seed: int) -> None:
    recipe, scene = recipe_of(variant), batch(sizes, grid=GRID)
    student = random_observation(scene, seed=seed, channels=3)
    teacher = random_observation(scene, seed=seed + 1)
    together = total(recipe, student, teacher, scene)
    alone = torch.cat(
        [total(recipe, rows(student, [i]), rows(teacher, [i]), scene.image(i)) for i in range(len(scene))]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together.min() >= 0
    assert together.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
@few
@given(sizes=st.lists(image_size, min_size=3, max_size=3), order=st.permutations([0, 1, 2]), seed=seeds)
def test_the_order_of_images_does_not_matter(
    variant: str, sizes: list[tuple[int, int]], order: list[int], seed: int
) -> None:
    recipe, scene = recipe_of(variant), batch(sizes, grid=GRID)
    student = random_observation(scene, seed=seed, channels=3)
    teacher = random_observation(scene, seed=seed + 1)
    shuffled = batch([sizes[index] for index in order], grid=GRID)
    straight = total(recipe, student, teacher, scene)
    permuted = total(recipe, rows(student, order), rows(teacher, order), shuffled)
    torch.testing.assert_close(straight[order], permuted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_observations_are_a_minimum_with_a_finite_zero_gradient(variant: str) -> None:
    same = spec(channels=3)
    recipe = build_recipe(replace(VARIANTS[variant], aligner="identity"), same, same)
    scene = batch([(64, 96), (40, 50)], grid=GRID)
    teacher = random_observation(scene, seed=0, channels=3)
    student = random_observation(scene, seed=0, channels=3, requires_grad=True)
    assert student.class_logits is not None
    value = total(recipe, student, teacher, scene)
    leaves = [*student.pyramid.levels, *student.class_logits.levels]
    gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    for gradient in gradients:
        if gradient is not None:
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=2e-5, rtol=0)
    other = random_observation(scene, seed=1, channels=3)
    # Classes keep the teacher's entropy, and a ReLU is no identity: minimal, not zero.
    assert (value <= total(recipe, other, teacher, scene) + 1e-6).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_student_and_the_aligner_get_gradients(variant: str) -> None:
    recipe, scene = recipe_of(variant), batch([(64, 96)], grid=GRID)
    student = random_observation(scene, seed=0, channels=3, requires_grad=True)
    teacher = random_observation(scene, seed=1, requires_grad=False)
    total(recipe, student, teacher, scene).sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in student.pyramid.levels)
    trained = [parameter for weighted in recipe.terms for parameter in weighted.term.parameters()]
    assert trained
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained)


@few
@given(seed=seeds, sizes=st.lists(image_size, min_size=1, max_size=3))
def test_batch_normalizer_is_the_sources_sum_over_the_batch(seed: int, sizes: list[tuple[int, int]]) -> None:
    scene = batch(sizes, grid=GRID)
    student = random_observation(scene, seed=seed, channels=3)
    teacher = random_observation(scene, seed=seed + 1)
    per_image = build_recipe(FRSSettings(), STUDENT, TEACHER, seed=3)
    coupled = build_recipe(FRSSettings(normalizer="batch"), STUDENT, TEACHER, seed=3)
    ours, theirs = (total(recipe, student, teacher, scene) for recipe in (per_image, coupled))
    if len(sizes) == 1:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    masks = [
        level.sigmoid().amax((1, 2))[:, None]
        * inside_cells(scene.sizes, stride, grid=(level.shape[-2], level.shape[-1]), device=level.device)
        for level, stride in zip(teacher.class_logits.levels, (8, 16), strict=True)  # type: ignore[union-attr]
    ]
    mass = torch.stack([mask.flatten(1).sum(1) for mask in masks], dim=1).repeat(1, 2)
    torch.testing.assert_close(theirs.mean(0), (ours * mass).sum(0) / mass.sum(0), rtol=1e-4, atol=1e-4)
