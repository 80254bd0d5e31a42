"""Which image gets noise, which is cropped, and that twins and boxes go along."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import Stored
from detdistill.data.sample_specific import SampleSpecific, SampleSpecificSettings, noised, shares
from detdistill.data.sources import open_split
from detdistill.errors import ConfigError
from detdistill.types import Targets

ALWAYS_NOISE = SampleSpecific(SampleSpecificSettings(noise_probability=1.0))
STRONG_CROP = SampleSpecific(SampleSpecificSettings(smallest_crop=0.2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(boxes: list[list[float]], *, ignored: list[bool] | None = None, size: tuple[int, int] = (60, 80)) -> Stored:
    """Every pixel tells its place: red is the row, green the column."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    image = torch.stack((rows, columns, torch.zeros_like(rows))).to(torch.uint8)
    targets = Targets(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        ignored=torch.tensor(ignored or [False] * len(boxes), dtype=torch.bool),
    )
    return Stored(image=image, targets=targets, twins={"adversarial": 255 - image, "other": image.clone()})


SMALL, LARGE = [30.0, 20.0, 40.0, 30.0], [20.0, 10.0, 60.0, 50.0]


def test_an_image_without_boxes_is_left_alone() -> None:
    empty = sample([])
    assert ALWAYS_NOISE(empty, generator()) is empty


def test_noise_changes_the_image_and_nothing_else() -> None:
    before = sample([SMALL])
    after = ALWAYS_NOISE(before, generator())
    assert after.image.shape == before.image.shape
    assert not torch.equal(after.image, before.image)
    assert after.targets is before.targets
    assert after.twins is before.twins


def test_noise_probability_0_and_1() -> None:
    never = SampleSpecific(SampleSpecificSettings(noise_probability=0.0))
    before = sample([SMALL])
    for seed in range(20):
        assert never(before, generator(seed)) is before
        assert not torch.equal(ALWAYS_NOISE(before, generator(seed)).image, before.image)


def test_noise_is_clipped_not_wrapped() -> None:
    black, white = (torch.full((3, 40, 40), value, dtype=torch.uint8) for value in (0, 255))
    assert int(noised(black, sd=0.08, generator=generator()).max()) < 120
    assert int(noised(white, sd=0.08, generator=generator()).min()) > 135


def test_a_crop_takes_image_boxes_and_twins_along() -> None:
    before = sample([LARGE, SMALL])
    sizes = set()
    for seed in range(40):
        after = STRONG_CROP(before, generator(seed))
        height, width = after.image.shape[1:]
        sizes.add((height, width))
        top, left = int(after.image[0, 0, 0]), int(after.image[1, 0, 0])
        assert torch.equal(after.image, before.image[:, top : top + height, left : left + width])
        assert torch.equal(after.twins["adversarial"], 255 - after.image)
        assert torch.equal(after.twins["other"], after.image)
        expected = []
        for label, (x1, y1, x2, y2) in enumerate((LARGE, SMALL)):
            box = [max(x1 - left, 0), max(y1 - top, 0), min(x2 - left, width), min(y2 - top, height)]
            if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                expected.append((label, box))
        assert expected
        assert after.targets.labels.tolist() == [label for label, _ in expected]
        assert after.targets.boxes.tolist() == [box for _, box in expected]
    assert len(sizes) > 30


def test_a_crop_never_loses_the_last_box() -> None:
    corner = sample([[0.0, 0.0, 33.0, 33.0]], size=(200, 250))
    lost = 0
    for seed in range(60):
        assert len(STRONG_CROP(corner, generator(seed)).targets.labels) == 1
        tall, wide, down, right = torch.rand(4, generator=generator(seed), dtype=torch.float64).tolist()
        lost += down * 200 * 0.8 * (1 - tall) > 33 or right * 250 * 0.8 * (1 - wide) > 33
    assert lost > 20


def test_an_image_whose_boxes_no_crop_can_keep_stays_whole() -> None:
    thin = SampleSpecific(SampleSpecificSettings(small_px=0))
    before = sample([[10.0, 10.0, 10.5, 40.0]])
    assert thin(before, generator()) is before


