"""LD against a slow, obvious version written from its formula: value and gradients, and what the term promises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.detectors.base import BoxLayout, DetectorSpec
from detdistill.distillation.pair import Pair, inside_cells
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import DistillationStep
from detdistill.errors import CapabilityError, ConfigError, ShapeError
from detdistill.gfl.assign import make_cells, match_by_atss, valuable_region
from detdistill.methods.ld import LDSettings, build_ld
from detdistill.methods.parts.distributions import softened_divergence
from detdistill.types import Batch, BoxDistributions, Clock, Knowledge, Need, Observation, Pyramid
from observations import batch as empty_batch
from observations import random_observation, spec
from scenes_in_memory import map_levels, scene_batch, targets_of, tiny_student, tiny_teacher

CLOCK = Clock(step=0, total_steps=1)
STRIDES, BINS, SCALE = (8, 16), 5, 3.0
SIZES = ((40, 56), (64, 33), (64, 64))
BOXES = (((4, 6, 30, 36), (20, 3, 54, 39)), ((2, 2, 30, 60),), ())
SCENE = replace(empty_batch(SIZES, grid=(64, 64)), targets=tuple(map(targets_of, BOXES)))
ALL = LDSettings(temperature=3.0, valuable_region=True, class_gain=10.0)


def layout(**changes: object) -> DetectorSpec:
    boxes = BoxLayout(strides=STRIDES, anchors=1, bins=BINS, anchor_scale=SCALE)
    return replace(spec(family="gfl", strides=STRIDES), **{"box_distributions": boxes, **changes})


def shown(seed: int, *, requires_grad: bool = False, scene: Batch = SCENE, strides: tuple[int, ...] = STRIDES):
    seen = random_observation(scene, seed=seed, strides=strides, requires_grad=requires_grad)
    generator = torch.Generator().manual_seed(seed + 100)
    levels = []
    for level in seen.pyramid.levels:
        noise = 3 * torch.randn(len(scene), 1, 4, BINS, *level.shape[-2:], generator=generator)
        levels.append(noise.requires_grad_(requires_grad))
    return replace(seen, box_distributions=BoxDistributions(tuple(levels), strides))


def leaves(seen: Observation) -> list[Tensor]:
    assert seen.box_distributions is not None
    assert seen.class_logits is not None
    return [*seen.box_distributions.levels, *seen.class_logits.levels]


def loss(recipe: Recipe, student: Observation, teacher: Observation) -> Tensor:
    return sum(
        (w.gain * w.term(Pair(student, teacher, SCENE), CLOCK).values.sum(1).mean() for w in recipe.terms),
        torch.zeros(()),
    )


def slow_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = [(logit / temperature).exp() for logit in teacher]
    q = [(logit / temperature).exp() for logit in student]
    p_sum, q_sum = sum(p, torch.zeros(())), sum(q, torch.zeros(()))
    total = torch.zeros(())
    for a, b in zip(p, q, strict=True):
        total = total + (a / p_sum) * ((a / p_sum).log() - (b / q_sum).log())
    return total * temperature**2 / len(p)


def slow_ld(student: Observation, teacher: Observation, settings: LDSettings) -> Tensor:
    (edges, logits), (their_edges, their_logits) = (
        (seen.box_distributions.levels, seen.class_logits.levels) for seen in (student, teacher)
    )
    cells = make_cells(((8, 8), (4, 4)), STRIDES, device=torch.device("cpu"))
    total = torch.zeros(())
    for image, (target, size) in enumerate(zip(SCENE.targets, SIZES, strict=True)):
        match = match_by_atss(target.boxes, cells, size=size, scale=SCALE)
        region = valuable_region(target.boxes, cells, match, size=size, scale=SCALE)
        boxes, around, classes, positives = torch.zeros(()), torch.zeros(()), [torch.zeros(())] * 2, [0, 0]
        for place in range(64 + 16):
            level, side, index = (0, 8, place) if place < 64 else (1, 4, place - 64)
            row, column = divmod(index, side)
            cost = torch.zeros(())
            for edge in range(4):
                ours, theirs = (one[level][image, 0, edge, :, row, column] for one in (edges, their_edges))
                cost = cost + slow_divergence(ours, theirs, settings.temperature)
            if match.matched[place] >= 0:
                ours, theirs = (one[level][image, 0, :, row, column] for one in (logits, their_logits))
                weight = float(ours.detach().sigmoid().max())
                boxes = boxes + weight * cost
                classes[level] = classes[level] + slow_divergence(ours, theirs, settings.class_temperature)
                positives[level] += 1
            around = around + float(region[place]) * cost
        total = total + settings.gain * boxes / 4
        for one, number in zip(classes, positives, strict=True):
            total = total + settings.class_gain * one / max(number, 1)
        if settings.valuable_region:
            total = total + settings.gain * around / 16
    return total / len(SIZES)


@pytest.mark.parametrize("settings", [LDSettings(), ALL], ids=["default", "all terms"])
def test_ld_equals_its_slow_reference(settings: LDSettings) -> None:
    recipe = build_ld(layout(), layout(), settings)
    results = []
    for compute in (lambda s, t: loss(recipe, s, t), lambda s, t: slow_ld(s, t, settings)):
        student, teacher = shown(1, requires_grad=True), shown(2)
        value = compute(student, teacher)
        gradients = torch.autograd.grad(value, leaves(student), allow_unused=True)
        filled = (torch.zeros_like(x) if g is None else g for x, g in zip(leaves(student), gradients, strict=True))
        results.append([value.detach(), *filled])
    for fast_one, slow_one in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, slow_one, rtol=1e-4, atol=1e-6)
    assert results[0][0] > 0
    assert results[0][1].any()
    assert results[0][2].any()


def test_the_terms_and_what_they_read() -> None:
    default, everything = build_ld(layout(), layout(), LDSettings()), build_ld(layout(), layout(), ALL)
    assert [(w.name, w.gain) for w in default.terms] == [("ld.boxes", 0.25)]
    assert [(w.name, w.gain) for w in everything.terms] == [("ld.boxes", 0.25), ("ld.region", 0.25), ("ld.classes", 10)]
    boxes, region, classes = (w.term for w in everything.terms)
    assert boxes.knowledge is region.knowledge is Knowledge.LOCALIZATION
    assert classes.knowledge is Knowledge.CLASSIFICATION
    assert boxes.student_needs == {Need.BOX_DISTRIBUTIONS, Need.CLASS_LOGITS}
    assert boxes.teacher_needs == region.student_needs == region.teacher_needs == {Need.BOX_DISTRIBUTIONS}
    assert classes.student_needs == classes.teacher_needs == {Need.CLASS_LOGITS}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_term_is_zero_at_equality_and_where_there_is_no_object(index: int) -> None:
    term = build_ld(layout(), layout(), ALL).terms[index].term
    same = term(Pair(shown(1, requires_grad=True), shown(1), SCENE), CLOCK)
    assert same.strides == STRIDES
    torch.testing.assert_close(same.values, torch.zeros(3, 2), atol=1e-5, rtol=0)
    student = shown(1, requires_grad=True)
    values = term(Pair(student, shown(2), SCENE), CLOCK).values
    assert (values >= 0).all()
    assert (values[:2].sum(dim=1) > 0).all()
    assert not values[2].any()
    gradients = torch.autograd.grad(values[2].sum(), leaves(student), allow_unused=True)
    assert any(g is not None for g in gradients)
    assert not any(g.any() for g in gradients if g is not None)


def test_an_image_costs_the_same_in_any_batch_and_padding_never_teaches() -> None:
    recipe = build_ld(layout(), layout(), ALL)
    student, teacher = shown(1), shown(2)

    def spoilt(seen: Observation, seed: int) -> Observation:
        generator = torch.Generator().manual_seed(seed)

        def spoil(level: Tensor, stride: int) -> Tensor:
            grid = (level.shape[-2], level.shape[-1])
            inside = inside_cells(SIZES, stride, grid=grid, device=level.device)
            inside = inside.reshape(3, *(1,) * (level.dim() - 3), *grid)
            return torch.where(inside, level, 1e4 * torch.randn(level.shape, generator=generator))

        return map_levels(seen, spoil)

    for weighted in recipe.terms:
        whole = weighted.term(Pair(student, teacher, SCENE), CLOCK).values
        noisy = weighted.term(Pair(spoilt(student, 1), spoilt(teacher, 2), SCENE), CLOCK).values
        assert torch.equal(whole, noisy)
        for image in range(3):
            one = [map_levels(seen, lambda level, _, i=image: level[i : i + 1]) for seen in (student, teacher)]
            alone = weighted.term(Pair(*one, SCENE.image(image)), CLOCK).values
            torch.testing.assert_close(alone, whole[image : image + 1], rtol=1e-6, atol=1e-6)


def test_levels_meet_by_stride() -> None:
    """The teacher's levels 4, 8 and 16 in that order; the student's 8, 16 and 32: columns 8 and 16."""
    ours, theirs = (8, 16, 32), (4, 8, 16)
    sides = [
        replace(
            spec(family="gfl", strides=strides),
            box_distributions=BoxLayout(strides=strides, anchors=1, bins=BINS, anchor_scale=SCALE),
        )
        for strides in (ours, theirs)
    ]
    term = build_ld(sides[0], sides[1], LDSettings()).terms[0].term
    student, teacher = shown(1, strides=ours), shown(2, strides=theirs)
    cost = term(Pair(student, teacher, SCENE), CLOCK)
    assert cost.strides == (8, 16)
    for stride in (4, 8, 16, 32):

        def other(level: Tensor, own: int, changed: int = stride) -> Tensor:
            return level.roll(1, 3) * 1.3 if own == changed and level.dim() == 6 else level

        moved = [
            (new != cost.values).any(0).tolist()
            for new in (
                term(Pair(map_levels(student, other), teacher, SCENE), CLOCK).values,
                term(Pair(student, map_levels(teacher, other), SCENE), CLOCK).values,
            )
        ]
        assert moved == [[stride == column and stride in side for column in (8, 16)] for side in (ours, theirs)]


def test_it_computes_in_float32_under_autocast() -> None:
    term = build_ld(layout(), layout(), LDSettings()).terms[0].term
    low = [map_levels(shown(seed), lambda level, _: level.bfloat16()) for seed in (1, 2)]
    exact = [map_levels(seen, lambda level, _: level.float()) for seen in low]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = term(Pair(*low, SCENE), CLOCK).values
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, term(Pair(*exact, SCENE), CLOCK).values)


def test_a_higher_temperature_approaches_the_squared_difference_of_centred_logits() -> None:
    """KL · T² → Σ (Δ − mean Δ)² / (2 · bins), Δ = student − teacher; then the mean over the bins."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 17, generator=generator, dtype=torch.float64) for _ in range(2))
    gap = student - teacher
    gap = gap - gap.mean(dim=1, keepdim=True)
    limit = gap.square().sum(dim=1) / (2 * 17) / 17
    torch.testing.assert_close(softened_divergence(student, teacher, temperature=1e3), limit, rtol=1e-2, atol=0)


