"""Augmentation by named strengths, and its kinds beyond flip, colour and scale: windows, upside down, grey, blur."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detdistill.data.resizing import transform_sample
from detdistill.data.transforms import (
    STRENGTHS,
    Augmentation,
    AugmentSettings,
    ImageSettings,
    draw_augmentation,
)
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.types import Targets
from plain_images import generator, grey_image, targets_of

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
