from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, fcos_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList

from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.families.fcos import fcos_loss, match_by_centre
from detdistill.detectors.families.retinanet import retinanet_loss
from detdistill.detectors.torchvision_dense import DenseDetector
from detdistill.errors import ConfigError
from detdistill.gfl import assign as assigning
from detdistill.types import Batch, ClassKind, Need, Pyramid, Targets, TaskLoss

pytestmark = pytest.mark.covering("family")

CLASSES = ("a", "b", "c")
FAMILIES = ("fcos", "retinanet")
ALL = frozenset({Need.CLASS_LOGITS, Need.TASK_LOSS, Need.IMAGE_LOSSES})


def scene(objects: tuple[int, ...], *, sizes: tuple[tuple[int, int], ...] | None = None, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    sizes = sizes or ((96, 160),) * len(objects)
    targets = []
    for count, (height, width) in zip(objects, sizes, strict=True):
        side = torch.tensor([width, height])
        corner = torch.rand(count, 2, generator=draw) * side * 0.3
        extent = torch.rand(count, 2, generator=draw) * side * 0.68 + 5
        if count > 5:  # one object for a coarse level
            corner[0], extent[0] = torch.tensor([6.0, 3.0]), side - torch.tensor([14, 8])
        labels = torch.randint(0, len(CLASSES), (count,), generator=draw)
        targets.append(Targets(torch.cat([corner, corner + extent], 1), labels, torch.zeros(count, dtype=torch.bool)))
    ids = tuple(range(len(objects)))
    images = torch.rand(len(objects), 3, 96, 160, generator=draw)
    return Batch(images, sizes, sizes, tuple(targets), ids, ids)


def detector(family: str, *, seed: int = 0, **changes: object) -> Detector:
    settings = replace(parse_detector(f"{family}/tiny"), strides=(8, 16, 32, 64, 128), **changes)  # type: ignore[arg-type]
    built = build_detector(settings, CLASSES, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for parameter in built.model.head.parameters():  # so that the losses are not those of an unwritten head
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
    return built.eval()


def torchvision_outputs(model: nn.Module, pyramid: Pyramid, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
    levels = list(pyramid.levels)
    return model.head(levels), model.anchor_generator(ImageList(batch.images, list(batch.sizes)), levels)


def torchvision_losses(built: Detector, pyramid: Pyramid, batch: Batch) -> dict[str, Tensor]:
    outputs, anchors = torchvision_outputs(built.model, pyramid, batch)
    targets = [{"boxes": target.boxes, "labels": target.labels} for target in batch.targets]
    if isinstance(built.model, FCOS):
        counts = [level.shape[2] * level.shape[3] for level in pyramid.levels]
        return built.model.compute_loss(targets, outputs, anchors, counts)
    return built.model.compute_loss(targets, outputs, anchors)


def all_parts(loss: TaskLoss) -> Tensor:
    assert loss.classification is not None
    assert loss.box is not None
    return loss.classification.sum(1) + loss.box.sum(1) + sum(loss.other.values())


@pytest.mark.parametrize("objects", [(0,), (1,), (7,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_one_image_add_up_to_torchvisions_loss(family: str, objects: tuple[int, ...]) -> None:
    built, batch = detector(family), scene(objects)
    seen = built(batch, ALL)
    theirs = torchvision_losses(built, seen.pyramid, batch)
    loss = seen.task_loss
    torch.testing.assert_close(loss.total, sum(theirs.values()), rtol=1e-5, atol=0)
    torch.testing.assert_close(all_parts(loss), loss.total[None], rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.classification.sum(), theirs["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.box.sum(), theirs["bbox_regression"], rtol=1e-5, atol=0)
    assert loss.strides == (8, 16, 32, 64, 128)
    assert loss.classification.shape == loss.box.shape == (1, 5)
    assert set(loss.other) == ({"centerness"} if family == "fcos" else set())
    if objects == (7,):
        assert theirs["bbox_regression"] > 0.1
        assert (loss.box > 0).sum() >= 2


@pytest.mark.parametrize("objects", [(0, 0), (0, 3, 6), (5, 1)])
@pytest.mark.parametrize("family", FAMILIES)
def test_batch_total_and_gradient_are_torchvisions(family: str, objects: tuple[int, ...]) -> None:
    built, batch = detector(family), scene(objects)
    seen = built(batch, {Need.TASK_LOSS})
    assert seen.task_loss.classification is None
    assert seen.class_logits is None
    theirs = sum(torchvision_losses(built, seen.pyramid, batch).values())
    torch.testing.assert_close(seen.task_loss.total, theirs, rtol=1e-5, atol=0)
    parameters = list(built.model.head.parameters())
    ours = torch.autograd.grad(seen.task_loss.total, parameters, retain_graph=True)
    for own, other in zip(ours, torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    assert all(gradient.isfinite().all() for gradient in ours)


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "giou", "diou", "ciou"])
def test_every_box_loss_of_retinanet(kind: str) -> None:
    built, batch = detector("retinanet"), scene((4, 2))
    built.model.head.regression_head._loss_type = kind
    seen = built(batch, ALL)
    theirs = torchvision_losses(built, seen.pyramid, batch)
    torch.testing.assert_close(seen.task_loss.total, sum(theirs.values()), rtol=1e-5, atol=0)
    torch.testing.assert_close(seen.task_loss.box.sum(1).mean(), theirs["bbox_regression"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_losses_do_not_depend_on_the_batch(family: str) -> None:
    built, batch = detector(family), scene((5, 0, 2), sizes=((96, 160), (64, 160), (96, 100)))
    together = built(batch, ALL).task_loss
    for index in range(3):
        alone = built(batch.image(index), ALL).task_loss
        torch.testing.assert_close(together.classification[index], alone.classification[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.box[index], alone.box[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(all_parts(together)[index], alone.total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_ignored_objects_teach_nothing(family: str) -> None:
    built, batch = detector(family), scene((5,))
    target = batch.targets[0]
    kept = torch.tensor([0, 2])
    flags = torch.ones(5, dtype=torch.bool).index_fill(0, kept, False)
    flagged = replace(batch, targets=(replace(target, ignored=flags),))
    fewer = replace(batch, targets=(Targets(target.boxes[kept], target.labels[kept], target.ignored[kept]),))
    assert torch.equal(built(flagged, ALL).task_loss.total, built(fewer, ALL).task_loss.total)
    assert not torch.equal(built(flagged, ALL).task_loss.total, built(batch, ALL).task_loss.total)


@pytest.mark.parametrize("family", FAMILIES)
def test_class_logits_are_the_heads_own_as_maps(family: str) -> None:
    built, batch = detector(family), scene((2, 0))
    seen = built(batch, {Need.CLASS_LOGITS})
    assert seen.task_loss is None
    anchors = 9 if family == "retinanet" else 1
    assert seen.class_logits.kind is ClassKind.SIGMOID
    assert seen.class_logits.strides == built.spec.class_logits.strides == (8, 16, 32, 64, 128)
    assert built.spec.class_logits.anchors == anchors
    head = built.model.head.classification_head
    for shown, level in zip(seen.class_logits.levels, seen.pyramid.levels, strict=True):
        expected = head.cls_logits(head.conv(level)).unflatten(1, (anchors, len(CLASSES)))
        torch.testing.assert_close(shown, expected)
    gradient = torch.autograd.grad(
        sum(level.square().sum() for level in seen.class_logits.levels), head.cls_logits.weight
    )
    assert gradient[0].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_tower_of_the_head_runs_only_for_who_reads_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = detector(family)

    def fail(levels: list[Tensor]) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(built.model.head.regression_head, "forward", fail)
    assert built(scene((1,)), {Need.CLASS_LOGITS}).class_logits is not None
    with pytest.raises(AssertionError, match="the tower ran"):
        built(scene((1,)), {Need.TASK_LOSS})
    monkeypatch.setattr(built.model.head.classification_head, "forward", fail)
    seen = built(scene((1,)), {Need.PYRAMID})
    assert seen.class_logits is None
    assert seen.task_loss is None
    with pytest.raises(AssertionError, match="the tower ran"):
        built(scene((1,)), {Need.CLASS_LOGITS})


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_torchvisions(family: str) -> None:
    built = detector(family, score_threshold=0.02, detections_per_image=20)
    batch = scene((3, 0), sizes=((96, 160), (70, 101)))
    pyramid = built.extract(batch)
    outputs, anchors = torchvision_outputs(built.model, pyramid, batch)
    counts = [level.shape[2] * level.shape[3] * built.spec.class_logits.anchors for level in pyramid.levels]
    split = {name: list(rows.split(counts, 1)) for name, rows in outputs.items()}
    theirs = built.model.postprocess_detections(split, [list(a.split(counts)) for a in anchors], list(batch.sizes))
    ours = built.detect(batch)
    for one, other in zip(ours, theirs, strict=True):
        assert 0 < len(one.boxes) <= 20
        assert torch.equal(one.boxes, other["boxes"])
        assert torch.equal(one.scores, other["scores"])
        assert torch.equal(one.labels, other["labels"])
        assert torch.equal(one.scores, one.scores.sort(descending=True).values)
    assert (ours[1].boxes <= torch.tensor([101, 70, 101, 70])).all()
    assert not built.model.postprocess_detections.__self__.training


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_pixels_never_matter(family: str) -> None:
    built, batch = detector(family), scene((2, 1), sizes=((96, 160), (64, 96)))
    garbage = batch.images.clone()
    garbage[1, :, 64:] = 1e30
    garbage[1, :, :, 96:] = float("nan")
    clean, dirty = built.extract(batch), built.extract(replace(batch, images=garbage))
    assert all(torch.equal(a, b) for a, b in zip(clean.levels, dirty.levels, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_strides_are_nominal_where_image_over_grid_is_not(family: str) -> None:
    built = detector(family)
    pyramid = built.extract(scene((0,)))
    assert pyramid.strides == (8, 16, 32, 64, 128)
    assert [tuple(level.shape[2:]) for level in pyramid.levels] == [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    _, anchors = torchvision_outputs(built.model, pyramid, scene((0,)))
    a = built.spec.class_logits.anchors
    centres = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2
    expected = [(x * s, y * s) for s, level in zip(pyramid.strides, pyramid.levels, strict=True)
                for y in range(level.shape[2]) for x in range(level.shape[3]) for _ in range(a)]  # fmt: skip
    torch.testing.assert_close(centres, torch.tensor(expected, dtype=torch.float32))


def test_fcos_matches_by_hand() -> None:
    """One level of stride 8, 3×3 points: 0, 8, 16. Radius 1.5 · 8 = 12 around the centre."""
    point = torch.tensor([(x, y) for y in (0.0, 8.0, 16.0) for x in (0.0, 8.0, 16.0)])
    anchors = torch.cat([point - 4, point + 4], dim=1)
    boxes = torch.tensor([[2.0, 2.0, 22.0, 20.0], [6.0, 6.0, 10.0, 10.0]])
    (matched,) = match_by_centre([boxes], anchors, counts=(9,), radius=1.5)
    # inside the large box: (8,8) (16,8) (8,16) (16,16), all within 12 of (12, 11); the small one takes (8, 8).
    assert matched.tolist() == [-1, -1, -1, -1, 1, 0, -1, 0, 0]
    (near,) = match_by_centre([boxes], anchors, counts=(9,), radius=0.25)
    assert near.tolist() == [-1, -1, -1, -1, 1, -1, -1, -1, -1]


@pytest.mark.parametrize("seed", range(5))
def test_fcos_matches_are_torchvisions_for_boxes_of_every_size(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built, batch = detector("fcos"), scene((0,))
    draw = torch.Generator().manual_seed(seed)
    centre = torch.rand(150, 2, generator=draw) * torch.tensor([160.0, 96.0])
    half = 2 ** (1 + 9 * torch.rand(150, 1, generator=draw)) * (0.5 + torch.rand(150, 2, generator=draw))
    target = Targets(torch.cat([centre - half, centre + half], 1), torch.zeros(150).long(), torch.zeros(150).bool())
    batch = replace(batch, targets=(target,))
    pyramid = built.extract(batch)
    monkeypatch.setattr(built.model.head, "compute_loss", lambda targets, outputs, anchors, matched: matched)
    theirs = torchvision_losses(built, pyramid, batch)[0]  # type: ignore[index]
    counts = tuple(level.shape[2] * level.shape[3] for level in pyramid.levels)
    anchors = torchvision_outputs(built.model, pyramid, batch)[1][0]
    (ours,) = match_by_centre([target.boxes], anchors, counts=counts, radius=1.5)
    assert torch.equal(ours, theirs)
    assert all((level >= 0).any() for level in ours.split(counts))


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
@pytest.mark.parametrize("head_norm", ["none", "group"])
@pytest.mark.parametrize("width", [32, 64, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_at_small_widths(family: str, width: int, head_norm: str, norm: str) -> None:
    settings = replace(
        parse_detector(f"{family}/tiny"),
        fpn_channels=width, norm=norm, head_norm=head_norm, head_depth=1, freeze_stages=1, fpn_norm="group",
    )  # fmt: skip
    built = build_detector(settings, CLASSES, seed=0)
    built.eval().train()
    seen = built(scene((3,)), {Need.TASK_LOSS})
    seen.task_loss.total.backward()
    assert seen.task_loss.total.isfinite()
    assert all((p.grad is not None and p.grad.isfinite().all()) == p.requires_grad for p in built.parameters())
    norms = [m for m in built.model.head.modules() if isinstance(m, nn.GroupNorm)]
    assert [m.num_channels // m.num_groups for m in norms] == ([8, 8] if head_norm == "group" else [])
    assert all(not m.training for m in built.modules() if isinstance(m, nn.BatchNorm2d) and norm == "frozen")


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_stay_in_float32_under_autocast(family: str) -> None:
    built, batch = detector(family), scene((4,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = built(batch, ALL)
        detections = built.detect(batch)
    assert seen.pyramid.levels[0].dtype == torch.bfloat16
    assert seen.task_loss.total.dtype == seen.task_loss.box.dtype == torch.float32
    torch.testing.assert_close(seen.task_loss.total, built(batch, ALL).task_loss.total, rtol=0.05, atol=0)
    assert detections[0].boxes.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_and_moves(family: str) -> None:
    built, batch = detector(family), scene((2,))
    assert torch.equal(copy.deepcopy(built)(batch, ALL).task_loss.total, built(batch, ALL).task_loss.total)
    assert all(name.startswith("model.") for name in built.state_dict())
    moved = copy.deepcopy(built).to("meta")
    assert {t.device.type for t in (*moved.parameters(), *moved.buffers())} == {"meta"}
    assert moved.extract(batch.to("meta")).levels[0].shape == built.extract(batch).levels[0].shape


def wrapped(slots: tuple[int, ...] | None) -> Detector:
    """A torchvision model with four logits as torchvision's builders make it; ours are some of its slots."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = parse_detector("fcos/tiny")
        model = build_detector(settings, ("x0", "x1", "x2", "x3"), seed=0).model.eval()
    return DenseDetector(
        model, CLASSES, name="wrapped", loss=fcos_loss, class_slots=slots, strides=settings.strides
    ).eval()


def test_class_slots_map_labels_both_ways() -> None:
    built, batch = wrapped((3, 1, 2)), scene((4,))
    built.model.score_thresh = 0.0
    slots = torch.tensor([3, 1, 2])
    seen = built(batch, ALL)
    rows = built.model.head(list(seen.pyramid.levels))["cls_logits"]
    torch.testing.assert_close(seen.class_logits.levels[0].flatten(3).squeeze(1), rows[:, :240, slots].mT)
    theirs = replace(batch, targets=tuple(replace(t, labels=slots[t.labels]) for t in batch.targets))
    total = sum(torchvision_losses(built, seen.pyramid, theirs).values())
    torch.testing.assert_close(seen.task_loss.total, total, rtol=1e-5, atol=0)
    with torch.no_grad():
        built.model.head.classification_head.cls_logits.bias.copy_(torch.tensor([9.0, -9.0, -9.0, 5.0]))
    found = built.detect(batch)[0]
    assert found.labels[0] == 0  # slot 3; slot 0 scores higher and is none of ours
    assert found.labels.max() <= 2


@pytest.mark.parametrize("slots", [(1, 1, 2), (0, 1, 4), (-1, 0, 1), (0, 1)])
def test_wrong_class_slots(slots: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"classes of wrapped must be one slot of 0 to 3 each, got 3 names and slots .* a slot of its own",
    ):
        wrapped(slots)


def test_wrong_number_of_strides() -> None:
    model = build_detector(parse_detector("fcos/tiny"), CLASSES, seed=0).model
    with pytest.raises(ConfigError, match=r"strides must be as many as the model's anchor levels, 3, got \(8, 16\)"):
        DenseDetector(model, CLASSES, name="x", loss=fcos_loss, strides=(8, 16))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_torchvisions_own_builders(family: str) -> None:
    arguments = {"weights": None, "weights_backbone": None, "num_classes": 91}
    build, loss = (fcos_resnet50_fpn, fcos_loss) if family == "fcos" else (retinanet_resnet50_fpn_v2, retinanet_loss)
    built = DenseDetector(build(**arguments), CLASSES, name="t", loss=loss, class_slots=(1, 3, 90)).eval()
    batch = scene((3,))
    with torch.no_grad():
        seen = built(batch, ALL)
    slots = torch.tensor([1, 3, 90])
    theirs = replace(batch, targets=tuple(replace(t, labels=slots[t.labels]) for t in batch.targets))
    total = sum(torchvision_losses(built, seen.pyramid, theirs).values())
    torch.testing.assert_close(seen.task_loss.total, total, rtol=1e-5, atol=0)
    assert built.spec.pyramid.channels == 256


def test_objects_of_several_images_are_matched_as_each_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images without objects among them, objects of one place, and as few at a time as are held at once."""
    draw = torch.Generator().manual_seed(3)
    centres = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) * 8
    anchors = torch.cat((centres - 4, centres + 4), dim=1)
    boxes = []
    for count in (3, 0, 5, 1):
        corners = 28 * torch.rand((count, 2), generator=draw)
        own = torch.cat((corners, corners + 30 * torch.rand((count, 2), generator=draw)), dim=1)
        boxes.append(torch.cat((own, own[:1])))
    alone = [match_by_centre([one], anchors, counts=(16,), radius=1.5)[0] for one in boxes]
    assert any(bool((one >= 0).any()) for one in alone)
    for held in (1, 1 << 16):
        monkeypatch.setattr(assigning, "_AT_ONCE", held)
        matched = match_by_centre(boxes, anchors, counts=(16,), radius=1.5)
        assert all(torch.equal(*both) for both in zip(matched, alone, strict=True))
