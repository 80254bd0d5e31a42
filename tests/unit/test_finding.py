"""What is found in a batch is what is found in each image alone, and suppression that stops early stops at nothing."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms

from detdistill.detectors import nms
from detdistill.detectors.base import evaluating
from detdistill.detectors.nms import best_apart
from scenes_in_memory import FAMILIES, scene_batch, tiny_student


@pytest.mark.parametrize("apart", [1, 10**6], ids=["group by group", "moved apart"])
@pytest.mark.parametrize("most", [1, 20, 200])
def test_the_best_are_those_of_torchvision(most: int, apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowds of boxes in three groups, some of one score and some twice the same."""
    monkeypatch.setitem(nms._APART, "cpu", apart)
    draw = torch.Generator().manual_seed(most)
    corners = torch.rand(450, 2, generator=draw) * 60
    boxes = torch.cat((corners, corners + 5 + 30 * torch.rand(450, 2, generator=draw)), dim=1)
    boxes = torch.cat((boxes, boxes[:50]))
    scores = (torch.rand(500, generator=draw) * 40).round() / 40
    groups = torch.randint(3, (500,), generator=draw)
    rows = [(groups == group).nonzero()[:, 0] for group in range(3)]
    whole = torch.cat([row[torch.ops.torchvision.nms(boxes[row], scores[row], 0.5)] for row in rows])
    by_score = scores.sort(stable=True, descending=True).indices
    expected = by_score[torch.isin(by_score, whole)][:most]
    assert best_apart(boxes, scores, groups, 0.5, most=most).tolist() == expected.tolist()


@pytest.mark.parametrize("number", [0, 3, 999, 1500])
def test_it_is_torchvisions_whole_answer_cut(number: int) -> None:
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(number, 2, generator=draw) * 40
    boxes, scores = torch.cat((corners, corners + 20), dim=1), torch.rand(number, generator=draw)
    groups = torch.randint(4, (number,), generator=draw)
    for most in (5, 1000):
        expected = batched_nms(boxes, scores, groups, 0.3)[:most]
        assert torch.equal(best_apart(boxes, scores, groups, 0.3, most=most), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_looked_at_as_each_image_alone(family: str) -> None:
    """With few candidates of each level."""
    student, batch = tiny_student(family, candidates_per_level=7), scene_batch()
    with evaluating(student):
        whole = student.detect(batch)
        alone = [student.detect(batch.image(row))[0] for row in range(len(batch))]
    for one, other, (height, width) in zip(whole, alone, batch.sizes, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        assert len(one.scores) > 0
        assert (one.scores[:-1] >= one.scores[1:]).all()
        assert one.boxes.min() >= 0
        assert one.boxes[:, 2].max() <= width
        assert one.boxes[:, 3].max() <= height
