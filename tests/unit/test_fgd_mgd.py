"""fgd and mgd: padding, batches, empty images, what is trained, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair, inside_cells
from detdistill.distillation.recipe import Recipe
from detdistill.errors import CapabilityError, ConfigError, ShapeError
from detdistill.methods.features import aligner_for
from detdistill.methods.fgd import FGDSettings, build_fgd
from detdistill.methods.mgd import MGDSettings, build_mgd
from detdistill.methods.parts.align import ConvAlign, IdentityAlign
from detdistill.methods.parts.context import ContextBlock
from detdistill.methods.parts.focus import background, foreground
from detdistill.methods.parts.generation import kept_cells
from detdistill.types import Clock, Observation
from observations import batch, observation, random_observation, spec, unchecked
from scenes_in_memory import targets_of

CLOCK = Clock(step=0, total_steps=1)
GRID = (64, 96)
SIZES = [(64, 96), (40, 50), (33, 17), (9, 9)]
BOXES: list[list[tuple[float, float, float, float]]] = [
    [(0, 0, 20, 30), (50, 10, 90, 60)],
    [(5, 5, 50, 40)],
    [],
    [(0, 0, 9, 9)],
]
SCENE = replace(batch(SIZES, grid=GRID), targets=tuple(targets_of(boxes) for boxes in BOXES), seeds=(5, 17, 3, 99))
STUDENT, TEACHER = spec(channels=3), spec(channels=8)


def recipes() -> dict[str, Recipe]:
    made = {}
    for aligner in ("auto", "conv3x3"):
        torch.manual_seed(0)
        made[f"fgd-{aligner}"] = build_fgd(STUDENT, TEACHER, FGDSettings(aligner=aligner))  # type: ignore[arg-type]
        made[f"mgd-{aligner}"] = build_mgd(STUDENT, TEACHER, MGDSettings(aligner=aligner))  # type: ignore[arg-type]
    for recipe in made.values():
        for weighted in recipe.terms:
            for module in weighted.term.modules():
                if isinstance(module, ContextBlock):
                    torch.nn.init.normal_(module.expand.weight)
    return made


RECIPES = recipes()


def parameters(recipe: Recipe) -> list[Tensor]:
    return list(dict.fromkeys(p for weighted in recipe.terms for p in weighted.term.parameters()))


def both(*, student_channels: int = 3) -> tuple[Observation, Observation]:
    student = random_observation(SCENE, seed=1, channels=student_channels, requires_grad=True)
    return student, random_observation(SCENE, seed=2, channels=8)


@pytest.mark.parametrize("name", RECIPES)
def test_every_term_reaches_the_student_and_what_it_trains(name: str) -> None:
    student, teacher = both()
    for weighted in RECIPES[name].terms:
        cost = weighted.term(Pair(student, teacher, SCENE), CLOCK)
        assert cost.values.shape == (4, 2)
        assert cost.strides == (8, 16)
        leaves = [*student.pyramid.levels, *weighted.term.parameters()]
        gradients = torch.autograd.grad(cost.values.sum(), leaves)
        assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_the_four_terms_of_fgd_share_one_aligner() -> None:
    recipe = RECIPES["fgd-auto"]
    aligners = {id(weighted.term.align) for weighted in recipe.terms}
    assert len(aligners) == 1
    blocks = [m for m in recipe.terms[-1].term.modules() if isinstance(m, ContextBlock)]
    assert len(blocks) == 4


def test_an_image_without_boxes_has_no_foreground_but_stays_in_the_graph() -> None:
    student, teacher = both()
    terms = {weighted.name: weighted.term for weighted in RECIPES["fgd-auto"].terms}
    without = replace(SCENE, targets=(SCENE.targets[2],) * 4)
    cost = terms["fgd.foreground"](Pair(student, teacher, without), CLOCK).values
    assert torch.equal(cost.detach(), torch.zeros(4, 2))
    gradients = torch.autograd.grad(cost.sum(), student.pyramid.levels)
    assert not any(gradient.any() for gradient in gradients)
    assert (terms["fgd.background"](Pair(student, teacher, without), CLOCK).values > 0).all()
    assert (terms["fgd.foreground"](Pair(student, teacher, SCENE), CLOCK).values[[0, 1, 3]] > 0).all()


def test_masks_share_out_inside_cells_only() -> None:
    teacher = random_observation(SCENE, seed=0)
    pair = Pair(teacher, teacher, SCENE)
    for stride in (8, 16):
        front, back = foreground(pair.level(stride), pair), background(pair.level(stride), pair)
        inside = inside_cells(SCENE.sizes, stride, grid=(front.shape[-2], front.shape[-1]), device=front.device)
        assert not front[~inside].any()
        assert not back[~inside].any()
        assert ((front > 0) ^ (back > 0))[inside].all()
        sums = back.flatten(1).sum(1)
        # image 3 is one object from edge to edge: nothing is background
        torch.testing.assert_close(sums, torch.tensor([1.0, float(sums[1] > 0), 1.0, 0.0]))


def test_the_context_block_starts_as_the_identity_and_sees_only_inside() -> None:
    torch.manual_seed(0)
    block = ContextBlock(6)
    maps = torch.randn(4, 6, 8, 12)
    inside = inside_cells(SCENE.sizes, 8, grid=(8, 12), device=maps.device)
    assert torch.equal(block(maps, inside), maps.masked_fill(~inside, 0.0))
    torch.nn.init.normal_(block.expand.weight)
    changed = block(maps, inside)
    assert not torch.equal(changed, maps.masked_fill(~inside, 0.0))
    torch.testing.assert_close(block(torch.where(inside, maps, 50.0), inside), changed)
    assert ContextBlock(1)(maps[:, :1], inside).shape == (4, 1, 8, 12)


def test_a_mask_depends_on_seed_size_and_stride_alone() -> None:
    cpu = torch.device("cpu")
    together = kept_cells([5, 6], [(64, 96), (40, 50)], 8, grid=(8, 12), drop=0.5, device=cpu)
    alone = kept_cells([6], [(40, 50)], 8, grid=(5, 7), drop=0.5, device=cpu)
    assert torch.equal(together[1:, :, :5, :7], alone)
    assert not together[1, :, 5:].any()
    assert not together[1, :, :, 7:].any()
    other = kept_cells([7], [(40, 50)], 8, grid=(5, 7), drop=0.5, device=cpu)
    assert not torch.equal(other, alone)
    state = torch.random.get_rng_state()
    inside = inside_cells([(40, 50)], 8, grid=(8, 12), device=cpu)
    assert torch.equal(kept_cells([6], [(40, 50)], 8, grid=(8, 12), drop=0.0, device=cpu), inside)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_mgd_draws_another_mask_for_another_seed_and_level() -> None:
    torch.manual_seed(0)
    term = build_mgd(spec(channels=8), spec(channels=8), MGDSettings()).terms[0].term
    student, teacher = both(student_channels=8)
    first = term(Pair(student, teacher, SCENE), CLOCK).values
    assert torch.equal(first, term(Pair(student, teacher, SCENE), Clock(step=9, total_steps=10)).values)
    other = term(Pair(student, teacher, replace(SCENE, seeds=(6, 18, 4, 100))), CLOCK).values
    assert (first != other).any(0).all()
    # the same map on two strides: only the mask differs, as the generators are made equal
    generators = term.measure.generators
    generators["stride_16"].load_state_dict(generators["stride_8"].state_dict())
    level = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    same = observation([level, level], strides=(8, 16))
    gradients = []
    for stride, size in ((8, (32, 32)), (16, (64, 64))):
        leaf = level.clone().requires_grad_()
        levels = [leaf if s == stride else level for s in (8, 16)]
        cost = term(Pair(observation(levels, strides=(8, 16)), same, batch([size], grid=(64, 64))), CLOCK)
        (gradient,) = torch.autograd.grad(cost.values[:, cost.strides.index(stride)].sum(), leaf)
        gradients.append(gradient.abs().sum(1) > 0)
    assert not torch.equal(*gradients)


def test_costs_are_float32_under_autocast() -> None:
    student, teacher = both()
    for recipe in RECIPES.values():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for weighted in recipe.terms:
                assert weighted.term(Pair(student, teacher, SCENE), CLOCK).values.dtype == torch.float32


def test_auto_aligns_only_where_channels_differ() -> None:
    assert isinstance(aligner_for(STUDENT, TEACHER, "auto", strides=(8,)), ConvAlign)
    assert isinstance(aligner_for(TEACHER, TEACHER, "auto", strides=(8,)), IdentityAlign)
    assert isinstance(aligner_for(TEACHER, TEACHER, "conv3x3", strides=(8,)), ConvAlign)


def test_maps_that_do_not_fit_are_refused() -> None:
    student, teacher = both(student_channels=3)
    with pytest.raises(ShapeError) as caught:
        Pair(student, teacher, SCENE).level(8, align=IdentityAlign(8, 8))
    assert str(caught.value) == (
        "The aligned student map of stride 8 must be (4, 8, 8, 12) as the teacher's, got (4, 3, 8, 12). "
        "Build the recipe for the specs of these two detectors."
    )


def test_a_gain_of_zero_leaves_its_term_out() -> None:
    recipe = build_fgd(STUDENT, TEACHER, FGDSettings(relation_gain=0, attention_gain=0.5))
    assert [w.name for w in recipe.terms] == ["fgd.foreground", "fgd.background", "fgd.attention"]
    assert recipe.terms[2].gain == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            FGDSettings(temperature=0.0),
            "The recipe's temperature must be a finite number above 0, got 0.0. Give one such as 0.5.",
        ),
        (
            FGDSettings(relation_gain=-1.0),
            "The recipe's relation_gain must be a finite number of at least 0, got -1.0. Give one such as 1.",
        ),
        (
            unchecked(FGDSettings(), aligner="conv5x5"),
            "The recipe's aligner must be one of auto, identity, conv1x1, conv3x3, got 'conv5x5'. Choose one of them.",
        ),
        (
            MGDSettings(drop=1.0),
            "The recipe's drop must be at least 0 and below 1, got 1.0. Give the share of cells to drop, such as 0.65.",
        ),
        (
            MGDSettings(gain=-2.0),
            "The recipe's gain must be a finite number of at least 0, got -2.0. Give one such as 1.",
        ),
    ],
    ids=str,
)
def test_wrong_numbers_are_refused(settings: FGDSettings | MGDSettings, message: str) -> None:
    build = build_fgd if isinstance(settings, FGDSettings) else build_mgd
    with pytest.raises(ConfigError) as caught:
        build(STUDENT, TEACHER, settings)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_the_identity_aligner_refuses_other_channels() -> None:
    for build in (
        lambda: build_fgd(STUDENT, TEACHER, FGDSettings(aligner="identity")),
        lambda: build_mgd(STUDENT, TEACHER, MGDSettings(aligner="identity")),
    ):
        with pytest.raises(CapabilityError, match="must get equal channels on both sides, got 3"):
            build()
