"""A non-local block: every cell of a map answers with what it finds similar anywhere in its image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_EPSILON = 1e-5


class NonLocalBlock(nn.Module):
    """Adds to every cell a trained summary of the whole image, weighed by dot products between cells.

    z = x + norm(W y) with y = g(x) φ(x)ᵀ θ(x) / N, where θ, φ, g are 1×1 convolutions to fewer channels, φ and g
    are max-pooled to N keys, and norm has a gain and a bias that start at 0: at first z = x.

    Args:
        channels: of the map.
        inner: channels of θ, φ and g; never more than `channels` are made.
        pool: kernel and stride in cells of the max-pool.
        batch_norm: statistics of the norm over the whole batch instead of each image.

    Source:
        Wang et al., Non-local Neural Networks, CVPR 2018 (dot-product version), as used by Zhang and Ma, Improve
        Object Detection with Feature-based Knowledge Distillation, ICLR 2021.

    Differs from the source:
        The norm's statistics are each image's own (`batch_norm` is the source's; equal at batch size 1, and a
        single cell gives 0 instead of an error); keys, key count and statistics leave padding out; there are no
        running statistics, since the block is only ever used in training.
    """

    def __init__(self, channels: int, *, inner: int, pool: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.inner = min(inner, channels)
        self.pool = pool
        self.batch_norm = batch_norm
        self.project = nn.Conv2d(channels, 3 * self.inner, 1)  # θ, φ and g, one below the other
        self.expand = nn.Conv2d(self.inner, channels, 1, bias=False)  # the norm would take a bias away again
        self.gain = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, padded: bool = True
    ) -> Float[Tensor, "b c h w"]:
        """The map with its summary added.

        Args:
            maps: gradients flow.
            inside: cells inside the image: a rectangle at the top left.
            padded: whether there are other cells.

        Returns:
            Maps in float32; meaningless in the padding.
        """
        maps = maps.float()  # a teacher in half precision beside a student in full precision
        if not padded and maps.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            learned = (self.project.weight, self.project.bias, self.expand.weight, self.gain, self.bias)
            whole: Tensor = _Whole.apply(maps, _kernel(maps, self.pool), self.batch_norm, *learned)
            return whole
        queries, rest = torch.split(self.project(maps), [self.inner, 2 * self.inner], dim=1)
        with torch.autocast(maps.device.type, enabled=False):
            over = (0, 2, 3) if self.batch_norm else (2, 3)
            # Centred before W instead of after it: the same, on fewer channels.
            if padded:
                pooled, counted = inside_max_pool(rest.float(), inside, pool=self.pool)
                keys, values = pooled.chunk(2, dim=1)
                found = dot_product_attention(queries.float(), keys, values, counted)
                cells: Tensor | int = inside.sum(dim=over, keepdim=True)
                mean = found.masked_fill(~inside, 0.0).sum(dim=over, keepdim=True) / cells
                centred = (found - mean).masked_fill(~inside, 0.0)
            else:
                keys, values = F.max_pool2d(rest.float(), _kernel(rest, self.pool)).chunk(2, dim=1)
                found = dot_product_attention(queries.float(), keys, values)
                cells = math.prod(inside.shape[axis] for axis in over)
                centred = found - found.sum(dim=over, keepdim=True) / cells
            expanded = self.expand(centred)
            spread = torch.linalg.vector_norm(expanded, dim=(2, 3), keepdim=True)
            spread = torch.linalg.vector_norm(spread, dim=0, keepdim=True) if self.batch_norm else spread
            variance = spread.square() / cells
            scale = self.gain[:, None, None] * (variance + _EPSILON).rsqrt()
            return torch.addcmul(maps, expanded, scale).add_(self.bias[:, None, None])


class _Whole(torch.autograd.Function):
    """The block on images without padding, cells before channels: value and gradient by products of matrices alone."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, kernel: tuple[int, int], batch_norm: bool, *learned: Tensor
    ) -> Float[Tensor, "b c h w"]:
        project, offsets, expand, gain, bias = learned
        grid, over = maps.shape[2:], (0, 1) if batch_norm else (1,)
        x, inner = maps.flatten(2).mT, expand.shape[1]
        said = F.linear(x, project[:, :, 0, 0], offsets)
        queries, rest = said[..., :inner], _as_maps(said[..., inner:], grid)
        pooled, indices = F.max_pool2d(rest, kernel, return_indices=True)
        keys, values = pooled.flatten(2).chunk(2, dim=1)
        table = (values @ keys.mT).div_(keys.shape[2])
        found = queries @ table.mT
        centred = found.sub_(found.mean(dim=over, keepdim=True))
        expanded = centred @ expand[:, :, 0, 0].mT
        spread = (expanded.square().mean(dim=over, keepdim=True) + _EPSILON).rsqrt_()
        ctx.grid, ctx.kernel, ctx.over = grid, kernel, over
        ctx.save_for_backward(x, queries, rest, indices, keys, values, table, centred, expanded, spread, *learned)
        return _as_maps(torch.addcmul(x, expanded, gain * spread).add_(bias), grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grown: Tensor) -> tuple[Tensor | None, ...]:
        x, queries, rest, indices, keys, values, table, centred, expanded, spread, *learned = ctx.saved_tensors
        project, _, expand, gain, _ = learned
        of_out, over = grown.flatten(2).mT, ctx.over
        of_spread = (expanded * of_out).sum(dim=over, keepdim=True)
        of_variance = of_spread * gain * spread**3 * (-1.0 / math.prod(x.shape[axis] for axis in over))
        of_expanded = (of_out * (gain * spread)).addcmul_(expanded, of_variance)
        of_found = of_expanded @ expand[:, :, 0, 0]
        of_found -= of_found.mean(dim=over, keepdim=True)
        of_table = (of_found.mT @ queries).div_(keys.shape[2])
        of_pooled = torch.cat([of_table.mT @ values, of_table @ keys], dim=1).view(indices.shape)
        of_rest = torch.ops.aten.max_pool2d_with_indices_backward(
            of_pooled, rest, ctx.kernel, ctx.kernel, [0, 0], [1, 1], False, indices
        )
        of_said = torch.cat([of_found @ table, of_rest.flatten(2).mT], dim=2)
        of_maps = None
        if ctx.needs_input_grad[0]:
            of_maps = _as_maps(of_out + of_said @ project[:, :, 0, 0], ctx.grid)
        return (
            of_maps,
            None,
            None,
            _products(of_said, x),
            of_said.sum(dim=(0, 1)),
            _products(of_expanded, centred),
            (of_spread * spread).sum(dim=(0, 1)),
            of_out.sum(dim=(0, 1)),
        )


