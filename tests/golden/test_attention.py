"""Zhang and Ma's attention-guided and non-local imitation on numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.term import LevelTerm
from detdistill.methods.attention import AttentionSettings, build_attention
from detdistill.methods.attention_measures import MaskedFeatures, PooledCells, PooledChannels, Relations
from detdistill.methods.parts.attention import attentions
from detdistill.methods.parts.non_local import NonLocalBlock, dot_product_attention, inside_max_pool
from detdistill.types import Clock
from observations import batch, observation, spec

CLOCK = Clock(step=0, total_steps=1)
ONE_STAGE = spec(strides=(8,), channels=4)
TWO_STAGE = replace(ONE_STAGE, two_stage=True)
SQRT2 = math.sqrt(2.0)


def inside_of(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape[0], 1, *maps.shape[2:], dtype=torch.bool)


def columns(recipe: Recipe, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """Each term's mean cost before its gain; the maps fill their image."""
    height, width = 8 * teacher.shape[2], 8 * teacher.shape[3]
    scene = batch([(height, width)] * len(teacher))
    ours, theirs = (observation([maps], strides=(8,)) for maps in (student, teacher))
    return {w.name: w.term(Pair(ours, theirs, scene), CLOCK).values.sum(1).mean() for w in recipe.terms}


def measure(recipe: Recipe, index: int) -> Any:
    term = recipe.terms[index].term
    assert isinstance(term, LevelTerm)
    return term.measure


def make_identities(recipe: Recipe) -> None:
    """Every trained adapter becomes the identity: 1×1 and linear identity, 3×3 with centre 1, biases 0."""
    with torch.no_grad():
        for weighted in recipe.terms:
            # Non-local blocks are left alone: their norm starts at 0, so that z = x.
            for name, module in weighted.term.named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d) and name.startswith(("align.", "measure.align.")):
                    set_to_identity(module)


def set_to_identity(module: nn.Linear | nn.Conv2d) -> None:
    if isinstance(module, nn.Linear):
        nn.init.eye_(module.weight)
    else:
        nn.init.dirac_(module.weight)
    assert module.bias is not None
    nn.init.zeros_(module.bias)


@pytest.mark.parametrize("constant", [-2.0, 0.0, 0.3])
def test_z1_constant_maps_have_masks_of_one(constant: float) -> None:
    maps = torch.full((2, 4, 3, 3), constant)
    torch.testing.assert_close(attentions(maps, inside_of(maps), temperature=0.1)[0], torch.ones(2, 1, 3, 3))
    torch.testing.assert_close(attentions(maps, inside_of(maps), temperature=0.5)[1], torch.ones(2, 4, 1, 1))


def test_z2_masks_sum_to_the_number_of_cells_and_of_channels() -> None:
    maps = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    cells = attentions(maps, inside_of(maps), temperature=0.1)[0].sum((1, 2, 3))
    torch.testing.assert_close(cells, torch.tensor([15.0, 15.0]))
    channels = attentions(maps, inside_of(maps), temperature=0.1)[1].sum((1, 2, 3))
    torch.testing.assert_close(channels, torch.tensor([4.0, 4.0]))


def test_z3_two_cells() -> None:
    # softmax(0, ln 3) = (1/4, 3/4); times 2 cells
    maps = torch.tensor([0.0, 0.1 * math.log(3.0)]).reshape(1, 1, 1, 2)
    mask = attentions(maps, inside_of(maps), temperature=0.1)[0]
    torch.testing.assert_close(mask.flatten(), torch.tensor([0.5, 1.5]))


