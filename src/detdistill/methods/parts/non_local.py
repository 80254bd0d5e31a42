"""A non-local block: every cell of a map answers with what it finds similar anywhere in its image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

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

    def forward(self, maps: Float[Tensor, "b c h w"], inside: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
        """The map with its summary added.

        Args:
            maps: gradients flow.
            inside: cells inside the image: a rectangle at the top left.

        Returns:
            Maps in float32; meaningless in the padding.
        """
        maps = maps.float()  # a teacher in half precision beside a student in full precision
        queries, rest = torch.split(self.project(maps), [self.inner, 2 * self.inner], dim=1)
        with torch.autocast(maps.device.type, enabled=False):
            pooled, counted = inside_max_pool(rest.float(), inside, pool=self.pool)
            keys, values = pooled.chunk(2, dim=1)
            found = dot_product_attention(queries.float(), keys, values, counted).masked_fill(~inside, 0.0)
            cells = inside.sum(dim=(1, 2, 3), keepdim=True)
            over = (0, 2, 3) if self.batch_norm else (2, 3)
            cells = cells.sum(dim=0, keepdim=True) if self.batch_norm else cells
            # Centred before W instead of after it: the same, on fewer channels.
            centred = (found - found.sum(dim=over, keepdim=True) / cells).masked_fill(~inside, 0.0)
            expanded = self.expand(centred)
            spread = torch.linalg.vector_norm(expanded, dim=(2, 3), keepdim=True)
            spread = torch.linalg.vector_norm(spread, dim=0, keepdim=True) if self.batch_norm else spread
            variance = spread.square() / cells
            scale = self.gain[:, None, None] * (variance + _EPSILON).rsqrt()
            return torch.addcmul(maps, expanded, scale).add_(self.bias[:, None, None])


def dot_product_attention(
    queries: Float[Tensor, "b i h w"],
    keys: Float[Tensor, "b i hk wk"],
    values: Float[Tensor, "b i hk wk"],
    counted: Bool[Tensor, "b 1 hk wk"],
) -> Float[Tensor, "b i h w"]:
    """What each query finds: Σ over keys of (query · key) · value ÷ number of keys, without a softmax.

    Args:
        queries: one per cell; gradients flow.
        keys: gradients flow; 0 where not counted.
        values: gradients flow; 0 where not counted.
        counted: the keys that there are.

    Returns:
        One answer per query.

    Source:
        Wang et al., Non-local Neural Networks, CVPR 2018, equation 4.

    Differs from the source:
        The sums are taken in another order, values · keysᵀ first, so that no table of cells by keys is made.
    """
    number = counted.sum(dim=(2, 3)).clamp(min=1).unsqueeze(2)
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
    kernel = (min(pool, maps.shape[2]), min(pool, maps.shape[3]))
    rows = (inside[:, 0, :, 0].sum(1) // kernel[0]).clamp(min=1)
    columns = (inside[:, 0, 0].sum(1) // kernel[1]).clamp(min=1)
    pooled = F.max_pool2d(maps.masked_fill(~inside, -torch.inf), kernel)
    row, column = (torch.arange(size, device=maps.device) for size in pooled.shape[2:])
    counted = (row < rows[:, None])[:, None, :, None] & (column < columns[:, None])[:, None, None]
    return pooled.masked_fill(~counted, 0.0), counted
