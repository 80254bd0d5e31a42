"""What `detect` finds is what can be found by a graph: candidates, and a suppression whose shapes are known."""

from __future__ import annotations

import pytest
import torch

from detdistill.detectors.base import Detector, Limits, evaluating
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.suppression import sorted_out
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Candidates, Detections
from scenes_in_memory import FAMILIES, SIZES, scene_batch, tiny_student


def spread(detector: Detector) -> Detector:
    """Scores of an untrained detector are all alike: these are not."""
    for name, parameter in detector.named_parameters():
        if parameter.dim() > 1 and any(part in name for part in ("cls_logits", "classes", "predictor")):
            parameter.data *= 20
    return detector


@pytest.mark.parametrize("family", FAMILIES)
def test_sorted_candidates_are_the_detections(family: str) -> None:
    detector, batch = spread(tiny_student(family, seed=3, detections_per_image=40)), scene_batch()
    try:
        detector.limits()
    except CapabilityError:
        pytest.skip("a family without a graph")
    with evaluating(detector):
        found = detector.detect(batch)
        boxes, scores, labels, counts = sorted_out(detector.candidates(batch, torch.tensor(SIZES)), detector.limits())
    assert boxes.shape[:2] == (len(SIZES), 40)
    assert counts.tolist() == [len(one.scores) for one in found]
    assert counts.sum() > 0
    for row, one in enumerate(found):
        count = counts[row]
        torch.testing.assert_close(scores[row, :count], one.scores)
        # Equal scores may stand in any order.
        order, own = (torch.argsort(10 * labels_ + boxes_[:, 0] + boxes_[:, 1] / 7) for labels_, boxes_ in (
            (labels[row, :count], boxes[row, :count]), (one.labels, one.boxes)
        ))  # fmt: skip
        torch.testing.assert_close(boxes[row, :count][order], one.boxes[own], atol=1e-4, rtol=0)
        assert torch.equal(labels[row, :count][order], one.labels[own])
        assert not boxes[row, count:].any()
        assert not scores[row, count:].any()
        assert not labels[row, count:].any()


def test_a_box_of_each_class_and_no_suppression() -> None:
    scores = torch.tensor([[[0.9, 0.2], [0.8, 0.6]]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
    shared = Candidates(boxes[None], scores)
    own = Candidates(torch.stack((boxes, boxes + 50), dim=1)[None], scores)
    for limits, expected in ((Limits(0.3, 0.5, 4), [0.9, 0.6]), (Limits(0.3, None, 4), [0.9, 0.8, 0.6])):
        for candidates, shift in ((shared, 0), (own, 50)):
            found, sure, labels, count = sorted_out(candidates, limits)
            assert sure[0].tolist() == pytest.approx([*expected, *[0.0] * (4 - len(expected))])
            assert int(count) == len(expected)
            assert labels[0].tolist() == [*[0] * (len(expected) - 1), 1, *[0] * (4 - len(expected))]
            assert found[0, len(expected) - 1].tolist() == (boxes[1] + shift).tolist()
            assert not found[0, len(expected) :].any()


def test_a_family_without_a_graph_is_refused_by_a_sentence() -> None:
    class Alone(BoxesAlone):
        def detect(self, batch: Batch) -> tuple[Detections, ...]:
            raise NotImplementedError

    alone = Alone("own/model", ("a",))
    for ask in (alone.limits, lambda: alone.candidates(scene_batch(), torch.tensor(SIZES))):
        with pytest.raises(CapabilityError, match=r"must be a graph of tensors, got own/model, whose family"):
            ask()
