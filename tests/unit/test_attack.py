"""The attack on real, tiny teachers: stronger loss, small distance, every image alone, the teacher as before."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.errors import CapabilityError, ConfigError
from detdistill.methods.attack import AdversarialTwins, AttackSettings, draw_placement, momentum_attack
from detdistill.types import Batch, Need
from made_up_steps import Stub, lit
from scenes_in_memory import FAMILIES, SIZES, scene_batch, tiny_student, tiny_teacher

pytestmark = pytest.mark.covering("teacher")

TWINS = AdversarialTwins()
NO_DIVERSITY = AdversarialTwins(AttackSettings(diversity=0.0))


def class_loss(teacher: FrozenTeacher, batch: Batch) -> Tensor:
    return teacher.input_gradient(batch)[1]


def outside(batch: Batch) -> Tensor:
    mask = torch.ones_like(batch.images, dtype=torch.bool)
    for index, (height, width) in enumerate(batch.sizes):
        mask[index, :, :height, :width] = False
    return mask


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request: pytest.FixtureRequest) -> FrozenTeacher:
    return tiny_teacher(request.param)


def test_twins_of_a_random_teacher(teacher: FrozenTeacher) -> None:
    batch, before = scene_batch(), teacher.digest()
    global_state = torch.get_rng_state()
    twins = TWINS(teacher, batch)
    change = twins - batch.images
    assert twins.shape == batch.images.shape
    assert not twins.requires_grad
    assert float(change.abs().max()) <= 8 / 255 + 1e-6
    assert 0 <= float(twins.min()) <= float(twins.max()) <= 1
    assert torch.equal(twins[outside(batch)], batch.images[outside(batch)])
    assert bool((change.flatten(1).abs().amax(1) > 0).all())
    assert float(class_loss(teacher, replace(batch, images=twins)).mean()) > float(class_loss(teacher, batch).mean())
    # Nobody else notices.
    assert teacher.digest() == before
    assert all(parameter.grad is None for parameter in teacher._detector.parameters())
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(TWINS(teacher, batch), twins)


def test_every_image_is_attacked_alone(teacher: FrozenTeacher) -> None:
    batch = scene_batch()
    together = TWINS(teacher, batch)
    for index in range(len(batch)):
        alone = TWINS(teacher, batch.image(index))
        # A gradient of almost 0 may change its sign by rounding: then a pixel takes other steps.
        assert float((alone[0] - together[index]).abs().gt(1e-6).float().mean()) < 0.01


@pytest.mark.slow
def test_a_trained_teacher_is_worse_on_every_twin() -> None:
    student = tiny_student("fcos", norm="group")
    batch = scene_batch()
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(40):
        loss = student(batch, frozenset({Need.TASK_LOSS})).task_loss
        assert loss is not None
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    teacher = FrozenTeacher(student)
    clean = class_loss(teacher, batch)
    for twins in (TWINS, NO_DIVERSITY, AdversarialTwins(AttackSettings(bounds="source"))):
        risen = class_loss(teacher, replace(batch, images=twins(teacher, batch)))
        assert bool((risen > clean).all()), (clean, risen)


def test_no_distance_gives_the_images_themselves() -> None:
    batch = scene_batch()
    assert torch.equal(AdversarialTwins(AttackSettings(eps_255=0))(tiny_teacher("fcos"), batch), batch.images)


def test_draws_depend_on_seed_image_and_iteration() -> None:
    teacher, batch = tiny_teacher("fcos"), scene_batch()
    twins = TWINS(teacher, batch)
    assert torch.equal(TWINS(teacher, replace(batch, seeds=(1, 2, 3))), twins)
    assert not torch.equal(AdversarialTwins(seed=1)(teacher, batch), twins)
    other_ids = TWINS(teacher, replace(batch, image_ids=(77, *batch.image_ids[1:])))
    assert not torch.equal(other_ids[0], twins[0])
    # Without the shrunk copies nothing is drawn.
    without = NO_DIVERSITY(teacher, batch)
    assert torch.equal(AdversarialTwins(NO_DIVERSITY.settings, seed=1)(teacher, batch), without)
    assert not torch.equal(without, twins)


def test_works_where_gradients_are_off_and_under_autocast() -> None:
    teacher, batch = tiny_teacher("fcos"), scene_batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TWINS(teacher, batch), TWINS(teacher, batch))
        twins = TWINS(teacher, batch)
    assert twins.dtype == torch.float32
    assert torch.equal(twins, TWINS(teacher, batch))


def test_placements_keep_the_ratio_and_stay_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    settings = AttackSettings()
    for size in SIZES:
        drawn = [draw_placement(size, settings, generator) for _ in range(600)]
        placements = [one for one in drawn if one is not None]
        # 600 draws with p = 0.5: 300 ± 4 standard deviations of 12.2
        assert abs(len(placements) - 300) < 49
        for one in placements:
            assert 0 <= one.top <= size[0] - one.height
            assert 0 <= one.left <= size[1] - one.width
            assert 0.9 * size[0] - 0.5 <= one.height <= size[0]
            assert one.height / size[0] == pytest.approx(one.width / size[1], abs=0.5 / size[0] + 0.5 / size[1])
        assert len({(one.top, one.left) for one in placements}) > 5


def test_a_gradient_of_zero_moves_nothing() -> None:
    images = torch.rand(1, 3, 4, 4)
    inside = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    still = momentum_attack(
        images, lambda shown, iteration: torch.zeros_like(shown), inside=inside, settings=AttackSettings()
    )
    assert torch.equal(still, images)


def test_identity_says_all_that_matters() -> None:
    identity = AdversarialTwins(AttackSettings(eps_255=4), seed=3).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["seed"] == 3
    assert asdict(AttackSettings(eps_255=4)).items() <= identity.items()


def test_a_teacher_without_class_losses_is_refused() -> None:
    with pytest.raises(CapabilityError, match="must report a class loss per image"):
        TWINS(FrozenTeacher(Stub(1.0)), lit(0.5))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps_255": -1.0}, "attack's eps_255 must be between 0 and 255, got -1.0"),
        ({"step_255": 300.0}, "attack's step_255 must be between 0 and 255, got 300.0"),
        ({"steps": 0}, "attack's steps .ikd's attack_steps. must be at least 1, got 0"),
        ({"decay": float("inf")}, "attack's decay must be a finite number of at least 0, got inf"),
        ({"diversity": 2.0}, "attack's diversity must be between 0 and 1, got 2.0"),
        ({"smallest_scale": 0.0}, "attack's smallest_scale must be more than 0 and at most 1, got 0.0"),
        ({"bounds": "none"}, "attack's bounds must be pixel or source, got none"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttackSettings(**changes)
