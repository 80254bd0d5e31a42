"""What the terms of a step look at: masks as the methods have them, where they pull, and AID's weights."""

from __future__ import annotations

import pytest
import torch

from detdistill.distillation.looks import PULL, looks
from detdistill.distillation.pair import Pair
from detdistill.distillation.step import DistillationStep
from detdistill.methods.catalogue import build_recipe, parse_method
from every_method import CLOCK
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher

# The masks that a method has, by term; every other term has where it pulls alone.
MASKS = {
    "frs": {"frs.features": "richness", "frs.classes": "richness"},
    "fgd": {
        "fgd.foreground": "foreground times the teacher's attention",
        "fgd.background": "background times the teacher's attention",
    },
    "attention": {"attention.features": "attention of both"},
    "mgd": {"mgd.features": "cells that are kept"},
    "hint": {},
}


def step_of(method: str, family: str = "fcos") -> DistillationStep:
    student, teacher = tiny_student(family), tiny_teacher(family)
    return DistillationStep(student, teacher, build_recipe(parse_method(method), student.spec, teacher.spec, seed=0))


@pytest.mark.parametrize("method", MASKS)
def test_every_term_shows_its_mask_and_where_it_pulls(method: str) -> None:
    step, batch = step_of(method).train(), scene_batch()
    before = {name: value.clone() for name, value in step.state_dict().items()}
    maps, weights = looks(step, batch)
    masks = {one.term: one.what for one in maps if one.what != PULL}
    assert masks == MASKS[method]
    assert {one.term for one in maps if one.what == PULL} == {one.name for one in step.recipe.terms}
    assert all(one.values.shape[0] == len(batch) and bool((one.values >= 0).all()) for one in maps)
    assert weights == []
    # Nothing of it stays behind.
    assert all(torch.equal(value, before[name]) for name, value in step.state_dict().items())
    assert all(parameter.grad is None for parameter in step.parameters())


def test_the_mask_is_the_one_that_the_cost_is_weighed_by() -> None:
    step, batch = step_of("frs").train(), scene_batch()
    maps, _ = looks(step, batch)
    (_, pairs), *_ = step.see(batch, step.recipe, task=False).by_teacher()
    pair = next(iter(pairs.values()))
    for one in (one for one in maps if one.what == "richness" and one.term == "frs.features"):
        inside = pair.inside(one.stride, (one.values.shape[1], one.values.shape[2]))[:, 0]
        assert one.values.max() < 1
        assert not one.values[~inside].any()


def test_a_mask_is_kept_for_who_watches_alone() -> None:
    step, batch = step_of("frs").train(), scene_batch()
    (_, pairs), *_ = step.see(batch, step.recipe).by_teacher()
    pair: Pair = next(iter(pairs.values()))
    step.recipe.terms[0].term(pair, CLOCK)
    assert pair.looked is None


def test_aid_tells_its_weight_of_every_level_in_every_image() -> None:
    step, batch = step_of("aid(frs, alpha=0.5)").train(), scene_batch()
    _, weights = looks(step, batch)
    assert [one.term for one in weights] == ["frs.features", "frs.classes"]
    for one in weights:
        assert one.values.shape == (len(batch), len(one.strides))
        assert bool(((one.values > 0) & (one.values <= 1)).all())
