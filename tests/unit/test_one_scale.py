"""Student's and teacher's features on one scale: at the pair, once, whatever the teacher's scale and the maps' size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.distillation.pair import Pair, pyramid
from detdistill.errors import ConfigError
from detdistill.jobs.identity import brought_up
from detdistill.methods.catalogue import METHODS, build_recipe, method_tree, parse_method
from detdistill.methods.method import FeatureSettings
from detdistill.types import Clock, Observation, Pyramid
from every_method import awake
from observations import batch, random_observation, spec, with_boxes

SCENE = with_boxes(batch([(40, 56), (64, 33)], grid=(64, 64)), seed=1)
STUDENT, TEACHER = spec(channels=3), spec(channels=4)
FEATURE_METHODS = sorted(name for name, method in METHODS.items() if issubclass(method.settings, FeatureSettings))


def changed(seen: Observation, *, factor: float = 1.0, offset: float = 0.0) -> Observation:
    maps = seen.pyramid
    levels = ((factor * level.detach() + offset).requires_grad_(level.requires_grad) for level in maps.levels)
    return replace(seen, pyramid=Pyramid(tuple(levels), maps.strides))


def taught(method: str, teacher: Observation, student: Observation) -> tuple[Tensor, list[Tensor]]:
    """All costs of a method, and their gradient to the student's maps."""
    pair = Pair(student, teacher, SCENE)
    recipe = awake(build_recipe(method, STUDENT, TEACHER, seed=3))
    values = torch.cat([one.term(pair, Clock(0, 1)).values for one in recipe.terms], dim=1)
    return values.detach(), list(torch.autograd.grad(values.sum(), student.pyramid.levels))


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_the_teachers_scale_changes_nothing(name: str) -> None:
    teacher = random_observation(SCENE, seed=2, channels=4)
    student = random_observation(SCENE, seed=1, channels=3, requires_grad=True)
    method = f"{name}(features=standardized)"
    value, gradients = taught(method, teacher, student)
    other, others = taught(method, changed(teacher, factor=100.0, offset=7.0), student)
    torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4)
    for before, after in zip(gradients, others, strict=True):
        assert before.any()
        torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
    raw = f"{name}(features=raw)"
    ssim_rescales = name == "ssim"
    assert ssim_rescales or not torch.allclose(
        taught(raw, teacher, student)[0], taught(raw, changed(teacher, factor=100.0), student)[0], rtol=1e-2
    )


@pytest.mark.parametrize("name", FEATURE_METHODS)
@pytest.mark.parametrize("flat", ["constant", "one cell"])
def test_flat_maps_and_single_cells_stay_finite(name: str, flat: str) -> None:
    scene = SCENE if flat == "constant" else batch([(8, 8), (5, 7)])
    factor, offset = (0.0, 3.0) if flat == "constant" else (1.0, 0.0)
    student, teacher = (
        changed(random_observation(scene, seed=seed, channels=seed + 2, requires_grad=seed == 1), factor=factor,
                offset=offset)
        for seed in (1, 2)
    )  # fmt: skip
    recipe = build_recipe(f"{name}(features=standardized)", STUDENT, TEACHER)
    pair = Pair(student, teacher, scene)
    values = torch.cat([one.term(pair, Clock(0, 1)).values for one in recipe.terms], dim=1)
    assert values.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(values.sum(), student.pyramid.levels))


def test_a_pair_standardises_each_side_once() -> None:
    student = random_observation(SCENE, seed=1, channels=4, requires_grad=True)
    teacher = random_observation(SCENE, seed=2, channels=4)
    pair = Pair(student, teacher, SCENE)

    def same(maps: Tensor, stride: int) -> Tensor:
        del stride
        return maps

    first, again, aligned = (
        pair.level(8, standardized=True),
        pair.level(8, select=pyramid, standardized=True),
        pair.level(8, align=same, standardized=True),
    )
    assert first is again
    assert aligned is not first
    assert aligned.teacher is first.teacher
    assert first.standardized
    assert not first.teacher.requires_grad
    assert first.student.requires_grad
    assert torch.equal(pair.level(8).teacher, teacher.pyramid.levels[0])
    assert not pair.level(8).standardized


def test_methods_on_different_scales_do_not_mix() -> None:
    """Attentions of the teacher are computed once a step for each scale."""
    parts = ["fgd(features=raw, temperature=0.1)", "attention(features=standardized)"]
    student, teacher = random_observation(SCENE, seed=1, channels=3), random_observation(SCENE, seed=2, channels=4)

    def values(method: str) -> Tensor:
        pair = Pair(student, teacher, SCENE)
        terms = build_recipe(method, STUDENT, TEACHER, seed=3).terms
        return torch.cat([one.term(pair, Clock(0, 1)).values for one in terms], dim=1).detach()

    assert torch.equal(values(" + ".join(parts)), torch.cat([values(part) for part in parts], dim=1))


@pytest.mark.parametrize(
    ("ones", "others"),
    [
        ("hint", "hint(features=standardized)"),
        ("hint(normalized=false)", "hint(features=raw)"),
        ("hint(normalized=false, features=standardized)", "hint"),
        ("frs(standardize=true)", "frs(features=standardized)"),
        ("frs(standardize=true, features=raw)", "frs"),
        ("ssim(rescale_over=channel, features=standardized)", "ssim(rescale_over=channel)"),
        ("fgd", "fgd(features=raw)"),
        ("attention(features=standardized, channel_gain=0)", "attention(features=standardized)"),
    ],
)
def test_ways_to_write_the_same(ones: str, others: str) -> None:
    teacher = random_observation(SCENE, seed=2, channels=4)
    student = random_observation(SCENE, seed=1, channels=3, requires_grad=True)
    (value, gradients), (other, other_gradients) = (taught(method, teacher, student) for method in (ones, others))
    assert torch.equal(value, other)
    assert all(map(torch.equal, gradients, other_gradients))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("fgd", False),
        ("fgd(strength=published)", False),
        ("fgd(strength=3)", True),
        ("fgd(strength=3, features=raw)", False),
        ("fgd(strength=published, features=standardized)", True),
        ("aid(cwd, strength=3)", True),
        ("sum(frs(class_gain=0) + mgd, strength=1)", True),
        ("sum(attention(strength=published) + ssim(strength=published), strength=1)", False),
        ("hint", True),
        ("hint(strength=3, normalized=false)", False),
        ("frs(strength=published, class_gain=0, standardize=true)", True),
    ],
)
def test_the_scale_follows_the_strength(method: str, expected: bool) -> None:
    terms = build_recipe(method, STUDENT, TEACHER).terms
    assert [one.term.standardized for one in terms] == [expected] * len(terms)


def test_a_gain_on_what_standardising_takes_away_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        build_recipe("attention(features=standardized, channel_gain=0.5)", STUDENT, TEACHER)
    assert str(refused.value) == (
        "The recipe's channel_gain must be 0 on standardized features, whose channels all have mean 0, got 0.5. "
        "Leave it out, or write features=raw."
    )
    assert len(build_recipe("attention(features=raw, channel_gain=0.5)", STUDENT, TEACHER).terms) == 4


def test_a_run_begun_before_goes_on() -> None:
    now = method_tree(parse_method("aid(frs + fgd, strength=published)"))
    before = method_tree(parse_method("aid(frs + fgd)"))
    for part in before["recipe"]["recipes"]:
        assert part.pop("features") is None
    assert brought_up({"method": before}) == {"method": now}
