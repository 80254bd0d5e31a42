"""Every method against its source's own formula, which sums over a batch: the same for a batch of one image.

Written with whole-batch operations from the papers and the authors' code as far as they are described: the image
fills its grid, no padding. Gains aside, which are tested where each recipe's numbers are; the default ones of
`attention` are √2 of the source's (see its documentation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import Seen
from detdistill.distillation.view import CLEAN
from detdistill.gfl.assign import make_cells, match_by_atss
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.ikd import ADVERSARIAL
from detdistill.methods.mgd import MaskedGeneration
from detdistill.methods.parts.generation import kept_cells
from detdistill.types import Batch, Knowledge, Observation, TaskLoss
from every_method import ALONE, CLOCK, METHODS, TWIN, awake, cost_of, leaves, trained_by
from observations import batch, random_losses, random_observation, spec, with_boxes

GRID, STRIDES, BINS = (128, 160), (8, 16), 5
STUDENT = spec(family="retinanet", channels=6, anchors=2, bins=BINS)
TEACHER = spec(family="retinanet", channels=8, anchors=2, bins=BINS)

# Per level, of the whole batch at once.
Costs = dict[str, list[Tensor]]


def term_of(recipe: Recipe, name: str) -> Any:
    return next(weighted.term for weighted in recipe.terms if weighted.name == name)


def maps(student: Observation, teacher: Observation) -> list[tuple[int, Tensor, Tensor]]:
    return [*zip(range(len(STRIDES)), student.pyramid.levels, teacher.pyramid.levels, strict=True)]


def hint(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """The mean squared error of standardised maps."""
    align = term_of(recipe, "hint.features").align

    def standardized(features: Tensor) -> Tensor:
        return F.instance_norm(features, eps=1e-5)

    return {
        "hint.features": [
            F.mse_loss(standardized(align(s, STRIDES[level])), standardized(t))
            for level, s, t in maps(student, teacher)
        ]
    }


def frs(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """Every sum over the batch, divided by the mask's mass over the batch."""
    align = term_of(recipe, "frs.features").align
    found: Costs = {"frs.features": [], "frs.classes": []}
    for level, s, t in maps(student, teacher):
        ours, theirs = (one.class_logits.levels[level].flatten(1, 2) for one in (student, teacher))
        mask = theirs.sigmoid().amax(1)
        squares = (t - align(s, STRIDES[level])).square().sum(1)
        entropy = F.binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="none").sum(1)
        found["frs.features"].append((mask * squares).sum() / mask.sum())
        found["frs.classes"].append((mask * entropy).sum() / mask.sum())
    return found


