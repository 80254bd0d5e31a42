"""IKD against slow, obvious versions: the term by loops, the attack pixel by pixel and image by image."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe
from detdistill.methods.attack import (
    AdversarialTwins,
    AttackSettings,
    Placement,
    draw_placement,
    momentum_attack,
    moved_targets,
    placed,
)
from detdistill.methods.ikd import IKDSettings, wrap_ikd
from detdistill.methods.parts.align import ConvAlign
from detdistill.random import draw_seed
from detdistill.types import Batch, Clock, Need, Observation, Pyramid, TaskLoss
from made_up_steps import Stub
from observations import batch, random_observation, spec
from scenes_in_memory import targets_of

SIZES = [(40, 56), (64, 33)]
SCENE = batch(SIZES, grid=(64, 64))
STRIDES = (8, 16)


@pytest.mark.parametrize(("teacher_channels", "two_stage"), [(5, False), (3, False), (5, True)])
def test_adversarial_term_equals_loops(teacher_channels: int, two_stage: bool) -> None:
    torch.manual_seed(0)
    ours = replace(spec(channels=3), two_stage=two_stage)
    recipe = wrap_ikd(Recipe("nothing", ()), ours, spec(channels=teacher_channels), IKDSettings())
    (weighted,) = recipe.terms
    trained = list(weighted.term.parameters())
    assert bool(trained) == (teacher_channels != 3)
    results = []
    for slow in (False, True):
        student = random_observation(SCENE, seed=1, channels=3, requires_grad=True)
        teacher = random_observation(SCENE, seed=2, channels=teacher_channels)
        if slow:
            loss = torch.zeros(())
            for image, (height, width) in enumerate(SIZES):
                for stride, s, t in zip(STRIDES, student.pyramid.levels, teacher.pyramid.levels, strict=True):
                    for y in range(math.ceil(height / stride)):
                        for x in range(math.ceil(width / stride)):
                            vector = s[image, :, y, x]
                            if trained:
                                assert isinstance(weighted.term.align, ConvAlign)
                                conv = weighted.term.align.convs[f"stride_{stride}"]
                                assert isinstance(conv, nn.Conv2d)
                                vector = conv.weight[:, :, 0, 0] @ vector + conv.bias
                            for c in range(teacher_channels):
                                loss = loss + (vector[c] - t[image, c, y, x]) ** 2
            loss = (2.5e-7 if two_stage else 1e-5) * loss / len(SIZES)
        else:
            loss = weighted.gain * weighted.term(Pair(student, teacher, SCENE), Clock(0, 1)).values.sum(1).mean()
        gradients = torch.autograd.grad(loss, [*student.pyramid.levels, *trained])
        results.append([loss.detach(), *gradients])
    for fast_one, slow_one in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, slow_one, rtol=1e-4, atol=1e-9)
    assert float(results[0][1].abs().sum()) > 0


def slow_resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, pixel centres at half: one output pixel at a time."""
    _, old_height, old_width = image.shape
    rows = []
    for y in range(height):
        for x in range(width):
            down = min(max((y + 0.5) * old_height / height - 0.5, 0.0), old_height - 1)
            across = min(max((x + 0.5) * old_width / width - 0.5, 0.0), old_width - 1)
            top, left = int(down), int(across)
            bottom, right = min(top + 1, old_height - 1), min(left + 1, old_width - 1)
            a, b = down - top, across - left
            upper = image[:, top, left] * (1 - b) + image[:, top, right] * b
            lower = image[:, bottom, left] * (1 - b) + image[:, bottom, right] * b
            rows.append(upper * (1 - a) + lower * a)
    return torch.stack(rows, dim=1).reshape(-1, height, width)


PLACEMENTS = (Placement(top=1, left=0, height=6, width=8), None, Placement(top=0, left=2, height=5, width=6))
ATTACKED = ((7, 10), (8, 9), (6, 8))


def test_shrunk_copies_and_their_gradient_equal_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 8, 10, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 3, 8, 10, generator=generator, dtype=torch.float64)
    fill = torch.rand(3, 3, 1, 1, generator=generator, dtype=torch.float64)
    results = []
    for slow in (False, True):
        leaf = images.clone().requires_grad_()
        if slow:
            shown = []
            for index, (placement, (height, width)) in enumerate(zip(PLACEMENTS, ATTACKED, strict=True)):
                frame = leaf[index].clone()
                if placement is not None:
                    copy = slow_resize(leaf[index, :, :height, :width], placement.height, placement.width)
                    for y in range(height):
                        for x in range(width):
                            row, column = y - placement.top, x - placement.left
                            inside = 0 <= row < placement.height and 0 <= column < placement.width
                            frame[:, y, x] = copy[:, row, column] if inside else fill[index, :, 0, 0]
                shown.append(frame)
            result = torch.stack(shown)
        else:
            result = placed(leaf, PLACEMENTS, sizes=ATTACKED, fill=fill)
        (gradient,) = torch.autograd.grad((weights * result.square()).sum(), leaf)
        results.append((result.detach(), gradient))
    for fast_one, slow_one in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, slow_one, rtol=1e-9, atol=1e-12)


