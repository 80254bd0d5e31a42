"""Methods of methods in real steps: which orders are the same, and which numbers switch a wrapper off."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor

from detdistill.distillation.step import DistillationStep
from detdistill.types import StepReport
from every_method import ALONE, CLOCK, OPTIONS, both_wrappers, families_of
from pairs_in_memory import known_pair, student_of
from thorough import covering

pytestmark = pytest.mark.covering("method")

SUM = "frs + ssim"
METHODS = covering((method, family) for method in (SUM, *ALONE) for family in families_of(method))


@functools.cache
def step_of(method: str, family: str) -> tuple[StepReport, dict[str, Tensor]]:
    """The report of a step on the batch with twins, and its gradients by name."""
    pair = known_pair(family, family)
    step = DistillationStep(copy.deepcopy(student_of(family)), pair.teacher, pair.awake_recipe(method)).train()
    report = step(pair.seen.batch, CLOCK)
    report.total.backward()
    return report, {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


def require_same(one: tuple[StepReport, dict[str, Tensor]], other: tuple[StepReport, dict[str, Tensor]]) -> None:
    """Bit by bit."""
    assert torch.equal(one[0].total, other[0].total)
    assert one[0].parts == other[0].parts
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize(("method", "family"), METHODS)
def test_the_wrappers_commute(method: str, family: str) -> None:
    inner, outer = (step_of(text, family) for text in both_wrappers(method))
    require_same(inner, outer)
    assert inner[0].diagnostics.keys() == outer[0].diagnostics.keys()
    assert all(torch.equal(value, outer[0].diagnostics[name]) for name, value in inner[0].diagnostics.items())
    # The twins' term is there, and as heavy as without aid; the others weigh less than without it.
    plain = step_of(f"ikd({method}{OPTIONS['ikd']})", family)[0].parts
    assert inner[0].parts["ikd.adversarial"] == plain["ikd.adversarial"] > 0
    names = plain.keys() - {"task", "ikd.adversarial"}
    assert names
    assert all(0 < inner[0].parts[name] < plain[name] for name in names)


@pytest.mark.parametrize(("method", "family"), METHODS)
def test_without_alpha_aid_is_the_method_bit_by_bit(method: str, family: str) -> None:
    plain = step_of(method, family)
    require_same(step_of(f"aid({method}, alpha=0)", family), plain)
    assert step_of(f"aid({method})", family)[0].total < plain[0].total


@pytest.mark.covering("family")
@pytest.mark.parametrize("family", families_of(SUM))
def test_without_alpha_the_twins_stay(family: str) -> None:
    ikd = f"ikd({SUM}{OPTIONS['ikd']})"
    require_same(step_of(f"aid({ikd}, alpha=0)", family), step_of(ikd, family))


@pytest.mark.covering("family")
@pytest.mark.parametrize("family", families_of(SUM))
def test_without_its_halves_ikd_is_the_method_bit_by_bit(family: str) -> None:
    require_same(step_of(f"ikd({SUM}, adversarial=false, augment=false)", family), step_of(SUM, family))


@pytest.mark.covering("family")
@pytest.mark.parametrize("family", families_of(SUM))
def test_a_sum_costs_what_its_parts_cost(family: str) -> None:
    parts = [step_of(part, family)[0].parts for part in SUM.split(" + ")]
    both = step_of(SUM, family)[0].parts
    assert {**parts[0], **parts[1]} == both
    weighed = step_of(f"aid({SUM})", family)[0].parts
    assert {**step_of("aid(frs)", family)[0].parts, **step_of("aid(ssim)", family)[0].parts} == weighed