@pytest.mark.parametrize("aligner", ["identity", "conv1x1"])
@pytest.mark.parametrize(
    ("coupling", "norms"),
    [
        # One root over the batch of 2 images, 4 channels, 9 cells of difference 1: √72, √(2·4), √(2·9), √72.
        ("batch", (8.4852814, 2.8284271, 4.2426407, 8.4852814)),
        # One root per image, then the mean: √36, √4, √9, √36.
        ("image", (6.0, 2.0, 3.0, 6.0)),
    ],
)
@pytest.mark.parametrize(
    ("layout", "published", "coupled_total", "image_total"),
    [
        # 16.970563 · 4.2e-4 + 7.0710678 · 2.4e-2; per image 12 · 4.2e-4 + 5 · 2.4e-2
        (ONE_STAGE, "zhang_ma", 0.17683326, 0.1250400),
        (TWO_STAGE, "zhang_ma", 0.02947221, 0.0208400),
        # 8.4852814 · (5.6e-4 + 4.9e-4) + 7.0710678 · 2.4e-2, and 8.4852814 · 8e-5 + 7.0710678 · 8e-3
        (ONE_STAGE, "aid", 0.17861517, 0.1263000),
        (TWO_STAGE, "aid", 0.05724737, 0.0404800),
        # 8.4852814 · 6e-5 + 7.0710678 · 2e-3; per image 6 · 6e-5 + 5 · 2e-3
        (TWO_STAGE, "aid_baseline", 0.01465125, 0.0103600),
    ],
)
def test_z4_ones_against_zeros(*, layout, published, coupled_total, image_total, coupling, norms, aligner) -> None:
    settings = AttentionSettings(published=published, coupling=coupling, aligner=aligner)
    recipe = build_attention(layout, layout, settings)
    make_identities(recipe)
    found = columns(recipe, torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3))
    expected = dict(zip(("features", "channels", "cells", "nonlocal"), norms, strict=True))
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(
        {f"attention.{name}": value for name, value in expected.items()}, rel=1e-6
    )
    total = sum(weighted.gain * float(found[weighted.name].detach()) for weighted in recipe.terms)
    wanted = coupled_total if coupling == "batch" else image_total * SQRT2
    assert total == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("coupling", ["image", "batch"])
@pytest.mark.parametrize("aligner", ["identity", "conv1x1"])
def test_z5_equal_detectors_cost_nothing_and_have_a_finite_gradient(aligner: str, coupling: str) -> None:
    maps = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    recipe = build_attention(ONE_STAGE, ONE_STAGE, AttentionSettings(aligner=aligner, coupling=coupling))
    make_identities(recipe)
    # An image's mean over channels, through a 3×3 kernel with centre 1, is itself.
    student = maps.clone().requires_grad_()
    for name, value in columns(recipe, student, maps).items():
        assert float(value.detach()) == pytest.approx(0, abs=1e-6), name
        trained = [p for w in recipe.terms if w.name == name for p in w.term.parameters()]
        for gradient in torch.autograd.grad(value, [student, *trained], allow_unused=True):
            assert gradient is not None
            assert gradient.isfinite().all()


def test_z6_non_local_on_two_cells() -> None:
    # f = x xᵀ / 2 = ((1/2, 1), (1, 2)); y = f x = (2.5, 5); z = y + x = (3.5, 7); with the norm at its start z = x
    x = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
    keys, counted = inside_max_pool(x, inside_of(x), pool=1)
    y = dot_product_attention(x, keys, keys, counted)
    torch.testing.assert_close(y.flatten(), torch.tensor([2.5, 5.0]))
    torch.testing.assert_close((y + x).flatten(), torch.tensor([3.5, 7.0]))
    block = NonLocalBlock(1, inner=1, pool=1)
    with torch.no_grad():
        block.project.weight.fill_(1.0)
        block.expand.weight.fill_(1.0)
        block.project.bias.zero_()  # type: ignore[union-attr]
    torch.testing.assert_close(block(x, inside_of(x)), x)
    # With gain 1: y = (2.5, 5) has mean 3.75 and deviation 1.25, so z = x + (−1, 1) but for the norm's 1e-5
    with torch.no_grad():
        block.gain.fill_(1.0)
    torch.testing.assert_close(block(x, inside_of(x)).flatten(), torch.tensor([0.0, 3.0]), rtol=0, atol=1e-5)


def test_z7_masks_carry_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 4, 3, 3, generator=generator)
    student = torch.randn(1, 4, 3, 3, generator=generator).requires_grad_()
    recipe = build_attention(ONE_STAGE, ONE_STAGE, AttentionSettings(aligner="identity"))
    value = columns(recipe, student, teacher)["attention.features"]
    (gradient,) = torch.autograd.grad(value, student)
    inside = inside_of(teacher)
    constant = student.detach()
    cells = sum(attentions(m, inside, temperature=0.1)[0] for m in (teacher, constant)) / 2
    channels = sum(attentions(m, inside, temperature=0.1)[1] for m in (teacher, constant)) / 2
    # d √(Σ m (s − t)²) / ds = m (s − t) / √(Σ m (s − t)²)
    weighed = cells * channels * (constant - teacher)
    torch.testing.assert_close(gradient, weighed / (weighed * (constant - teacher)).sum().sqrt())


