from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from detdistill.detectors.catalogue import FAMILIES, build_detector, parse_detector, settings_of
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.detectors.settings import PyramidSettings
from detdistill.errors import ConfigError
from detdistill.types import Batch, Need, Targets

CLASSES = ("square", "bar")
PYRAMIDS = [name for name, family in FAMILIES.items() if issubclass(family.settings, PyramidSettings)]
PRESETS = [f"{name}/{preset}" for name in PYRAMIDS for preset in FAMILIES[name].presets]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_learns_something(name: str) -> None:
    settings = parse_detector(name)
    built = build_detector(settings, CLASSES, seed=0)
    assert built.training
    assert built.settings == with_pixel_statistics(settings)
    assert built.spec.class_names == CLASSES
    assert built.spec.pyramid.strides == settings.strides
    assert built.spec.pyramid.channels == settings.fpn_channels
    total = built(pictures(2), {Need.TASK_LOSS}).task_loss.total
    total.backward()
    assert total.isfinite()
    assert all(parameter.grad is not None for parameter in built.parameters())


@pytest.mark.parametrize("name", ["fcos/tiny", "retinanet/small", "faster_rcnn/small"])
def test_weights_are_a_function_of_the_seed(name: str) -> None:
    settings = parse_detector(name)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_detector(settings, CLASSES, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = build_detector(settings, CLASSES, seed=3).state_dict()
    other = build_detector(settings, CLASSES, seed=4).state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_families_defaults_on_a_backbone() -> None:
    fcos, retinanet, rcnn, gfl = (
        parse_detector(f"{family}/resnet18") for family in ("fcos", "retinanet", "faster_rcnn", "gfl")
    )
    assert (fcos.family, fcos.backbone, fcos.fpn_channels, fcos.head_depth) == ("fcos", "resnet18", 256, 4)
    assert fcos.strides == retinanet.strides == (8, 16, 32, 64, 128)
    assert rcnn.strides == (4, 8, 16, 32, 64)
    assert (gfl.anchor_scale, gfl.box_bins, gfl.nms_threshold) == (8.0, 17, 0.6)
    assert (fcos.nms_threshold, retinanet.nms_threshold, rcnn.nms_threshold) == (0.6, 0.5, 0.5)
    assert (rcnn.head_depth, rcnn.anchor_scale, rcnn.anchor_octaves) == (1, 8.0, 1)
    assert (retinanet.anchor_scale, retinanet.anchor_octaves, retinanet.head_norm) == (4.0, 3, "none")
    assert fcos.name == "fcos/resnet18"


@pytest.mark.parametrize("name", [*PRESETS, "fcos/resnet18"])
def test_settings_survive_json(name: str) -> None:
    settings = replace(parse_detector(name), pretrained="weights.pth", mean=(0.5, 0.5, 0.5))
    assert settings_of(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fcos",
            r"must be written FAMILY/BACKBONE.* or MODULE:CLASS, got 'fcos'\. Write for example fcos/resnet18\.",
        ),
        ("fcos/", r"must be written FAMILY/BACKBONE"),
        ("fcso/tiny", r"family must be one of .*got 'fcso'\. Did you mean 'fcos'\?"),
        ("fcos/tinny", r"must be a preset or a timm model, got 'tinny'\. Did you mean 'tiny'\?"),
        ("fcos/resnet81", r"got 'resnet81'\. Did you mean 'resnet18'\?"),
        ("fcos/qqqq", r"got 'qqqq'\. Known: small, tiny\. See timm\.list_models\(\) for all\."),
    ],
)
def test_names_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_detector(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "yolo"}, r"student\.family must be one of .*got 'yolo'"),
        ({"norm": "frozn"}, r"student\.norm must be one of .*got 'frozn'\. Did you mean 'frozen'\?"),
        ({"fpn_norm": "x"}, r"student\.fpn_norm must be one of"),
        ({"head_norm": "batch"}, r"student\.head_norm must be one of"),
        ({"fpn_channels": 0}, r"student\.fpn_channels must be 1 or more, got 0"),
        ({"detections_per_image": 0}, r"student\.detections_per_image must be 1 or more"),
        ({"head_depth": -1}, r"student\.head_depth must be 0 or more, got -1"),
        ({"freeze_stages": 5}, r"student\.freeze_stages must be 0 to 4, got 5\. 0 trains the whole backbone\."),
        ({"strides": ()}, r"student\.strides must be powers of two, each twice the one before, got \(\)"),
        ({"strides": (8, 32)}, r"student\.strides .*got \(8, 32\)"),
        ({"strides": (12, 24)}, r"student\.strides .*got \(12, 24\)"),
        ({"class_prior": 1.0}, r"student\.class_prior must lie between 0 and 1, got 1\.0"),
        ({"nms_threshold": 0.0}, r"student\.nms_threshold must lie between 0 and 1"),
        ({"score_threshold": 1.0}, r"student\.score_threshold must be at least 0 and below 1"),
        (
            {"std": (0.1, 0.0, 0.1)},
            r"student\.std must be three numbers above 0 to 1, as pixels are, got \(0\.1",
        ),
        (
            {"mean": (0.5, 0.5)},
            r"student\.mean must be three numbers from 0 to 1, .*\(0\.5, 0\.5\)\. Leave it",
        ),
        ({"mean": (300.0, 0, 0)}, r"got \(300\.0, 0, 0\)\. Leave it out for the weights' own\.$"),
        (
            {"mean": (123.675, 116.28, 103.53)},
            r"got \(123\.6.*\)\. Divide by 255: student\.mean=\[0\.485,0\.456,0\.406\]\.$",
        ),
        (
            {"mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)},
            r"Divide by 255: student\.mean=\[0\.406,0\.456,0\.485\] student\.std=\[0\.00392,0\.00392,0\.00392\]\.$",
        ),
        ({"std": (58.395, 57.12, 57.375)}, r"Divide by 255: student\.std=\[0\.229,0\.224,0\.225\]\.$"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(parse_detector("fcos/tiny"), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("retinanet/tiny", {"negative_iou": 0.6}, r"negative_iou must be above 0 and at most .* got 0\.6 and 0\.5"),
        ("retinanet/tiny", {"anchor_octaves": 0}, r"student\.anchor_octaves must be 1 or more, got 0"),
        ("retinanet/tiny", {"head_norm": "x"}, r"student\.head_norm must be one of none, group, got 'x'"),
        ("faster_rcnn/small", {"roi_samples": 0}, r"student\.roi_samples must be 1 or more, got 0"),
        ("faster_rcnn/small", {"proposals_test": 0}, r"student\.proposals_test must be 1 or more, got 0"),
        ("faster_rcnn/small", {"anchor_scale": 0.0}, r"student\.anchor_scale must be above 0, got 0\.0"),
    ],
)
def test_a_familys_own_settings_that_cannot_be(name: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(parse_detector(name), **change)  # type: ignore[arg-type]


def test_keys_of_another_family_are_refused() -> None:
    tiny = parse_detector("fcos/tiny")
    with pytest.raises(TypeError, match="roi_samples"):
        replace(tiny, roi_samples=7)  # type: ignore[call-arg]
    content = {**tiny.to_dict(), "roi_samples": 7}
    with pytest.raises(ConfigError, match=r"settings of fcos must have known keys, got 'roi_samples'\."):
        settings_of(content)
    assert settings_of(content, optional={"roi_samples"}) == tiny


def test_settings_from_a_wrong_dictionary() -> None:
    with pytest.raises(ConfigError, match=r"must have known keys, got 'bakcbone'\. Did you mean 'backbone'\?"):
        settings_of({"family": "fcos", "bakcbone": "resnet18"})
    with pytest.raises(ConfigError, match=r"must have the key 'backbone', got none"):
        settings_of({"family": "fcos"})
    with pytest.raises(ConfigError, match=r"must have the key 'family', got none"):
        settings_of({"backbone": "resnet18"})


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_classes_must_be_distinct(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"classes must be at least one name, each once, got"):
        build_detector(parse_detector("fcos/tiny"), names, seed=0)


def pictures(count: int) -> Batch:
    """Noise with bright squares and dark bars."""
    draw = torch.Generator().manual_seed(0)
    images = 0.5 + 0.05 * torch.randn(count, 3, 96, 160, generator=draw)
    targets = []
    for image in images:
        boxes = []
        for left, (width, height), value in ((10, (28, 28), 0.95), (60, (60, 16), 0.05), (125, (24, 24), 0.95)):
            top = int(torch.randint(4, 60, (), generator=draw))
            image[:, top : top + height, left : left + width] = value
            boxes.append([left, top, left + width, top + height])
        labels = torch.tensor([0, 1, 0])
        targets.append(Targets(torch.tensor(boxes, dtype=torch.float32), labels, torch.zeros(3, dtype=torch.bool)))
    sizes, ids = ((96, 160),) * count, tuple(range(count))
    return Batch(images.clamp(0, 1), sizes, sizes, tuple(targets), ids, ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "steps"),
    [
        ("fcos/tiny", {}, 150),
        ("retinanet/tiny", {}, 150),
        ("faster_rcnn/small", {"proposals_train": 60, "roi_samples": 32}, 50),
    ],
)
def test_small_presets_learn_four_pictures_by_heart(name: str, changes: dict[str, Any], steps: int) -> None:
    batch = pictures(4)
    built = build_detector(replace(parse_detector(name), **changes), CLASSES, seed=0)
    optimizer = torch.optim.AdamW(built.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        total = built(batch, {Need.TASK_LOSS}).task_loss.total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert sum(losses[-5:]) < 0.35 * sum(losses[:5])
    with torch.no_grad():
        found = built.eval().detect(batch)
    for target, detections in zip(batch.targets, found, strict=True):
        sure = detections.scores > 0.3
        overlap = box_iou(target.boxes, detections.boxes[sure])
        best, which = overlap.max(dim=1)
        assert (best > 0.6).all()
        assert torch.equal(detections.labels[sure][which], target.labels)
