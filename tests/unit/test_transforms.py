from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detdistill.data.resizing import transform_sample, transform_targets
from detdistill.data.transforms import (
    Augmentation,
    AugmentSettings,
    ImageSettings,
    draw_augmentation,
)
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.types import Targets
from plain_images import generator, grey_image, targets_of


@pytest.mark.parametrize(
    ("settings", "stored", "expected"),
    [
        (ImageSettings(320, 10_000), (480, 640), (320, 427)),
        (ImageSettings(320, 10_000), (640, 480), (427, 320)),
        (ImageSettings(320, 400), (480, 640), (300, 400)),  # the long side decides
        (ImageSettings(96, 160), (96, 160), (96, 160)),
        (ImageSettings(96, 160), (48, 80), (96, 160)),  # scaled up
        (ImageSettings(8, 64), (1, 1000), (1, 64)),  # never below one pixel
        (ImageSettings(800, 1333), (375, 1242), (402, 1333)),
    ],
)
def test_resized_keeps_the_ratio(settings, stored, expected):
    assert settings.resized(*stored) == expected


def test_resized_never_exceeds_the_sides():
    settings = ImageSettings(97, 131)
    for height in range(1, 400, 7):
        for width in range(1, 400, 11):
            short, long = sorted(settings.resized(height, width))
            assert 1 <= short <= 97
            assert long <= 131
            assert short == 97 or long == 131


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageSettings(0, 10), "image.short_side must be at least 1 pixel, got 0."),
        (lambda: ImageSettings(10, 10, pad_multiple=0), "image.pad_multiple must be at least 1 pixel, got 0."),
        (lambda: ImageSettings(10, 9), r"image.long_side must be at least image.short_side \(10\), got 9."),
        (lambda: AugmentSettings(flip=1.5), "augment.flip must be between 0 and 1, got 1.5."),
        (lambda: AugmentSettings(colour=float("nan")), "augment.colour must be between 0 and 1, got nan."),
        (
            lambda: AugmentSettings(scale_jitter=(1.2, 0.8)),
            "augment.scale_jitter must be two factors with 0 < low <= high, got 1.2, 0.8.",
        ),
        (lambda: AugmentSettings(scale_jitter=(0.0, 1.0)), "augment.scale_jitter must be two factors"),
        (lambda: AugmentSettings(scale_jitter=(1.0, float("inf"))), "augment.scale_jitter must be two factors"),
        (
            lambda: AugmentSettings(short_sides=(800, 480)),
            "augment.short_sides must be two whole numbers of pixels with 1 <= low <= high, got 800, 480. Give",
        ),
        (lambda: AugmentSettings(short_sides=(0, 480)), "augment.short_sides must be two whole numbers of pixels"),
        *(
            (lambda name=name: AugmentSettings(**{name: -0.1}), f"augment.{name} must be between 0 and 1, got -0.1.")
            for name in ("flip_vertical", "crop", "grey", "blur")
        ),
        (lambda: AugmentSettings(crop_smallest=0.0), "augment.crop_smallest must be above 0 and at most 1, got 0.0."),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_draws_stay_in_their_ranges_and_differ():
    settings = AugmentSettings(flip=0.5, colour=0.5, scale_jitter=(0.5, 2.0))
    draws = [draw_augmentation(settings, generator(seed)) for seed in range(200)]
    for drawn in draws:
        assert 0.5 <= drawn.scale <= 2.0
        assert min(drawn.brightness, drawn.contrast, drawn.saturation) >= 0.8
        assert max(drawn.brightness, drawn.contrast, drawn.saturation) <= 1.2
        assert abs(drawn.hue) <= 0.025
    assert min(drawn.scale for drawn in draws) < 0.6
    assert max(drawn.scale for drawn in draws) > 1.9
    assert 70 <= sum(drawn.flip for drawn in draws) <= 130
    assert len({drawn.brightness for drawn in draws}) == 200


def test_nothing_is_drawn_where_nothing_may_change():
    drawn = draw_augmentation(AugmentSettings(flip=0.0), generator(3))
    assert replace(drawn, crop_y=0.0, crop_x=0.0) == Augmentation()


def test_flip_probability_one_always_flips():
    assert all(draw_augmentation(AugmentSettings(flip=1.0), generator(seed)).flip for seed in range(50))


