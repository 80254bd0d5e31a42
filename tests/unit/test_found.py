"""What a teacher found in an image: it goes where the image goes, exactly as labels do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detdistill.data.dataset import DetectionDataset, Draw, Stored
from detdistill.data.loader import Beside, collate, training_loader
from detdistill.data.sample_specific import SampleSpecific
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.types import Batch, Targets
from twins_by_hand import five_images

IMAGE = ImageSettings(short_side=24, long_side=40, pad_multiple=8)
WILD = AugmentSettings(flip=0.5, flip_vertical=0.5, crop=0.7, scale_jitter=(0.6, 1.6), short_sides=(16, 40), colour=0.5)


class AsLabelled:
    """A teacher that found the labels themselves, sure by number, with a class distribution of its own."""

    def __init__(self, annotations: object) -> None:
        self.plain = DetectionDataset(annotations, image=IMAGE)  # type: ignore[arg-type]

    def __call__(self, index: int) -> Targets:
        annotations = self.plain.annotations
        objects = annotations.objects(index)
        boxes = torch.tensor(annotations.boxes[objects], dtype=torch.float32)
        count = len(boxes)
        return Targets(
            boxes,
            torch.tensor(annotations.labels[objects], dtype=torch.int64),
            torch.zeros(count, dtype=torch.bool),
            scores=torch.linspace(0.9, 0.5, count),
            probabilities=torch.full((count, 2), 0.5),
        )


def alike(batch: Batch) -> None:
    """What was found lies where the labels do, and counts what it did."""
    assert batch.found is not None
    assert len(batch.found) == len(batch)
    for found, target in zip(batch.found, batch.targets, strict=True):
        assert torch.equal(found.boxes, target.boxes)
        assert torch.equal(found.labels, target.labels)
        assert found.scores is not None
        assert found.probabilities is not None
        assert found.probabilities.shape == (len(found.labels), 2)
        assert len(found.scores) == len(found.labels)


def test_what_was_found_goes_through_every_change_exactly_as_the_labels_do(tmp_path: Path) -> None:
    annotations = five_images(tmp_path)
    for theirs in (None, ImageSettings(short_side=48, long_side=80, pad_multiple=16)):
        dataset = DetectionDataset(
            annotations,
            image=IMAGE,
            teacher_image=theirs,
            augment=WILD,
            sample_transform=SampleSpecific(),
            found=AsLabelled(annotations),
        )
        beside = Beside(dataset, 1)
        for batch in training_loader(dataset, batch_size=2, steps=25, beside=beside):
            alike(batch)
            assert batch.unlabelled is not None
            alike(batch.unlabelled)
            alike(batch.image(1))
            shown = batch.against_found
            assert shown.targets == batch.found
            assert batch.to("cpu").found is not None


def test_a_flip_moves_a_box_by_the_images_width(tmp_path: Path) -> None:
    annotations = five_images(tmp_path)
    found = Targets(
        torch.tensor([[2.0, 3, 12, 9]]), torch.tensor([1]), torch.tensor([False]), scores=torch.tensor([0.5])
    )
    height, width = (int(side) for side in annotations.sizes[0])
    seen: list[Tensor] = []
    for flip in (0.0, 1.0):
        dataset = DetectionDataset(
            annotations,
            image=ImageSettings(min(height, width), max(height, width), 8),
            augment=AugmentSettings(flip=flip),
            found=lambda index: found,
        )
        sample = dataset[Draw(0, 0)]
        assert sample.found is not None
        seen.append(sample.found.boxes)
        (target,) = collate([sample], pad_multiple=8).found or ()
        assert torch.equal(target.scores or torch.zeros(0), torch.tensor([0.5]))
    assert torch.equal(seen[0], found.boxes)
    assert torch.equal(seen[1], torch.tensor([[width - 12.0, 3, width - 2.0, 9]]))


def test_nobody_asked_is_none(tmp_path: Path) -> None:
    dataset = DetectionDataset(five_images(tmp_path), image=IMAGE)
    (batch,) = training_loader(dataset, batch_size=2, steps=1)
    assert batch.found is None
    assert batch.against_found is batch


def test_a_crop_that_a_recipe_makes_takes_it_along() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [30, 20, 60, 50]])
    labels = Targets(boxes, torch.tensor([0, 1]), torch.tensor([False, False]))
    stored = Stored(torch.zeros(3, 60, 80, dtype=torch.uint8), labels, {}, replace(labels, scores=torch.ones(2)))
    cropped = SampleSpecific()(stored, torch.Generator().manual_seed(1))
    assert cropped.found is not None
    assert cropped.image.shape != stored.image.shape
    assert torch.equal(cropped.found.boxes, cropped.targets.boxes)


@pytest.mark.parametrize("ignored", [False, True])
def test_taught_objects_keep_scores_and_classes(ignored: bool) -> None:
    found = Targets(
        torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20]]),
        torch.tensor([0, 1]),
        torch.tensor([ignored, False]),
        scores=torch.tensor([0.2, 0.9]),
        probabilities=torch.tensor([[0.6, 0.4], [0.1, 0.9]]),
    )
    for one in (found.taught(), found.to("cpu").taught()):
        assert one.scores is not None
        assert one.probabilities is not None
        assert one.scores.tolist() == pytest.approx([0.9] if ignored else [0.2, 0.9])
        assert one.probabilities.shape == (len(one.labels), 2)
        assert one.doubtful is not None
