"""Which boxes suppress each other: those of a class, or on request of all classes, in every family alike."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from detdistill.detectors.base import Detector, evaluating, suppressing
from detdistill.errors import CapabilityError
from detdistill.evaluation.detect import detect_split
from detdistill.types import Batch, Detections
from scenes_in_memory import FAMILIES, scene_batch, tiny_student

pytestmark = pytest.mark.covering("family")

OVERLAP, MOST = 0.4, 25


@pytest.fixture(scope="module")
def batch() -> Batch:
    return scene_batch()


def build(family: str, **changes: object) -> Detector:
    return tiny_student(family, seed=3, **({"score_threshold": 0.0, "anchor_octaves": 2} | changes))


def seen(detector: Detector, batch: Batch, *, agnostic: bool) -> tuple[Detections, ...]:
    with evaluating(detector), suppressing(detector, agnostic=agnostic):
        return detector.detect(batch)


def greedy(candidates: Detections) -> list[int]:
    """The definition: going down the scores, a box stays unless one that stayed overlaps it too much."""
    kept: list[int] = []
    overlaps = box_iou(candidates.boxes, candidates.boxes).nan_to_num()  # two boxes without area do not overlap
    for index in range(len(candidates.boxes)):
        if not kept or float(overlaps[index, kept].max()) <= OVERLAP:
            kept.append(index)
    return kept[:MOST]


@pytest.mark.parametrize("family", FAMILIES)
def test_agnostic_is_the_greedy_choice_among_all_candidates(family: str, batch: Batch) -> None:
    everything = seen(build(family, nms_threshold=1 - 1e-9, detections_per_image=10**6), batch, agnostic=False)
    detector = build(family, nms_threshold=OVERLAP, detections_per_image=MOST)
    by_class, across = seen(detector, batch, agnostic=False), seen(detector, batch, agnostic=True)
    changed = False
    for candidates, plain, found in zip(everything, by_class, across, strict=True):
        assert len(candidates.boxes) > len(found.boxes) > 0
        kept = greedy(candidates)
        assert torch.equal(found.boxes, candidates.boxes[kept])
        assert torch.equal(found.scores, candidates.scores[kept])
        assert torch.equal(found.labels, candidates.labels[kept])
        changed |= len(plain.boxes) != len(found.boxes) or not torch.equal(plain.labels, found.labels)
    assert changed
    # Nothing is left behind: the next detection is as before, to the bit.
    for plain, again in zip(by_class, seen(detector, batch, agnostic=False), strict=True):
        assert all(torch.equal(getattr(plain, name), getattr(again, name)) for name in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(("agnostic", "kept"), [(False, [0, 1, 3]), (True, [0, 2, 3])])
def test_a_box_whose_only_rival_is_suppressed_itself_stays(agnostic: bool, kept: list[int]) -> None:
    """A car, a truck on top of it, and another truck that overlaps the first alone: a second pass would lose it."""
    detector = build("gfl")
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [50, 50, 60, 60]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 0]))
    with suppressing(detector, agnostic=agnostic):
        left = detector.suppress(found, threshold=OVERLAP, most=3)
    assert left.boxes.tolist() == boxes[kept].tolist()


def test_a_family_that_cannot_is_refused(batch: Batch) -> None:
    detector = build("gfl")
    detector.agnostic = None
    with pytest.raises(CapabilityError) as caught:
        detect_split(detector, [batch], device="cpu", agnostic=True)
    assert str(caught.value) == (
        "A detector whose boxes are suppressed across classes must be of a family that can do so, got "
        "gfl/test_resnet. Leave out --agnostic and evaluate.agnostic."
    )
    assert len(detect_split(detector, [batch], device="cpu")) == len(batch)
