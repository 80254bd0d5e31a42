"""Faster R-CNN: the losses against torchvision's own modules, the draws, the detections."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from detdistill.detectors.families.faster_rcnn import FasterRCNNDetector, FasterRCNNSettings, build_faster_rcnn
from detdistill.detectors.preprocess import Normaliser
from detdistill.detectors.rcnn_losses import SeededSampler, Stream
from detdistill.errors import ConfigError
from detdistill.types import Batch, ClassKind, Need, Targets

LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
ALL = LOSSES | {Need.PYRAMID, Need.CLASS_LOGITS}
CLASSES = ("car", "truck", "pedestrian")
PIXELS = Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BOXES = (
    ((10.0, 12.0, 50.0, 44.0), (60.0, 8.0, 90.0, 60.0), (20.0, 30.0, 28.0, 50.0)),
    (),
    ((0.0, 0.0, 96.0, 64.0),),
)


def settings(**changes: object) -> FasterRCNNSettings:
    base = FasterRCNNSettings(
        backbone="test_resnet",
        fpn_channels=16,
        head_depth=1,
        strides=(4, 8, 16, 32, 64),
        anchor_scale=4.0,
        anchor_octaves=1,
        roi_channels=32,
        roi_samples=24,
        rpn_samples=32,
        proposals_train=60,
        proposals_test=20,
        score_threshold=0.0,
    )
    return replace(base, **changes)


def targets_of(boxes: tuple[tuple[float, ...], ...]) -> Targets:
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % len(CLASSES),
        ignored=torch.zeros(len(boxes), dtype=torch.bool),
    )


def batch_of(count: int = 3) -> Batch:
    return Batch(
        images=torch.rand(count, 3, 96, 160, generator=torch.Generator().manual_seed(1)),
        sizes=((96, 160), (90, 100), (64, 96))[:count],
        stored_sizes=((96, 160), (90, 100), (64, 96))[:count],
        targets=tuple(targets_of(boxes) for boxes in BOXES[:count]),
        image_ids=(11, 12, 13)[:count],
        seeds=(101, 1 << 40, (1 << 62) + 5)[:count],
    )


@pytest.fixture(scope="module")
def detector() -> FasterRCNNDetector:
    torch.manual_seed(0)
    return build_faster_rcnn(settings(), CLASSES)


def torchvisions_losses(detector: FasterRCNNDetector, batch: Batch) -> dict[str, torch.Tensor]:
    """torchvision's own training path on the same features, its global sampler replaced by the seeded one."""
    model = detector.model
    rpn, heads = model.rpn, model.roi_heads
    samplers = rpn.fg_bg_sampler, heads.fg_bg_sampler
    features = model.backbone(PIXELS(batch))
    images = ImageList(batch.images, list(batch.sizes))
    targets = [
        {"boxes": target.boxes[~target.ignored], "labels": target.labels[~target.ignored] + 1}
        for target in batch.targets
    ]
    was_training = model.training
    try:
        for module, stream in ((rpn, Stream.ANCHORS), (heads, Stream.REGIONS)):
            module.train()
            old = module.fg_bg_sampler
            module.fg_bg_sampler = SeededSampler(batch.seeds, stream, old.batch_size_per_image, old.positive_fraction)
        proposals, first = rpn(images, features, targets)
        _, second = heads(features, proposals, images.image_sizes, targets)
    finally:
        rpn.fg_bg_sampler, heads.fg_bg_sampler = samplers
        model.train(was_training)
    return {**first, **second}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_image_levels_and_rois_add_up_to_torchvisions_own_total(
    detector: FasterRCNNDetector, index: int, training: bool
) -> None:
    detector.eval()
    batch = batch_of().image(index)
    theirs = torchvisions_losses(detector, batch)
    detector.train(training)
    detector.model.backbone.eval()
    loss = detector(batch, LOSSES).task_loss
    assert loss is not None
    assert loss.classification is not None
    assert loss.box is not None
    assert loss.roi_classification is not None
    assert loss.roi_box is not None
    assert loss.classification.shape == loss.box.shape == (1, 5)
    torch.testing.assert_close(loss.classification.sum(), theirs["loss_objectness"])
    torch.testing.assert_close(loss.box.sum(), theirs["loss_rpn_box_reg"])
    torch.testing.assert_close(loss.roi_classification[0], theirs["loss_classifier"])
    torch.testing.assert_close(loss.roi_box[0], theirs["loss_box_reg"])
    torch.testing.assert_close(loss.total, torch.stack(tuple(theirs.values())).sum())
    parts = loss.classification.sum() + loss.box.sum() + loss.roi_classification[0] + loss.roi_box[0]
    torch.testing.assert_close(loss.total, parts)
    if not BOXES[index]:
        assert loss.box.sum() == loss.roi_box.sum() == 0
    else:
        assert loss.box.sum() > 0
        assert loss.roi_box.sum() > 0


