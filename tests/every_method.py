"""Every method on whatever it works on: which cases there are, what both sides show, and how that is changed."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from detdistill.detectors.base import DetectorSpec
from detdistill.distillation.pair import inside_cells
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.step import Seen
from detdistill.distillation.term import Term
from detdistill.distillation.view import CLEAN, View
from detdistill.errors import CapabilityError
from detdistill.methods.catalogue import METHODS as KNOWN
from detdistill.methods.catalogue import SumSettings, build_recipe, method_text, parse_method
from detdistill.methods.ikd import ADVERSARIAL
from detdistill.types import Batch, BoxDistributions, ClassLogits, Clock, Cost, Knowledge, Need, Observation, Pyramid
from scenes_in_memory import FAMILIES, leaves_of, map_levels, tiny_student, tiny_teacher

CLOCK = Clock(step=0, total_steps=1)
TWIN = View(ADVERSARIAL)

# What compares no maps at all: its tests are tests/contract/test_boxes_on_detectors.py's and test_detrs.py's.
ON_BOXES = frozenset({"boxes", "queries"})
# What is registered: the methods that compare maps, those that change another one, and the settings of both.
RECIPES = {name: method for name, method in KNOWN.items() if not method.wraps and name not in ON_BOXES}
WRAPPERS = {name: method for name, method in KNOWN.items() if method.wraps}
ALONE, WRAPPING = tuple(RECIPES), tuple(WRAPPERS)
# What lets the teacher's heads read the student's maps needs a real teacher.
READS_HEADS = frozenset({"crosskd"})
ON_MAPS = tuple(name for name in ALONE if name not in READS_HEADS)
SETTINGS: Mapping[str, type[Any]] = {name: method.settings for name, method in KNOWN.items()}

# One iteration makes a twin too; what five do is tests/reference/test_ikd.py's.
OPTIONS = {"ikd": ", attack_steps=1"}
METHODS = [
    *ALONE,
    *(f"{wrapper}({name}{OPTIONS.get(wrapper, '')})" for wrapper in WRAPPING for name in ALONE),
]


@functools.cache
def specs_of(family: str) -> tuple[DetectorSpec, DetectorSpec]:
    """A tiny student's and a tiny teacher's, of the same classes."""
    return tiny_student(family).spec, tiny_teacher(family).spec


@functools.cache
def families_of(method: str) -> Sequence[str]:
    """The detectors that a method works on, on both sides: what it is built for without a refusal."""
    working = []
    for family in FAMILIES:
        with contextlib.suppress(CapabilityError):
            build_recipe(method, *specs_of(family))
            working.append(family)
    assert working, f"no detector offers what {method} needs"
    return tuple(working)


def first_family(method: str) -> str:
    """One of them, where one is enough."""
    return families_of(method)[0]


def one_family(method: str, index: int) -> str:
    """One of them, another one for another index."""
    return families_of(method)[index % len(families_of(method))]


def _pyramid_alone(name: str) -> str | None:
    gains = [field.name for field in fields(SETTINGS[name]) if field.name.endswith("_gain")]
    for text in (name, *(f"{name}({gain}=0)" for gain in gains)):
        recipe = build_recipe(text, *specs_of(first_family(name)))
        if all(weighted.term.student_needs == {Need.PYRAMID} for weighted in recipe.terms):
            return text
    return None


PYRAMID_ONLY = {name: text for name in ON_MAPS if (text := _pyramid_alone(name)) is not None}
"""How each recipe is asked to read nothing but the student's pyramid; those that cannot are not here."""

OBJECTS_ALONE = frozenset({"fgd.foreground", "fgd.background", "ld.boxes"})
"""Terms that may find no position in an image at a level: it has no objects there, or nothing but objects."""


def both_wrappers(name: str) -> tuple[str, str]:
    """A method in both wrappers, and in the other order."""
    option = OPTIONS["ikd"]
    return f"aid(ikd({name}{option}))", f"ikd(aid({name}){option})"


def aligned_by(method: str, aligner: str) -> str:
    """The method with this aligner in every recipe that has one."""
    return method_text(_aligned(parse_method(method), aligner))


def _aligned(given: Any, aligner: str) -> Any:
    if isinstance(given, str):
        return aligned_by(given, aligner)
    if isinstance(given, SumSettings):
        return replace(given, recipes=tuple(_aligned(part, aligner) for part in given.recipes))
    names = {field.name for field in fields(given)}
    given = replace(given, recipe=_aligned(given.recipe, aligner)) if "recipe" in names else given
    return replace(given, aligner=aligner) if "aligner" in names else given


def awake(recipe: Recipe) -> Recipe:
    """The recipe, in place, with other values where its terms start at zero.

    As they start, FGD's context blocks and the non-local blocks of `attention` add nothing, and the layers before
    their last one get no gradient: a check of them would be one of nothing.
    """
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained_by(recipe):
            if not parameter.any():
                parameter.normal_(std=0.5, generator=generator)
    return recipe


def trained_by(recipe: Recipe) -> list[nn.Parameter]:
    """What the terms train, each once."""
    return list(dict.fromkeys(p for weighted in recipe.terms for p in weighted.term.parameters()))


def cost_of(weighted: WeightedTerm, seen: Seen) -> Cost:
    """The cost of one term after its weight, before its gain."""
    view = weighted.view
    cost = weighted.term(seen.pairs()[view], CLOCK)
    if weighted.weigh is None:
        return cost
    weight = weighted.weigh(seen.teachers[CLEAN], cost.strides, knowledge=weighted.term.knowledge).detach()
    assert tuple(weight.shape) == tuple(cost.values.shape)
    assert ((weight > 0) & (weight <= 1)).all()
    return replace(cost, values=cost.values * weight)