class Linear(Stub):
    """Its class loss is the sum of pixels times weights; it remembers the boxes that it was asked about."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__(1.0)
        self.weights = weights
        self.boxes: list[Tensor] = []

    def extract(self, batch: Batch) -> Pyramid:
        return Pyramid((batch.images,), (8,))

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        self.boxes.append(torch.cat([target.boxes for target in batch.targets]))
        loss = (self.weights * pyramid.levels[0]).sum((1, 2, 3))
        return Observation(pyramid, task_loss=TaskLoss(total=loss.sum(), strides=(8,), classification=loss[:, None]))


def test_twins_follow_the_gradient_through_their_shrunk_copies() -> None:
    # One step of a loss that is linear in the pixels of the copy: x + 2/255 · sign of its gradient by x.
    settings = AttackSettings(steps=1, diversity=1.0, smallest_scale=0.6)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 3, 8, 10, generator=generator)
    images = 0.2 + 0.6 * torch.rand(3, 3, 8, 10, generator=generator)
    scene = replace(
        batch(list(ATTACKED), grid=(8, 10)),
        images=images,
        targets=(targets_of([(1, 2, 5, 6)]),) * 3,
        image_ids=(4, 5, 6),
    )
    teacher = Linear(weights)
    twins = AdversarialTwins(settings, seed=9)(FrozenTeacher(teacher), scene)
    for index, (height, width) in enumerate(ATTACKED):
        drawn = torch.Generator().manual_seed(draw_seed(9, scene.image_ids[index], 0, 3))
        placement = draw_placement((height, width), settings, drawn)
        assert placement is not None
        leaf = images[index, :, :height, :width].clone().requires_grad_()
        copy = slow_resize(leaf, placement.height, placement.width)
        seen_by = weights[index][
            :,
            placement.top : placement.top + placement.height,
            placement.left : placement.left + placement.width,
        ]
        (gradient,) = torch.autograd.grad((seen_by * copy).sum(), leaf)
        expected = leaf.detach() + 2 / 255 * gradient.sign()
        torch.testing.assert_close(twins[index, :, :height, :width], expected, rtol=0, atol=1e-6)
        across, down = placement.width / width, placement.height / height
        moved = [1 * across, 2 * down, 5 * across, 6 * down]
        shift = [placement.left, placement.top] * 2
        assert teacher.boxes[0][index].tolist() == pytest.approx([a + b for a, b in zip(moved, shift, strict=True)])


def test_boxes_move_with_the_copy() -> None:
    # A bright box on black, shrunk: the box moves to where the bright pixels went.
    images = torch.zeros(1, 3, 40, 60)
    images[:, :, 10:30, 20:50] = 1.0
    placement = Placement(top=3, left=5, height=36, width=54)
    shown = placed(images, [placement], sizes=[(40, 60)], fill=torch.zeros(1, 3, 1, 1))
    bright = (shown[0, 0] > 0.5).nonzero()
    (box,) = moved_targets(targets_of([(20, 10, 50, 30)]), placement, size=(40, 60)).boxes.tolist()
    assert box == pytest.approx([23.0, 12.0, 50.0, 30.0])
    assert [*bright.min(0).values.tolist(), *(bright.max(0).values + 1).tolist()] == [12, 23, 30, 50]


@pytest.mark.parametrize("bounds", ["pixel", "source"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_attack_equals_one_pixel_at_a_time(bounds: str, decay: float) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = ((4, 5), (3, 4))
    start = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    inside = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    for index, (height, width) in enumerate(sizes):
        inside[index, :, :height, :width] = True
    # A gradient that turns, so that momentum matters; not zero in the padding, where it must not count.
    waves = torch.randn(4, 2, 3, 4, 5, generator=generator, dtype=torch.float64)

    def gradient_of(images: Tensor, iteration: int) -> Tensor:
        return waves[iteration] + images

    settings = AttackSettings(eps_255=6, step_255=2.5, steps=4, decay=decay, bounds=bounds)
    fast = momentum_attack(start, gradient_of, inside=inside, settings=settings)
    slow = start.clone()
    for index, (height, width) in enumerate(sizes):
        own = start[index, :, :height, :width]
        reach = max(float(channel.max() - channel.min()) for channel in own) if bounds == "source" else 1.0
        momentum: dict[tuple[int, int, int], float] = {}
        for iteration in range(settings.steps):
            gradient = waves[iteration][index] + slow[index]
            cells = [(c, y, x) for c in range(3) for y in range(height) for x in range(width)]
            norm = sum(abs(float(gradient[cell])) for cell in cells)
            after = slow[index].clone()
            for cell in cells:
                momentum[cell] = float(gradient[cell]) / norm + decay * momentum.get(cell, 0.0)
                value = float(slow[index][cell]) + math.copysign(2.5 / 255 * reach, momentum[cell])
                low, high = (float(own[cell[0]].min()), float(own[cell[0]].max())) if bounds == "source" else (0.0, 1.0)
                first = float(start[index][cell])
                value = min(max(value, first - 6 / 255 * reach), first + 6 / 255 * reach)
                after[cell] = min(max(value, low), high)
            slow[index] = after
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-7)
    assert torch.equal(fast[1, :, 3:], start[1, :, 3:])
    assert torch.equal(fast[1, :, :, 4:], start[1, :, :, 4:])
