"""Images held out of training: each on one side, with its own boxes and name, as the seed decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detdistill.data.annotations import Annotations
from detdistill.data.held_out import hold_out
from detdistill.errors import DataError


def split(counts: list[int], classes: int = 3) -> Annotations:
    """Images with so many boxes each, whose labels take turns; box k of image i begins at x = 100 i + k."""
    names = [f"image_{'x' * index}.png".encode() for index in range(len(counts))]
    owners = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([np.arange(count) for count in counts]).astype(np.float32)
    total = len(owners)
    corner = 100 * owners + places
    return Annotations(
        images_dir=Path("images"),
        class_names=tuple("abc"[:classes]),
        category_ids=np.arange(classes) + 1,
        image_ids=np.arange(len(counts)) + 10,
        sizes=np.tile(np.array([[48, 64]], dtype=np.int32), (len(counts), 1)),
        name_bytes=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_offsets=np.concatenate([[0], np.cumsum([len(name) for name in names])]).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.stack([corner, corner, corner + 5, corner + 5], axis=1).astype(np.float32),
        labels=(np.arange(total) % classes).astype(np.int32),
        ignored=np.zeros(total, dtype=np.bool_),
        areas=np.full(total, 25, dtype=np.float32),
    )


def test_images_keep_what_is_theirs() -> None:
    whole = replace(split([2, 0, 3, 1]), scores=np.arange(6, dtype=np.float32))
    part = whole.of(np.array([3, 0]))
    assert [part.file_name(index) for index in range(2)] == [whole.file_name(3), whole.file_name(0)]
    assert part.image_ids.tolist() == [13, 10]
    assert part.boxes[part.objects(0), 0].tolist() == [300.0]
    assert part.boxes[part.objects(1), 0].tolist() == [0.0, 1.0]
    assert part.labels.tolist() == [2, 0, 1]
    assert part.scores is not None
    assert part.scores.tolist() == [5, 0, 1]
    assert len(whole.of(np.array([1])).boxes) == 0


def test_every_image_is_on_one_side_as_the_seed_decides() -> None:
    whole = split([1] * 20)
    learned, held = hold_out(whole, 0.25, seed=3)
    assert sorted([*learned, *held]) == list(range(20))
    assert len(held) == 5
    assert all(np.array_equal(a, b) for a, b in zip((learned, held), hold_out(whole, 0.25, seed=3), strict=True))
    assert not np.array_equal(held, hold_out(whole, 0.25, seed=4)[1])


def test_rare_classes_are_judged_where_they_can_be() -> None:
    whole = split([1] * 30)
    whole.labels[:] = 0
    whole.labels[[4, 9]] = 1
    whole.labels[[17, 22]] = 2
    for seed in range(10):
        learned, held = hold_out(whole, 0.2, seed=seed)
        assert set(whole.labels[held].tolist()) == {0, 1, 2}
        assert len(learned) == 24


@pytest.mark.parametrize("counts", [[3], [0, 0, 0], [4, 0]])
def test_too_few_images_are_refused(counts: list[int]) -> None:
    with pytest.raises(DataError, match=f"with a box on both sides, got {len(counts)} images with {sum(counts)} boxes"):
        hold_out(split(counts), 0.25, seed=0)


def test_folds_hold_out_other_images_each_and_are_drawn_at_once() -> None:
    """Twenty folds of a twentieth are the whole set; the last takes no longer than twenty draws."""
    whole = split([1] * 40)
    held = [hold_out(whole, 0.05, seed=3, fold=fold)[1].tolist() for fold in range(20)]
    assert sorted(index for one in held for index in one) == list(range(40))
    learned, judged = hold_out(whole, 0.05, seed=3, fold=19)
    assert sorted([*learned.tolist(), *judged.tolist()]) == list(range(40))
    with pytest.raises(DataError, match="must be enough to hold some out"):
        hold_out(whole, 0.05, seed=3, fold=20)
