"""Structural similarity (SSIM) of two maps, every image with its own reflecting border."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from detdistill.errors import ConfigError
from detdistill.methods.parts.compare import VALUES_AT_ONCE

_C1 = 0.01**2
_C2 = 0.03**2
_C3 = _C2 / 2
# Cells of an axis that are blurred at a time where it is long: those out of the window's reach are not multiplied.
_BAND = 32
_Bands = tuple[tuple[slice, slice], ...]


@dataclass(frozen=True, slots=True)
class Components:
    """Which components of SSIM count: luminance^alpha · contrast^beta · structure^gamma, exponents 0 or 1."""

    alpha: int = 1
    beta: int = 1
    gamma: int = 1

    def __post_init__(self) -> None:
        for name, exponent in (("alpha", self.alpha), ("beta", self.beta), ("gamma", self.gamma)):
            if exponent not in (0, 1):
                raise ConfigError(f"The SSIM exponent {name} must be 0 (off) or 1 (on), got {exponent}. Choose 0 or 1.")
        if not (self.alpha or self.beta or self.gamma):
            raise ConfigError("One of SSIM's exponents alpha, beta and gamma must be 1, got 0 for all. Leave one out.")


def gaussian_taps(
    window: int, *, sigma: float = 1.5, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " window"]:
    """A Gaussian window with sum 1.

    Args:
        window: number of taps, odd.
        sigma: standard deviation in cells.
        device: where the taps are made.
        dtype: of the taps; they are computed in float64.

    Returns:
        Taps in (0, 1).

    Raises:
        ConfigError: the window is not a positive odd number.
    """
    if window < 1 or window % 2 == 0:
        raise ConfigError(f"The SSIM window must be a positive odd number of cells, got {window}. Try 11.")
    position = torch.arange(window, dtype=torch.float64, device=device) - window // 2
    taps = torch.exp(-position.square() / (2 * sigma**2))
    return (taps / taps.sum()).to(dtype)


def reflecting_blur(
    extents: Int64[Tensor, " b"], size: int, *, taps: Float[Tensor, " window"]
) -> Float[Tensor, "b size size"]:
    """A Gaussian blur along one axis as one small matrix per image, reflecting at the image's own border.

    Row i holds the weights of all cells in the blurred value at cell i. The reflection does not repeat the
    border cell, as in ``torch.nn.functional.pad(mode="reflect")``; where the window is wider than the image it
    reflects again and again. Rows and columns beyond the extent are 0.

    Args:
        extents: number of inside cells of each image along this axis, at least 1.
        size: cells of the padded grid along this axis.
        taps: window with sum 1.

    Returns:
        Matrices whose rows sum to 1 inside.
    """
    half = len(taps) // 2
    reach = torch.arange(size, device=taps.device)[:, None] + torch.arange(-half, half + 1, device=taps.device)
    period = (2 * (extents - 1)).clamp(min=1)[:, None, None]
    folded = reach.remainder(period)
    source = torch.minimum(folded, period - folded) * (extents > 1)[:, None, None]
    inside = (torch.arange(size, device=taps.device) < extents[:, None])[:, :, None]
    matrix = torch.zeros(len(extents), size, size, device=taps.device, dtype=taps.dtype)
    return matrix.scatter_add_(2, source.clamp(max=size - 1), (taps * inside).expand_as(source).contiguous())


def ssim_map(
    student: Float[Tensor, "b c h w"],
    teacher: Float[Tensor, "b c h w"],
    inside: Bool[Tensor, "b 1 h w"],
    *,
    window: int = 11,
    components: Components | None = None,
) -> Float[Tensor, "b c h w"]:
    """Structural similarity at every channel and cell, for maps of dynamic range 1.

    SSIM = l^α c^β s^γ with l = (2 μx μy + C1)/(μx² + μy² + C1), c = (2 σx σy + C2)/(σx² + σy² + C2),
    s = (σxy + C3)/(σx σy + C3), C1 = 0.01², C2 = 0.03², C3 = C2/2 and local statistics under a Gaussian window of
    sigma 1.5; where contrast and structure are both on, c·s = (2 σxy + C2)/(σx² + σy² + C2).

    Args:
        student: rescaled student map; gradients flow.
        teacher: rescaled teacher map, constant.
        inside: cells inside the image: a rectangle at the top left.
        window: taps of the window, odd.
        components: which components count; all by default.

    Returns:
        Values in [−1, 1]; meaningless in the padding.

    Raises:
        ConfigError: the window is not a positive odd number.

    Source:
        Wang et al., IEEE TIP 2004, as used by de Rijk et al., NeurIPS 2022.

    Differs from the source:
        Windows reflect at the image's own border instead of the padded map's, repeatedly where the map is
        smaller than the window, which the source leaves undefined.
    """
    components = components or Components()
    dtype = student.dtype
    if components.beta != components.gamma:
        # Alone, contrast and structure take roots of small differences, which single precision turns into noise.
        student, teacher = student.double(), teacher.double()
    down, across = (one[:, None] for one in _blurs(inside, window, student.dtype))

    def blur(maps: Tensor) -> Tensor:
        return down @ maps @ across

    mean_s, mean_t = blur(student), blur(teacher)
    variances = blur(student.square() + teacher.square()) - mean_s.square() - mean_t.square()
    covariance = blur(student * teacher) - mean_s * mean_t
    similarity = torch.ones_like(student)
    if components.alpha:
        similarity = (2 * mean_s * mean_t + _C1) / (mean_s.square() + mean_t.square() + _C1)
    if components.beta and components.gamma:
        return similarity * (2 * covariance + _C2) / (variances + _C2)
    if components.beta or components.gamma:
        variance_s = (blur(student.square()) - mean_s.square()).clamp(min=0)
        variance_t = (blur(teacher.square()) - mean_t.square()).clamp(min=0)
        product = (variance_s * variance_t + 1e-12).sqrt()
        if components.beta:
            similarity = similarity * (2 * product + _C2) / (variance_s + variance_t + _C2)
        else:
            similarity = similarity * (covariance + _C3) / (product + _C3)
    return similarity.to(dtype)


def dissimilarity(similarity: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(1 − SSIM) / 2, kept in [0, 1].

    Args:
        similarity: SSIM values; gradients flow where the result is inside (0, 1).

    Returns:
        Cost in [0, 1].
    """
    return ((1 - similarity) / 2).clamp(0, 1)


