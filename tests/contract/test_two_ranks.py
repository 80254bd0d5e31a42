"""Two gloo ranks equal one process that accumulates the same two half-batches, whatever the recipe.

Batch-norm's running statistics are each rank's own and are left out. Batch-norm couples the images of a half,
and the accumulating process sees the same halves.
"""

from __future__ import annotations

import copy
import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.composition import parse_method, structure
from detdistill.training.forward import Parcel, PlainStep
from detdistill.training.joined import set_up
from detdistill.training.launch import launch
from detdistill.training.settings import TrainSettings
from detdistill.types import Batch, Clock
from every_method import ALONE, OPTIONS, WRAPPING, awake, both_wrappers, families_of, one_family, trained_by
from scenes_in_memory import BOXES, scene_batch, tiny_student, tiny_teacher
from thorough import THOROUGH

BAR = {"rtol": 1e-5, "atol": 1e-5}
STEPS, RANKS, GRID, LR = 2, 2, (64, 96), 0.02
# One detector for each, another one for the next.
FAMILY_OF = {name: one_family(name, index) for index, name in enumerate(ALONE)}
# Rank 1 has no box at all in the first step, and rank 0 in the second.
HALVES = ((BOXES[:1] * 2, ((), ())), (((), ()), (BOXES[1], ())))
SIZES = ((64, 96), (50, 70))


@dataclass(frozen=True)
class Case:
    method: str
    family: str
    norm: str
    beside: bool = False

    @property
    def name(self) -> str:
        return f"{self.method}-{self.family}-{self.norm}{'-unlabelled' if self.beside else ''}"


def other_family(name: str) -> str:
    others = [family for family in families_of(name) if family != FAMILY_OF[name]]
    return others[len(name) % len(others)] if others else FAMILY_OF[name]


def alone() -> list[Case]:
    """Every recipe on its detector: by itself, or where there is little time in the sum of those of that detector."""
    if THOROUGH:
        return [Case(name, family, "batch") for name, family in FAMILY_OF.items()]
    found = {family: [name for name, own in FAMILY_OF.items() if own == family] for family in FAMILY_OF.values()}
    return [Case(" + ".join(names), family, "batch") for family, names in found.items()]


# In both wrappers at once on another family: what aid and ikd add is each image's own too. They leave what is inside as
# it is (tests/contract/test_recipes_on_detectors.py): around every recipe, in `make test-all`.
CASES = alone()
WRAPPED = [Case(both_wrappers(name)[index % 2], other_family(name), "group") for index, name in enumerate(FAMILY_OF)]
CASES += WRAPPED if THOROUGH else WRAPPED[::5]
CASES += [Case("frs", "faster_rcnn", "frozen"), Case("hint", "fcos", "group")]
# Batch-norm normalises the twins of a half by their own statistics.
CASES += [Case(f"ikd(ssim{OPTIONS['ikd']})", "faster_rcnn", "batch")]
CASES += [Case("aid(fgd)", "gfl", "batch", beside=True)]
# The scale of a step follows from both halves of the one before.
CASES += [Case("frs(strength=3)", "fcos", "batch", beside=True)]
CASES += [Case(f"aid(ikd(hint{OPTIONS['ikd']}), strength=1)", "gfl", "group")]


@functools.cache
def teacher_of(family: str) -> FrozenTeacher:
    return tiny_teacher(family)


@functools.cache
def student_of(family: str, norm: str) -> Detector:
    return tiny_student(family, norm=norm).train()


def step_of(case: Case) -> DistillationStep:
    student, teacher = copy.deepcopy(student_of(case.family, case.norm)), teacher_of(case.family)
    recipe = awake(build_recipe(case.method, student.spec, teacher.spec, seed=3))
    step = DistillationStep(student, teacher, recipe).train()
    if step.calibration.members:
        prove(step, half(0, 0))
    return step


def half(step: int, rank: int, *, beside: bool = False) -> Batch:
    """A rank's half, and of unlabelled images what the other rank has of labelled ones."""
    own = scene_batch(HALVES[step][rank], sizes=SIZES, grid=GRID, seed=2 * step + rank)
    return replace(own, unlabelled=half(step, 1 - rank)) if beside else own


def snapshot(step: nn.Module, index: int) -> dict[str, Tensor]:
    found = {}
    for name, parameter in step.named_parameters():
        found[f"{index}.weight.{name}"] = parameter.detach().clone()
        if parameter.grad is not None:
            found[f"{index}.gradient.{name}"] = parameter.grad.detach().clone()
    return found