def costs_of(recipe: Recipe, seen: Seen) -> Tensor:
    """The weighted costs of all terms (b, terms · levels)."""
    return torch.cat([cost_of(weighted, seen).values for weighted in recipe.terms], dim=1)


def leaves(seen: Seen) -> list[Tensor]:
    """The student's maps on all views."""
    return [level for one in seen.students.values() for level in leaves_of(one)]


def compared_by(term: Term, student: Observation) -> Pyramid | ClassLogits | BoxDistributions:
    """The student's maps that a term compares, or that it lets the teacher's heads read."""
    if Need.PYRAMID in term.student_needs:
        return student.pyramid
    maps: Pyramid | ClassLogits | BoxDistributions | None = {
        Knowledge.FEATURE: student.pyramid,
        Knowledge.CLASSIFICATION: student.class_logits,
        Knowledge.LOCALIZATION: student.box_distributions,
    }[term.knowledge]
    assert maps is not None
    return maps


def changed(seen: Seen, change: Callable[[Observation, int], Observation]) -> Seen:
    """Every observation as `change` makes it; its second argument differs from observation to observation."""
    students = {view: change(one, 2 * index) for index, (view, one) in enumerate(seen.students.items())}
    teachers = {view: change(one, 2 * index + 1) for index, (view, one) in enumerate(seen.teachers.items())}
    return replace(seen, students=students, teachers=teachers)


def images_of(seen: Seen, index: list[int]) -> Seen:
    """Some images of a batch, in that order."""

    def rows(one: Observation, number: int) -> Observation:
        del number
        chosen = map_levels(one, lambda level, stride: level[index])
        loss = one.task_loss
        if loss is None:
            return chosen
        parts = ("classification", "box", "roi_classification", "roi_box")
        own = {name: getattr(loss, name)[index] for name in parts if getattr(loss, name) is not None}
        return replace(chosen, task_loss=replace(loss, **own))

    batch = seen.batch
    return replace(
        changed(seen, rows),
        batch=Batch(
            images=batch.images[index],
            sizes=tuple(batch.sizes[i] for i in index),
            stored_sizes=tuple(batch.stored_sizes[i] for i in index),
            targets=tuple(batch.targets[i] for i in index),
            image_ids=tuple(batch.image_ids[i] for i in index),
            seeds=tuple(batch.seeds[i] for i in index),
            twins={name: images[index] for name, images in batch.twins.items()},
        ),
    )


def noise_outside(seen: Seen, *, seed: int) -> Seen:
    """Other values in the padding of every map of both sides."""
    sizes = seen.batch.sizes

    def spoilt(one: Observation, number: int) -> Observation:
        generator = torch.Generator().manual_seed(100 * seed + number)

        def spoil(level: Tensor, stride: int) -> Tensor:
            inside = inside_cells(sizes, stride, grid=(level.shape[-2], level.shape[-1]), device=level.device)
            inside = inside.reshape(len(sizes), *(1,) * (level.dim() - 3), *level.shape[-2:])
            noise = 100 * torch.randn(level.shape, generator=generator)
            return torch.where(inside, level.detach(), noise).requires_grad_(level.requires_grad)

        return map_levels(one, spoil)

    return changed(seen, spoilt)


def require_equal_without_padding(recipe: Recipe, seen: Seen, *, seed: int) -> None:
    """Costs, and their gradients to the student's maps and to what the terms train, are blind to the padding."""
    values, gradients = [], []
    for one in (seen, noise_outside(seen, seed=seed)):
        value = costs_of(recipe, one)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value.sum(), [*leaves(one), *trained_by(recipe)], allow_unused=True))
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    for before, after in zip(*gradients, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def without_padding(seen: Seen) -> Seen:
    """A batch of one image, cut to the image's own size and its maps to the cells inside."""
    (height, width) = seen.batch.sizes[0]

    def cut(one: Observation, number: int) -> Observation:
        del number
        return map_levels(
            one, lambda level, stride: level[..., : math.ceil(height / stride), : math.ceil(width / stride)]
        )

    batch = seen.batch
    twins = {name: images[..., :height, :width] for name, images in batch.twins.items()}
    return replace(changed(seen, cut), batch=replace(batch, images=batch.images[..., :height, :width], twins=twins))


def require_equal_in_any_batch(recipe: Recipe, seen: Seen, *, atol: float = 1e-5) -> Tensor:
    """An image costs alone, with its padding and without any, what it costs among others; returns the costs.

    What lets the teacher's heads read, whose convolutions and norms see the padded grid, costs the same on that alone.
    `atol` is how far rounding may go.
    """
    with torch.no_grad():
        together = costs_of(recipe, seen)
        single = [images_of(seen, [index]) for index in range(len(seen.batch))]
        heads = any(weighted.name.partition(".")[0] in READS_HEADS for weighted in recipe.terms)
        for given in (single, *(() if heads else ([without_padding(one) for one in single],))):
            alone = torch.cat([costs_of(recipe, one) for one in given])
            torch.testing.assert_close(together, alone, rtol=1e-5, atol=atol)
            torch.testing.assert_close(together.mean(0), alone.mean(0), rtol=1e-5, atol=atol)
    return together