def mean_dissimilarity(
    student: Float[Tensor, "b c h w"],
    teacher: Float[Tensor, "b c h w"],
    inside: Bool[Tensor, "b 1 h w"],
    *,
    window: int = 11,
    components: Components | None = None,
    padded: bool = True,
) -> Float[Tensor, " b"]:
    """The mean of `dissimilarity` of `ssim_map` over channels and inside cells, of each image; 0 where there are none.

    Where contrast and structure are both on, value and gradient are computed together in pieces that stay in a cache,
    and one map is kept for the way back: the gradient.

    Args:
        student: rescaled student map; gradients flow.
        teacher: rescaled teacher map, constant.
        inside: cells inside the image: a rectangle at the top left.
        window: taps of the window, odd.
        components: which components count; all by default.
        padded: whether there are cells that are not inside.

    Returns:
        Costs in [0, 1].

    Raises:
        ConfigError: the window is not a positive odd number.

    Source:
        Wang et al., IEEE TIP 2004, as used by de Rijk et al., NeurIPS 2022. With a = 2 μx μy + C1, b = μx² + μy² + C1,
        d = 2 σxy + C2, e = σx² + σy² + C2: S = a d / (b e), and for blurs as matrices the gradient is
        Gᵀ[2 μy (d − a)/(b e) + 2 μx S (b − e)/(b e)] − 2 x Gᵀ[S/e] + 2 y Gᵀ[a/(b e)].

    Differs from the source:
        As `ssim_map` does: windows reflect at the image's own border. The gradient is the closed form above instead of
        one through every operation; values and gradients are those of `ssim_map` but for rounding.
    """
    components = components or Components()
    channels, cells = student.shape[1], inside.flatten(1).sum(1).clamp(min=1) if padded else inside[0].numel()
    if components.beta and components.gamma:
        if padded:
            mask, (down, across) = inside[:, 0].to(student.dtype), _blurs(inside, window, student.dtype)
        else:
            mask, (down, across) = None, _whole_blurs(inside.shape[2:], window, student.dtype, inside.device)
        total: Tensor = _Dissimilarity.apply(
            student, teacher, (mask, down, across, window // 2), bool(components.alpha)
        )
    else:
        similarity = ssim_map(student, teacher, inside, window=window, components=components)
        total = torch.where(inside, dissimilarity(similarity), 0.0).flatten(1).sum(1)
    return total / (channels * cells)


def _blurs(
    inside: Bool[Tensor, "b 1 h w"], window: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "b h h"], Float[Tensor, "b w w"]]:
    """What blurs maps from the left, down their columns, and from the right."""
    taps = gaussian_taps(window, device=inside.device, dtype=dtype)
    down = reflecting_blur(inside[:, 0, :, 0].sum(1), inside.shape[2], taps=taps)
    return down, reflecting_blur(inside[:, 0, 0].sum(1), inside.shape[3], taps=taps).mT.contiguous()


@lru_cache(maxsize=64)
def _whole_blurs(
    grid: torch.Size, window: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "1 h h"], Float[Tensor, "1 w w"]]:
    """What `_blurs` says of every image that fills the grid: the same in every step."""
    return _blurs(torch.ones(1, 1, *grid, dtype=torch.bool, device=device), window, dtype)


