from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detdistill.data.transforms import (
    STRENGTHS,
    Augmentation,
    AugmentSettings,
    ImageSettings,
    draw_augmentation,
    transform_sample,
)
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.types import Targets


def targets_of(*boxes: tuple[float, float, float, float]) -> Targets:
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        ignored=torch.zeros(len(boxes), dtype=torch.bool),
    )


def grey_image(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 40, dtype=torch.uint8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# --- window, upside down, grey, blur --------------------------------------------------------------------------------

MORE = {"flip_vertical": 0.5, "crop": 0.5, "grey": 0.5, "blur": 0.5}


def test_the_draws_of_before_are_the_same_bits_with_and_without_those_of_today() -> None:
    """The first nine numbers of the generator, whatever comes after them."""
    settings, objects = AugmentSettings(scale_jitter=(0.5, 2.0), colour=1.0), targets_of((2, 3, 20, 30))
    for seed in range(5):
        scale, crop_y, crop_x, flip, *_ = torch.rand(9, generator=generator(seed), dtype=torch.float64).tolist()
        plain = draw_augmentation(settings, generator(seed), targets=objects, size=(40, 60))
        assert (plain.scale, plain.crop_y, plain.crop_x) == (0.5 + 1.5 * scale, crop_y, crop_x)
        assert plain.flip == (flip < 0.5)
        assert (plain.flip_vertical, plain.blur, plain.window) == (False, 0.0, None)
        for name in MORE:
            own = {"flip_vertical": ("flip_vertical",), "crop": ("window",), "grey": ("saturation",), "blur": ("blur",)}
            changed = draw_augmentation(
                replace(settings, **{name: 1.0}), generator(seed), targets=objects, size=(40, 60)
            )
            assert replace(changed, **{key: getattr(plain, key) for key in own[name]}) == plain
            assert name == "crop" or changed != plain


def test_each_change_is_as_frequent_as_it_is_set() -> None:
    objects, settings = targets_of((5, 5, 35, 25), (40, 30, 60, 40)), AugmentSettings(**MORE)
    draws = [draw_augmentation(settings, generator(seed), targets=objects, size=(40, 60)) for seed in range(200)]
    for count in (
        sum(drawn.flip_vertical for drawn in draws),
        sum(drawn.saturation == 0 for drawn in draws),
        sum(drawn.blur > 0 for drawn in draws),
    ):
        assert 70 <= count <= 130
    # A window that fits is not always found.
    assert 50 <= sum(drawn.window is not None for drawn in draws) <= 130
    assert all(drawn.blur == 0 or 0.001 <= drawn.blur <= 0.008 for drawn in draws)


def test_a_window_holds_an_object_and_keeps_those_whose_centre_it_holds() -> None:
    settings, found = AugmentSettings(flip=0.0, crop=1.0), 0
    for seed in range(120):
        numbers = torch.rand(6, 2, 2, generator=generator(seed))
        low, high = numbers.amin(dim=1), numbers.amax(dim=1)
        boxes = torch.cat((low, high), dim=1) * torch.tensor([90.0, 60, 90, 60])
        stored = Targets(boxes, torch.arange(6), torch.tensor([False] * 5 + [True]))
        drawn = draw_augmentation(settings, generator(seed), targets=stored, size=(60, 90))
        if drawn.window is None:
            continue
        found += 1
        top, left, rows, columns = drawn.window
        assert min(rows / 60, columns / 90) >= 0.3
        assert 0.5 <= (rows / 60) / (columns / 90) <= 2
        image = torch.zeros(3, 60, 90, dtype=torch.uint8)
        seen, targets = transform_sample(image, stored, settings=ImageSettings(60, 90), drawn=drawn)
        assert seen.shape[1] <= 60
        assert seen.shape[2] <= 90
        assert seen.shape[1] == 60 or seen.shape[2] == 90
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([left, top])
        inside = ((centres > 0) & (centres < torch.tensor([columns, rows]))).all(dim=1)
        kept = [label for label in targets.labels.tolist() if label < 5]
        assert kept
        assert set(kept) <= set(inside[:5].nonzero().flatten().tolist())
        factor = seen.shape[2] / columns
        for label, box in zip(targets.labels.tolist(), targets.boxes, strict=True):
            x1, y1, x2, y2 = (boxes[label] - torch.tensor([left, top, left, top])).tolist()
            clipped = torch.tensor([max(x1, 0), max(y1, 0), min(x2, columns), min(y2, rows)]) * factor
            torch.testing.assert_close(box, clipped, atol=1.0, rtol=0.03)
    assert found > 80


def test_an_image_without_objects_stays_whole() -> None:
    for objects in (targets_of(), replace(targets_of((1, 1, 30, 30)), ignored=torch.tensor([True])), None):
        assert draw_augmentation(AugmentSettings(crop=1.0), generator(0), targets=objects, size=(40, 60)).window is None


def test_what_is_ignored_stays_so_where_it_reaches_into_the_window() -> None:
    stored = replace(targets_of((0, 0, 40, 40), (60, 0, 90, 40)), ignored=torch.tensor([True, True]))
    _, targets = transform_sample(
        grey_image(40, 90), stored, settings=ImageSettings(40, 90), drawn=Augmentation(window=(0, 30, 20, 25))
    )
    assert targets.labels.tolist() == [0]
    # 20 x 25 pixels become 40 x 50.
    torch.testing.assert_close(targets.boxes, torch.tensor([[0.0, 0, 20, 40]]))


def test_the_same_window_is_seen_at_both_sizes() -> None:
    image = torch.randint(256, (3, 60, 90), generator=generator(0), dtype=torch.uint8)
    stored = targets_of((10, 10, 50, 40), (60, 20, 88, 55))
    settings = AugmentSettings(crop=1.0, crop_smallest=0.5, flip_vertical=1.0, grey=1.0)
    drawn = draw_augmentation(settings, generator(1), targets=stored, size=(60, 90))
    assert drawn.window is not None
    student, teacher = ImageSettings(30, 45), ImageSettings(60, 90)
    small, theirs = transform_sample(image, stored, settings=student, drawn=drawn)
    large, ours = transform_sample(image, stored, settings=teacher, drawn=drawn.at(teacher, drawn_for=student))
    assert theirs.labels.tolist() == ours.labels.tolist()
    torch.testing.assert_close(2 * theirs.boxes, ours.boxes, atol=1.0, rtol=0.03)
    assert [abs(2 * side - other) <= 1 for side, other in zip(small.shape[1:], large.shape[1:], strict=True)]
    assert torch.equal(small[0], small[2])


def test_upside_down_twice_is_the_identity() -> None:
    image = torch.randint(256, (3, 40, 60), generator=generator(0), dtype=torch.uint8)
    settings, drawn = ImageSettings(40, 60), Augmentation(flip_vertical=True)
    turned, once = transform_sample(image, targets_of((3, 4, 20, 30)), settings=settings, drawn=drawn)
    assert torch.equal(turned, image.flip(1))
    assert once.boxes.tolist() == [[3, 10, 20, 36]]
    assert torch.equal(transform_sample(turned, once, settings=settings, drawn=drawn)[0], image)


def test_a_blur_is_a_share_of_the_short_side_and_keeps_the_mean() -> None:
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    image[:, 100, 100] = 255
    for side, blur in ((200, 0.008), (400, 0.008)):
        plain, _ = transform_sample(image, targets_of(), settings=ImageSettings(side, side))
        blurred, _ = transform_sample(
            image, targets_of(), settings=ImageSettings(side, side), drawn=Augmentation(blur=blur)
        )
        assert blurred.max() < plain.max() / 2
        # 0.008 of 200 pixels are 1.6: nothing is left four of these away.
        reach = round(4 * blur * side) + 2
        rows = (blurred[0] > 0).any(dim=1).nonzero().flatten()
        assert side // 2 + 1 - reach <= rows.min() <= rows.max() <= side // 2 + 1 + reach
    thin, _ = transform_sample(
        torch.zeros(3, 1, 900, dtype=torch.uint8),
        targets_of(),
        settings=ImageSettings(8, 64),
        drawn=Augmentation(blur=1),
    )
    assert thin.shape == (3, 1, 64)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_strength_is_spelled_out_in_the_written_file(tmp_path, name):
    options = {"data.folder": "d", "student.detector": "fcos/tiny", "out": "o"}
    config = read_run_config(None, [f"data.augment={name}"], purpose="train", options=options)
    assert config.data.augment == STRENGTHS[name]
    (tmp_path / "config.yaml").write_text(config.yaml())
    assert f"augment: {name}" not in config.yaml()
    assert read_run_config(tmp_path / "config.yaml", purpose="train") == config
    (tmp_path / "own.yaml").write_text(f"data:\n  folder: d\n  augment: {name}\nstudent: fcos/tiny\nout: o\n")
    assert read_run_config(tmp_path / "own.yaml", purpose="train").data == config.data
    changed = read_run_config(tmp_path / "own.yaml", ["data.augment.flip=0.25"], purpose="train")
    assert changed.data.augment == replace(STRENGTHS[name], flip=0.25)
    weaker = read_run_config(tmp_path / "own.yaml", ["data.augment=none", "data.augment.blur=1"], purpose="train")
    assert weaker.data.augment == AugmentSettings(flip=0.0, blur=1.0)


def test_the_default_is_light_and_none_changes_nothing():
    assert STRENGTHS["light"] == AugmentSettings()
    drawn = draw_augmentation(STRENGTHS["none"], generator(3), targets=targets_of((1, 1, 9, 9)), size=(10, 10))
    assert replace(drawn, crop_y=0.0, crop_x=0.0) == Augmentation()


def test_another_word_is_refused(tmp_path):
    options = {"data.folder": "d", "student.detector": "fcos/tiny", "out": "o"}
    said = r"data\.augment must be one of none, light, medium, strong, or a section of keys, got 'stong'\. Did you"
    with pytest.raises(ConfigError, match=rf"The command line: {said}"):
        read_run_config(None, ["data.augment=stong"], purpose="train", options=options)
    (tmp_path / "own.yaml").write_text("data: {folder: d, augment: stong}\nstudent: fcos/tiny\nout: o\n")
    with pytest.raises(ConfigError, match=rf"own\.yaml: {said}"):
        read_run_config(tmp_path / "own.yaml", purpose="train")