def test_switching_colour_on_leaves_the_other_draws_alone():
    plain = draw_augmentation(AugmentSettings(scale_jitter=(0.5, 2.0)), generator(5))
    colour = draw_augmentation(AugmentSettings(scale_jitter=(0.5, 2.0), colour=1.0), generator(5))
    assert (plain.scale, plain.crop_y, plain.crop_x, plain.flip) == (
        colour.scale,
        colour.crop_y,
        colour.crop_x,
        colour.flip,
    )


def test_short_sides_are_whole_pixels_up_to_both_ends():
    drawn = [draw_augmentation(AugmentSettings(short_sides=(3, 6)), generator(seed)).short_side for seed in range(200)]
    assert set(drawn) == {3, 4, 5, 6}
    assert min(drawn.count(side) for side in (3, 4, 5, 6)) >= 30


def test_switching_short_sides_on_leaves_the_other_draws_alone():
    settings = AugmentSettings(scale_jitter=(0.5, 2.0), colour=1.0)
    plain = draw_augmentation(settings, generator(5))
    drawn = draw_augmentation(replace(settings, short_sides=(480, 800)), generator(5))
    assert plain.short_side is None
    assert drawn == replace(plain, short_side=drawn.short_side)


@pytest.mark.parametrize(
    ("stored", "short_side", "expected"),
    [
        ((375, 1242), 480, (402, 1333)),  # KITTI: the long side decides at all of the paper's scales
        ((375, 1242), 800, (402, 1333)),
        ((375, 1242), 240, (240, 795)),
        ((480, 640), 480, (480, 640)),
        ((480, 640), 800, (800, 1067)),
        ((480, 640), 1200, (1000, 1333)),  # above the nominal size too
    ],
)
def test_a_drawn_short_side_keeps_the_ratio_and_the_bound_of_the_long_one(stored, short_side, expected):
    image, targets = transform_sample(
        grey_image(*stored),
        targets_of((0, 0, stored[1], stored[0])),
        settings=ImageSettings(800, 1333),
        drawn=Augmentation(short_side=short_side, crop_y=0.9, crop_x=0.9),
    )
    assert image.shape[1:] == expected
    torch.testing.assert_close(targets.boxes, torch.tensor([[0.0, 0, expected[1], expected[0]]]))


def test_short_sides_are_a_setting_of_a_run(tmp_path):
    written = "data.augment.short_sides=[480, 800]"
    options = {"data.folder": "d", "student.detector": "fcos/tiny", "out": "o"}
    config = read_run_config(None, [written], purpose="train", options=options)
    assert config.data.augment == AugmentSettings(short_sides=(480, 800))
    (tmp_path / "config.yaml").write_text(config.yaml())
    assert read_run_config(tmp_path / "config.yaml", purpose="train") == config
    with pytest.raises(ConfigError, match=r"augment\.short_sides must be two whole numbers of pixels"):
        read_run_config(None, ["data.augment.short_sides=[2, 1]"], purpose="train", options=options)


def test_image_without_boxes_stays_without_boxes():
    drawn = Augmentation(scale=1.5, crop_y=0.5, crop_x=0.5, flip=True, brightness=1.1, hue=0.02)
    image, targets = transform_sample(grey_image(40, 60), targets_of(), settings=ImageSettings(20, 30), drawn=drawn)
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8
    assert targets.boxes.shape == (0, 4)
    assert targets.labels.shape == (0,)
    assert targets.ignored.shape == (0,)


def test_evaluation_view_only_resizes():
    image, targets = transform_sample(
        grey_image(480, 640), targets_of((64, 48, 320, 240), (0, 0, 640, 480)), settings=ImageSettings(320, 999)
    )
    assert image.shape == (3, 320, 427)
    torch.testing.assert_close(
        targets.boxes, torch.tensor([[64 * 427 / 640, 32, 320 * 427 / 640, 160], [0, 0, 427, 320]])
    )
    assert type(targets.boxes) is torch.Tensor
    assert image.is_contiguous()