def _as_maps(cells: Float[Tensor, "b n c"], grid: Sequence[int]) -> Float[Tensor, "b c h w"]:
    return cells.mT.view(len(cells), -1, *grid)


def _products(slopes: Float[Tensor, "b n o"], seen: Float[Tensor, "b n i"]) -> Float[Tensor, "o i 1 1"]:
    """The gradient of a 1×1 convolution's weight."""
    return (slopes.flatten(0, 1).mT @ seen.flatten(0, 1))[:, :, None, None]


def dot_product_attention(
    queries: Float[Tensor, "b i h w"],
    keys: Float[Tensor, "b i hk wk"],
    values: Float[Tensor, "b i hk wk"],
    counted: Bool[Tensor, "b 1 hk wk"] | None = None,
) -> Float[Tensor, "b i h w"]:
    """What each query finds: Σ over keys of (query · key) · value ÷ number of keys, without a softmax.

    Args:
        queries: one per cell; gradients flow.
        keys: gradients flow; 0 where not counted.
        values: gradients flow; 0 where not counted.
        counted: the keys that there are; None for all.

    Returns:
        One answer per query.

    Source:
        Wang et al., Non-local Neural Networks, CVPR 2018, equation 4.

    Differs from the source:
        The sums are taken in another order, values · keysᵀ first, so that no table of cells by keys is made.
    """
    number = keys[0, 0].numel() if counted is None else counted.sum(dim=(2, 3)).clamp(min=1).unsqueeze(2)
    table = values.flatten(2) @ keys.flatten(2).mT / number
    return (table @ queries.flatten(2)).view(queries.shape)


def inside_max_pool(
    maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"], *, pool: int
) -> tuple[Float[Tensor, "b c hk wk"], Bool[Tensor, "b 1 hk wk"]]:
    """Max-pooling as if every image were alone on a grid without padding.

    Windows do not overlap; one that an image does not fill does not count, except the first of an axis, which then
    holds the inside cells alone.

    Args:
        maps: gradients flow.
        inside: cells inside the image: a rectangle at the top left.
        pool: kernel and stride in cells, along each axis at most the grid's size.

    Returns:
        Pooled maps, 0 where no window counts, and the windows that count.

    Source:
        None: max-pooling.

    Differs from the source:
        Padding is left out; a kernel larger than the map is made smaller instead of giving nothing.
    """
    kernel = _kernel(maps, pool)
    rows = (inside[:, 0, :, 0].sum(1) // kernel[0]).clamp(min=1)
    columns = (inside[:, 0, 0].sum(1) // kernel[1]).clamp(min=1)
    pooled = F.max_pool2d(maps.masked_fill(~inside, -torch.inf), kernel)
    row, column = (torch.arange(size, device=maps.device) for size in pooled.shape[2:])
    counted = (row < rows[:, None])[:, None, :, None] & (column < columns[:, None])[:, None, None]
    return pooled.masked_fill(~counted, 0.0), counted


def _kernel(maps: Tensor, pool: int) -> tuple[int, int]:
    return min(pool, maps.shape[2]), min(pool, maps.shape[3])
