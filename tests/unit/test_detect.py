from __future__ import annotations

from collections.abc import Set

import pytest
import torch
from torch import Tensor, nn

from detdistill.detectors.base import Detector, DetectorSpec, PyramidLayout, evaluating
from detdistill.errors import DistillError
from detdistill.evaluation.detect import detect_split
from detdistill.types import Batch, Detections, Need, Observation, Pyramid, Targets


class Scripted(Detector):
    """Answers with the boxes it was given, and notes how it was asked."""

    def __init__(self, answers: dict[int, Tensor], score: float = 0.5) -> None:
        super().__init__()
        self.spec = DetectorSpec("scripted", "scripted", ("a",), PyramidLayout((8,), 1))
        self.norm = nn.BatchNorm2d(1)
        self.weight = nn.Parameter(torch.tensor(score))
        self.answers = answers
        self.asked: list[tuple[bool, bool, bool]] = []

    def extract(self, batch: Batch) -> Pyramid:
        return Pyramid((batch.images[:, :1],), (8,))

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        return Observation(pyramid)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        self.asked.append((self.training, self.norm.training, torch.is_grad_enabled()))
        boxes = [self.answers[image_id] for image_id in batch.image_ids]
        return tuple(Detections(b, self.weight.expand(len(b)), torch.zeros(len(b), dtype=torch.int64)) for b in boxes)


def batch_of(*image_ids: int, size=(50, 100), stored=(100, 400)) -> Batch:
    n = len(image_ids)
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Batch(torch.zeros(n, 3, 64, 128), (size,) * n, (stored,) * n, (nothing,) * n, image_ids, (0,) * n)


def test_boxes_are_mapped_to_the_stored_image_and_clipped():
    detector = Scripted({1: torch.tensor([[10.0, 5.0, 20.0, 25.0], [-1.0, -1.0, 120.0, 60.0]])})
    (one,) = detect_split(detector, [batch_of(1)], device="cpu")
    # x grows by 400 / 100, y by 100 / 50.
    assert one.boxes.tolist() == [[40.0, 10.0, 80.0, 50.0], [0.0, 0.0, 400.0, 100.0]]
    assert one.scores.tolist() == [0.5, 0.5]
    assert one.labels.tolist() == [0, 0]


def test_images_come_in_the_loaders_order_with_progress():
    detector = Scripted({i: torch.zeros(i % 3, 4) for i in (30, 4, 17)})
    done: list[int] = []
    found = detect_split(detector, [batch_of(30, 4), batch_of(17)], device="cpu", progress=done.append)
    assert [one.image_id for one in found] == [30, 4, 17]
    assert [one.boxes.shape for one in found] == [(0, 4), (1, 4), (2, 4)]
    assert done == [2, 3]


def test_an_empty_split_gives_an_empty_list():
    assert detect_split(Scripted({}), [], device="cpu") == []


@pytest.mark.parametrize("training", [True, False])
def test_eval_mode_within_and_every_modules_own_mode_after(training):
    detector = Scripted({1: torch.zeros(0, 4)}).train(training)
    detector.norm.eval()
    detect_split(detector, [batch_of(1)], device="cpu")
    assert detector.asked == [(False, False, False)]
    assert (detector.training, detector.norm.training) == (training, False)
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error():
    detector = Scripted({})
    with pytest.raises(KeyError):
        detect_split(detector, [batch_of(1)], device="cpu")
    assert detector.training
    assert detector.norm.training


def test_evaluating_leaves_gradients_as_they_were():
    module = nn.BatchNorm1d(2)
    with torch.no_grad(), evaluating(module):
        assert not module.training
    assert module.training


@pytest.mark.parametrize("where", ["box", "score"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_detection_that_is_not_finite_names_its_image(where, value):
    bad = torch.tensor([[0.0, 0.0, value if where == "box" else 1.0, 1.0]])
    detector = Scripted({7: torch.zeros(0, 4), 8: bad}, score=value if where == "score" else 0.5)
    with pytest.raises(DistillError, match=r"image 8 must be finite, got NaN or infinity\. .*learning rate"):
        detect_split(detector, [batch_of(7, 8)], device="cpu")
    assert detector.training
