"""What `ikd` puts around a recipe, and how a step with it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detdistill.data.sample_specific import SampleSpecific, SampleSpecificSettings
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.startup import prove
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.view import CLEAN, View
from detdistill.errors import CapabilityError, ConfigError
from detdistill.jobs.samples import recipe_changes
from detdistill.jobs.settings import DataSettings
from detdistill.methods.attack import AdversarialTwins, AttackSettings
from detdistill.methods.hint import HintSettings, build_hint
from detdistill.methods.ikd import ADVERSARIAL, TERM, IKDSettings, wrap_ikd
from detdistill.methods.method import scheduled
from detdistill.types import Clock, Knowledge
from made_up_steps import Known
from observations import spec
from scenes_in_memory import scene_batch, tiny_student, tiny_teacher

HINT = build_hint(spec(), spec(), HintSettings())


def wrapped(settings: IKDSettings) -> Recipe:
    return scheduled(wrap_ikd(HINT, spec(), spec(), settings), settings, inner=HINT)


def test_the_wrapped_recipe() -> None:
    recipe = wrapped(IKDSettings())
    assert recipe.name == "ikd(hint)"
    assert recipe.terms[:-1] == HINT.terms
    added = recipe.terms[-1]
    assert (added.name, added.gain, added.view, added.until) == (TERM, 1e-5, View(ADVERSARIAL), 2 / 3)
    assert added.term.knowledge is Knowledge.FEATURE
    assert not list(added.term.parameters())
    assert recipe.twins == {ADVERSARIAL: AdversarialTwins()}
    assert recipe.sample_transform == SampleSpecific()
    assert recipe.transform_until == 2 / 3


def test_numbers_reach_attack_and_samples() -> None:
    settings = IKDSettings(
        adversarial_gain=0.5,
        eps_255=4.0,
        step_255=1.0,
        attack_steps=3,
        attack_momentum=0.9,
        diversity=0.1,
        smallest_scale=0.7,
        bounds="source",
        noise_probability=0.2,
        noise_sd=0.1,
        smallest_crop=0.6,
        small_px=16.0,
        until=0.5,
    )
    recipe = wrapped(settings)
    assert recipe.terms[-1].gain == 0.5
    assert recipe.terms[-1].until == recipe.transform_until == 0.5
    attack = AttackSettings(
        eps_255=4.0, step_255=1.0, steps=3, decay=0.9, diversity=0.1, smallest_scale=0.7, bounds="source"
    )
    assert recipe.twins[ADVERSARIAL] == AdversarialTwins(attack)
    assert recipe.sample_transform == SampleSpecific(
        SampleSpecificSettings(noise_probability=0.2, noise_sd=0.1, smallest_crop=0.6, small_px=16.0)
    )


@pytest.mark.parametrize("settings", [IKDSettings(adversarial=False), IKDSettings(adversarial_gain=0.0)])
def test_without_the_adversarial_half(settings: IKDSettings) -> None:
    recipe = wrap_ikd(HINT, spec(), spec(), settings)
    assert recipe.terms == HINT.terms
    assert not recipe.twins
    assert recipe.sample_transform == SampleSpecific()


def test_without_the_augmentation() -> None:
    recipe = wrap_ikd(HINT, spec(), spec(), IKDSettings(augment=False))
    assert recipe.sample_transform is None
    assert recipe.transform_until == 1.0
    assert len(recipe.terms) == 2


def test_other_twins_stay() -> None:
    other = replace(HINT, twins={"other": lambda teacher, batch: batch.images})
    assert set(wrap_ikd(other, spec(), spec(), IKDSettings()).twins) == {"other", ADVERSARIAL}


@pytest.mark.parametrize("inner", [IKDSettings(), IKDSettings(augment=False), IKDSettings(adversarial=False)])
def test_ikd_around_ikd_is_refused(inner: IKDSettings) -> None:
    once = wrap_ikd(HINT, spec(), spec(), inner)
    with pytest.raises(ConfigError, match=r"must have neither .* got 'ikd\(hint\)', which has. Wrap with ikd once."):
        wrap_ikd(once, spec(), spec(), IKDSettings())


def test_a_term_of_its_name_is_refused() -> None:
    taken = Recipe("taken", (WeightedTerm(TERM, Known([[1.0]], (8,)), 1.0),))
    with pytest.raises(ConfigError, match="Wrap with ikd once"):
        wrap_ikd(taken, spec(), spec(), IKDSettings())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"adversarial_gain": -1.0}, "adversarial_gain must be a finite number of at least 0"),
        ({"until": 1.5}, "until must be above 0 and at most 1, got 1.5"),
        ({"until": 0.0}, "until must be above 0 and at most 1, got 0.0"),
        ({"eps_255": -1.0}, "attack's eps_255"),
        ({"smallest_crop": 2.0}, "smallest_crop must be more than 0"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrap_ikd(HINT, spec(), spec(), IKDSettings(**numbers))


def test_pyramids_without_a_shared_stride_are_refused() -> None:
    with pytest.raises(CapabilityError, match="share at least one stride"):
        wrap_ikd(HINT, spec(strides=(8,)), spec(strides=(16,)), IKDSettings())


def make_step(settings: IKDSettings) -> DistillationStep:
    student, teacher = tiny_student("fcos"), tiny_teacher("fcos")
    torch.manual_seed(0)
    hint = build_hint(student.spec, teacher.spec, HintSettings())
    recipe = scheduled(wrap_ikd(hint, student.spec, teacher.spec, settings), settings, inner=hint)
    return DistillationStep(student, teacher, recipe)


def test_a_step_looks_at_twins_until_two_thirds_and_leaves_the_states_alone() -> None:
    step, batch = make_step(IKDSettings()), scene_batch()
    before = step.teacher.digest()
    early, late = step(batch, Clock(0, 3)), step(batch, Clock(2, 3))
    assert float(early.parts[TERM]) > 0
    assert float(late.parts[TERM]) == 0
    assert step.teacher.digest() == before
    early.total.backward()
    aligner = [parameter.grad for parameter in step.recipe.terms[-1].term.parameters()]
    assert aligner
    assert all(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in aligner)


def test_the_second_view_keeps_running_statistics() -> None:
    batch = scene_batch()
    with_twins, without = make_step(IKDSettings()), make_step(IKDSettings(adversarial=False))
    with_twins(batch, Clock(0, 3))
    without(batch, Clock(0, 3))
    for (name, one), (_, other) in zip(
        with_twins.student.named_buffers(), without.student.named_buffers(), strict=True
    ):
        assert torch.equal(one, other), name


def test_twins_of_the_loader_are_taken_as_they_are() -> None:
    step, batch = make_step(IKDSettings()), scene_batch()
    made = step.see(batch, step.recipe).batch.twins[ADVERSARIAL]
    assert torch.equal(made, AdversarialTwins()(step.teacher, batch))
    brought = replace(batch, twins={ADVERSARIAL: 1 - batch.images})
    seen = step.see(brought, step.recipe)
    assert torch.equal(seen.batch.twins[ADVERSARIAL], 1 - batch.images)
    assert set(seen.students) == {CLEAN, View(ADVERSARIAL)}


def test_the_start_up_proof_covers_the_twins() -> None:
    proofs = prove(make_step(IKDSettings()), scene_batch())
    assert [proof.name for proof in proofs] == ["hint.features", TERM]
    assert all(proof.gradient_norm > 0 for proof in proofs)


def test_augmentation_of_the_data_section_must_last_as_long_as_the_twins(tmp_path: Path) -> None:
    layout = spec()
    settings, hint = IKDSettings(augment=False, until=0.9), build_hint(layout, layout, HintSettings())
    twins = scheduled(wrap_ikd(hint, layout, layout, settings), settings, inner=hint)
    assert recipe_changes(twins, DataSettings(folder=tmp_path)).until == 0.9
    data = DataSettings(folder=tmp_path, sample_specific=SampleSpecificSettings(), sample_specific_until=0.9)
    assert recipe_changes(twins, data).until == 0.9
    with pytest.raises(ConfigError) as caught:
        recipe_changes(twins, replace(data, sample_specific_until=0.3))
    assert str(caught.value) == (
        "data.sample_specific_until must be the share of the run for which ikd(hint) looks at its twins, 0.9, got 0.3. "
        "Set both to the same share."
    )
