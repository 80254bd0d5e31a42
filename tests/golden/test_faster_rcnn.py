"""Faster R-CNN's second-stage loss on numbers worked out by hand."""

from __future__ import annotations

import torch
from torchvision.models.detection.roi_heads import fastrcnn_loss

from detdistill.detectors.rcnn_losses import SampledRegions, roi_sums


def test_second_stage_loss_by_hand() -> None:
    # Two regions, logits all zero over 4 slots: cross-entropy ln 4 each; one positive whose four encoded offsets
    # are off by 1: smooth L1 with beta 1/9 gives 1 - 1/18 = 0.944444 each, 3.777778 in sum, over 2 regions 1.888889.
    regions = SampledRegions(
        boxes=[torch.zeros(2, 4), torch.zeros(0, 4)],
        labels=torch.tensor([2, 0]),
        targets=torch.ones(2, 4),
    )
    logits, deltas = torch.zeros(2, 4), torch.zeros(2, 16)
    classification, box = roi_sums(logits, deltas, regions).by_image()
    torch.testing.assert_close(classification, torch.tensor([1.3862944, 0.0]))
    torch.testing.assert_close(box, torch.tensor([1.8888889, 0.0]))
    theirs = sum(fastrcnn_loss(logits, deltas, [regions.labels], [regions.targets]))
    torch.testing.assert_close(roi_sums(logits, deltas, regions).total(), theirs)
