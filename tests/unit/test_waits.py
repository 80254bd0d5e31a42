"""A training step of a dense detector asks a GPU for nothing: no count, no value, no list of places.

Seen on the CPU, told to compute as on a GPU, by the operations that would make the host wait there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, generalized_box_iou_loss

from detdistill.detectors.class_map import ClassMap
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.mapped import MappedDetector
from detdistill.detectors.torchvision_parts import encoded, matched, overlap_costs, overlaps
from detdistill.distillation.recipe import Window
from detdistill.distillation.several import together
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.gfl import assign
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.parts.choose import build_choice
from detdistill.types import Batch, Clock
from every_method import ALONE, awake, families_of
from scenes_in_memory import CLASSES, FAMILIES, scene_batch, targets_of, tiny_student, tiny_teacher

DENSE = [family for family in FAMILIES if family != "faster_rcnn"]
ASKING = ("nonzero", "masked_select", "_local_scalar_dense", "is_nonzero", "equal", "unique", "_unique2")
CASES = [
    *((None, family) for family in DENSE),
    *((method, next(family for family in families_of(method) if family in DENSE)) for method in ALONE),
]


class Asking(TorchDispatchMode):
    """Counts the operations for which a GPU is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
        by_mask = any(one is not None and one.dtype == torch.bool for one in indices)
        if name in ASKING or by_mask or (name == "repeat_interleave" and not (kwargs or {}).get("output_size")):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def step_of(method: str | None, family: str) -> torch.nn.Module:
    student = tiny_student(family)
    if method is None:
        return SupervisedStep(student).train()
    teacher = tiny_teacher(family)
    return DistillationStep(student, teacher, awake(build_recipe(method, student.spec, teacher.spec))).train()


def taken(step: torch.nn.Module, batch: Batch) -> list[torch.Tensor]:
    total = step(batch, Clock(step=500, total_steps=1000)).total
    total.backward()
    return [total.detach(), *(p.grad for p in step.parameters() if p.grad is not None)]


def known(batch: Batch) -> Batch:
    """As it arrives on a GPU: what is taught was looked up before."""
    return batch.to("cpu")


@pytest.mark.parametrize(("method", "family"), CASES)
def test_a_step_asks_for_nothing_and_computes_the_same(
    method: str | None, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = known(scene_batch())
    expected = taken(step_of(method, family), batch)
    monkeypatch.setattr(assign, "looks_everywhere", lambda device: True)
    step = step_of(method, family)
    with Asking() as asking:
        found = taken(step, batch)
    assert not asking.found
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", DENSE)
def test_a_batch_without_objects_asks_for_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = known(scene_batch([(), ()]))
    expected = taken(step_of(None, family), batch)
    monkeypatch.setattr(assign, "looks_everywhere", lambda device: True)
    found = taken(step_of(None, family), batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert all(one.isfinite().all() for one in found)


@pytest.mark.parametrize("method", ["frs", "aid(hint)"])
def test_teachers_of_other_classes_and_several_ask_for_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged and dropped classes, and shares by the teachers' losses."""
    monkeypatch.setattr(assign, "looks_everywhere", lambda device: True)
    own = (*CLASSES, "van", "dog")
    student, mapped = tiny_student("fcos"), ClassMap.between(own, CLASSES, pairs=[("van", "car")])
    detectors = [MappedDetector(tiny_student("fcos", seed=seed, classes=own), mapped) for seed in (1, 2)]
    teachers = [FrozenTeacher(one) for one in detectors]
    recipes = [build_recipe(method, student.spec, one.spec) for one in teachers]
    recipe = together(recipes, [Window()] * 2)
    for choose in ("mean", "softmax"):
        choice = build_choice(choose, student.spec, [one.spec for one in teachers])  # type: ignore[arg-type]
        step, batch = DistillationStep(student, teachers, recipe, choice=choice).train(), known(scene_batch())
        with Asking() as asking:
            taken(step, batch)
        assert not asking.found


def test_what_is_taught_is_looked_up_before_it_travels() -> None:
    targets = targets_of([(0, 0, 4, 4), (1, 1, 5, 5), (2, 2, 6, 6)])
    targets.ignored[1] = True
    moved = targets.to("cpu")
    assert moved.kept is not None
    assert moved.kept.tolist() == [0, 2]
    assert torch.equal(moved.taught().boxes, targets.taught().boxes)
    assert torch.equal(moved.taught().labels, targets.taught().labels)


def test_our_words_for_torchvisions_say_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 300, 2, generator=generator) * 50
    boxes = torch.cat((corners, corners + 1 + 20 * torch.rand(2, 300, 2, generator=generator)), dim=2)
    gradients = []
    for costs in (overlap_costs(ours := boxes[0].clone().requires_grad_(), boxes[1]), None):
        if costs is None:
            costs = generalized_box_iou_loss(ours := boxes[0].clone().requires_grad_(), boxes[1], reduction="none")  # noqa: PLW2901
        gradients.append((costs.detach(), *torch.autograd.grad(costs.square().sum(), ours)))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    assert torch.equal(encoded(coder, boxes[0], boxes[1]), coder.encode_single(boxes[0], boxes[1]))
    assert torch.equal(overlaps(boxes[0, :7], boxes[1]), found := box_iou(boxes[0, :7], boxes[1]))
    for low, high, weak in ((0.4, 0.5, True), (0.1, 0.3, True), (0.3, 0.3, False)):
        matcher = Matcher(high, low, allow_low_quality_matches=weak)
        assert torch.equal(matched(matcher, boxes[0, :7], boxes[1]), matcher(found.clone()))