def on_this_rank(fabric: Fabric, case: Case) -> dict[str, Tensor]:
    """This rank's gradients, joined with the other's, and weights at every step."""
    step = step_of(case)
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=LR, momentum=0.9)
    module, optimizer, join = set_up(fabric, PlainStep(step), optimizer)
    found: dict[str, Tensor] = {}
    for index in range(STEPS):
        optimizer.zero_grad()
        seen = half(index, fabric.global_rank, beside=case.beside)
        report, _ = module(Parcel(seen, Clock(step=index, total_steps=STEPS)))
        fabric.backward(report["total"]["total"])
        join(torch.tensor([False]))
        optimizer.step()
        found |= snapshot(step, index)
    return found


@functools.cache
def in_one_process(case: Case) -> tuple[DistillationStep, dict[str, Tensor]]:
    """The oracle: plain PyTorch, the halves one after the other; the step as it ends, and what it went through."""
    step = step_of(case)
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=LR, momentum=0.9)
    found: dict[str, Tensor] = {}
    for index in range(STEPS):
        optimizer.zero_grad()
        for rank in range(RANKS):
            seen = half(index, rank, beside=case.beside)
            (step(seen, Clock(step=index, total_steps=STEPS)).total / RANKS).backward()
        optimizer.step()
        found |= snapshot(step, index)
    return step, found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each rank found, by case: one forked group that runs them all."""
    folder: Path = tmp_path_factory.mktemp("ranks")

    def main(fabric: Fabric) -> None:
        found = {}
        for case in CASES:
            found |= {f"{case.name}/{name}": tensor for name, tensor in on_this_rank(fabric, case).items()}
        save_file(found, folder / f"{fabric.global_rank}.safetensors")

    settings = TrainSettings(steps=STEPS, batch_size=2, processes=RANKS, device="cpu")
    launch(main, settings)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(RANKS)]


def test_all_recipes_are_here_and_one_rank_is_without_boxes() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    structures = {structure(parse_method(case.method)) for case in CASES}
    for name in ALONE:
        assert any(name in one.split(" + ") for one in structures)
        assert structures & {f"aid(ikd({name}))", f"ikd(aid({name}))"} or not THOROUGH
    assert all(any(one.startswith(f"{wrapper}(") for one in structures) for wrapper in WRAPPING)
    for step, rank in itertools.product(range(STEPS), range(RANKS)):
        count = sum(len(target.labels) for target in half(step, rank).targets)
        assert (count == 0) == (step != rank)


def alike(found: Tensor, expected: Tensor) -> bool:
    """What `assert_close` asks, at a tenth of its time."""
    return (found.shape, found.dtype) == (expected.shape, expected.dtype) and torch.allclose(found, expected, **BAR)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_equal_one_process(case: Case, ranks: list[dict[str, Tensor]]) -> None:
    step, expected = in_one_process(case)
    own = [
        {name.split("/", 1)[1]: tensor for name, tensor in found.items() if name.startswith(f"{case.name}/")}
        for found in ranks
    ]
    last = Clock(step=STEPS - 1, total_steps=STEPS)
    trained = {name: p for name, p in step.named_parameters() if p.requires_grad}
    # ikd's term is over by the last step: nobody asks for its gradients any more.
    over = {id(p) for weighted in step.recipe.terms if not weighted.active(last) for p in weighted.term.parameters()}
    assert bool(over) == ("ikd(" in case.method)
    for index in range(STEPS):
        silent = {id(p) for name, p in trained.items() if f"{index}.gradient.{name}" not in expected}
        assert silent == (over if index == STEPS - 1 else set())
    assert any(name.startswith("0.gradient.terms.") for name in expected) == bool(trained_by(step.recipe))
    for found in own:
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            if not alike(found[name], tensor):
                torch.testing.assert_close(found[name], tensor, **BAR, msg=lambda text, n=name: f"{n}: {text}")
    moved = {name for name in trained if not torch.equal(expected[f"0.weight.{name}"], expected[f"1.weight.{name}"])}
    assert moved
    # The ranks agree to the bit, so that they never drift apart.
    assert all(torch.equal(own[0][name], own[1][name]) for name in expected)


def test_the_halves_matter() -> None:
    """The oracle without the second half is another run: the comparison can fail."""
    case = CASES[1]
    step = step_of(case)
    step(half(0, 0), Clock(step=0, total_steps=STEPS)).total.backward()
    _, whole = in_one_process(case)
    alone = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
    assert any((whole[f"0.gradient.{name}"] - grad).abs().max() > 1e-3 for name, grad in alone.items())
