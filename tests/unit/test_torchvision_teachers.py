"""torchvision's own detectors as teachers, offline: a builder's random weights stand in for the published ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model_builder, get_model_weights

from detdistill.detectors import torchvision_teachers
from detdistill.detectors.torchvision_teachers import TORCHVISION_DETECTORS, load_torchvision
from detdistill.errors import ConfigError
from detdistill.types import Batch, Need, Targets

FAST = "fasterrcnn_mobilenet_v3_large_fpn"
COCO = 80


def build(name: str, **arguments: int) -> nn.Module:
    torch.manual_seed(0)
    return get_model_builder(name)(weights=None, weights_backbone=None, **arguments)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(build(FAST).state_dict(), path)
    return path


def batch_of(images: torch.Tensor) -> Batch:
    height, width = images.shape[-2:]
    target = Targets(torch.tensor([[10.0, 10.0, 90.0, 100.0]]), torch.tensor([79]), torch.zeros(1, dtype=torch.bool))
    count = len(images)
    return Batch(
        images=images,
        sizes=((height, width),) * count,
        stored_sizes=((height, width),) * count,
        targets=(target,) * count,
        image_ids=tuple(range(count)),
        seeds=tuple(range(count)),
    )


QUICK = (FAST, "fcos_resnet50_fpn")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TORCHVISION_DETECTORS],
)
def test_finds_what_torchvisions_own_model_finds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    model = build(name).eval()
    # Random heads give every class the same score: spread them, and take low scores too.
    generator = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        if key.endswith(("cls_logits.bias", "cls_score.bias")):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        elif "mobilenet" in name and key.endswith(("rpn.head.cls_logits.weight", "cls_score.weight")):
            parameter.data *= 500  # its random features hardly differ, and of equal scores any may come first
    torch.save(model.state_dict(), path)
    loaded = load_torchvision(f"torchvision:{name}={path}")
    assert loaded.report.fraction == 1.0
    assert len(loaded.report.matched) == len(model.state_dict())
    spec = loaded.detector.spec
    assert spec.name == f"torchvision:{name}"
    assert loaded.class_names == spec.class_names
    assert len(spec.class_names) == COCO
    assert spec.class_names[0] == "person"
    assert spec.class_names[-1] == "toothbrush"
    assert loaded.image == {"short_side": 800, "long_side": 1333, "pad_multiple": 32}
    assert loaded.detector.settings is None
    # A file of the user's own keeps the norms as they are.
    own_eps = {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert {module.eps for module in loaded.detector.modules() if isinstance(module, nn.BatchNorm2d)} == own_eps
    assert spec.pyramid.channels == 256

    # The image enters as it enters ours: rounding differs between layouts, and random heads leave scores nearly equal.
    model.backbone.register_forward_pre_hook(lambda _, seen: (seen[0].contiguous(memory_format=torch.channels_last),))
    model.transform.min_size, model.transform.max_size = (128,), 256
    image = torch.rand(3, 128, 256, generator=generator)
    batch = batch_of(image[None])
    detector = loaded.detector.eval()
    for each in (model, detector.model):
        if spec.two_stage:
            each.roi_heads.score_thresh, each.roi_heads.detections_per_img = 0.01, 2000
    with torch.no_grad():
        (theirs,) = model([image])
        (ours,) = detector.detect(batch)
        seen = detector(batch, {Need.TASK_LOSS, Need.IMAGE_LOSSES, Need.CLASS_LOGITS})
    categories = get_model_weights(name).DEFAULT.meta["categories"]
    named = torch.tensor([categories[label] in spec.class_names for label in theirs["labels"]])
    assert named.any()
    ours_named = [spec.class_names[label] for label in ours.labels]
    theirs_named = [categories[label] for label in theirs["labels"][named]]
    if spec.two_stage:
        assert not named.all()
        # The second stage drops the unnamed slots after its last cut.
        assert ours_named == theirs_named
        torch.testing.assert_close(ours.scores, theirs["scores"][named])
        torch.testing.assert_close(ours.boxes, theirs["boxes"][named], atol=1e-3, rtol=1e-4)
    else:
        kept = len(theirs_named)
        assert ours_named[:10] == theirs_named[:10]
        assert len(ours_named) >= kept
        torch.testing.assert_close(ours.scores[:10], theirs["scores"][named][:10])
        torch.testing.assert_close(ours.boxes[:10], theirs["boxes"][named][:10], atol=1e-3, rtol=1e-4)
    assert torch.isfinite(seen.task_loss.total)
    assert seen.pyramid.strides == spec.pyramid.strides
    for stride, level in zip(seen.pyramid.strides, seen.pyramid.levels, strict=True):
        assert level.shape[-2:] == (128 // stride, 256 // stride)


def test_a_training_checkpoint_with_the_state_under_model_is_read(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": torch.load(file, weights_only=True), "epoch": 3}, path)
    assert load_torchvision(f"torchvision:{FAST}={path}").report.fraction == 1.0


def test_files_without_batch_norm_counters_and_with_old_names_are_whole(file: Path, tmp_path: Path) -> None:
    # The published files were written from frozen norms, and by older versions of the RPN's head and the FPN.
    state = torch.load(file, weights_only=True)
    plain = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(plain) < len(state)
    for part in ("weight", "bias"):
        plain[f"rpn.head.conv.{part}"] = plain.pop(f"rpn.head.conv.0.0.{part}")
        plain[f"backbone.fpn.inner_blocks.0.{part}"] = plain.pop(f"backbone.fpn.inner_blocks.0.0.{part}")
    path = tmp_path / "old.pth"
    torch.save(plain, path)
    loaded = load_torchvision(f"torchvision:{FAST}={path}")
    assert loaded.report.fraction == 1.0
    got = loaded.detector.state_dict()
    assert all(torch.equal(got[f"model.{key}"], value) for key, value in state.items() if "tracked" not in key)


@pytest.mark.slow
def test_the_published_file_gets_the_norms_it_was_trained_with(tmp_path: Path) -> None:
    name = "retinanet_resnet50_fpn"
    state = build(name).state_dict()
    path = tmp_path / "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    torch.save(state, path)
    detector = load_torchvision(f"torchvision:{name}={path}").detector
    assert {module.eps for module in detector.modules() if isinstance(module, nn.BatchNorm2d)} == {0.0}


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("torchvision:fcos_resnet50", r"Did you mean 'fcos_resnet50_fpn'\?"),
        ("torchvision:yolo", r"Known: fasterrcnn_mobilenet_v3_large_fpn, "),
        ("torchvision:", r"Known: "),
        ("torchvision:fcos_resnet50_fpn=", r"Did you mean"),
        ("fcos_resnet50_fpn", r"Did you mean"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(text: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"must be torchvision:NAME or .*, got '{text}'\. {remedy}"):
        load_torchvision(text)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "six.pth"
    torch.save(build(FAST, num_classes=6).state_dict(), path)
    with pytest.raises(
        ConfigError, match=r"must have torchvision's 91 COCO class slots .*\(91, 1024\)\), got \(6, 1024\)"
    ):
        load_torchvision(f"torchvision:{FAST}={path}")


def test_another_models_file_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"must fit the model tensor by tensor, got:\nmatched \d+ of \d+ tensors"):
        load_torchvision(f"torchvision:fasterrcnn_resnet50_fpn={file}")


def test_a_missing_or_broken_file_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pth must be a file"):
        load_torchvision(f"torchvision:{FAST}={tmp_path / 'nowhere.pth'}")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"cut\.pth must be a state dict"):
        load_torchvision(f"torchvision:{FAST}={cut}")


def test_weights_that_are_no_numbers_are_refused(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["rpn.head.cls_logits.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ConfigError, match=r"nan\.pth must hold finite weights, got NaN .* rpn\.head\.cls_logits\.bias"):
        load_torchvision(f"torchvision:{FAST}={tmp_path / 'nan.pth'}")


def test_offline_the_remedy_names_the_url_and_the_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_args: object, **_named: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(
        ConfigError,
        match=rf"weights of {FAST} must be in torch's cache or downloadable, got: no route to host\. "
        rf"Fetch https://\S+\.pth on another machine and pass torchvision:{FAST}=FILE",
    ):
        load_torchvision(f"torchvision:{FAST}")


def test_published_weights_come_from_torchs_cache(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "checkpoints" / "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(file.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    loaded = load_torchvision(f"torchvision:{FAST}")
    assert loaded.report.source == f"{FAST}'s published weights"
    assert loaded.report.fraction == 1.0


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": time.sleep}, path)
    with pytest.raises(ConfigError, match=r"evil\.pth must be a state dict"):
        load_torchvision(f"torchvision:{FAST}={path}")
    assert torchvision_teachers.PREFIX == "torchvision:"
