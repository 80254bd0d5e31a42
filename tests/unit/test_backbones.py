from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from detdistill.detectors.backbones import PyramidBackbone, build_backbone, group_norm, read_state_dict
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.families.fcos import FCOSSettings
from detdistill.detectors.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normaliser,
    outside_image,
    pixel_notes,
    pixel_statistics,
)
from detdistill.errors import ConfigError, MissingDependencyError
from detdistill.store.students import load_detector, save_detector
from detdistill.types import Batch, Targets
from thorough import covering

IMAGES = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))


def build(name: str, *, extra: Literal["conv", "pool"] = "conv", **changes: object) -> PyramidBackbone:
    return build_backbone(FCOSSettings(backbone=name, **changes), extra=extra)  # type: ignore[arg-type]


def batch_of(images: torch.Tensor, sizes: tuple[tuple[int, int], ...]) -> Batch:
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    ids = tuple(range(len(sizes)))
    return Batch(images, sizes, sizes, (empty,) * len(sizes), ids, ids)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (8, 1), (13, 1), (20, 2), (32, 4), (48, 6), (64, 8), (256, 32)]
)
def test_group_norm_has_at_least_8_channels_a_group(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize(
    ("name", "strides"),
    covering(
        itertools.product(
            ["test_resnet", "test_convnext", "mobilenetv3_small_050"],
            [(8, 16, 32, 64, 128), (8, 16, 32), (4, 8, 16, 32), (16,), (8, 16)],
        )
    ),
)
def test_levels_have_the_strides_that_were_asked_for(name: str, strides: tuple[int, ...]) -> None:
    levels = build(name, strides=strides, fpn_channels=16)(IMAGES)
    expected = [(2, 16, -(-96 // stride), -(-160 // stride)) for stride in strides]
    assert [tuple(level.shape) for level in levels.values()] == expected


def test_channels_last_backbone_is_permuted() -> None:
    levels = build("test_mambaout", strides=(8, 16, 32), fpn_channels=16)(IMAGES)
    assert [tuple(level.shape) for level in levels.values()] == [(2, 16, 12, 20), (2, 16, 6, 10), (2, 16, 3, 5)]


def test_pool_adds_one_subsampled_level() -> None:
    backbone = build("test_resnet", strides=(8, 16, 32, 64), fpn_channels=16, extra="pool").eval()
    levels = backbone(IMAGES)
    assert list(levels) == ["0", "1", "2", "pool"]
    assert torch.equal(levels["pool"], levels["2"][..., ::2, ::2])
    with pytest.raises(
        ConfigError,
        match=r"at most one level beyond the backbone 'test_resnet', got .* student\.strides=\[8,16,32,64\]\.",
    ):
        build("test_resnet", strides=(8, 16, 32, 64, 128), extra="pool")


@pytest.mark.parametrize(
    ("norm", "fpn_norm", "width"),
    covering(
        itertools.product(["batch", "frozen", "frozen_statistics", "group"], ["none", "batch", "group"], [32, 64])
    ),
)
def test_every_norm_survives_train(norm: str, fpn_norm: str, width: int) -> None:
    backbone = build("test_resnet", fpn_channels=width, norm=norm, fpn_norm=fpn_norm)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in backbone.body.named_buffers()}
    for mode in (False, True):
        backbone.train(mode)
    sum(level.square().sum() for level in backbone(IMAGES).values()).backward()
    norms = [module for module in backbone.body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) == (norm != "group")
    assert all(module.training == (norm == "batch") for module in norms)
    assert all(module.weight.requires_grad == (norm != "frozen") for module in norms)
    assert all((module.weight.grad is not None) == (norm != "frozen") for module in norms)
    changed = any(not torch.equal(value, before[name]) for name, value in backbone.body.named_buffers())
    assert changed == (norm == "batch")
    kinds = {"none": (), "batch": (nn.BatchNorm2d,), "group": (nn.GroupNorm,)}[fpn_norm]
    found = [module for module in backbone.fpn.modules() if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))]
    assert len(found) == (6 if kinds else 0)
    assert all(isinstance(module, kinds) and module.training for module in found)


def test_group_norm_keeps_the_activation_and_the_scale_of_what_it_replaces() -> None:
    body = build("test_efficientnet", strides=(8, 16, 32), norm="group").body
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    fused = body.bn1
    assert isinstance(fused, nn.Sequential)
    assert isinstance(fused[0], nn.GroupNorm)
    assert any(isinstance(module, nn.SiLU) for module in fused)
    block = build("test_resnet", strides=(8, 16, 32), norm="group").body.layer1[0]
    assert isinstance(block.bn2, nn.GroupNorm)
    assert not block.bn2.weight.any()  # timm starts a residual block's last norm at zero


@pytest.mark.parametrize(("stages", "frozen"), [(0, ""), (1, "layer1"), (2, "layer2"), (4, "layer4")])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_frozen_stages_keep_weights_and_statistics(norm: str, stages: int, frozen: str) -> None:
    backbone = build("test_resnet", fpn_channels=32, norm=norm, freeze_stages=stages)  # type: ignore[arg-type]
    backbone.eval().train()
    before = {name: value.clone() for name, value in backbone.body.state_dict().items()}
    sum(level.square().sum() for level in backbone(IMAGES).values()).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    order = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    kept = order[: order.index(frozen) + 1] if frozen else []
    changed = {name.split(".")[0] for name, v in backbone.body.state_dict().items() if not torch.equal(v, before[name])}
    assert changed == set(order) - set(kept)
    for name, module in backbone.body.named_children():
        assert module.training == (name not in kept) or name in ("act1", "maxpool")


@pytest.mark.parametrize(
    ("name", "strides", "message"),
    [
        (
            "test_convnext",
            (2, 4, 8),
            r"strides that the backbone 'test_convnext' has, \(4, 8, 16, 32\), got \(2, 4, 8\)",
        ),
        ("vit_tiny_patch16_224", (8, 16), r"has, \(16,\), got \(8, 16\)\. .* set student\.strides=\[16\]\."),
        ("test_resnet", (64, 128), r"got \(64, 128\)\. .* set student\.strides=\[32,64,128\]\."),
        ("test_resnett", (8,), r"must be a preset or a timm model, got 'test_resnett'\. Did you mean 'test_resnet'\?"),
        ("resnet18.a1_in1", (8,), r"must name weights of resnet18, got .*\. Did you mean 'resnet18\.a1_in1k'\?"),
        ("resnet18.", (8,), r"must name weights of resnet18, got 'resnet18\.'\. Did you mean 'resnet18'\?"),
        ("qqqqqqqq", (8,), r"got 'qqqqqqqq'\. See timm\.list_models"),
    ],
)
def test_what_cannot_be_built(name: str, strides: tuple[int, ...], message: str) -> None:
    for pretrained in (None, True):
        settings = FCOSSettings(backbone=name, strides=strides, pretrained=pretrained)
        with pytest.raises(ConfigError, match=message):
            build_detector(settings, ("a",), seed=0)


@pytest.mark.parametrize(
    ("name", "suffix"),
    covering(
        itertools.product(
            ["test_resnet", "test_convnext", "mobilenetv3_small_050", "test_mambaout"], [".safetensors", ".pth"]
        )
    ),
)
def test_pretrained_file_gives_the_models_own_features(name: str, suffix: str, tmp_path: Path) -> None:
    whole = timm.create_model(name).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": whole.state_dict()}, path)
    else:
        save_file(whole.state_dict(), path)
    backbone = build(name, strides=(8, 16, 32), pretrained=str(path)).eval()
    given = dict(whole.state_dict())
    values = list(given.values())
    for key, value in backbone.body.state_dict().items():
        source = given.get(key, given.get(key.replace("_", ".", 1)))
        assert torch.equal(value, source) if source is not None else any(value.equal(v) for v in values)
    torch.manual_seed(0)
    expected = whole.forward_intermediates(IMAGES, intermediates_only=True, output_fmt="NCHW")[-1]
    got = backbone.body(IMAGES)[-1]
    got = got.permute(0, 3, 1, 2) if name == "test_mambaout" else got
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected)


