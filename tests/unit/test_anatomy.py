"""Which images a timm model takes, and that a detector gives it no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from coco_by_hand import CLASSES, draw_data
from detdistill.detectors import anatomy as looked_at
from detdistill.detectors.anatomy import Sides, anatomy
from detdistill.detectors.backbones import build_backbone
from detdistill.detectors.families.fcos import FCOSSettings
from detdistill.distillation.step import SupervisedStep
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.profile import profile_job
from detdistill.store.students import save_detector
from detdistill.types import Clock
from scenes_in_memory import GRID, SIZES, scene_batch, tiny_student
from watched_jobs import Watcher

FREE = Sides()


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("test_resnet", FREE),
        ("test_vit", FREE),  # patches of 16 pixels, its positions are interpolated
        ("swinv2_tiny_window8_256", FREE),
        ("test_maxvit", Sides(multiple=160)),  # whole windows
        ("halonet_h1", Sides(multiple=256)),  # likewise, which timm does not call a fixed size
        ("test_coatnet", Sides(multiple=160, longest=160)),  # a position for every cell
        ("pit_ti_224", Sides(multiple=224, longest=224)),  # in 27 cells of 8 pixels
        ("mobilevitv2_050", FREE),  # rounds up to whole patches inside
        ("inception_v3", None),  # convolutions without padding
        ("crossvit_tiny_240", None),  # strides of 12 and 17
    ],
)
def test_which_images_a_backbone_takes(name: str, sides: Sides | None) -> None:
    before = torch.get_rng_state()
    assert anatomy(name).sides == sides
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_levels_are_counted_among_all_maps_of_a_model() -> None:
    with torch.device("meta"):
        body = timm.create_model("fastvit_mci4", features_only=True, out_indices=anatomy("fastvit_mci4").indices)
    assert anatomy("fastvit_mci4").strides == (4, 8, 16, 32)  # it has a fifth, of stride 64, which it keeps for itself
    assert body.feature_info.reduction() == [4, 8, 16, 32]


def test_a_model_is_looked_at_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy("test_resnet")
    monkeypatch.setattr(looked_at, "_probe", None)
    assert anatomy("test_resnet").strides == (2, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("backbone", "strides"),
    [("test_maxvit", (8, 16, 32)), ("test_coatnet", (8, 16, 32)), ("test_vit", (16, 32)), ("test_vit_relpos", (16,))],
)
def test_backbones_of_a_fixed_size_learn_and_detect(backbone: str, strides: tuple[int, ...]) -> None:
    detector = tiny_student("fcos", backbone=backbone, strides=strides)
    batch = scene_batch()
    levels = detector.extract(batch).levels
    assert [tuple(one.shape[-2:]) for one in levels] == [(-(-GRID[0] // s), -(-GRID[1] // s)) for s in strides]
    SupervisedStep(detector)(batch, Clock(step=0, total_steps=1)).total.backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is None or one.grad.isfinite().all() for one in detector.parameters())
    # Portrait after landscape: nothing of the first size is kept.
    turned = replace(batch, images=batch.images.mT.contiguous(), sizes=tuple((w, h) for h, w in SIZES))
    with torch.no_grad():
        assert len(detector.eval().detect(turned)) == len(SIZES)


def test_images_are_padded_for_the_body_and_its_maps_cut_back() -> None:
    settings = FCOSSettings(backbone="test_maxvit", strides=(8, 16, 32), fpn_channels=16)
    backbone = build_backbone(settings).eval()
    images = torch.rand(1, 3, 96, 192, generator=torch.Generator().manual_seed(0))
    whole = torch.zeros(1, 3, 160, 320)
    whole[..., :96, :192] = images
    maps = [one[..., : 96 // s, : 192 // s] for one, s in zip(backbone.body(whole), settings.strides, strict=True)]
    wanted = backbone.fpn(dict(enumerate(maps)))
    assert all(map(torch.equal, backbone(images).values(), wanted.values()))


@pytest.mark.parametrize(
    ("backbone", "strides", "message"),
    [
        (
            "inception_v3",
            (8, 16, 32),
            r"maps of the backbone 'inception_v3' must have the cells .*Take another backbone",
        ),
        ("crossvit_tiny_240", (8, 16), r"has, \(12, 17\), got \(8, 16\)\. Take another backbone\.$"),
    ],
)
def test_backbones_that_fit_no_pyramid(backbone: str, strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_student("fcos", backbone=backbone, strides=strides)


def proved(folder: Path, *settings: str, said: Watcher | None = None) -> stages.Proved:
    """As far as a training of FCOS on images of 96 x 64 pixels goes before its first step."""
    if not (folder / "data").exists():
        draw_data(folder / "data")
    options = {"data.folder": folder / "data", "student.detector": "fcos/tiny", "out": folder / "run"}
    config = read_run_config(None, ["train.steps=1", *settings], purpose="train", options=options)
    return stages.prove(stages.build(stages.open_inputs(config), progress=said), progress=said)


SMALL = ("data.image.short_side=20", "data.image.long_side=30")


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (("train.batch_size=1",), "train.batch_size=2"),
        (("train.batch_size=6", "train.accumulate=6"), "train.accumulate=3"),
        (("train.batch_size=3", "train.accumulate=3"), "train.accumulate=1"),
    ],
)
def test_a_batch_norm_that_sees_one_value_is_refused_before_training(
    settings: tuple[str, ...], remedy: str, tmp_path: Path
) -> None:
    message = (
        rf"for fcos/test_resnet, whose batch-norm learns nothing from one image of 32 x 32 pixels.* Set {remedy}\.$"
    )
    with pytest.raises(ConfigError, match=message):
        proved(tmp_path, *SMALL, *settings)
    assert not (tmp_path / "run").exists()
    proved(tmp_path, *SMALL, *settings, remedy)
    proved(tmp_path, *SMALL, *settings, "student.norm=group")
    proved(tmp_path, *settings)  # 64 x 96 pixels are 2 x 3 cells


def test_small_images_by_augmentation_count(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one image of 32 x 32 pixels"):
        proved(tmp_path, "train.batch_size=1", "data.augment.scale_jitter=[0.3,1]")
    with pytest.raises(ConfigError, match=r"one image of 32 x 32 pixels"):
        proved(tmp_path, "train.batch_size=1", "data.augment.short_sides=[20,64]")


def test_looking_at_one_image_changes_nothing(tmp_path: Path) -> None:
    draw_data(tmp_path / "data")
    options = {"data.folder": tmp_path / "data", "student.detector": "fcos/tiny", "out": tmp_path / "run"}
    config = read_run_config(None, ["train.steps=1", "train.batch_size=1"], purpose="train", options=options)
    built = stages.build(stages.open_inputs(config))
    before = {name: tensor.clone() for name, tensor in built.step.student.state_dict().items()}
    state = torch.get_rng_state()
    stages.prove(built)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.step.student.state_dict().items())


def test_a_run_says_what_is_padded_and_refuses_what_is_too_large(tmp_path: Path) -> None:
    said = Watcher()
    proved(tmp_path, "student.detector=fcos/test_maxvit", "student.mean=[0.5,0.5,0.5]", said=said)
    padded = "the backbone test_maxvit takes no images of 64 x 96 pixels: they are padded to 160 x 160 inside it"
    assert any(line.startswith(padded) for line in said.lines)
    assert "fcos/test_maxvit: pixels normalised by mean 0.5, 0.5, 0.5 and std 0.229, 0.224, 0.225 (mean as set)" in (
        said.lines
    )
    coatnet = ("student.detector=fcos/test_coatnet", "data.image.short_side=128", "data.image.long_side=192")
    with pytest.raises(ConfigError) as refused:
        proved(tmp_path, *coatnet)
    message, _, remedy = str(refused.value).rstrip(".").partition(" Set ")
    assert "'test_coatnet' must be at most 160 x 160 pixels" in message
    assert "got 128 x 192 with their padding." in message
    assert remedy == "data.image.short_side=106 data.image.long_side=160 data.image.pad_multiple=32"
    proved(tmp_path, *coatnet, *remedy.split())
    # A window may be taller than its image: 64 x 96 pixels become up to 192 high.
    tall = ("student.detector=fcos/test_coatnet", "data.image.short_side=64", "data.image.long_side=192")
    proved(tmp_path, *tall)
    with pytest.raises(ConfigError, match=r"got 192 x 192 .* Set data\.image\.short_side=160 data\.image\.long_"):
        proved(tmp_path, *tall, "data.augment.crop=0.5")


def test_a_teacher_of_a_fixed_size_is_told_its_own_setting(tmp_path: Path) -> None:
    draw_data(tmp_path / "data")
    teacher = tiny_student("fcos", backbone="test_coatnet", classes=CLASSES)
    save_detector(teacher, tmp_path / "teacher", image={"short_side": 64, "long_side": 96})
    words = {"data": tmp_path / "data", "student": "fcos/tiny", "teacher": tmp_path / "teacher", "method": "hint"}

    def ready(*settings: str) -> stages.Proved:
        options = {**words, "out": tmp_path / "run"}
        config = read_run_config(None, ["train.steps=1", *settings], purpose="distill", options=options)
        return stages.prove(stages.build(stages.open_inputs(config)))

    large = [
        f"{section}.image.{side}" for section in ("data", "teacher") for side in ("short_side=128", "long_side=192")
    ]
    with pytest.raises(
        ConfigError, match=r"at most 160 x 160 .* Set data\.image\.short_side=106 data\.image\.long_side"
    ):
        ready(*large[:2])
    with pytest.raises(ConfigError, match=r"at most 160 x 160 .* Set teacher\.image\.short_side=106 teacher\.image\.l"):
        ready("data.image.short_side=64", "data.image.long_side=96", *large[2:])
    assert ready(*large[:2], "teacher.image=own").proofs
    with pytest.raises(ConfigError, match=r"got 192 x 192 with .* Give it images of at most 160 x 160 pixels\.$"):
        profile_job(str(tmp_path / "teacher"), size=(192, 192))
