"""The teacher: frozen, shared, drawn by image id, and never part of a module."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.errors import CapabilityError, ConfigError
from detdistill.types import Batch, Need, Pyramid, Targets
from scenes_in_memory import SMALLEST

pytestmark = pytest.mark.covering("teacher")

CLASSES = ("car", "truck")
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
ALL = LOSSES | {Need.CLASS_LOGITS}


@pytest.fixture(scope="module", params=SMALLEST)
def teacher(request: pytest.FixtureRequest) -> FrozenTeacher:
    return FrozenTeacher(build_detector(parse_detector(request.param), CLASSES, seed=1))


@pytest.fixture(scope="module")
def batch() -> Batch:
    boxes = torch.tensor([[8.0, 8.0, 40.0, 44.0], [50.0, 10.0, 90.0, 60.0]])
    full = Targets(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Batch(
        images=torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)),
        sizes=((64, 96), (50, 80)),
        stored_sizes=((64, 96), (50, 80)),
        targets=(full, empty),
        image_ids=(5, 9),
        seeds=(1, 2),
    )


def test_is_no_module_is_in_eval_mode_and_frozen(teacher: FrozenTeacher) -> None:
    assert not isinstance(teacher, nn.Module)
    step = nn.Module()
    step.teacher = teacher
    step.train()
    assert list(step.parameters()) == list(step.modules())[1:] == []
    assert step.state_dict() == {}
    assert not teacher._detector.training
    assert not any(p.requires_grad for p in teacher._detector.parameters())


def test_observes_without_gradient_and_stays_bit_identical(teacher: FrozenTeacher, batch: Batch) -> None:
    before = teacher.digest()
    # Even if somebody who holds the detector too puts it into training mode.
    teacher._detector.train()
    images = batch.images.clone().requires_grad_()
    seen = teacher.observe(replace(batch, images=images), ALL)
    assert not teacher._detector.training
    tensors = (*seen.pyramid.levels, *seen.class_logits.levels, seen.task_loss.total, seen.task_loss.classification)
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in tensors)
    assert teacher.digest() == before
    # Usable in a graph: inference tensors could not be saved for backward.
    weight = torch.ones(1, requires_grad=True)
    (weight * seen.pyramid.levels[0]).sum().backward()


def test_digest_tells_one_bit() -> None:
    teacher = FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1))
    before = teacher.digest()
    assert len(before) == 64
    assert before == FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1)).digest()
    weight = next(teacher._detector.parameters())
    weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert teacher.digest() != before


def test_draws_depend_on_the_image_id_alone(batch: Batch) -> None:
    teacher = FrozenTeacher(build_detector(parse_detector("faster_rcnn/small"), CLASSES, seed=1))
    first = teacher.observe(batch, LOSSES).task_loss
    torch.manual_seed(77)
    again = teacher.observe(replace(batch, seeds=(123, 456)), LOSSES).task_loss
    assert torch.equal(first.classification, again.classification)
    assert torch.equal(first.roi_classification, again.roi_classification)
    other = teacher.observe(replace(batch, image_ids=(6, 9)), LOSSES).task_loss
    assert not torch.equal(first.classification[0], other.classification[0])
    assert torch.equal(first.classification[1], other.classification[1])


def test_reads_a_given_pyramid_without_gradient(teacher: FrozenTeacher, batch: Batch) -> None:
    own = teacher.observe(batch, ALL)
    levels = tuple(level.clone().requires_grad_() for level in own.pyramid.levels)
    seen = teacher.observe_pyramid(Pyramid(levels, own.pyramid.strides), batch, ALL)
    torch.testing.assert_close(seen.task_loss.total, own.task_loss.total)
    assert not seen.task_loss.total.requires_grad
    assert not seen.pyramid.levels[0].requires_grad
    other = Pyramid(tuple(torch.zeros_like(level) for level in levels), own.pyramid.strides)
    assert teacher.observe_pyramid(other, batch, LOSSES).task_loss.total != own.task_loss.total


def test_refuses_a_pyramid_of_another_layout(teacher: FrozenTeacher, batch: Batch) -> None:
    own = teacher.observe(batch, {Need.PYRAMID}).pyramid
    with pytest.raises(
        CapabilityError, match=r"must have strides .* channels, got strides .*Let the teacher read its own"
    ):
        teacher.observe_pyramid(Pyramid(own.levels[1:], own.strides[1:]), batch, LOSSES)
    with pytest.raises(CapabilityError, match=r"got strides .* and channels \[3\]"):
        teacher.observe_pyramid(Pyramid(tuple(level[:, :3] for level in own.levels), own.strides), batch, LOSSES)


def test_input_gradient_is_each_image_alone_and_leaves_parameters(teacher: FrozenTeacher, batch: Batch) -> None:
    before = teacher.digest()
    with torch.no_grad():
        gradient, loss = teacher.input_gradient(batch)
    assert gradient.shape == batch.images.shape
    assert loss.shape == (2,)
    assert not gradient.requires_grad
    assert not loss.requires_grad
    assert (loss > 0).all()
    assert gradient[0].abs().sum() > 0
    # Padding of image 1: below row 50 and right of column 80.
    assert gradient[1, :, 50:].abs().sum() == gradient[1, :, :, 80:].abs().sum() == 0
    own = teacher.observe(batch, LOSSES).task_loss
    wanted = own.classification.sum(1) if own.roi_classification is None else own.roi_classification
    torch.testing.assert_close(loss, wanted)
    for i in range(2):
        alone, of_one = teacher.input_gradient(batch.image(i))
        torch.testing.assert_close(of_one[0], loss[i])
        torch.testing.assert_close(alone[0], gradient[i], atol=1e-6, rtol=1e-3)
    assert teacher.digest() == before
    assert all(p.grad is None and not p.requires_grad for p in teacher._detector.parameters())
    assert batch.images.grad is None


def test_input_gradient_climbs(batch: Batch) -> None:
    teacher = FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1))
    gradient, loss = teacher.input_gradient(batch)
    attacked = replace(batch, images=batch.images + 1e-3 * gradient / gradient.abs().amax())
    assert (teacher.input_gradient(attacked)[1] > loss).all()


def test_input_gradient_needs_a_class_loss(batch: Batch) -> None:
    teacher = FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1))
    # Reported as a second stage, which this detector does not have.
    teacher._detector.spec = replace(teacher.spec, two_stage=True)
    with pytest.raises(CapabilityError, match=r"must report a class loss per image, got fcos/test_resnet"):
        teacher.input_gradient(batch)


def test_moves_device_never_dtype() -> None:
    teacher = FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1))
    dtypes = [p.dtype for p in teacher._detector.parameters()]
    assert teacher.to("meta") is teacher
    assert teacher.device.type == "meta"
    assert [p.dtype for p in teacher._detector.parameters()] == dtypes
    assert all(tensor.device.type == "meta" for tensor in teacher._detector.state_dict().values())
    with pytest.raises(ConfigError, match=r"must hold data, got 'meta'"):
        teacher.digest()


def test_copies_are_the_same_teacher_and_pickles_are_refused() -> None:
    teacher = FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1))
    step = nn.Linear(1, 1)
    step.teacher = teacher
    assert copy.deepcopy(step).teacher is teacher
    assert copy.copy(teacher) is teacher
    with pytest.raises(CapabilityError, match=r"must hold no teacher, got fcos/test_resnet.*each process"):
        pickle.dumps(teacher)


def test_autocast_is_the_teachers_own(batch: Batch) -> None:
    def build() -> FrozenTeacher:
        return FrozenTeacher(build_detector(parse_detector("fcos/tiny"), CLASSES, seed=1), autocast=dtype)

    dtype = None
    full = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = full.observe(batch, ALL)
    assert inside.class_logits.levels[0].dtype == torch.float32
    assert torch.equal(inside.class_logits.levels[0], full.observe(batch, ALL).class_logits.levels[0])
    dtype = torch.bfloat16
    half = build().observe(batch, ALL)
    assert half.class_logits.levels[0].dtype == torch.bfloat16
    assert half.task_loss.total.dtype == torch.float32
    gradient, loss = build().input_gradient(batch)
    assert gradient.dtype == loss.dtype == torch.float32


def test_detects(teacher: FrozenTeacher, batch: Batch) -> None:
    found = teacher.detect(batch)
    assert len(found) == 2
    assert not found[0].scores.requires_grad