def test_batch_total_and_its_gradients_are_torchvisions_own(detector: FasterRCNNDetector) -> None:
    detector.eval()
    batch = batch_of()
    gradients = []
    for total in (
        torch.stack(tuple(torchvisions_losses(detector, batch).values())).sum(),
        detector(batch, {Need.TASK_LOSS}).task_loss.total,
    ):
        detector.zero_grad()
        total.backward()
        gradients.append([p.grad.clone() for p in detector.parameters() if p.grad is not None])
        gradients[-1].append(total.detach())
    assert len(gradients[0]) == len(gradients[1]) == 1 + sum(1 for _ in detector.parameters())
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_every_level_gets_the_anchors_that_stand_on_it() -> None:
    """Against a loop over levels and anchors, all of which are sampled."""
    torch.manual_seed(0)
    detector = build_faster_rcnn(settings(rpn_samples=100_000), CLASSES).eval()
    batch = batch_of().image(0)
    rpn = detector.model.rpn
    with torch.no_grad():
        seen = detector(batch, ALL)
        _, deltas = rpn.head(list(seen.pyramid.levels))
        by_level = rpn.anchor_generator.anchors(seen.pyramid.levels)
        anchors = torch.cat(by_level)
        (labels,), (matched,) = rpn.assign_targets_to_anchors([anchors], [{"boxes": batch.targets[0].boxes}])
        old = rpn.fg_bg_sampler
        sampler = SeededSampler(batch.seeds, Stream.ANCHORS, old.batch_size_per_image, old.positive_fraction)
        (positive,), (negative,) = sampler([labels])
        goals = rpn.box_coder.encode_single(matched, anchors)
        number, start = int(positive.sum() + negative.sum()), 0
        for level, own in enumerate(by_level):
            logits = seen.class_logits.levels[level][0].permute(2, 3, 0, 1).reshape(-1)
            offsets = deltas[level][0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            classification = box = 0.0
            for i in range(len(own)):
                if positive[start + i] or negative[start + i]:
                    sign = 1.0 if positive[start + i] else -1.0
                    classification += float(torch.nn.functional.softplus(-sign * logits[i]))
                if positive[start + i]:
                    for off in (offsets[i] - goals[start + i]).abs().tolist():
                        box += 4.5 * off**2 if off < 1 / 9 else off - 1 / 18
            assert seen.task_loss.classification[0, level].item() == pytest.approx(classification / number, rel=1e-4)
            assert seen.task_loss.box[0, level].item() == pytest.approx(box / number, rel=1e-4)
            start += len(own)


def test_each_image_draws_and_costs_the_same_in_any_batch_whatever_the_global_generator(
    detector: FasterRCNNDetector,
) -> None:
    detector.eval()
    batch = batch_of()
    with torch.no_grad():
        pyramid = detector.extract(batch)
        together = detector.observe(pyramid, batch, LOSSES).task_loss
        torch.manual_seed(12345)
        state = torch.get_rng_state()
        again = detector.observe(pyramid, batch, LOSSES).task_loss
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(together.total, again.total)
        for i in range(len(batch)):
            one = replace(pyramid, levels=tuple(level[i : i + 1] for level in pyramid.levels))
            alone = detector.observe(one, batch.image(i), LOSSES).task_loss
            for name in ("classification", "box", "roi_classification", "roi_box"):
                torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[i])
        other = detector.observe(pyramid, replace(batch, seeds=(1, 2, 3)), LOSSES).task_loss
    assert not torch.equal(other.classification, together.classification)


def test_ignored_boxes_are_not_taught(detector: FasterRCNNDetector) -> None:
    detector.eval()
    batch = batch_of(1)
    flags = torch.tensor([False, True, True])
    flagged = replace(batch, targets=(replace(batch.targets[0], ignored=flags),))
    kept = replace(
        batch,
        targets=(
            batch.targets[0].__class__(
                *(t[:1] for t in (batch.targets[0].boxes, batch.targets[0].labels, batch.targets[0].ignored))
            ),
        ),
    )
    with torch.no_grad():
        totals = [detector(b, {Need.TASK_LOSS}).task_loss.total for b in (batch, flagged, kept)]
    assert totals[1] == totals[2] != totals[0]


