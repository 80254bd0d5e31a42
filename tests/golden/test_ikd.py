"""IKD on numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.data.dataset import Stored
from detdistill.data.sample_specific import SampleSpecific, SampleSpecificSettings, noised
from detdistill.data.transforms import draw_crop
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.methods.attack import AttackSettings, momentum_attack
from detdistill.methods.ikd import TERM, IKDSettings, wrap_ikd
from detdistill.methods.method import scheduled
from detdistill.types import Clock, Targets
from observations import batch, observation, spec

EMPTY = Recipe("nothing", ())


def stored(*sides: tuple[float, float]) -> Stored:
    boxes = torch.tensor([[5.0, 5.0, 5.0 + width, 5.0 + height] for width, height in sides])
    targets = Targets(boxes, torch.zeros(len(sides), dtype=torch.int64), torch.zeros(len(sides), dtype=torch.bool))
    image = torch.full((3, 50, 60), 128, dtype=torch.uint8)
    return Stored(image=image, targets=targets, twins={"adversarial": image.clone()})


def outcomes(sample: Stored, *, settings: SampleSpecificSettings, draws: int) -> list[str]:
    change = SampleSpecific(settings)
    found = []
    for seed in range(draws):
        changed = change(sample, torch.Generator().manual_seed(seed))
        cropped = changed.image.shape != sample.image.shape
        noise = not cropped and not torch.equal(changed.image, sample.image)
        found.append("cropped" if cropped else "noised" if noise else "same")
    return found


def adversarial_term(*, channels: int = 4, settings: IKDSettings | None = None) -> WeightedTerm:
    strides = (8, 16, 32, 64, 128)
    layout = spec(strides=strides, channels=channels)
    (term,) = wrap_ikd(EMPTY, layout, layout, settings or IKDSettings()).terms
    return term


def test_i1_size_rule() -> None:
    # 31 · 33 = 1023 < 1024 is small, 32 · 32 = 1024 is not.
    settings = SampleSpecificSettings()
    small = outcomes(stored((10, 10), (31, 33)), settings=settings, draws=400)
    assert set(small) == {"noised", "same"}
    # 400 draws with p = 0.3: 120 ± 4 standard deviations of sqrt(400 · 0.3 · 0.7) = 9.2
    assert abs(small.count("noised") - 120) < 37
    # With crops down to half a side, one of all 60 px and 50 px is next to impossible.
    half = replace(settings, smallest_crop=0.5)
    assert set(outcomes(stored((10, 10), (32, 32)), settings=half, draws=60)) == {"cropped"}
    assert set(outcomes(stored((32, 32)), settings=half, draws=60)) == {"cropped"}


def test_i2_crop_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_crop(100, 200, smallest=0.8, generator=generator) for _ in range(4000)])
    top, left, height, width = drawn.unbind(1)
    assert (int(height.min()), int(height.max())) == (81, 100)
    assert (int(width.min()), int(width.max())) == (161, 200)
    assert bool((top >= 0).all() and (top + height <= 100).all() and (left >= 0).all() and (left + width <= 200).all())
    # Uniform: the mean of a ratio in [0.8, 1] is 0.9; rounding up adds half a pixel.
    assert float(height.float().mean()) == pytest.approx(90.5, abs=0.4)
    assert float(width.float().mean()) == pytest.approx(180.5, abs=0.8)
    assert abs(float(torch.corrcoef(torch.stack((height, width)).float())[0, 1])) < 0.06


def test_i3_noise_on_mid_grey() -> None:
    # sd 0.08 · 255 = 20.4; truncation to whole values takes 0.5 off the mean
    image = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    changed = noised(image, sd=0.08, generator=torch.Generator().manual_seed(0)).double()
    assert float(changed.std()) == pytest.approx(20.4, rel=0.03)
    assert float(changed.mean()) == pytest.approx(127.5, abs=0.3)


@pytest.mark.parametrize("images", [1, 2, 4])
def test_i4_sum_of_squares_per_image(images: int) -> None:
    # S − T = 1 in 4 channels of 2 × 2 cells: 16 per image and level, whatever the batch; 16 · 1e-5 · 5 = 8.0e-4
    term = adversarial_term()
    grids = [2] * 5
    sizes = [(8, 8)] * images
    ones = observation([torch.ones(images, 4, g, g) for g in grids], strides=(8, 16, 32, 64, 128))
    zeros = observation([torch.zeros(images, 4, g, g) for g in grids], strides=(8, 16, 32, 64, 128))
    # Every level's 2 × 2 cells are inside an image of 256 px.
    shape = batch([(256, 256)] * len(sizes))
    cost = term.term(Pair(ones, zeros, shape), Clock(0, 1)).values
    torch.testing.assert_close(cost, torch.full((images, 5), 16.0))
    torch.testing.assert_close(term.gain * cost.sum(1).mean(), torch.tensor(8.0e-4))


def test_i4_two_stage_gain_and_levels() -> None:
    layout = replace(spec(strides=(4, 8, 16, 32, 64)), two_stage=True)
    (term,) = wrap_ikd(EMPTY, layout, layout, IKDSettings()).terms
    assert term.gain == 2.5e-7
    assert term.term.strides == (4, 8, 16, 32)


def test_i5_attack_bound_of_the_source() -> None:
    # R = max over channels of (2, 4, 1) = 4; eps' = 8/255 · 4 = 0.12549020. 5 · 2/255 > 8/255, so every pixel reaches
    # its bound; the zeros are pixels at their channel's own maximum or minimum that would leave it.
    start = torch.tensor([[-1, 0, 0.5, 1], [-2, 0, 1, 2], [0, 0.1, 0.2, 1]]).reshape(1, 3, 1, 4)
    sign = torch.tensor([[1.0, -1, 1, 1], [1, 1, -1, -1], [-1, 1, 1, -1]]).reshape(1, 3, 1, 4)
    moved = momentum_attack(
        start,
        lambda images, iteration: 0.37 * sign,
        inside=torch.ones(1, 1, 1, 4, dtype=torch.bool),
        settings=AttackSettings(bounds="source"),
    )
    reached = (moved - start) / (4 * 8 / 255)
    expected = torch.tensor([[1.0, -1, 1, 0], [1, 1, -1, -1], [0, 1, 1, -1]]).reshape(1, 3, 1, 4)
    torch.testing.assert_close(reached, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bounds", ["pixel", "source"])
def test_i6_a_convex_loss_rises_and_no_distance_changes_nothing(bounds: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(2, 3, 6, 7, generator=generator)
    weights = torch.randn(2, 3, 6, 7, generator=generator)
    inside = torch.ones(2, 1, 6, 7, dtype=torch.bool)

    def loss(images: Tensor) -> Tensor:
        return (weights * images).sum((1, 2, 3)).exp().add((images - 0.5).square().sum((1, 2, 3)))

    def gradient_of(images: Tensor, iteration: int) -> Tensor:
        with torch.enable_grad():
            leaf = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
        return gradient

    seen = [start]
    for steps in range(1, 6):
        settings = AttackSettings(bounds=bounds, steps=steps)
        seen.append(momentum_attack(start, gradient_of, inside=inside, settings=settings))
    losses = torch.stack([loss(images) for images in seen])
    assert bool((losses[1:] >= losses[:-1] - 1e-5).all())
    assert bool((losses[-1] > losses[0]).all())
    still = momentum_attack(start, gradient_of, inside=inside, settings=AttackSettings(bounds=bounds, eps_255=0))
    assert torch.equal(still, start)


def test_i7_on_for_two_thirds_of_the_run() -> None:
    # 24 epochs of one step: on at 0..15, off from 16
    recipe = scheduled(wrap_ikd(EMPTY, spec(), spec(), IKDSettings()), IKDSettings())
    (term,) = recipe.terms
    assert term.name == TERM
    assert [term.active(Clock(step, 24)) for step in range(24)] == [step < 16 for step in range(24)]
    assert round(recipe.transform_until * 24) == 16
