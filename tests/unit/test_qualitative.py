"""Which images are chosen to show, by what was found and what was wrong in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.report.qualitative import Counts, Pick, choose_pictures, count_hits, draw_pictures

SIZE = (60, 100)
# One object of class 0 in every image, one of class 1, and an ignored one of class 0.
CAR, MAN, IGNORED = (10, 10, 30, 30), (50, 10, 60, 40), (70, 10, 95, 30)


def split(folder: Path, count: int, *, size: tuple[int, int] = SIZE) -> Annotations:
    for index in range(count):
        Image.new("RGB", size[::-1], (90, 90, 90)).save(folder / f"{index}.png")
    names = [f"{index}.png" for index in range(count)]
    return Annotations(
        images_dir=folder,
        class_names=("car", "man"),
        category_ids=np.array([1, 2]),
        image_ids=np.arange(100, 100 + count),
        sizes=np.full((count, 2), size, dtype=np.int32),
        name_bytes=np.frombuffer("".join(names).encode(), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, names)]),
        offsets=3 * np.arange(count + 1),
        boxes=np.tile(np.array([CAR, MAN, IGNORED], dtype=np.float32), (count, 1)),
        labels=np.tile(np.array([0, 1, 0], dtype=np.int32), count),
        ignored=np.tile(np.array([False, False, True]), count),
        areas=np.ones(3 * count, dtype=np.float32),
    )


def found(image: int, *guesses: tuple[tuple[float, ...], int, float]) -> ImageDetections:
    boxes = np.array([box for box, _, _ in guesses], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in guesses], dtype=np.float32)
    return ImageDetections(100 + image, boxes, scores, np.array([label for _, label, _ in guesses], dtype=np.int64))


@pytest.mark.parametrize(
    ("guesses", "hits", "wrong"),
    [
        ((), 0, 0),
        (((CAR, 0, 0.9), (MAN, 1, 0.9)), 2, 0),
        (((CAR, 0, 0.9), (CAR, 0, 0.8)), 1, 1),  # an object can be found once
        (((CAR, 1, 0.9),), 0, 1),  # of another class
        # 20 x 20 and 20 x 20 moved by 6: 280 / 520 = 0.54 hits, by 7: 260 / 540 = 0.48 does not.
        ((((16, 10, 36, 30), 0, 0.9),), 1, 0),
        ((((17, 10, 37, 30), 0, 0.9),), 0, 1),
        (((IGNORED, 0, 0.9), (IGNORED, 0, 0.8)), 0, 0),  # neither right nor wrong, however many
        ((((80, 12, 90, 20), 0, 0.9),), 0, 0),  # a part of an ignored region
        (((IGNORED, 1, 0.9),), 0, 1),  # ignored for another class
        (((CAR, 0, 0.39), (MAN, 1, 0.41)), 1, 0),  # below the score
    ],
)
def test_found_and_wrong_are_counted(
    guesses: tuple[tuple[tuple[float, ...], int, float], ...], hits: int, wrong: int, tmp_path: Path
) -> None:
    counts = count_hits(split(tmp_path, 1), 0, found(0, *guesses), score=0.4)
    assert counts == Counts(found=hits, objects=2, wrong=wrong)


def test_an_image_without_objects_or_detections_counts_nothing(tmp_path: Path) -> None:
    annotations = split(tmp_path, 1)
    assert count_hits(annotations, 0, None, score=0.4) == Counts(0, 2, 0)
    none = np.zeros(0)
    empty = replace(
        annotations,
        offsets=np.array([0, 0]),
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=none.astype(np.int32),
        ignored=none.astype(bool),
    )
    assert count_hits(empty, 0, found(0, (CAR, 0, 0.9)), score=0.4) == Counts(0, 0, 1)


def changed(tmp_path: Path) -> tuple[Annotations, list[ImageDetections], list[ImageDetections]]:
    """Ten images; distillation finds one object more in 3, two more in 7, and adds a false box to 5."""
    annotations = split(tmp_path, 10)
    alone = [found(index) for index in range(10)]
    distilled = [found(index) for index in range(10)]
    distilled[3] = found(3, (CAR, 0, 0.9))
    distilled[7] = found(7, (CAR, 0, 0.9), (MAN, 1, 0.9))
    distilled[5] = found(5, ((40, 40, 60, 60), 0, 0.9))
    return annotations, alone, distilled


def test_random_images_come_first_then_the_fixed_and_the_broken(tmp_path: Path) -> None:
    annotations, alone, distilled = changed(tmp_path)
    for seed in range(20):
        picks = choose_pictures(annotations, alone=alone, distilled=distilled, seed=seed, images=3)
        drawn = [pick.index for pick in picks if pick.reason == "random"]
        assert len(drawn) == 3
        assert drawn == sorted(drawn)
        rest = [(pick.index, pick.reason, pick.change) for pick in picks[3:]]
        expected = [(7, "fixed most", 2), (3, "fixed most", 1), (5, "broken most", -1)]
        assert rest == [one for one in expected if one[0] not in drawn]


def test_the_seed_alone_decides_the_random_ones(tmp_path: Path) -> None:
    annotations, alone, distilled = changed(tmp_path)

    def drawn(seed: int) -> tuple[int, ...]:
        picks = choose_pictures(annotations, alone=alone, distilled=distilled, seed=seed, images=4)
        return tuple(pick.index for pick in picks if pick.reason == "random")

    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(20)}) > 10
    everything = choose_pictures(annotations, alone=alone, distilled=distilled, images=50)
    assert [pick.index for pick in everything] == list(range(10))


def test_an_image_may_lack_detections_and_extremes_are_limited(tmp_path: Path) -> None:
    annotations, _, distilled = changed(tmp_path)
    picks = choose_pictures(annotations, alone=[], distilled=distilled, seed=1, images=1, extremes=1)
    assert [pick.reason for pick in picks].count("fixed most") <= 1
    assert {pick.alone.found for pick in picks} == {0}


def test_wrong_numbers_are_told(tmp_path: Path) -> None:
    annotations, alone, distilled = changed(tmp_path)
    with pytest.raises(ConfigError, match="--images must be at least 1 and --seed at least 0, got 0 and 0"):
        choose_pictures(annotations, alone=alone, distilled=distilled, images=0)
    with pytest.raises(ConfigError, match=r"--score must be between 0 and 1, got 1\.5\. Leave it out"):
        choose_pictures(annotations, alone=alone, distilled=distilled, score=1.5)


def test_a_caption_says_why_and_what() -> None:
    pick = Pick(3, "fixed most", Counts(1, 4, 2), Counts(3, 4, 0))
    assert pick.remark() == "fixed most · alone 1/4 found, 2 wrong → distilled 3/4 found, 0 wrong (+4)"


@pytest.mark.parametrize(("size", "panel"), [((60, 100), 480), ((37, 124), 720)])
def test_wide_pictures_get_wide_panels(size: tuple[int, int], panel: int, tmp_path: Path) -> None:
    annotations = split(tmp_path, 2, size=size)
    seen = [found(index, (CAR, 0, 0.9)) for index in range(2)]
    picks = choose_pictures(annotations, alone=seen, distilled=seen, images=2)
    draw_pictures(tmp_path / "out.png", annotations, picks, alone=seen, distilled=seen, teacher=seen)
    with Image.open(tmp_path / "out.png") as picture:
        # Four panels with gaps of 12 pixels.
        assert picture.width == 4 * panel + 5 * 12