def test_spec_and_observation_agree_and_only_what_is_asked_is_there(detector: FasterRCNNDetector) -> None:
    batch = batch_of(1)
    with torch.no_grad():
        seen = detector(batch, ALL)
        bare = detector.observe(seen.pyramid, batch, {Need.PYRAMID})
        scores = detector.observe(seen.pyramid, batch, {Need.CLASS_LOGITS})
        total = detector.observe(seen.pyramid, batch, {Need.TASK_LOSS})
    spec = detector.spec
    assert spec.two_stage
    assert spec.class_logits is not None
    assert spec.class_logits.kind is ClassKind.OBJECTNESS is seen.class_logits.kind
    assert seen.pyramid.strides == spec.pyramid.strides == seen.class_logits.strides == (4, 8, 16, 32, 64)
    for stride, maps, logits in zip(seen.pyramid.strides, seen.pyramid.levels, seen.class_logits.levels, strict=True):
        grid = (-(-96 // stride), -(-160 // stride))
        assert maps.shape == (1, spec.pyramid.channels, *grid)
        assert logits.shape == (1, spec.class_logits.anchors, 1, *grid)
    assert bare.class_logits is None
    assert bare.task_loss is None
    assert scores.task_loss is None
    assert total.class_logits is None
    assert total.task_loss.classification is None
    assert bare.pyramid is seen.pyramid


def test_gradient_reaches_the_image_and_a_foreign_pyramid(detector: FasterRCNNDetector) -> None:
    detector.eval()
    batch = batch_of(2)
    images = batch.images.clone().requires_grad_()
    detector(replace(batch, images=images), {Need.TASK_LOSS}).task_loss.total.backward()
    assert images.grad.abs().sum() > 0
    assert images.grad[1, :, 90:].abs().sum() == 0
    pyramid = detector.extract(batch)
    foreign = replace(pyramid, levels=tuple(torch.randn_like(level).requires_grad_() for level in pyramid.levels))
    detector.observe(foreign, batch, {Need.TASK_LOSS}).task_loss.total.backward()
    assert all(level.grad is not None for level in foreign.levels)
    assert sum(float(level.grad.abs().sum()) for level in foreign.levels) > 0


def test_detections_are_torchvisions_own(detector: FasterRCNNDetector) -> None:
    batch = batch_of()
    detector.train()
    detector.model.backbone.eval()
    with torch.no_grad():
        ours = detector.detect(batch)
        detector.eval()
        features = detector.model.backbone(PIXELS(batch))
        images = ImageList(batch.images, list(batch.sizes))
        proposals, _ = detector.model.rpn(images, features)
        theirs, _ = detector.model.roi_heads(features, proposals, images.image_sizes)
    for found, wanted, (height, width) in zip(ours, theirs, batch.sizes, strict=True):
        assert len(found.boxes) > 0
        torch.testing.assert_close(found.boxes, wanted["boxes"], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(found.scores, wanted["scores"])
        assert torch.equal(found.labels, wanted["labels"] - 1)
        assert found.labels.min() >= 0
        assert found.labels.max() < len(CLASSES)
        assert found.boxes.min() >= 0
        assert found.boxes[:, 2].max() <= width
        assert found.boxes[:, 3].max() <= height
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)


def test_no_proposals_at_all_give_zero_second_stage_losses_and_no_detections() -> None:
    detector = build_faster_rcnn(settings(), CLASSES).eval()
    detector.model.rpn.score_thresh = 1.1
    batch = batch_of().image(1)
    seen = detector(batch, LOSSES).task_loss
    assert seen.roi_classification.item() == seen.roi_box.item() == 0
    assert torch.isfinite(seen.total)
    seen.total.backward()
    assert detector.model.roi_heads.box_predictor.cls_score.weight.grad is not None
    (found,) = detector.detect(batch)
    assert found.boxes.shape == (0, 4)
    assert found.labels.shape == (0,)


def test_anchors_use_nominal_strides_where_the_image_does_not_divide(detector: FasterRCNNDetector) -> None:
    # 160 px at stride 64 is 3 cells: torchvision's generator would space them by 160 // 3 = 53.
    anchors = detector.model.rpn.anchor_generator.anchors([*[torch.zeros(1, 1)] * 4, torch.zeros(2, 3)])
    centres = anchors[-1].reshape(2, 3, 3, 4).unflatten(-1, (2, 2)).mean(dim=-2)
    assert centres[0, :, 0, 0].tolist() == [0.0, 64.0, 128.0]
    assert centres[:, 0, 0, 1].tolist() == [0.0, 64.0]
    widths = anchors[0][:, 2] - anchors[0][:, 0]
    # stride 4 x scale 4 = 16 px, height/width 0.5, 1, 2: widths 16*sqrt(2) = 22.6, 16, 11.3, halves rounded.
    assert widths.tolist() == [22.0, 16.0, 12.0]


def test_padding_never_matters(detector: FasterRCNNDetector) -> None:
    detector.eval()
    batch = batch_of()
    noisy = batch.images.clone()
    noisy[1, :, 90:] = 5.0
    noisy[2, :, :, 96:] = -5.0
    with torch.no_grad():
        first, second = (detector(replace(batch, images=i), LOSSES).task_loss for i in (batch.images, noisy))
    assert torch.equal(first.total, second.total)


def test_pooling_scale_is_nominal_for_a_small_image_on_a_large_grid() -> None:
    # torchvision guesses 2 ** round(log2(24 / 40)) from a 40 px image on a 96 px grid: 1/2 instead of 1/4.
    detector = build_faster_rcnn(settings(), CLASSES)
    batch = replace(batch_of(1), sizes=((40, 40),), targets=(targets_of(((4.0, 4.0, 30.0, 30.0),)),))
    with torch.no_grad():
        detector(batch, LOSSES)
    assert detector.model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_losses_are_float32_under_autocast(detector: FasterRCNNDetector) -> None:
    detector.eval()
    batch = batch_of(1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        seen = detector(batch, ALL)
    assert seen.class_logits.levels[0].dtype == torch.bfloat16
    loss = seen.task_loss
    parts = (loss.total, loss.classification, loss.box, loss.roi_classification, loss.roi_box)
    assert all(part.dtype == torch.float32 for part in parts)
    assert all(torch.isfinite(part).all() for part in parts)
    with torch.no_grad():
        full = detector(batch, LOSSES).task_loss
    torch.testing.assert_close(loss.total, full.total, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16, 32, 64, 128), (16, 32)])
def test_other_strides_build_learn_and_detect(strides: tuple[int, ...]) -> None:
    detector = build_faster_rcnn(settings(strides=strides, head_depth=2, anchor_octaves=2), CLASSES)
    batch = batch_of(2)
    seen = detector(batch, LOSSES)
    assert seen.pyramid.strides == strides
    assert seen.task_loss.classification.shape == (2, len(strides))
    seen.task_loss.total.backward()
    assert all(p.grad is not None for p in detector.parameters())
    pooled = [1 / stride for stride in strides if stride <= 32]
    assert detector.model.roi_heads.box_roi_pool.scales == pooled
    with torch.no_grad():
        detector.eval().detect(batch)


def test_class_slots_are_mapped_both_ways() -> None:
    torch.manual_seed(0)
    plain = build_faster_rcnn(settings(), ("a", "b", "c"))
    batch = batch_of(1)
    with torch.no_grad():
        before = plain.eval().detect(batch)[0]
        loss = plain(batch, {Need.TASK_LOSS}).task_loss.total
        # The same model with slot 2 unused: our label 1 is its slot 3.
        mapped = FasterRCNNDetector(
            plain.model, ("a", "c"), name="x", strides=plain.spec.pyramid.strides, class_slots=(1, 3)
        )
        after = mapped.detect(batch)[0]
        relabelled = replace(batch.targets[0], labels=torch.tensor([0, 2, 2]))
        wanted = plain(replace(batch, targets=(relabelled,)), {Need.TASK_LOSS}).task_loss.total
        relabelled = replace(batch.targets[0], labels=torch.tensor([0, 1, 1]))
        got = mapped(replace(batch, targets=(relabelled,)), {Need.TASK_LOSS}).task_loss.total
    kept = before.labels != 1
    assert 0 < kept.sum() < len(kept)
    assert torch.equal(after.labels, before.labels[kept].clamp(max=1))
    assert torch.equal(after.boxes, before.boxes[kept])
    assert got == wanted != loss


@pytest.mark.parametrize("slots", [(1,), (0, 1), (1, 9), (2, 2)])
def test_slots_that_do_not_fit_are_refused(slots: tuple[int, ...]) -> None:
    model = build_faster_rcnn(settings(), CLASSES).model
    with pytest.raises(ConfigError, match=r"the classes of x must be one slot of 1 to 3 each, got 2 names"):
        FasterRCNNDetector(model, ("a", "b"), name="x", class_slots=slots)
