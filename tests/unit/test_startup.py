"""The start-up proof: it refuses what cannot teach, and leaves nothing behind."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.startup import TermProof, prove
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN
from detdistill.errors import DistillError
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Batch, Need
from every_method import ALONE, CLOCK, aligned_by, both_wrappers, families_of, first_family, one_family
from pairs_in_memory import teacher_of
from scenes_in_memory import BOXES, scene_batch, tiny_student, tiny_teacher

pytestmark = pytest.mark.covering("name")

FROZEN_REMEDY = "Check that the student is not frozen, that both detectors share levels, and that the data have boxes."


# Every recipe on every detector, on one of them in `make test`; each once in both wrappers, with twins made on the fly.
# That each reaches the student's maps on every detector is in tests/contract/test_recipes_on_detectors.py too.
WRAPPED = [both_wrappers(name)[0] for name in ALONE]
TWICE = [both_wrappers(name)[1] for name in ("frs + ssim", "fgd")]
FIRST = [(name, one_family(name, index)) for index, name in enumerate(ALONE)]
CASES = [(name, family) for name in ALONE for family in families_of(name)]
CASES = [case if case in FIRST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
CASES += [(name, one_family(name, index)) for index, name in enumerate(WRAPPED)]
# What does not depend on the recipe is seen with some of them in `make test`.
SOME = [pytest.param(name, marks=pytest.mark.slow) if index % 4 else name for index, name in enumerate(ALONE)]


def small_batch() -> Batch:
    return scene_batch(BOXES[:2], sizes=((64, 96), (50, 70)), grid=(64, 96))


def step_of(method: str, student: Detector, teacher: FrozenTeacher, *, aligner: str | None = None) -> DistillationStep:
    method = method if aligner is None else aligned_by(method, aligner)
    return DistillationStep(student, teacher, build_recipe(method, student.spec, teacher.spec)).train()


def twin_of(student: Detector) -> FrozenTeacher:
    return FrozenTeacher(copy.deepcopy(student))


@pytest.mark.parametrize(("name", "family"), CASES)
def test_every_recipe_proves_that_it_teaches(name: str, family: str) -> None:
    step = step_of(name, tiny_student(family), teacher_of(family))
    proofs = prove(step, small_batch())
    assert [proof.name for proof in proofs] == [term.name for term in step.recipe.terms]
    for proof in proofs:
        assert proof.loss > 0
        assert proof.gradient_norm > 0
        assert not proof.perturbed


@pytest.mark.parametrize("name", [*ALONE, WRAPPED[0]])
def test_the_figures_are_the_bare_terms(name: str) -> None:
    """Before gain, warm-up and weight: recomputed from the term and plain autograd."""
    family = first_family(name)
    step = step_of(name, tiny_student(family, norm="group"), teacher_of(family))
    batch = small_batch()
    proofs = prove(step, batch)
    shown = step.see(batch, step.recipe)
    pairs = shown.pairs()
    for proof, weighted in zip(proofs, step.recipe.terms, strict=True):
        loss = weighted.term(pairs[weighted.view], CLOCK).values.sum(1).mean()
        gradients = torch.autograd.grad(loss, [*step.student.parameters()], retain_graph=True, allow_unused=True)
        norm = torch.cat([g.flatten() for g in gradients if g is not None]).double().norm()
        assert proof.loss == pytest.approx(float(loss.detach()), rel=1e-6)
        assert proof.gradient_norm == pytest.approx(float(norm), rel=1e-4)


def test_the_proof_leaves_nothing_behind() -> None:
    step = step_of("frs", tiny_student("faster_rcnn"), tiny_teacher("faster_rcnn"))
    assert any("running_mean" in name for name, _ in step.student.named_buffers())
    before = {name: tensor.clone() for name, tensor in step.state_dict(keep_vars=False).items()}
    buffers = {name: tensor.clone() for name, tensor in step.named_buffers()}
    modes = [module.training for module in step.modules()]
    digest, random = step.teacher.digest(), torch.get_rng_state()
    prove(step, small_batch())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.state_dict().items())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in step.named_buffers())
    assert all(parameter.grad is None for parameter in step.parameters())
    assert [module.training for module in step.modules()] == modes
    assert step.teacher.digest() == digest
    # The step itself would have moved the statistics: the comparison above can fail.
    step.see(small_batch(), step.recipe)
    assert any(not torch.equal(tensor, buffers[name]) for name, tensor in step.named_buffers())


def test_buffers_are_restored_after_a_refusal_too() -> None:
    step = step_of("hint", tiny_student("fcos"), spoilt(tiny_teacher("fcos")))
    buffers = {name: tensor.clone() for name, tensor in step.named_buffers()}
    with pytest.raises(DistillError):
        prove(step, small_batch())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in step.named_buffers())


def spoilt(teacher: FrozenTeacher, value: float = float("nan")) -> FrozenTeacher:
    with torch.no_grad():
        next(p for name, p in teacher._detector.named_parameters() if "fpn" in name).fill_(value)
    return teacher


@pytest.mark.parametrize("name", SOME)
def test_a_teacher_of_nans_is_refused_with_the_remedy(name: str) -> None:
    family = first_family(name)
    step = step_of(name, tiny_student(family), spoilt(tiny_teacher(family)))
    with pytest.raises(DistillError) as caught:
        prove(step, small_batch())
    assert str(caught.value) == (
        f"The loss of the term '{step.recipe.terms[0].name}' must be finite on the first batch, got nan. "
        "Check the teacher's weights and the image normalisation with `detdistill evaluate TEACHER --data DATA`."
    )


@pytest.mark.parametrize("aligner", ["identity", "conv1x1"])
@pytest.mark.parametrize("same", [False, True])
def test_an_all_frozen_student_is_refused_with_the_remedy(aligner: str, same: bool) -> None:
    """Also where the aligner would learn, and where student and teacher are equal, which is no excuse."""
    student = tiny_student("fcos", norm="group").requires_grad_(False)
    teacher = twin_of(student) if same else FrozenTeacher(tiny_student("fcos", seed=5))
    step = step_of("hint", student, teacher, aligner=aligner)
    with pytest.raises(DistillError) as caught:
        prove(step, small_batch())
    assert str(caught.value) == (
        f"The gradient of the term 'hint.features' to the student must be finite and not zero, got 0.0. {FROZEN_REMEDY}"
    )


def test_a_student_whose_features_are_frozen_is_refused_though_its_heads_learn() -> None:
    student = tiny_student("fcos", norm="group")
    student.model.backbone.requires_grad_(False)
    for teacher in (tiny_teacher("fcos"), twin_of(student)):
        step = step_of("ssim", tiny_student("fcos", norm="group"), teacher)
        step.student.model.backbone.requires_grad_(False)
        with pytest.raises(
            DistillError, match=r"'ssim\.features' to the student must be finite and not zero, got 0\.0"
        ):
            prove(step, small_batch())


def test_an_image_without_cells_inside_teaches_nothing_and_is_refused() -> None:
    batch = replace(scene_batch(((),)), sizes=((0, 0),))
    step = step_of("hint", tiny_student("fcos"), tiny_teacher("fcos"))
    with pytest.raises(DistillError, match="and that the data have boxes"):
        prove(step, batch)


@pytest.mark.covering("norm")
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *(
            pytest.param(name, norm, marks=pytest.mark.slow if index % 4 else ())
            for norm in ("group", "frozen")
            for index, name in enumerate(ALONE)
        ),
        *((method, "group") for method in TWICE),
    ],
)
def test_self_distillation_is_proved_on_a_perturbed_observation(name: str, norm: str) -> None:
    student = tiny_student("retinanet" if "retinanet" in families_of(name) else first_family(name), norm=norm)
    step = step_of(name, student, twin_of(student), aligner="identity")
    shown = step.see(small_batch(), step.recipe)
    students, teachers = shown.students, shown.teachers
    for view in step.recipe.views():
        levels = [seen[view].pyramid.levels for seen in (students, teachers)]
        torch.testing.assert_close(*levels, rtol=1e-3, atol=1e-3)
    random = torch.get_rng_state()
    proofs = prove(step, small_batch())
    assert torch.equal(torch.get_rng_state(), random)
    for proof in proofs:
        assert proof.perturbed
        assert 0 < proof.gradient_norm < float("inf")
        assert "student equals teacher here: proved on a perturbed observation" in str(proof)


@pytest.mark.parametrize("name", SOME)
def test_rounding_does_not_hide_that_both_are_equal(name: str) -> None:
    """A teacher in bfloat16 differs from its equal by rounding, whose gradient would prove nothing."""
    student = tiny_student(first_family(name), norm="group")
    teacher = FrozenTeacher(copy.deepcopy(student), autocast=torch.bfloat16)
    assert all(proof.perturbed for proof in prove(step_of(name, student, teacher, aligner="identity"), small_batch()))


def test_a_student_that_differs_only_in_its_statistics_needs_no_perturbation() -> None:
    """Batch-norm in training mode: the student sees its batch's statistics, the teacher its stored ones."""
    student = tiny_student("fcos", norm="batch")
    step = step_of("hint", student, twin_of(student), aligner="identity")
    (proof,) = prove(step, small_batch())
    assert not proof.perturbed
    assert Need.PYRAMID in step.recipe.student_needs(CLEAN)


def test_a_proof_reads_as_a_sentence() -> None:
    plain = TermProof(name="hint.features", loss=1.23456, gradient_norm=0.000123456, perturbed=False)
    assert str(plain) == "hint.features: loss 1.235, gradient to the student 0.0001235"
    assert str(replace(plain, perturbed=True)) == (
        "hint.features: loss 1.235, gradient to the student 0.0001235 "
        "(student equals teacher here: proved on a perturbed observation)"
    )
