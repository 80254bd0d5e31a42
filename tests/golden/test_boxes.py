"""boxes, worked out by hand: which boxes are objects, of what class and weight, and what they cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from detdistill.detectors.dense import assign, focal_cells
from detdistill.detectors.rcnn_losses import SampledRegions, roi_sums
from detdistill.distillation.found import Learnable, as_found, cost_of
from detdistill.errors import CapabilityError, ConfigError
from detdistill.gfl.losses import quality_focal_costs
from detdistill.methods.catalogue import build_recipe
from detdistill.types import Detections, Targets, TaskLoss
from observations import spec
from scenes_in_memory import scene_batch

LOG2 = math.log(2)


def found(*rows: tuple[tuple[float, float, float, float], float, int, tuple[float, ...]]) -> Detections:
    boxes, scores, labels, classes = zip(*rows, strict=True)
    return Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels), torch.tensor(classes))


def labels(*rows: tuple[tuple[float, float, float, float], int, bool]) -> Targets:
    boxes, classes, ignored = zip(*rows, strict=True)
    return Targets(torch.tensor(boxes), torch.tensor(classes), torch.tensor(ignored))


# One label and two boxes: the first is the label (IoU 90 / 110 = 0.82) and of its class, the second is beside it.
LABEL = labels(((0.0, 0.0, 10.0, 10.0), 0, False))
FOUND = found(
    ((1.0, 0.0, 11.0, 10.0), 0.8, 0, (0.8, 0.5, 0.0)),
    ((40.0, 0.0, 60.0, 10.0), 0.5, 1, (0.2, 0.5, 0.2)),
)


def test_the_label_stays_where_and_what_it_is_and_says_what_else_it_might_be() -> None:
    """The odds of (0.8, 0.5, 0) are 4, 1 and 0: shares 0.8, 0.2 and 0. Those of (0.2, 0.5, 0.2) are 1/4, 1 and 1/4."""
    learned = Learnable().objects(FOUND, LABEL, classes=3)
    assert learned.boxes.tolist() == [[0, 0, 10, 10], [40, 0, 60, 10]]
    assert learned.labels.tolist() == [0, 1]
    assert learned.scores.tolist() == [1.0, 0.5]
    assert learned.ignored.tolist() == [False, False]
    torch.testing.assert_close(learned.probabilities, torch.tensor([[0.8, 0.2, 0.0], [1 / 6, 2 / 3, 1 / 6]]))


def test_settings_make_them_certain() -> None:
    learned = Learnable(weighed=False, soft=False).objects(FOUND, LABEL, classes=3)
    assert learned.scores.tolist() == [1.0, 1.0]
    assert learned.probabilities.tolist() == [[1, 0, 0], [0, 1, 0]]
    plain = Learnable().objects(replace(FOUND, probabilities=None), LABEL, classes=3)
    assert plain.probabilities.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert plain.scores.tolist() == [1.0, 0.5]


def test_a_duplicate_of_another_class_is_the_label_all_the_same() -> None:
    other = replace(FOUND, labels=torch.tensor([1, 1]))
    learned = Learnable().objects(other, LABEL, classes=3)
    assert learned.labels.tolist() == [0, 1]
    assert learned.probabilities[0].tolist() == [1, 0, 0]
    beside = Learnable(duplicate=0.9).objects(other, LABEL, classes=3)
    assert beside.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("score", "ignored"), [(0.5, [False]), (0.29, [True]), (0.1, [True]), (0.09, [])])
def test_by_its_score_a_box_is_an_object_a_doubt_or_nothing(score: float, ignored: list[bool]) -> None:
    one = found(((0.0, 0.0, 10.0, 10.0), score, 1, (0.0, score, 0.0)))
    learned = Learnable(score=0.3, doubtful=0.1).objects(one, LABEL.only(torch.tensor([False])), classes=3)
    assert learned.ignored.tolist() == ignored
    assert learned.taught().doubtful is not None


def test_what_lies_in_an_ignored_region_is_no_object_and_the_region_none_either() -> None:
    """Half of the second box lies in the region: as much as makes it a duplicate."""
    crowd = labels(((50.0, 0.0, 100.0, 50.0), 1, True))
    learned = Learnable().objects(FOUND, crowd, classes=3)
    assert learned.labels.tolist() == [0]
    assert not learned.ignored.any()


def test_nothing_found_leaves_the_labels_and_no_label_what_was_found() -> None:
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
    assert Learnable().objects(nothing, LABEL, classes=3).labels.tolist() == [0]
    none = LABEL.only(torch.tensor([False]))
    assert Learnable().objects(FOUND, none, classes=3).labels.tolist() == [0, 1]
    empty = Learnable().objects(nothing, none, classes=3)
    assert (len(empty.boxes), empty.probabilities.shape) == (0, (0, 3))


def test_where_nobody_labelled_a_teacher_that_lacks_classes_knows_no_background() -> None:
    """All of the image, 100 x 60 pixels, is in doubt; labels say what is background, whatever a teacher knows."""
    lacks, none = Learnable(partial=True), LABEL.only(torch.tensor([False]))
    learned = lacks.objects(FOUND, none, classes=3, unlabelled=(60, 100))
    assert learned.boxes[-1].tolist() == [0, 0, 100, 60]
    assert learned.ignored.tolist() == [False, False, True]
    assert learned.taught().labels.tolist() == [0, 1]
    assert len(lacks.objects(FOUND, LABEL, classes=3).labels) == 2
    assert len(Learnable().objects(FOUND, none, classes=3, unlabelled=(60, 100)).labels) == 2
    student = spec()
    for unknown, partial in (((), False), (student.class_names[:1], True)):
        (term,) = build_recipe("boxes", student, replace(student, unknown=unknown)).terms
        assert term.term.learnable.partial is partial


def test_focal_loss_of_a_class_in_doubt() -> None:
    """Two cells, two classes, all logits 0: sigmoid² · log 2 = 0.25 log 2 = c. Positive costs c / 4, negative 3c / 4.

    The first cell is an object of weight 0.8 and classes (0.75, 0.25): 0.8 · (1 · c / 4 + 1 · 3c / 4) = 0.8 c. The
    second is background: 2 · 3c / 4 = 1.5 c. With a logit of log 3 for the first class (p = 0.75, softplus(−log 3) =
    log 4/3, softplus(log 3) = log 4) the first cell's first class costs 0.75 · 0.25 · 0.0625 · log 4/3 as the class and
    0.25 · 0.75 · 0.5625 · log 4 as another.
    """
    target = Targets(
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]),
        torch.tensor([0]),
        torch.tensor([False]),
        scores=torch.tensor([0.8]),
        probabilities=torch.tensor([[0.75, 0.25]]),
    ).taught()
    given = assign([torch.tensor([0, -1])], [target], counts=(2,))
    c = 0.25 * LOG2
    torch.testing.assert_close(focal_cells(torch.zeros(1, 2, 2), given), torch.tensor([[0.8 * c, 1.5 * c]]))
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]])
    first = 0.75 * 0.25 * 0.0625 * math.log(4 / 3) + 0.25 * 0.75 * 0.5625 * math.log(4)
    second = 0.25 * c / 4 + 0.75 * 3 * c / 4
    torch.testing.assert_close(focal_cells(logits, given)[0, 0], torch.tensor(0.8 * (first + second)))


def test_quality_focal_loss_of_one_class() -> None:
    """p = 0.5: against a quality of 0.9 it is 0.4² · log 2, against 0 it is 0.5² · log 2."""
    costs = quality_focal_costs(torch.zeros(2), torch.tensor([0.9, 0.0]))
    torch.testing.assert_close(costs, torch.tensor([0.16 * LOG2, 0.25 * LOG2]))


def test_the_second_stage_of_a_class_in_doubt() -> None:
    """One region of weight 0.5 and classes (0.6, 0.4), logits 0, log 2, 0: log-softmax −log 4, −log 2, −log 4.

    0.5 · (0.6 · log 2 + 0.4 · log 4) = 0.5 · 1.4 log 2 = 0.7 log 2; a background region beside it costs log 4.
    """
    regions = SampledRegions(
        [torch.zeros(2, 4)],
        torch.tensor([1, 0]),
        torch.zeros(2, 4),
        worth=torch.tensor([0.5, 0.5]),
        classes=torch.tensor([[0.0, 0.6, 0.4], [0.0, 0.6, 0.4]]),
    )
    logits = torch.tensor([[0.0, LOG2, 0.0], [LOG2, 0.0, 0.0]])
    sums = roi_sums(logits, torch.zeros(2, 12), regions)
    torch.testing.assert_close(sums.classification, torch.tensor([0.7 * LOG2 + LOG2]))
    assert sums.box.tolist() == [0.0]


def test_levels_keep_their_columns_and_the_rest_is_one() -> None:
    loss = TaskLoss(
        torch.tensor(0.0),
        (8, 16),
        classification=torch.tensor([[1.0, 2.0]]),
        box=torch.tensor([[10.0, 20.0]]),
        roi_classification=torch.tensor([100.0]),
        roi_box=torch.tensor([200.0]),
        other={"centerness": torch.tensor([1000.0])},
    )
    whole, shared = cost_of(loss), cost_of(loss, strides=(16, 32))
    assert (whole.strides, whole.values.tolist()) == ((8, 16, None), [[11, 22, 1300]])
    assert (shared.strides, shared.values.tolist()) == ((16, None), [[22, 1311]])


def test_a_teacher_of_twice_the_size_finds_them_in_the_students_pixels() -> None:
    batch = scene_batch(((),), sizes=((48, 64),), grid=(48, 64))
    large = scene_batch(((),), sizes=((96, 128),), grid=(96, 128))
    one = found(((20.0, 10.0, 60.0, 30.0), 0.9, 2, (0.0, 0.0, 0.9)))
    (learned,) = as_found([one], batch, Learnable(), classes=3, seen=large).found or ()
    assert learned.boxes.tolist() == [[10, 5, 30, 15]]


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^boxes' doubtful must be at most its score, 0.3, got 0.5\. Set doubtful="):
        build_recipe("boxes(doubtful=0.5)", spec(), spec())
    with pytest.raises(CapabilityError, match="must have the student's classes in the same order"):
        build_recipe("boxes", spec(), replace(spec(), class_names=("boat",)))