def ssim(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """(1 − SSIM) / 2 of min-max rescaled maps, windows reflecting at the border."""
    align = term_of(recipe, "ssim.features").align
    taps = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = (taps[:, None] * taps / taps.sum() ** 2)[None, None]

    def rescaled(features: Tensor) -> Tensor:
        return (features - features.min()) / (features.max() - features.min())

    def blurred(features: Tensor) -> Tensor:
        kernel = window.expand(features.shape[1], -1, -1, -1)
        return F.conv2d(F.pad(features, (5, 5, 5, 5), mode="reflect"), kernel, groups=features.shape[1])

    found = []
    for level, s, t in maps(student, teacher):
        x, y = rescaled(align(s, STRIDES[level])), rescaled(t)
        mean_x, mean_y = blurred(x), blurred(y)
        var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
        covariance = blurred(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        similarity = luminance * (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)
        found.append(((1 - similarity) / 2).mean())
    return {"ssim.features": found}


def attended(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    cells = features.abs().mean(1, keepdim=True) / temperature
    channels = features.abs().mean((2, 3), keepdim=True) / temperature
    return (
        cells[0, 0].numel() * cells.flatten(2).softmax(2).view(cells.shape),
        channels.shape[1] * channels.softmax(1),
    )


def attention(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """One root over the batch for each of the four; the non-local blocks with batch-norm over the batch."""
    names = ("features", "channels", "cells", "nonlocal")
    features, *others = (term_of(recipe, f"attention.{name}") for name in names)
    channels, cells, relations = (term.measure for term in others)
    found: Costs = {f"attention.{name}": [] for name in names}
    for level, s, t in maps(student, teacher):
        key, pool = f"stride_{STRIDES[level]}", (8, 4)[level]
        # Channels that cannot be matched are weighed by the teacher's attention alone.
        mask = ((attended(t, 0.1)[0] + attended(s, 0.1)[0]) / 2 * attended(t, 0.1)[1]).detach()
        blocks = (relations.students[key], s), (relations.teachers[key], t)
        ours, theirs = (published_block(block, x, pool) for block, x in blocks)
        differences = (
            (t - features.align(s, STRIDES[level])) * mask.sqrt(),
            t.mean((2, 3)) - channels.align[key](s.mean((2, 3))),
            t.mean(1, keepdim=True) - cells.align[key](s.mean(1, keepdim=True)),
            relations.align(ours, STRIDES[level]) - theirs,
        )
        for name, difference in zip(names, differences, strict=True):
            found[f"attention.{name}"].append(difference.square().sum().sqrt())
    return found


def published_block(block: Any, x: Tensor, pool: int) -> Tensor:
    theta, phi, g = block.project(x).chunk(3, dim=1)
    phi, g = (F.max_pool2d(one, pool).flatten(2) for one in (phi, g))
    table = theta.flatten(2).transpose(1, 2) @ phi / phi.shape[2]
    y = (table @ g.transpose(1, 2)).transpose(1, 2).reshape(theta.shape)
    y = F.conv2d(y, block.expand.weight)
    return F.batch_norm(y, None, None, block.gain, block.bias, training=True) + x


def fgd(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """Sums over the batch, divided by the number of images."""
    align, relation = term_of(recipe, "fgd.foreground").align, term_of(recipe, "fgd.relation").measure
    found: Costs = {f"fgd.{name}": [] for name in ("foreground", "background", "attention", "relation")}
    for level, raw, t in maps(student, teacher):
        key, s = f"stride_{STRIDES[level]}", align(raw, STRIDES[level])
        objects = torch.zeros_like(t[:, :1])
        for image, target in enumerate(scene.targets):
            for left, top, right, bottom in (target.taught().boxes / STRIDES[level]).tolist():
                rows, columns = (
                    slice(int(low), int(-(-high // 1)) + 1) for low, high in ((top, bottom), (left, right))
                )
                area = (rows.stop - rows.start) * (columns.stop - columns.start)
                objects[image, 0, rows, columns] = objects[image, 0, rows, columns].clamp(min=1 / area)
        free = (objects == 0).float()
        free = free / free.sum((1, 2, 3), keepdim=True).clamp(min=1)
        squares = (t - s).square() * attended(t, 0.5)[0] * attended(t, 0.5)[1]
        apart = [(a - b).abs().sum() for a, b in zip(attended(s, 0.5), attended(t, 0.5), strict=True)]
        ours, theirs = relation.student_context[key], relation.teacher_context[key]
        costs = (objects * squares, free * squares, apart[0] + apart[1], (context(ours, s) - context(theirs, t)) ** 2)
        for name, cost in zip(found, costs, strict=True):
            found[name].append(cost.sum() / len(scene))
    return found


def context(block: Any, x: Tensor) -> Tensor:
    share = block.score(x).flatten(2).softmax(2)
    whole = (x.flatten(2) * share).sum(2)
    return x + block.expand(block.norm(block.reduce(whole)).relu())[:, :, None, None]


def mgd(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """The summed squared error of what is painted, divided by the number of images; the drawn masks are ours."""
    term = term_of(recipe, "mgd.features")
    assert isinstance(term.measure, MaskedGeneration)
    drawn: list[Tensor] = []

    def draw(seeds: Any, sizes: Any, stride: int, **given: Any) -> Tensor:
        drawn.append(kept_cells(seeds, sizes, stride, **given))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detdistill.methods.mgd.kept_cells", draw)
        term(Pair(student, teacher, scene), CLOCK)
    found = []
    for level, s, t in maps(student, teacher):
        generator = term.measure.generators[f"stride_{STRIDES[level]}"]
        painted = generator.second(generator.first(term.align(s, STRIDES[level]) * drawn[level]).relu())
        found.append(F.mse_loss(painted, t, reduction="sum") / len(scene))
    return {"mgd.features": found}


def ld(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """KL of softened distributions, weighed by the student's score, added up over the batch's positives, over 4."""
    grids = [(GRID[0] // stride, GRID[1] // stride) for stride in STRIDES]
    cells = make_cells(grids, STRIDES, device=torch.device("cpu"))
    positive = torch.stack([match_by_atss(t.taught().boxes, cells, size=GRID, scale=3.0).matched >= 0
                            for t in scene.targets])  # fmt: skip
    sums = []
    for level, marked in enumerate(positive.split(list(cells.counts), dim=1)):
        scores = student.class_logits.levels[level].detach().sigmoid().amax((1, 2)).flatten(1)[marked]
        ours, theirs = (
            one.box_distributions.levels[level].flatten(4)[:, 0].permute(0, 3, 1, 2)[marked].reshape(-1, BINS)
            for one in (student, teacher)
        )
        divergence = F.kl_div((ours / 10).log_softmax(1), (theirs / 10).softmax(1), reduction="none").mean(1) * 100
        sums.append((divergence * scores.repeat_interleave(4)).sum())
    return {"ld.boxes": [one / 4 for one in sums]}


def pkd(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """Half the mean squared error of channels standardised over the batch, our ε where nothing varies."""
    align = term_of(recipe, "pkd.features").align

    def standardized(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True, eps=1e-5)

    return {
        "pkd.features": [
            F.mse_loss(standardized(align(s, STRIDES[level])), standardized(t)) / 2
            for level, s, t in maps(student, teacher)
        ]
    }


def cwd(recipe: Recipe, student: Observation, teacher: Observation, scene: Batch) -> Costs:
    """KL of the channels as distributions over the cells, summed, over channels and images."""
    align = term_of(recipe, "cwd.features").align
    found = []
    for level, s, t in maps(student, teacher):
        ours, theirs = align(s, STRIDES[level]).flatten(2).log_softmax(2), t.flatten(2).softmax(2)
        found.append(F.kl_div(ours, theirs, reduction="sum") / (t.shape[1] * len(scene)))
    return {"cwd.features": found}


SOURCES: Mapping[str, Callable[[Recipe, Observation, Observation, Batch], Costs]] = {
    "hint": hint,
    "attention": attention,
    "frs": frs,
    "ssim": ssim,
    "fgd": fgd,
    "mgd": mgd,
    "ld": ld,
    "pkd": pkd,
    "cwd": cwd,
}
# Its terms read a teacher's heads, which maps made up have not: see test_crosskd.py.
METHODS = tuple(method for method in METHODS if "crosskd" not in method)
COUPLED = frozenset({"attention", "frs", "ssim", "ld", "pkd"})
"""Whose formula is another one on two images: one root, one mass, one minimum and maximum over the batch."""


def teachers_weight(loss: TaskLoss, level: int, knowledge: Knowledge) -> Tensor:
    """AID's: exp(−0.1 · the loss of a level, of the batch)."""
    assert loss.classification is not None
    assert loss.box is not None
    classes, boxes = loss.classification.mean(0)[level], loss.box.mean(0)[level]
    if loss.roi_classification is not None and loss.roi_box is not None:
        classes, boxes = classes + loss.roi_classification.mean(), boxes + loss.roi_box.mean()
    loss_of = {Knowledge.FEATURE: classes + boxes, Knowledge.CLASSIFICATION: classes, Knowledge.LOCALIZATION: boxes}
    return torch.exp(-0.1 * loss_of[knowledge])


def source_of(method: str, recipe: Recipe, seen: Seen) -> Costs:
    """The source's costs of a recipe, alone, in aid or in ikd."""
    name = next(one for one in ALONE if recipe.terms[0].name.startswith(f"{one}."))
    found = SOURCES[name](recipe, seen.students[CLEAN], seen.teachers[CLEAN], seen.batch)
    if method.startswith("aid("):
        loss = seen.teachers[CLEAN].task_loss
        assert loss is not None
        for term, levels in found.items():
            knowledge = term_of(recipe, term).knowledge
            found[term] = [teachers_weight(loss, level, knowledge) * one for level, one in enumerate(levels)]
    if method.startswith("ikd("):
        align = term_of(recipe, "ikd.adversarial").align
        found["ikd.adversarial"] = [
            F.mse_loss(align(s, STRIDES[level]), t, reduction="sum") / len(seen.batch)
            for level, s, t in maps(seen.students[TWIN], seen.teachers[TWIN])
        ]
    return found


def observed(images: int, *, two_stage: bool = False) -> Seen:
    scene = with_boxes(batch([GRID] * images), seed=3)
    scene = replace(scene, twins={ADVERSARIAL: torch.ones_like(scene.images)})
    assert all(len(target.taught().labels) >= 1 for target in scene.targets)
    given: dict[str, Any] = {"anchors": 2, "bins": BINS}
    return Seen(
        batch=scene,
        students={
            view: random_observation(scene, seed=seed, channels=6, requires_grad=True, **given)
            for seed, view in ((1, CLEAN), (2, TWIN))
        },
        teachers={
            CLEAN: replace(
                random_observation(scene, seed=3, channels=8, **given),
                task_loss=random_losses(images, seed=5, two_stage=two_stage),
            ),
            TWIN: random_observation(scene, seed=4, channels=8, **given),
        },
    )


def both(method: str, seen: Seen) -> tuple[list[Tensor], list[Tensor]]:
    """Each term's costs per level, ours as the mean over images and the source's."""
    recipe = awake(build_recipe(method, STUDENT, TEACHER, seed=3))
    source = source_of(method, recipe, seen)
    assert [*source] == [weighted.name for weighted in recipe.terms]
    results = []
    for values in ([cost_of(weighted, seen).values.mean(0) for weighted in recipe.terms],
                   [torch.stack(source[weighted.name]) for weighted in recipe.terms]):  # fmt: skip
        assert all(one.sum() > 0 for one in values)
        total = torch.cat(values).sum()
        gradients = torch.autograd.grad(total, [*leaves(seen), *trained_by(recipe)], allow_unused=True)
        results.append([*values, *(one for one in gradients if one is not None)])
    return results[0], results[1]


STAGES = [(method, stages) for method in METHODS for stages in ((1, 2) if method.startswith("aid(") else (1,))]


@pytest.mark.parametrize(("method", "stages"), STAGES)
def test_for_one_image_every_method_is_its_source(method: str, stages: int) -> None:
    ours, theirs = both(method, observed(1, two_stage=stages == 2))
    for mine, published in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, published, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_for_two_images_it_is_where_the_source_does_not_couple_them(method: str) -> None:
    """The comparison above can fail: with two images it does, for every source that couples them."""
    ours, theirs = both(method, observed(2))
    same = all((a - b).norm() <= 1e-4 * b.norm() + 1e-5 for a, b in zip(ours, theirs, strict=True))
    couples = method.startswith("aid(") or any(name in method for name in COUPLED)
    assert same is not couples
