"""GFL: geometry, first predictions, what it refuses, and that it learns a batch by heart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.families.fcos import FCOSSettings
from detdistill.detectors.families.gfl import GFLDetector, first_logits
from detdistill.detectors.torchvision_dense import torchvision_loss
from detdistill.errors import CapabilityError, ConfigError
from detdistill.gfl.assign import (
    box_distances,
    box_overlaps,
    boxes_at,
    cells_within_any,
    make_cells,
    match_by_atss,
    within_any,
)
from detdistill.gfl.losses import expected_distances
from detdistill.types import Batch, Need
from scenes_in_memory import CLASSES, scene_batch, targets_of, tiny_settings, tiny_student

LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


def gfl(**changes: object) -> GFLDetector:
    detector = tiny_student("gfl", **changes)
    assert isinstance(detector, GFLDetector)
    return detector


def painted() -> Batch:
    """Dark images, each object a plain rectangle in its class's colour; the last shows none."""
    objects = (((8, 8, 40, 40), (60, 20, 100, 84)), ((20, 30, 110, 80),), ())
    batch = scene_batch(objects, sizes=((96, 128),) * len(objects))
    images = batch.images * 0.1
    for image, target in zip(images, batch.targets, strict=True):
        for (x1, y1, x2, y2), label in zip(target.boxes.int().tolist(), target.labels.tolist(), strict=True):
            image[label, y1:y2, x1:x2] = 1.0
    return replace(batch, images=images)


def test_no_object_leaves_all_cells_to_the_background() -> None:
    cells = make_cells(((2, 3),), (8,), device=torch.device("cpu"))
    match = match_by_atss(torch.zeros(0, 4), cells, size=(16, 24))
    assert match.matched.tolist() == [-1] * 6
    assert match.thresholds.shape == (0,)


def test_an_object_that_holds_no_cell_is_learnt_by_none() -> None:
    cells = make_cells(((4, 4),), (8,), device=torch.device("cpu"))
    match = match_by_atss(torch.tensor([[9.0, 9.0, 14.0, 14.0], [9.0, 9.0, 9.0, 14.0]]), cells, size=(32, 32))
    assert (match.matched == -1).all()