def test_flip_twice_is_the_identity():
    settings = ImageSettings(48, 64)
    boxes = targets_of((3.25, 4.5, 20, 30), (0, 0, 64, 48), (60.5, 1, 63, 40))
    image = torch.randint(256, (3, 48, 64), generator=generator(0), dtype=torch.uint8)
    once_image, once = transform_sample(image, boxes, settings=settings, drawn=Augmentation(flip=True))
    twice_image, twice = transform_sample(once_image, once, settings=settings, drawn=Augmentation(flip=True))
    torch.testing.assert_close(once.boxes[0], torch.tensor([44, 4.5, 60.75, 30]))
    assert torch.equal(once_image, image.flip(2))
    assert torch.equal(twice_image, image)
    torch.testing.assert_close(twice.boxes, boxes.boxes)


def test_boxes_below_one_pixel_are_dropped_with_their_labels_and_flags():
    targets = Targets(
        boxes=torch.tensor([[0.0, 0, 1.5, 40], [10, 10, 30, 30], [5, 5, 5, 20], [100, 0, 120, 20], [0, 0, 2, 2]]),
        labels=torch.tensor([0, 1, 2, 3, 4]),
        ignored=torch.tensor([False, True, False, False, True]),
    )
    _, kept = transform_sample(grey_image(80, 80), targets, settings=ImageSettings(40, 40))
    assert kept.labels.tolist() == [1, 4]
    assert kept.ignored.tolist() == [True, True]
    torch.testing.assert_close(kept.boxes, torch.tensor([[5.0, 5, 15, 15], [0, 0, 1, 1]]))


def test_scale_jitter_never_outgrows_the_nominal_size():
    settings = ImageSettings(50, 80)
    for scale in (0.03, 0.3, 0.99, 1.0, 1.01, 1.7, 3.0):
        drawn = Augmentation(scale=scale, crop_y=0.9999, crop_x=0.9999)
        image, targets = transform_sample(
            grey_image(100, 140), targets_of((0, 0, 140, 100)), settings=settings, drawn=drawn
        )
        nominal = settings.resized(100, 140)
        assert image.shape[1:] == tuple(max(min(round(side * scale), side), 1) for side in nominal)
        height, width = image.shape[1:]
        torch.testing.assert_close(targets.boxes, torch.tensor([[0.0, 0, width, height]]))


def test_crop_reaches_both_ends():
    stripes = torch.arange(100, dtype=torch.uint8).expand(3, 100, 100).contiguous()
    settings = ImageSettings(50, 50)
    left, _ = transform_sample(stripes, targets_of(), settings=settings, drawn=Augmentation(scale=2.0))
    right, _ = transform_sample(
        stripes, targets_of(), settings=settings, drawn=Augmentation(scale=2.0, crop_x=0.999999)
    )
    assert left[0, 0].tolist() == list(range(50))
    assert right[0, 0].tolist() == list(range(50, 100))


def require_the_rectangle_inside_its_box(seed: int, crop: float) -> None:
    numbers = torch.randint(0, 1000, (6,), generator=generator(seed)).tolist()
    height, width = 60 + numbers[0] % 140, 60 + numbers[1] % 140
    x1, y1 = numbers[2] % (width - 30), numbers[3] % (height - 30)
    x2, y2 = x1 + 12 + numbers[4] % (width - x1 - 12), y1 + 12 + numbers[5] % (height - y1 - 12)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, y1:y2, x1:x2] = 220
    settings = AugmentSettings(flip=0.5, colour=0.5, scale_jitter=(0.6, 1.8), flip_vertical=0.5, crop=crop, blur=0.5)
    stored = targets_of((x1, y1, x2, y2))
    drawn = draw_augmentation(settings, generator(seed), targets=stored, size=(height, width))
    changed, targets = transform_sample(image, stored, settings=ImageSettings(90, 110), drawn=drawn)
    red = changed[0].float() - changed[2].float() > 60
    if len(targets.boxes) == 0:
        assert red.sum() <= 2 * max(changed.shape[1:])
        return
    rows, columns = red.any(dim=1).nonzero(), red.any(dim=0).nonzero()
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    torch.testing.assert_close(targets.boxes[0], torch.tensor(extent).float(), atol=1.6, rtol=0)


def test_a_drawn_rectangle_stays_inside_its_box_under_every_augmentation():
    for seed in range(40):
        require_the_rectangle_inside_its_box(seed, crop=0.0)
        require_the_rectangle_inside_its_box(seed, crop=1.0)