def test_pretrained_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    path = tmp_path / "wrong.safetensors"
    state["conv1.other"] = torch.zeros(1)
    del state["bn1.weight"]
    state["bn1.bias"] = torch.zeros(3)
    save_file(state, path)
    message = (
        r"must fit timm's 'test_resnet' .*, got tensors that do not:\nmatched \d+ of \d+ tensors \(9\d %\)\n"
        r"  missing \(1\): bn1\.weight\n  unexpected \(1\): conv1\.other\n"
        r"  other shape \(1\): bn1\.bias \(3,\) in the file, .* here\nGive the file of this very model\."
    )
    with pytest.raises(ConfigError, match=message):
        build("test_resnet", strides=(8, 16, 32), pretrained=str(path))


def test_files_that_hold_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.pth must be a file, got none there\. Check the path\."):
        read_state_dict(tmp_path / "absent.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"this is no weights file")
        with pytest.raises(ConfigError, match=rf"{name} must be a state dict .*cannot be read"):
            read_state_dict(tmp_path / name)
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(ConfigError, match=r"cannot be read \(UnpicklingError\)\. Save the state dict alone"):
        read_state_dict(tmp_path / "module.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match=r"must be a state dict, got something else"):
        read_state_dict(tmp_path / "list.pth")


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **arguments: object) -> nn.Module:
        if pretrained:
            raise OSError("no connection\nand more")
        model: nn.Module = create(name, **arguments)
        return model

    monkeypatch.setattr(timm, "create_model", offline)
    message = r"weights of 'test_resnet' must be .* got the error 'no connection'\. Give student\.pretrained the path"
    with pytest.raises(MissingDependencyError, match=message):
        build("test_resnet", strides=(8, 16, 32), pretrained=True)


@pytest.mark.parametrize("pretrained", [True, "weights.pth"])
def test_pretrained_weights_get_timms_own_normalisation(pretrained: bool | str) -> None:
    tags = timm.list_pretrained()
    differ = 0
    for tag in tags:
        weights = timm.get_pretrained_cfg(tag)
        settings = FCOSSettings(backbone=tag, pretrained=pretrained)
        assert pixel_statistics(settings) == (weights.mean, weights.std)
        differ += pixel_statistics(settings) != (IMAGENET_MEAN, IMAGENET_STD)
    assert len(tags) > 1000
    assert differ > len(tags) / 4


def test_normalisation_that_is_set_or_of_random_weights() -> None:
    lite = FCOSSettings(backbone="tf_efficientnet_lite0")
    assert pixel_statistics(lite) == (IMAGENET_MEAN, IMAGENET_STD)
    assert pixel_notes(lite) == []
    half, own = (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)
    assert pixel_statistics(replace(lite, pretrained=True)) == (half, half)
    assert pixel_statistics(replace(lite, pretrained=True, std=own)) == (half, own)
    assert pixel_statistics(replace(lite, pretrained=True, mean=IMAGENET_MEAN)) == (IMAGENET_MEAN, half)


def test_start_up_says_where_the_normalisation_is_from() -> None:
    lite = FCOSSettings(backbone="tf_efficientnet_lite0", pretrained=True)
    said = "fcos/tf_efficientnet_lite0: pixels normalised by mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5"
    bicubic = (
        "timm's weights tf_efficientnet_lite0.in1k were trained on images resized by bicubic interpolation; "
        "here it is bilinear"
    )
    assert pixel_notes(lite) == [f"{said} (timm's for the weights tf_efficientnet_lite0.in1k)", bicubic]
    assert pixel_notes(replace(lite, mean=(0.1, 0.5, 0.5)))[0].endswith(
        "mean 0.1, 0.5, 0.5 and std 0.5, 0.5, 0.5 (mean as set; timm's for the weights tf_efficientnet_lite0.in1k: "
        "0.5, 0.5, 0.5 and 0.5, 0.5, 0.5)"
    )
    assert pixel_notes(replace(lite, pretrained=None, mean=(0.1, 0.5, 0.5))) == [
        "fcos/tf_efficientnet_lite0: pixels normalised by mean 0.1, 0.5, 0.5 and std 0.229, 0.224, 0.225 (mean as set)"
    ]
    # A file does not say which of the published weights it holds; some of this model's want other numbers.
    notes = pixel_notes(FCOSSettings(backbone="mobilenetv3_large_100", pretrained="w.pth"))
    assert "if w.pth holds one of mobilenetv3_large_100.miil_in21k, " in notes[1]
    named = pixel_notes(FCOSSettings(backbone="mobilenetv3_large_100.miil_in21k", pretrained="w.pth"))
    assert "mean 0, 0, 0 and std 1, 1, 1 (timm's for the weights mobilenetv3_large_100.miil_in21k)" in named[0]
    assert not any("holds one of" in note for note in named)


def test_a_saved_student_keeps_its_weights_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    settings = FCOSSettings(backbone="test_resnet", fpn_channels=16, strides=(8, 16, 32), pretrained=str(path))
    save_detector(build_detector(settings, ("a",), seed=0), tmp_path / "run", image={"short_side": 64, "long_side": 64})
    path.unlink()
    detector = load_detector(tmp_path / "run").detector
    half = (0.5, 0.5, 0.5)
    assert detector.settings is not None
    assert (detector.settings.mean, detector.settings.std) == (half, half)
    batch = batch_of(IMAGES, ((96, 160), (96, 160)))
    assert torch.equal(detector._pixels(batch), (IMAGES - 0.5) / 0.5)  # type: ignore[operator]


def test_normalise_zeroes_what_is_outside_whatever_it_holds() -> None:
    images = IMAGES.clone()
    images[1, :, 64:] = float("nan")
    images[1, :, :, 100:] = float("inf")
    images.requires_grad_()
    batch = batch_of(images, ((96, 160), (64, 100)))
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    got = Normaliser((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(batch)
    torch.testing.assert_close(got[0], (images[0] - mean) / std)
    torch.testing.assert_close(got[1, :, :64, :100], (images[1, :, :64, :100] - mean) / std)
    assert not got[1, :, 64:].any()
    assert not got[1, :, :, 100:].any()
    got.sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert not images.grad[1, :, 64:].any()
    assert outside_image(batch_of(IMAGES, ((96, 160), (96, 160)))) is None