def test_the_students_positives_are_taught_whatever_the_teachers_anchors() -> None:
    wide = BoxLayout(strides=STRIDES, anchors=1, bins=BINS, anchor_scale=8.0)
    same = build_ld(layout(), layout(), LDSettings()).terms[0].term(Pair(shown(1), shown(2), SCENE), CLOCK).values
    other = build_ld(layout(), layout(box_distributions=wide), LDSettings()).terms[0].term
    assert torch.equal(other(Pair(shown(1), shown(2), SCENE), CLOCK).values, same)


def test_ignored_boxes_teach_nothing() -> None:
    term = build_ld(layout(), layout(), LDSettings()).terms[0].term
    flagged = [replace(target, ignored=torch.ones_like(target.ignored)) for target in SCENE.targets]
    assert not term(Pair(shown(1), shown(2), replace(SCENE, targets=tuple(flagged))), CLOCK).values.any()


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        ({}, {"box_distributions": None}, {}, "must get box distributions from both detectors, got none from gfl/made"),
        ({"box_distributions": None}, {}, {}, r"Take the family gfl on both sides, or imitate features, as with hint"),
        (
            {"box_distributions": BoxLayout(STRIDES, 1, 9)},
            {},
            {},
            r"same bins an edge .* got 9 .* and 5 .*Set student\.box_bins=5\.",
        ),
        (
            {"box_distributions": BoxLayout(STRIDES, 2, 5)},
            {},
            {},
            r"same anchors a cell on both sides, got 2 .* and 1 ",
        ),
        ({"class_logits": None}, {}, {}, "must get class scores from the student, got none from gfl/made-up"),
        ({"class_logits": None}, {}, {"class_gain": 1.0}, "must get class scores from the student, got none"),
        (
            {},
            {"class_logits": None},
            {"class_gain": 1.0},
            r"got none from gfl/made-up\. Write ld\(class_gain=0\) to imitate",
        ),
        (
            {"class_names": ("a",), "class_logits": spec(strides=STRIDES, classes=("a",)).class_logits},
            {"class_names": ("a",), "class_logits": spec(strides=STRIDES, classes=("a",)).class_logits},
            {"class_gain": 1.0},
            r"must be over at least 2 classes, as it compares shares, got \['a'\]\. Write ld\(class_gain=0\)",
        ),
        ({"pyramid": replace(layout().pyramid, strides=(32,))}, {}, {}, "must share at least one stride"),
    ],
)
def test_detectors_that_do_not_fit_are_refused(
    student: dict[str, object], teacher: dict[str, object], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(CapabilityError, match=message):
        build_ld(layout(**student), layout(**teacher), LDSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": -1.0}, r"The recipe's gain must be a finite number of at least 0, got -1\.0"),
        ({"class_gain": math.nan}, "The recipe's class_gain must be a finite number of at least 0, got nan"),
        ({"temperature": 0.0}, r"The recipe's temperature must be a finite number above 0, got 0\.0\. Leave it out\."),
        ({"class_temperature": math.inf}, "The recipe's class_temperature must be a finite number above 0, got inf"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_ld(layout(), layout(), LDSettings(**settings))


def test_observations_that_lack_something_are_refused() -> None:
    boxes, classes = (build_ld(layout(), layout(), ALL).terms[i].term for i in (0, 2))
    bare = replace(shown(1), class_logits=None, box_distributions=None)
    with pytest.raises(CapabilityError, match=r"must hold box distributions, got none\. Ask for Need\.BOX_DIST"):
        boxes(Pair(bare, shown(2), SCENE), CLOCK)
    with pytest.raises(CapabilityError, match=r"must hold class logits, got none\. Ask for Need\.CLASS_LOGITS"):
        classes(Pair(shown(1), bare, SCENE), CLOCK)
    with pytest.raises(ShapeError, match=r"distributions must be \(3, 4, 5, 4, 8\) as the teacher's, got \(3, 4, 5, 8"):
        boxes(Pair(shown(1), map_levels(shown(2), lambda level, _: level[..., :4, :]), SCENE), CLOCK)


def test_a_step_with_real_detectors_teaches_every_trained_weight_but_no_teacher() -> None:
    student, teacher, scene = tiny_student("gfl"), tiny_teacher("gfl"), scene_batch()
    recipe = build_ld(student.spec, teacher.spec, LDSettings(valuable_region=True, class_gain=10.0))
    step = DistillationStep(student, teacher, recipe).train()
    before = teacher.digest()
    report = step(scene, CLOCK)
    assert set(report.parts) == {"task", "ld.boxes", "ld.region", "ld.classes"}
    assert all(part > 0 for part in report.parts.values())
    report.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert {id(p) for p in step.parameters()} == {id(p) for p in student.parameters()}
    assert teacher.digest() == before


def test_pyramids_of_the_student_give_the_geometry() -> None:
    """The grid is the observation's own, not one guessed from the image's size."""
    term = build_ld(layout(), layout(), LDSettings()).terms[0].term
    student, teacher = shown(1), shown(2)
    assert isinstance(student.pyramid, Pyramid)
    cut = [map_levels(seen, lambda level, _: level[..., :-1, :]) for seen in (student, teacher)]
    assert term(Pair(*cut, SCENE), CLOCK).values.isfinite().all()
