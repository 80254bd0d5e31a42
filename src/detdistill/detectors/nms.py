"""Non-maximum suppression that stops where enough is found."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms, nms

# Times as many boxes as are wanted are looked at first.
_FIRST, _MORE = 2, 4
# torchvision's: of more numbers than these it looks at each group by itself, of fewer at all, moved apart.
_APART = {"cpu": 4000}
_APART_ELSEWHERE = 100_000


def best_apart(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], groups: Int64[Tensor, " n"], overlap: float, *, most: int
) -> Int64[Tensor, " k"]:
    """``torchvision.ops.batched_nms(...)[:most]`` to the bit: no box is suppressed by a worse one.

    So the best are looked at by themselves, and more of them only where too few are left. Boxes begin at 0 or above.
    """
    number = len(scores)
    if number <= _FIRST * most:
        found: Tensor = batched_nms(boxes, scores, groups, overlap)[:most]
        return found
    order = scores.sort(stable=True, descending=True).indices
    single = boxes.numel() > _APART.get(boxes.device.type, _APART_ELSEWHERE)
    placed = boxes if single else boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    looked, kept = _FIRST * most, order[:0]
    while True:
        some = order[:looked]
        if single:
            own = groups[some]
            rows = [(own == group).nonzero()[:, 0] for group in {*own.tolist()}]
            keep = torch.cat([row[nms(placed[some[row]], scores[some[row]], overlap)] for row in rows]).sort().values
        else:
            keep = nms(placed[some], scores[some], overlap)
        kept = some[keep[:most]]
        if len(kept) == most or looked >= number:
            return kept
        looked *= _MORE
