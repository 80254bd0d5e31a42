"""The recipe `attention`: what its settings choose, what it refuses, and what holds on any observation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair, inside_cells
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.term import LevelTerm
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.attention import AttentionSettings, build_attention
from detdistill.methods.attention_measures import MaskedFeatures
from detdistill.methods.parts.non_local import NonLocalBlock, dot_product_attention, inside_max_pool
from detdistill.settings.meanings import meanings_of
from detdistill.types import Batch, Clock, Knowledge, Need, Observation, Pyramid
from observations import batch, observation, random_observation, spec, unchecked

CLOCK = Clock(step=0, total_steps=1)
GRID = (64, 96)
STUDENT, TEACHER = spec(channels=3), spec(channels=4)
NAMES = ("attention.features", "attention.channels", "attention.cells", "attention.nonlocal")


def gains(recipe: Recipe) -> list[float]:
    return [weighted.gain for weighted in recipe.terms]


def blocks(recipe: Recipe) -> list[NonLocalBlock]:
    return [module for w in recipe.terms for module in w.term.modules() if isinstance(module, NonLocalBlock)]


def trained_a_while(recipe: Recipe) -> Recipe:
    """Non-local blocks whose gain is no longer 0."""
    torch.manual_seed(5)
    for block in blocks(recipe):
        torch.nn.init.normal_(block.gain)
        torch.nn.init.normal_(block.bias)
    return recipe


def masked_features(recipe: Recipe) -> MaskedFeatures:
    term = recipe.terms[0].term
    assert isinstance(term, LevelTerm)
    assert isinstance(term.measure, MaskedFeatures)
    return term.measure


def costs(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Tensor:
    return torch.cat([w.term(Pair(student, teacher, scene), CLOCK).values for w in recipe.terms], dim=1)


def noise_outside(seen: Observation, scene: Batch) -> Observation:
    levels = []
    for level, stride in zip(seen.pyramid.levels, seen.pyramid.strides, strict=True):
        inside = inside_cells(scene.sizes, stride, grid=(level.shape[2], level.shape[3]), device=level.device)
        spoilt = torch.where(inside, level.detach(), 100 * torch.randn(level.shape))
        levels.append(spoilt.requires_grad_(level.requires_grad))
    return Observation(Pyramid(tuple(levels), seen.pyramid.strides))


@pytest.mark.parametrize(
    ("two_stage", "published", "expected", "temperature", "channel_mask"),
    [
        (False, "zhang_ma", (4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4), 0.1, True),
        (True, "zhang_ma", (7e-5, 4e-3, 4e-3, 7e-5), 0.5, False),
        (False, "aid", (5.6e-4, 2.4e-2, 2.4e-2, 4.9e-4), 0.1, True),
        (True, "aid", (4e-5, 8e-3, 8e-3, 4e-5), 0.5, True),
        (False, "aid_baseline", (4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4), 0.1, True),
        (True, "aid_baseline", (4e-5, 2e-3, 2e-3, 2e-5), 0.5, True),
    ],
)
def test_published_numbers_by_the_students_kind(*, two_stage, published, expected, temperature, channel_mask) -> None:
    student = replace(STUDENT, two_stage=two_stage)
    recipe = build_attention(student, TEACHER, AttentionSettings(published=published))
    assert [weighted.name for weighted in recipe.terms] == list(NAMES)
    assert gains(recipe) == pytest.approx([math.sqrt(2) * gain for gain in expected])
    for plain in (AttentionSettings(coupling="batch"), AttentionSettings(normalize=True)):
        unscaled = build_attention(student, TEACHER, replace(plain, published=published))
        assert gains(unscaled) == pytest.approx(list(expected))
    features = masked_features(recipe)
    assert (features.temperature, features.channel_mask) == (temperature, channel_mask)


def test_given_numbers_are_taken_as_they_are_and_zero_leaves_a_term_out() -> None:
    settings = AttentionSettings(feature_gain=2.0, channel_gain=0.0, cell_gain=0.5, temperature=0.7, channel_mask=False)
    recipe = build_attention(STUDENT, TEACHER, settings)
    assert [weighted.name for weighted in recipe.terms] == [NAMES[0], NAMES[2], NAMES[3]]
    assert gains(recipe)[:2] == [2.0, 0.5]
    assert masked_features(recipe).temperature == 0.7
    assert not masked_features(recipe).channel_mask
    for weighted in recipe.terms:
        assert weighted.term.knowledge is Knowledge.FEATURE
        assert weighted.term.student_needs == weighted.term.teacher_needs == {Need.PYRAMID}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            unchecked(AttentionSettings(), coupling="level"),
            "The recipe's coupling must be one of image, batch, got 'level'. Choose one of them.",
        ),
        (
            unchecked(AttentionSettings(), norm="layer"),
            "The recipe's norm must be one of instance, batch, got 'layer'. Choose one of them.",
        ),
        (
            unchecked(AttentionSettings(), published="fgd"),
            "The recipe's published must be one of zhang_ma, aid, aid_baseline, got 'fgd'. Choose one of them.",
        ),
        (
            unchecked(AttentionSettings(), aligner="conv3x3"),
            "The recipe's aligner must be one of identity, conv1x1, got 'conv3x3'. Choose one of them.",
        ),
        (
            AttentionSettings(cell_gain=-1.0),
            "The recipe's gain of attention.cells must be a finite number of at least 0, got -1.0. Give one such as 1.",
        ),
        (
            AttentionSettings(student_mask=math.inf),
            "The recipe's student_mask must be a finite number of at least 0, got inf. Give one such as 1.",
        ),
        (
            AttentionSettings(temperature=0.0),
            "The recipe's temperature must be a finite number above 0, got 0.0. Give one such as 0.1.",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: AttentionSettings, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_attention(STUDENT, TEACHER, settings)
    assert str(caught.value) == message


def test_the_identity_refuses_other_channels_whichever_terms_are_left_out() -> None:
    settings = AttentionSettings(aligner="identity", feature_gain=0, nonlocal_gain=0)
    with pytest.raises(CapabilityError, match=r"equal channels on both sides, got 3 \(student\) and 4 \(teacher\)"):
        build_attention(STUDENT, TEACHER, settings)


def test_blocks_by_position_in_the_students_pyramid() -> None:
    student = spec(channels=100, strides=(4, 8, 16, 32, 64, 128))
    teacher = spec(channels=300, strides=(8, 16, 32, 64, 128))
    made = blocks(build_attention(student, teacher, AttentionSettings()))
    assert [block.inner for block in made] == [64, 100, 100, 100, 100, 64, 128, 128, 128, 128]
    assert [block.pool for block in made] == [4, 2, 2, 2, 2] * 2
    assert all(block.gain.abs().sum() == block.bias.abs().sum() == 0 for block in made)


def test_masks_average_both_and_forget_channels_that_do_not_match() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = batch([(16, 16)])
    for channels, share in ((4, 1.0), (4, 0.25), (4, 0.0), (3, 1.0)):
        ours, theirs = torch.randn(1, channels, 2, 2, generator=generator), torch.randn(1, 4, 2, 2, generator=generator)
        layout = spec(strides=(8,), channels=channels), spec(strides=(8,), channels=4)
        features = masked_features(build_attention(*layout, AttentionSettings(student_mask=share)))
        pair = Pair(observation([ours], strides=(8,)), observation([theirs], strides=(8,)), scene)
        cells, by_channel = features.masks(pair.level(8), pair)
        softmax = [4 * (m.abs().mean(1).flatten() / 0.1).softmax(0) for m in (theirs, ours)]
        torch.testing.assert_close(cells.flatten(), (softmax[0] + share * softmax[1]) / (1 + share))
        assert by_channel is not None
        softmax = [len(m[0]) * (m.abs().mean((2, 3)).flatten() / 0.1).softmax(0) for m in (theirs, ours)]
        both = (softmax[0] + share * softmax[1]) / (1 + share) if channels == 4 else softmax[0]
        torch.testing.assert_close(by_channel.flatten(), both)


def test_padding_never_teaches_a_coupled_batch_either() -> None:
    torch.manual_seed(0)
    settings = AttentionSettings(norm="batch", coupling="batch")
    recipe = trained_a_while(build_attention(STUDENT, TEACHER, settings))
    scene = batch([(40, 96), (64, 9), (1, 1)], grid=GRID)
    student = random_observation(scene, seed=0, channels=3, requires_grad=True)
    teacher = random_observation(scene, seed=1)
    trained = [parameter for weighted in recipe.terms for parameter in weighted.term.parameters()]
    results = []
    for ours, theirs in ((student, teacher), (noise_outside(student, scene), noise_outside(teacher, scene))):
        value = costs(recipe, ours, theirs, scene)
        results.append([value.detach(), *torch.autograd.grad(value.sum(), [*ours.pyramid.levels, *trained])])
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
        assert after.isfinite().all()


def test_a_coupled_batch_gives_every_image_the_norm_of_all() -> None:
    scene = batch([(64, 96), (40, 50)], grid=GRID)
    student, teacher = random_observation(scene, seed=0, channels=3), random_observation(scene, seed=1)
    torch.manual_seed(0)
    alone = costs(build_attention(STUDENT, TEACHER, AttentionSettings()), student, teacher, scene)
    torch.manual_seed(0)
    coupled = costs(build_attention(STUDENT, TEACHER, AttentionSettings(coupling="batch")), student, teacher, scene)
    torch.testing.assert_close(coupled, alone.square().sum(0).sqrt().expand(2, -1))


def test_both_blocks_are_trained_and_the_teacher_is_not() -> None:
    recipe = trained_a_while(build_attention(STUDENT, TEACHER, AttentionSettings()))
    scene = batch([(64, 96)])
    student = random_observation(scene, seed=0, channels=3, requires_grad=True)
    teacher = random_observation(scene, seed=1, requires_grad=True)
    costs(recipe, student, teacher, scene).sum().backward()
    assert all(level.grad is None for level in teacher.pyramid.levels)
    assert all(level.grad is not None and level.grad.any() for level in student.pyramid.levels)
    for block in blocks(recipe):
        assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_one_cell_with_one_image_costs_a_finite_amount() -> None:
    # Batch-norm in training mode would refuse one value per channel.
    recipe = trained_a_while(build_attention(STUDENT, TEACHER, AttentionSettings(norm="batch")))
    scene = batch([(8, 8)])
    student = random_observation(scene, seed=0, channels=3, requires_grad=True)
    value = costs(recipe, student, random_observation(scene, seed=1), scene)
    value.sum().backward()
    assert value.isfinite().all()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in student.pyramid.levels)


def test_half_precision_maps_are_compared_in_float32() -> None:
    recipe = build_attention(STUDENT, TEACHER, AttentionSettings())
    scene = batch([(64, 96), (40, 50)], grid=GRID)
    student, teacher = random_observation(scene, seed=0, channels=3), random_observation(scene, seed=1)
    exact = costs(recipe, student, teacher, scene)
    halves = [
        Observation(Pyramid(tuple(level.bfloat16() for level in seen.pyramid.levels), seen.pyramid.strides))
        for seen in (student, teacher)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = costs(recipe, halves[0], halves[1], scene)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=2e-2, atol=2e-2)


def test_pooling_is_each_images_own() -> None:
    maps = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(3, 1, 1, 1)
    inside = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    for image, (rows_inside, columns_inside) in enumerate(((4, 4), (3, 4), (1, 1))):
        inside[image, :, :rows_inside, :columns_inside] = True
    pooled, counted = inside_max_pool(maps, inside, pool=2)
    # 4×4: four windows. 3 rows: the second row of windows is not filled. One cell: the first window holds it alone.
    expected = torch.tensor([[[5.0, 7], [13, 15]], [[5, 7], [0, 0]], [[0, 0], [0, 0]]])
    torch.testing.assert_close(pooled[:, 0], expected)
    assert counted.sum((1, 2, 3)).tolist() == [4, 2, 1]
    pooled, counted = inside_max_pool(maps[:1, :, :2], inside[:1, :, :2], pool=8)
    assert pooled.tolist() == [[[[7.0]]]]
    assert counted.all()


def test_attention_divides_by_the_keys_that_count() -> None:
    keys = torch.tensor([2.0, 4.0, 0.0]).reshape(1, 1, 1, 3)
    counted = torch.tensor([True, True, False]).reshape(1, 1, 1, 3)
    # (1·2·2 + 1·4·4) / 2 keys
    found = dot_product_attention(torch.ones(1, 1, 1, 1), keys, keys, counted)
    torch.testing.assert_close(found.flatten(), torch.tensor([10.0]))


@pytest.mark.parametrize(("sizes", "padded"), [(((57, 89), (64, 96)), False), (((56, 96),), True), (((64, 88),), True)])
def test_levels_know_whether_they_are_padded(sizes: Sequence[tuple[int, int]], padded: bool) -> None:
    scene = batch(sizes, grid=GRID)
    student, teacher = random_observation(scene, seed=0), random_observation(scene, seed=1)
    level = Pair(student, teacher, scene).level(8)
    assert level.padded is padded is (not bool(level.inside.all()))


def test_every_setting_is_documented() -> None:
    assert set(meanings_of(AttentionSettings)) == {field.name for field in fields(AttentionSettings)}