@pytest.mark.parametrize(
    "drawn",
    [Augmentation(brightness=1.4), Augmentation(contrast=0.6), Augmentation(saturation=0.6), Augmentation(hue=0.05)],
)
def test_each_colour_change_changes_pixels_and_no_boxes(drawn):
    image = torch.randint(256, (3, 30, 40), generator=generator(0), dtype=torch.uint8)
    boxes = targets_of((3, 4, 20, 30))
    changed, targets = transform_sample(image, boxes, settings=ImageSettings(30, 40), drawn=drawn)
    assert changed.dtype == torch.uint8
    assert changed.shape == image.shape
    assert (changed != image).float().mean() > 0.3
    assert torch.equal(targets.boxes, boxes.boxes)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        # Two pixels: red-ish (200, 50, 50) and grey (80, 80, 80). Luma 94.85 and 80, mean 87.425.
        (Augmentation(brightness=1.2), [[240, 60, 60], [96, 96, 96]]),
        (Augmentation(contrast=0.5), [[144, 69, 69], [84, 84, 84]]),  # 0.5 x + 43.7125
        (Augmentation(saturation=0.5), [[147, 72, 72], [80, 80, 80]]),  # 0.5 x + 0.5 luma
        (Augmentation(saturation=0.0), [[95, 95, 95], [80, 80, 80]]),
        (Augmentation(brightness=2.0), [[255, 100, 100], [160, 160, 160]]),  # cut off at 255
    ],
)
def test_colour_values(drawn, expected):
    image = torch.tensor([[200, 50, 50], [80, 80, 80]], dtype=torch.uint8).T.reshape(3, 1, 2)
    changed, _ = transform_sample(image, targets_of(), settings=ImageSettings(1, 2), drawn=drawn)
    assert changed.reshape(3, 2).T.tolist() == expected


def test_hue_keeps_grey_and_luma_and_turns_back():
    image = torch.tensor([[180, 70, 90], [80, 80, 80]], dtype=torch.uint8).T.reshape(3, 1, 2)
    settings = ImageSettings(1, 2)
    turned, _ = transform_sample(image, targets_of(), settings=settings, drawn=Augmentation(hue=0.05))
    back, _ = transform_sample(turned, targets_of(), settings=settings, drawn=Augmentation(hue=-0.05))
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert turned[:, 0, 1].tolist() == [80, 80, 80]
    assert (turned[:, 0, 0].int() - image[:, 0, 0].int()).abs().max() > 10
    torch.testing.assert_close(luma @ turned[:, 0, 0].float(), luma @ image[:, 0, 0].float(), atol=1, rtol=0)
    assert (back.int() - image.int()).abs().max() <= 2


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_moved_to_the_bit_as_torchvisions_transforms_move_them(seed):
    settings = AugmentSettings(flip=0.5, flip_vertical=0.5, scale_jitter=(0.6, 1.6) if seed % 3 else (1.0, 1.0))
    image, random = ImageSettings(90, 160), np.random.default_rng(seed)
    stored = (90, 160) if seed % 4 == 0 else (int(random.integers(40, 400)), int(random.integers(40, 400)))
    corner = random.uniform(-9, [stored[1], stored[0]], (20, 2))
    boxes = torch.tensor(
        np.concatenate([corner, corner + random.uniform(0, 200, (20, 2))], axis=1), dtype=torch.float32
    )
    drawn = draw_augmentation(settings, generator(seed))
    whole = image.resized(*stored)
    size = [max(round(side * drawn.scale), 1) for side in whole]
    rows, columns = (min(side, limit) for side, limit in zip(size, whole, strict=True))
    moved = F.resize(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=stored), size)
    top, left = int(drawn.crop_y * (size[0] - rows + 1)), int(drawn.crop_x * (size[1] - columns + 1))
    moved = moved if [rows, columns] == size else F.crop(moved, top, left, rows, columns)
    moved = F.horizontal_flip(moved) if drawn.flip else moved
    moved = F.vertical_flip(moved) if drawn.flip_vertical else moved
    expected = F.clamp_bounding_boxes(moved).as_subclass(torch.Tensor)
    kept = (expected[:, 2:] - expected[:, :2] >= 1).all(dim=1)
    ours = transform_targets(targets_of(*boxes.tolist()), stored, settings=image, drawn=drawn)
    assert ours.boxes.numpy().tobytes() == expected[kept].numpy().tobytes()
    assert ours.labels.tolist() == torch.nonzero(kept)[:, 0].tolist()