class SourceNonLocal(nn.Module):
    """The block as published: batch-norm in training mode, a table of cells by keys."""

    def __init__(self, block: NonLocalBlock, pool: int) -> None:
        super().__init__()
        self.block, self.pool = block, nn.MaxPool2d(pool)
        self.norm = nn.BatchNorm2d(len(block.gain)).train()
        self.norm.weight, self.norm.bias = block.gain, block.bias

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = self.block.project(x).chunk(3, dim=1)
        phi, g = self.pool(phi).flatten(2), self.pool(g).flatten(2)
        table = theta.flatten(2).transpose(1, 2) @ phi / phi.shape[2]
        y = (table @ g.transpose(1, 2)).transpose(1, 2).reshape(theta.shape)
        return self.norm(F.conv2d(y, self.block.expand.weight)) + x


def source_loss(recipe: Recipe, s: Tensor, t: Tensor) -> Tensor:
    """Zhang and Ma's loss of one level on the recipe's own weights: every root over the whole batch."""
    features, channels, cells, relations = (measure(recipe, index) for index in range(4))
    assert isinstance(features, MaskedFeatures)
    assert isinstance(channels, PooledChannels)
    assert isinstance(cells, PooledCells)
    assert isinstance(relations, Relations)

    def mask_cells(f: Tensor) -> Tensor:
        strength = f.abs().mean(1).flatten(1) / 0.1
        return (strength.shape[1] * strength.softmax(1)).view(len(f), 1, *f.shape[2:])

    def mask_channels(f: Tensor) -> Tensor:
        return f.shape[1] * (f.abs().mean((2, 3), keepdim=True) / 0.1).softmax(1)

    mask = ((mask_cells(t) + mask_cells(s)) / 2 * ((mask_channels(t) + mask_channels(s)) / 2)).detach()
    key = "stride_8"
    l_feat = ((t - recipe.terms[0].term.align(s, 8)).square() * mask).sum().sqrt()
    l_ch = (t.mean((2, 3)) - channels.align[key](s.mean((2, 3)))).norm()
    l_sp = (t.mean(1, keepdim=True) - cells.align[key](s.mean(1, keepdim=True))).norm()
    blocks = [SourceNonLocal(blocks[key], 8) for blocks in (relations.students, relations.teachers)]
    l_nl = (relations.align(blocks[0](s), 8) - blocks[1](t)).norm()
    return 4.2e-4 * l_feat + 2.4e-2 * (l_ch + l_sp) + 4.2e-4 * l_nl


@pytest.mark.parametrize(
    ("images", "settings", "factor"),
    [
        (1, AttentionSettings(), SQRT2),
        (1, AttentionSettings(coupling="batch", norm="batch"), 1.0),
        (3, AttentionSettings(coupling="batch", norm="batch"), 1.0),
    ],
)
def test_one_image_or_a_coupled_batch_is_the_source(images: int, settings: AttentionSettings, factor: float) -> None:
    torch.manual_seed(0)
    recipe = build_attention(ONE_STAGE, ONE_STAGE, settings)
    blocks = [m for w in recipe.terms for m in w.term.modules() if isinstance(m, NonLocalBlock)]
    assert len(blocks) == 2
    for block in blocks:
        nn.init.normal_(block.gain)
        nn.init.normal_(block.bias)
    student = torch.randn(images, 4, 16, 25).requires_grad_()
    teacher = torch.randn(images, 4, 16, 25)
    found = columns(recipe, student, teacher)
    ours = sum((w.gain * found[w.name] for w in recipe.terms), torch.zeros(())) / factor
    theirs = source_loss(recipe, student, teacher)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    trained = [student, *(p for w in recipe.terms for p in w.term.parameters())]
    gradients = zip(*(torch.autograd.grad(value, trained) for value in (ours, theirs)), strict=True)
    for mine, source in gradients:
        torch.testing.assert_close(mine, source, rtol=1e-3, atol=1e-6)