class _Dissimilarity(torch.autograd.Function):
    """Sums over channels and inside cells, (b,)."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, grid: tuple[Tensor | None, Tensor, Tensor, int], luminance: bool
    ) -> Tensor:
        """`grid` is 1 for cells inside, (b, h, w), what `_blurs` says, and how far a window reaches to each side.

        Where no cell lies outside, there is no mask, and the blurs are those of one image for all.
        """
        mask, down, across, reach = grid
        images, channels, height, width = student.shape
        learns = ctx.needs_input_grad[0]
        some = channels if student.is_cuda else max(1, min(channels, VALUES_AT_ONCE // (height * width)))
        fit = images if student.is_cuda else VALUES_AT_ONCE // (channels * height * width)
        together = 1 if mask is not None else max(1, min(images, fit))
        gradient = student.new_empty(student.shape if learns else 0)
        rooms = tuple(student.new_empty(4 * together * some * height * width) for _ in range(3))
        bands = tuple(_bands(side, reach, whole=student.is_cuda) for side in (height, width))
        total = student.new_zeros(images)
        for image in range(0, images, together):
            of, own = slice(image, image + together), 0 if mask is None else image
            there, back = (down[own], across[own]), (down[own].mT.contiguous(), across[own].mT.contiguous())
            within = None if mask is None else mask[own]
            for first in range(0, channels, some):
                ours, theirs = (one[of, first : first + some] for one in (student, teacher))
                maps = rooms[0][: 4 * ours.numel()].view(4, *ours.shape)
                maps[0], maps[1] = ours, theirs
                torch.mul(maps[0], maps[0], out=maps[2]).addcmul_(maps[1], maps[1])
                torch.mul(maps[0], maps[1], out=maps[3])
                statistics = _blurred(maps, there, bands, rooms[1:])
                similarity, slopes = _slopes(statistics, maps[:3], within, luminance)
                costs = similarity.neg_().add_(1.0 if within is None else within).clamp_(0, 2)
                total[of] += costs.flatten(1).sum(1) / 2
                if learns:
                    of_mean, of_squares, of_product = _blurred(slopes, back, bands, rooms[1:])
                    grown = torch.mul(of_squares, ours, out=gradient[of, first : first + some])
                    grown.add_(of_mean).addcmul_(of_product, theirs, value=-1)
        if learns:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grown: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grown[:, None, None, None], None, None, None


def _bands(side: int, reach: int, *, whole: bool) -> _Bands:
    """Cells of an axis and those that they are blurred from: all at once where they are few."""
    step = side if whole or side < 3 * _BAND else _BAND
    return tuple(
        (slice(first, first + step), slice(max(0, first - reach), first + step + reach))
        for first in range(0, side, step)
    )


def _blurred(maps: Tensor, blurs: Sequence[Tensor], bands: Sequence[_Bands], rooms: Sequence[Tensor]) -> Tensor:
    """Maps (k, b, c, h, w) of images alike, in the memory of the second of `rooms`; the first is written over too."""
    (down, across), (between, out) = blurs, rooms
    count, height, width = math.prod(maps.shape[:3]), *maps.shape[3:]
    flat, rows = maps.view(-1, width), between[: maps.numel()].view(-1, width)
    for cells, seen in bands[1]:
        torch.mm(flat[:, seen], across[seen, cells], out=rows[:, cells])
    columns, whole = (one[: maps.numel()].view(count, height, width) for one in (between, out))
    for cells, seen in bands[0]:
        torch.bmm(down[cells, seen].expand(count, -1, -1), columns[:, seen], out=whole[:, cells])
    return whole.view(maps.shape)


def _slopes(statistics: Tensor, out: Tensor, mask: Tensor | None, luminance: bool) -> tuple[Tensor, Tensor]:
    """SSIM, and minus half of its slopes against blurred x, half of its against x² + y², half against x · y; 0 outside.

    Args:
        statistics: blurred x, y, x² + y² and x · y; they are written over.
        out: where the slopes go.
        mask: 1 inside; None where all are.
        luminance: whether that component counts.
    """
    mean_s, mean_t, contrast, structure = statistics
    product, squares = mean_s * mean_t, (mean_s * mean_s).addcmul_(mean_t, mean_t)
    contrast.sub_(squares).add_(_C2)
    structure.sub_(product).mul_(2).add_(_C2)
    if luminance:
        upper, lower = product.mul_(2).add_(_C1), squares.add_(_C1)
        inverse = torch.mul(lower, contrast).reciprocal_()
        inverse = inverse if mask is None else inverse.mul_(mask)
        torch.mul(upper, inverse, out=out[2])
        similarity = structure * out[2]
        torch.mul(inverse, lower, out=out[1]).mul_(similarity)
        torch.sub(contrast, lower, out=out[0]).mul_(mean_s).mul_(similarity)
        out[0].addcmul_(upper.sub_(structure), mean_t).mul_(inverse)
    else:
        inverse = torch.reciprocal(contrast, out=out[2])
        inverse = inverse if mask is None else inverse.mul_(mask)
        similarity = structure * inverse
        torch.mul(inverse, similarity, out=out[1])
        torch.mul(mean_s, similarity, out=out[0]).neg_().add_(mean_t).mul_(inverse)
    return similarity, out