def test_ignored_boxes_decide_nothing() -> None:
    crowd = sample([SMALL, LARGE], ignored=[False, True])
    assert ALWAYS_NOISE(crowd, generator()).image.shape == crowd.image.shape
    only_ignored = sample([LARGE], ignored=[True])
    assert ALWAYS_NOISE(only_ignored, generator()) is only_ignored
    # A crop keeps what is left of them.
    kept = SampleSpecific()(sample([LARGE, SMALL], ignored=[False, True]), generator())
    assert kept.targets.ignored.tolist() == [False, True]


def test_it_depends_on_the_generator_alone_and_can_be_sent_to_workers() -> None:
    again = pickle.loads(pickle.dumps(STRONG_CROP))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = STRONG_CROP(sample([LARGE]), generator(3)), again(sample([LARGE]), generator(3))
    assert torch.equal(one.image, other.image)
    assert torch.equal(torch.get_rng_state(), before)


def annotations_of(images: list[list[list[float]]], *, ignored: list[bool]) -> Annotations:
    boxes = [box for one in images for box in one]
    counts = [len(one) for one in images]
    return Annotations(
        images_dir=Path(),
        class_names=("a",),
        category_ids=np.array([1]),
        image_ids=np.arange(len(images)),
        sizes=np.full((len(images), 2), 100, dtype=np.int32),
        name_bytes=np.zeros(0, dtype=np.uint8),
        name_offsets=np.zeros(len(images) + 1, dtype=np.int64),
        offsets=np.cumsum([0, *counts]),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.zeros(len(boxes), dtype=np.int32),
        ignored=np.array(ignored, dtype=np.bool_),
        # The rule looks at the boxes, never at the area of the objects in them.
        areas=np.ones(len(boxes), dtype=np.float32),
    )


def test_shares_of_a_data_set() -> None:
    # Small alone; small and large; none; small and an ignored large one; ignored alone.
    images = [[SMALL], [SMALL, LARGE], [], [SMALL, LARGE], [LARGE]]
    annotations = annotations_of(images, ignored=[False, False, False, False, True, True])
    found = shares(annotations, SampleSpecificSettings())
    assert found.noise_eligible == pytest.approx(2 / 5)
    assert found.noised_expected == pytest.approx(0.3 * 2 / 5)
    assert found.cropped == pytest.approx(1 / 5)


def test_shares_follow_the_same_strict_limit() -> None:
    # 31 · 33 = 1023 is small, 32 · 32 = 1024 is not.
    found = shares(
        annotations_of([[[0.0, 0.0, 31.0, 33.0]], [[0.0, 0.0, 32.0, 32.0]]], ignored=[False, False]),
        SampleSpecificSettings(),
    )
    assert (found.noise_eligible, found.cropped) == (0.5, 0.5)


def test_shares_of_no_images() -> None:
    found = shares(annotations_of([], ignored=[]), SampleSpecificSettings())
    assert (found.noise_eligible, found.noised_expected, found.cropped) == (0, 0, 0)


@pytest.mark.parametrize(("name", "eligible"), [("bccd", 0), ("carla_sim", 61)])
def test_shares_of_real_data(real_data: Path, name: str, eligible: int) -> None:
    annotations, _ = open_split(real_data / name, "train")
    found = shares(annotations, SampleSpecificSettings())
    with_boxes = sum(
        bool((~annotations.ignored[annotations.objects(index)]).any()) for index in range(len(annotations))
    )
    assert round(found.noise_eligible * len(annotations)) == eligible
    assert round(found.cropped * len(annotations)) == with_boxes - eligible


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_probability": 1.5}, "noise_probability must be between 0 and 1, got 1.5"),
        ({"noise_sd": -0.1}, "noise_sd must be a finite number of at least 0, got -0.1"),
        ({"noise_sd": float("nan")}, "noise_sd must be a finite number of at least 0, got nan"),
        ({"smallest_crop": 0.0}, "smallest_crop must be more than 0 and at most 1, got 0.0"),
        ({"small_px": -1.0}, "small_px must be a finite number of at least 0, got -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SampleSpecificSettings(**changes)