@pytest.mark.parametrize("strides", [(8,), (8, 16)])
def test_a_small_object_is_learnt_on_few_levels_too(strides: tuple[int, ...]) -> None:
    """All anchors of a level hold the object: mean + deviation over two levels lies above every overlap."""
    cells = make_cells([(128 // stride, 128 // stride) for stride in strides], strides, device=torch.device("cpu"))
    match = match_by_atss(torch.tensor([[42.0, 42.0, 55.0, 55.0]]), cells, size=(128, 128))
    assert (match.matched >= 0).nonzero().flatten().tolist() == [6 * 16 + 6]


def test_a_cell_claimed_twice_takes_the_object_it_overlaps_most() -> None:
    """One level, one cell inside both boxes; its anchor is (8, 8, 24, 24)."""
    cells = make_cells(((3, 3),), (16,), device=torch.device("cpu"))
    boxes = torch.tensor([[2.0, 2.0, 30.0, 30.0], [8.0, 8.0, 25.0, 25.0]])
    assert match_by_atss(boxes, cells, size=(48, 48), scale=1.0).matched[4] == 1
    assert match_by_atss(boxes.flip(0), cells, size=(48, 48), scale=1.0).matched[4] == 0


def test_boxes_survive_encoding_and_decoding() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 2, generator=generator) * 100
    boxes = torch.cat((points - torch.rand(50, 2, generator=generator) * 50, points + 30), dim=1)
    torch.testing.assert_close(boxes_at(box_distances(boxes, points), points), boxes)


def test_a_sharp_distribution_is_read_as_its_bin_and_decoded_to_the_box() -> None:
    """A positive whose four edges are certain of the true distances costs nothing but its distribution's share."""
    logits = torch.full((1, 4, 17), -30.0)
    for edge, distance in enumerate((1, 2, 3, 4)):
        logits[0, edge, distance] = 30.0
    distances = expected_distances(logits) * 8
    torch.testing.assert_close(distances, torch.tensor([[8.0, 16.0, 24.0, 32.0]]))
    box = boxes_at(distances, torch.tensor([[40.0, 48.0]]))
    assert box.tolist() == [[32.0, 32.0, 64.0, 80.0]]


def test_boxes_without_area_overlap_nothing_and_have_finite_gradients() -> None:
    first = torch.tensor([[5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    iou, generalised = box_overlaps(first, torch.tensor([[5.0, 5.0, 5.0, 5.0], [6.0, 6.0, 8.0, 8.0]]))
    assert iou.tolist() == [0.0, 0.0]
    assert generalised.tolist() == pytest.approx([0.0, -(64 - 20) / 64])
    (gradient,) = torch.autograd.grad(generalised.sum(), first)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mean", [0.5, 3.0, 8.0, 12.0])
def test_the_first_distribution_has_its_mean(mean: float) -> None:
    logits = first_logits(17, mean=mean)
    torch.testing.assert_close(expected_distances(logits), torch.tensor(mean), atol=1e-4, rtol=0)
    if mean == 8.0:
        torch.testing.assert_close(logits, torch.zeros(17), atol=1e-5, rtol=0)


def test_the_first_predictions_are_the_prior_and_the_first_distance() -> None:
    detector = gfl(box_bias_init=2.0, class_prior=0.05).eval()
    seen = detector(scene_batch(), frozenset({Need.CLASS_LOGITS, Need.BOX_DISTRIBUTIONS}))
    assert seen.class_logits is not None
    assert seen.box_distributions is not None
    for logits, boxes in zip(seen.class_logits.levels, seen.box_distributions.levels, strict=True):
        assert logits.sigmoid().mean().item() == pytest.approx(0.05, rel=0.1)
        distances = expected_distances(boxes.movedim(3, -1))
        assert distances.mean().item() == pytest.approx(2.0, abs=0.1)


def test_class_logits_alone_cost_no_box_head(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = gfl().eval()

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the box head ran")

    monkeypatch.setattr(detector.head.boxes, "forward", refuse)
    assert detector(scene_batch(), frozenset({Need.CLASS_LOGITS})).class_logits is not None
    with pytest.raises(AssertionError, match="the box head ran"):
        detector(scene_batch(), LOSSES)


def test_the_batch_is_divided_by_its_own_positives_and_weights() -> None:
    """Two copies of an image cost what one costs; an image without objects counts as one positive."""
    detector, batch = gfl().eval(), scene_batch()
    one = detector(batch.image(0), LOSSES).task_loss
    twice = replace(
        batch.part(0, 2),
        images=batch.images[:1].repeat(2, 1, 1, 1),
        sizes=batch.sizes[:1] * 2,
        targets=batch.targets[:1] * 2,
    )
    torch.testing.assert_close(detector(twice, LOSSES).task_loss.total, one.total)
    both = detector(replace(twice, targets=(batch.targets[0], targets_of(()))), LOSSES).task_loss
    background = detector(replace(batch.image(0), targets=(targets_of(()),)), LOSSES).task_loss
    # (p · a + b) / (p + 1), a per positive of the first image and b of the second, solved for p.
    first, second = both.classification.sum(dim=1)
    together = both.total - (one.total - one.classification.sum())
    positives = (second - together) / (together - first)
    assert positives.item() == pytest.approx(round(positives.item()), abs=0.01)
    assert positives > 1
    torch.testing.assert_close(both.classification[1:], background.classification)
    torch.testing.assert_close(both.box.sum(dim=1), torch.stack((one.box.sum(), torch.zeros(()))))


def test_detections_leave_the_padding_alone() -> None:
    detector, batch = gfl(score_threshold=0.0, detections_per_image=4000, nms_threshold=0.99).eval(), scene_batch()
    with torch.no_grad():
        detector.head.boxes.bias.copy_(first_logits(17, mean=0.05).repeat(4))
        found = detector.detect(batch)[2]
    # Each box is tiny and around its cell: 64 x 33 pixels have 8 · 5 + 4 · 3 + 2 · 2 cells, of 3 classes each.
    assert len(found.boxes) == (8 * 5 + 4 * 3 + 2 * 2) * 3


def test_nothing_above_the_threshold_is_an_empty_answer() -> None:
    found = gfl(score_threshold=0.99).eval().detect(scene_batch())
    assert [tuple(one.boxes.shape) for one in found] == [(0, 4)] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box_bins": 1}, r"student\.box_bins must be 2 or more, got 1\. 17 is usual\."),
        ({"box_bins": 3}, r"student\.box_bias_init must lie between 0 and the last of GFL's bins, 2, got 3\.0\."),
        ({"box_bias_init": 0.0}, r"student\.box_bias_init must lie between 0 and .*, 16, got 0\.0\. Leave it out\."),
        ({"anchor_scale": 0.0}, r"student\.anchor_scale must be above 0, got 0\.0\. Leave it out\."),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_settings("gfl", **changes)


def test_other_families_may_start_their_boxes_where_gfl_may_not() -> None:
    assert FCOSSettings(backbone="resnet18", box_bias_init=0.0).box_bias_init == 0.0


def test_there_is_no_plain_step_for_it() -> None:
    with pytest.raises(CapabilityError, match=r"must get a RetinaNet or an FCOS, got gfl/test_resnet\. Choose retina"):
        torchvision_loss(gfl(), scene_batch())


@pytest.mark.slow
def test_it_learns_a_batch_by_heart() -> None:
    batch = painted()
    detector = build_detector(parse_detector("gfl/tiny"), CLASSES, seed=0).train()
    optimizer = torch.optim.AdamW(detector.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=80)
    totals = []
    for _ in range(80):
        loss = detector(batch, frozenset({Need.TASK_LOSS})).task_loss
        totals.append(float(loss.total.detach()))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        schedule.step()
    assert totals[-1] < 0.2 * totals[0]
    with torch.no_grad():
        found = detector.eval().detect(batch)
    for one, target in zip(found, batch.targets, strict=True):
        sure = one.scores > 0.5
        for box, label in zip(target.boxes, target.labels, strict=True):
            own = one.boxes[sure & (one.labels == label)]
            overlaps = box_overlaps(own, box[None])[0]
            assert overlaps.numel()
            assert overlaps.max() > 0.9
    assert not (found[-1].scores > 0.5).any()


def test_cells_in_boxes_are_those_whose_points_are() -> None:
    points = make_cells([(9, 14), (5, 7)], [8, 16], device=torch.device("cpu")).points + 4
    draw = torch.Generator().manual_seed(2)
    boxes = []
    for count in (40, 0, 3):
        corners = 100 * torch.rand((count, 2), generator=draw).round(decimals=2)
        boxes.append(torch.cat((corners, corners + 30 * torch.rand((count, 2), generator=draw)), dim=1))
    boxes[2][0] = torch.tensor([4.0, 4.0, 12.0, 20.0])  # whose edges are points: the first is in it, the last is not
    found = cells_within_any(points, boxes)
    assert torch.equal(found, torch.stack([within_any(points, one) for one in boxes]))
    assert found.any(dim=1).tolist() == [True, False, True]
    assert not found.all()
