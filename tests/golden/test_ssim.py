"""SSIM on numbers worked out by hand, and against scikit-image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from detdistill.distillation.pair import Pair
from detdistill.errors import ConfigError
from detdistill.methods.parts.compare import rescale
from detdistill.methods.parts.structural import Components, dissimilarity, gaussian_taps, mean_dissimilarity, ssim_map
from detdistill.methods.ssim import SSIMSettings, build_ssim
from detdistill.types import Clock
from made_up_steps import Known, lit, step_of
from observations import batch, observation, spec


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inside(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape[0], 1, *maps.shape[2:], dtype=torch.bool)


def loss(x: Tensor, y: Tensor) -> Tensor:
    return dissimilarity(ssim_map(x, y, inside(x))).mean()


def psi_loss(x: Tensor, y: Tensor) -> Tensor:
    cells = inside(x)
    return loss(rescale(x, cells, axes=(1, 2, 3)), rescale(y, cells, axes=(1, 2, 3)))


def checkerboard() -> Tensor:
    index = torch.arange(12)
    return ((index[:, None] + index) % 2).double()[None, None]


def test_s1_equal_maps() -> None:
    noise = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    for maps in (noise, torch.full((1, 2, 8, 8), 0.3)):
        torch.testing.assert_close(loss(maps, maps), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_s2_black_against_white() -> None:
    # l = C1 / (1 + C1) = 9.9990001e-5, c·s = 1: loss (1 − l) / 2 = 0.49995
    zeros = torch.zeros(1, 1, 12, 12)
    torch.testing.assert_close(loss(zeros, zeros + 1), torch.tensor(0.49995), atol=1e-6, rtol=0)


def test_s3_grey_against_white() -> None:
    # l = (2 · 0.5 + C1) / (0.25 + 1 + C1) = 1.0001 / 1.2501 = 0.800016
    ones = torch.ones(1, 1, 12, 12)
    torch.testing.assert_close(loss(0.5 * ones, ones), torch.tensor(0.09999200), atol=1e-6, rtol=0)


def test_s4_inverted_checkerboard_tells_the_border_mode() -> None:
    # l = 1 up to the window's asymmetry, c·s = (C2 − 0.5)/(C2 + 0.5); zero padding would give 0.86055712
    board = checkerboard()
    torch.testing.assert_close(
        ssim_map(board, 1 - board, inside(board)), torch.full_like(board, -0.99640647), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(loss(board, 1 - board), torch.tensor(0.99820323), atol=1e-6, rtol=0)


def test_s5_half_the_contrast() -> None:
    # c = (2 sqrt(0.25 · 0.0625) + C2) / (0.3125 + C2) = 0.80057435
    board = checkerboard()
    pale = 0.5 + 0.5 * (board - 0.5)
    torch.testing.assert_close(loss(board, pale), torch.tensor(0.09971283), atol=1e-6, rtol=0)
    contrast = ssim_map(board, pale, inside(board), components=Components(alpha=0, gamma=0))
    torch.testing.assert_close(contrast, torch.full_like(board, 0.80057435), atol=1e-5, rtol=0)
    structure = ssim_map(board, pale, inside(board), components=Components(alpha=0, beta=0))
    torch.testing.assert_close(structure, torch.ones_like(board), atol=1e-5, rtol=0)


def test_s6_a_brighter_ramp_differs_in_luminance_alone() -> None:
    ramp = (torch.arange(12) / 20).expand(1, 1, 12, 12)
    torch.testing.assert_close(loss(ramp, ramp + 0.25), torch.tensor(0.12989778), atol=1e-6, rtol=0)
    rest = ssim_map(ramp, ramp + 0.25, inside(ramp), components=Components(alpha=0))
    torch.testing.assert_close(rest, torch.ones_like(rest), atol=1e-4, rtol=0)


def test_s7_rescaling_removes_affine_changes() -> None:
    noise = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(psi_loss(noise, 3 * noise + 2), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert psi_loss(noise, -noise) > 0.9


def test_s8_symmetry_range_and_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 3, 12, 12, generator=generator)
    cells = inside(x)
    torch.testing.assert_close(ssim_map(x, y, cells), ssim_map(y, x, cells))
    parts = [
        ssim_map(x, y, cells, components=Components(alpha=a, beta=b, gamma=c))
        for a, b, c in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    torch.testing.assert_close(parts[0] * parts[1] * parts[2], ssim_map(x, y, cells), atol=1e-4, rtol=0)
    cost = dissimilarity(ssim_map(x, 1 - x, cells))
    assert cost.min() >= 0
    assert cost.max() <= 1


def test_s9_levels_add_up() -> None:
    # summed over levels, not averaged: losses 0.2 and 0.4, lambda 4: 4 · (0.2 + 0.4) = 2.4
    layout = spec(strides=(8, 16), channels=2)
    (weighted,) = build_ssim(layout, layout, SSIMSettings(aligner="identity")).terms
    step = step_of(replace(weighted, term=Known([[0.2, 0.4]], (8, 16))))
    clock = Clock(step=0, total_steps=1)
    parts = step(lit(0.5), clock).parts
    assert float(parts["ssim.features"]) == pytest.approx(2.4, abs=1e-6)
    # Each level is normalised on its own: beside another it costs what it costs alone.
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 2, 8, 8, generator=generator)
    # strides 8 and 16 on one 8 × 8 map: the image must cover both, 128 × 128 pixels
    scene = batch([(128, 128)])
    both = weighted.term(Pair(observation([x, 5 * y]), observation([y, x + 2]), scene), clock).values
    one = spec(strides=(8,), channels=2)
    (single,) = build_ssim(one, one, SSIMSettings(aligner="identity")).terms
    alone = [
        single.term(Pair(observation([ours], strides=(8,)), observation([theirs], strides=(8,)), scene), clock).values
        for ours, theirs in ((x, y), (5 * y, x + 2))
    ]
    torch.testing.assert_close(both, torch.cat(alone, dim=1))


def test_s10_gaussian_taps() -> None:
    half = [0.00102838, 0.00759876, 0.03600077, 0.10936069, 0.21300554, 0.26601172]
    torch.testing.assert_close(
        gaussian_taps(11, dtype=torch.float64), torch.tensor(half + half[-2::-1]), atol=1e-7, rtol=0
    )


def test_s11_constant_maps_are_safe() -> None:
    constant = torch.full((1, 2, 8, 8), 3.0, requires_grad=True)
    value = psi_loss(constant, torch.full((1, 2, 8, 8), 3.0))
    value.backward()
    assert value == 0
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_agrees_with_scikit_image(shape: tuple[int, int]) -> None:
    x, y = torch.rand(2, 2, 3, *shape, generator=torch.Generator().manual_seed(1))
    ours = ssim_map(x, y, inside(x))
    for image in range(2):
        _, theirs = structural_similarity(
            x[image].numpy(), y[image].numpy(), channel_axis=0, data_range=1.0, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        # Beyond the border it repeats the outermost cells: what no window of 11 reaches over is compared.
        interior = (slice(None), slice(5, -5), slice(5, -5))
        torch.testing.assert_close(ours[image][interior], torch.from_numpy(theirs)[interior], atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [0, 4, -3])
def test_an_even_window_is_refused(window: int) -> None:
    with pytest.raises(ConfigError, match="must be a positive odd number of cells"):
        gaussian_taps(window)


def test_other_exponents_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be 0 \(off\) or 1 \(on\), got 2"):
        Components(alpha=2)
    with pytest.raises(ConfigError) as caught:
        Components(alpha=0, beta=0, gamma=0)
    assert str(caught.value) == (
        "One of SSIM's exponents alpha, beta and gamma must be 1, got 0 for all. Leave one out."
    )


SIZES = [(1, 1), (5, 9), (12, 7), (20, 300), (131, 8)]


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mean_computed_at_once_is_that_of_the_map(size: tuple[int, int], alpha: int, channels: int) -> None:
    """Value and gradient, in images of different sizes, and where the last piece of channels is smaller."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, channels, *size, generator=generator)
    cells = inside(x)
    cells[1, :, :, 1 + size[1] // 2 :] = cells[1, :, 1 + size[0] // 2 :] = False
    components = Components(alpha=alpha)
    weights, found = torch.tensor([1.0, -3.0]), []
    for at_once in (True, False):
        ours = x.clone().requires_grad_()
        if at_once:
            means = mean_dissimilarity(ours, y, cells, components=components)
        else:
            costs = dissimilarity(ssim_map(ours, y, cells, components=components))
            means = (costs * cells).flatten(1).sum(1) / (channels * cells.flatten(1).sum(1))
        (means * weights).sum().backward()
        found.append((means.detach(), ours.grad))
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-10)
    assert torch.equal(mean_dissimilarity(x, y, cells, components=components), found[0][0]), "without a gradient"


@pytest.mark.parametrize("components", [Components(), Components(alpha=0), Components(gamma=0)])
def test_its_gradient_is_the_values_own(components: Components) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 2, 2, 6, 5, generator=generator)
    cells = inside(x)
    cells[1, :, 4:] = False
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda ours: mean_dissimilarity(ours, y, cells, components=components), (x,))


def test_it_keeps_one_map_for_the_way_back() -> None:
    kept: list[Tensor] = []
    x, y = torch.rand(2, 1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        mean_dissimilarity(x.requires_grad_(), y, inside(x))
    assert sum(one.shape == x.shape for one in kept) == 1
