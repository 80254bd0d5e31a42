"""Images that nobody labelled: which there are, which of a teacher's scores count, and what is learned of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw
from detdistill.data.loader import collate
from detdistill.data.transforms import ImageSettings
from detdistill.data.unlabelled import digest, read_unlabelled
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.precision import score_at_precision
from detdistill.types import Batch, Need, Targets
from folders_by_hand import picture, write
from scenes_in_memory import FAMILIES, scene_batch, tiny_student

CLASSES = ("square", "bar")
LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


def names(images: Annotations) -> list[str]:
    return [images.file_name(index) for index in range(len(images))]


def test_a_folder_is_all_images_below_it(tmp_path):
    for name in ("b.png", "a.png", "deep/er/c.png"):
        picture(tmp_path / name, width=30, height=20)
    write(tmp_path / "note.txt", "hello")
    (tmp_path / "broken.png").write_bytes(b"no image")
    images, problems, left_out = read_unlabelled(tmp_path, CLASSES, known=[tmp_path / "b.png"])
    assert names(images) == ["a.png", "deep/er/c.png"]
    assert (images.sizes.tolist(), images.class_names, len(images.boxes)) == ([[20, 30]] * 2, CLASSES, 0)
    assert (problems.counts, problems.lost("images"), left_out) == ({"image file unreadable": 1}, 1, 1)


def test_a_list_keeps_its_order_and_its_folder(tmp_path):
    for name in ("b.png", "a.png", "away.png"):
        picture(tmp_path / ("in" if name != "away.png" else ".") / name)
    lines = ["b.png", "", "a.png", "../away.png", str(tmp_path / "away.png"), "b.png", "none.png"]
    write(tmp_path / "in" / "list.txt", "\n".join(lines))
    images, problems, _ = read_unlabelled(tmp_path / "in" / "list.txt", CLASSES)
    assert names(images) == ["b.png", "a.png"]
    assert problems.counts == {"unusable file name": 2, "image listed twice": 1, "image file missing": 1}


def test_other_images_have_another_digest(tmp_path):
    picture(tmp_path / "a.png")
    first = digest(read_unlabelled(tmp_path, CLASSES)[0])
    assert digest(read_unlabelled(tmp_path, CLASSES)[0]) == first
    picture(tmp_path / "a.png", width=50)
    other = digest(read_unlabelled(tmp_path, CLASSES)[0])
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert len({first, other, digest(read_unlabelled(tmp_path, CLASSES)[0])}) == 3


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    write(tmp_path / "data.json", "{}")
    with pytest.raises(ConfigError, match=r"must be a folder of images, or a text file .*, got another file\."):
        read_unlabelled(tmp_path / "data.json", CLASSES)
    known = picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"got none; 1 are images of the run's splits\. Give a folder of other"):
        read_unlabelled(tmp_path, CLASSES, known=[known])


def truth(*, ignored: bool = False) -> Annotations:
    """Two images with a square each, and a bar that may be ignored in the second."""
    images = Annotations.without_boxes(Path("/"), {"a": (9, 9), "b": (9, 9)}, CLASSES)
    return replace(
        images,
        offsets=np.array([0, 1, 3]),
        boxes=np.array([[0, 0, 4, 4], [0, 0, 4, 4], [4, 4, 8, 8]], np.float32),
        labels=np.array([0, 0, 1], np.int32),
        ignored=np.array([False, False, ignored]),
        areas=np.full(3, 16, np.float32),
    )


def found(image_id: int, *boxes: tuple[float, int, float]) -> ImageDetections:
    """Boxes 4 wide by where they begin, label and score."""
    at = np.array([[first, first, first + 4, first + 4] for first, _, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.array([score for *_, score in boxes], np.float32)
    return ImageDetections(image_id, at, scores, np.array([label for _, label, _ in boxes], np.int64))


def test_the_score_from_which_so_many_boxes_are_right():
    """Right, right, a second one on the same square, right, another class: 1, 1, 2/3, 3/4, 3/5."""
    boxes = [found(0, (0, 0, 0.9), (0, 0, 0.7)), found(1, (0, 0, 0.8), (4, 1, 0.5), (4, 0, 0.25))]
    judged = {share: score_at_precision(truth(), boxes, share) for share in (1.0, 0.75, 0.7, 0.5)}
    assert judged == pytest.approx({1.0: 0.8, 0.75: 0.5, 0.7: 0.5, 0.5: 0.25})
    other = [found(0, (0, 1, 0.9)), found(1, (0, 1, 0.9), (4, 0, 0.5))]
    assert score_at_precision(truth(), other, 0.5) is None
    assert score_at_precision(truth(), other, 1.0, by_class=False) == pytest.approx(0.5)
    assert score_at_precision(truth(), [], 0.5) is None


def test_ignored_regions_excuse_and_equal_scores_count_together():
    boxes = [found(0, (0, 0, 0.9)), found(1, (4, 0, 0.8), (0, 0, 0.5), (2, 0, 0.5))]
    assert score_at_precision(truth(ignored=True), boxes, 0.9) == pytest.approx(0.9)
    assert score_at_precision(truth(ignored=True), boxes, 0.6) == pytest.approx(0.5)


def test_scores_go_with_their_boxes_through_augmentation_and_loader(tmp_path):
    picture(tmp_path / "a.png", width=40, height=20)
    images, _, _ = read_unlabelled(tmp_path, CLASSES)
    labelled = replace(
        images,
        offsets=np.array([0, 3]),
        boxes=np.array([[0, 0, 9, 9], [5, 5, 5.2, 9], [9, 9, 18, 18]], np.float32),
        labels=np.array([0, 1, 1], np.int32),
        ignored=np.array([False, False, True]),
        areas=np.ones(3, np.float32),
        scores=np.array([0.75, 0.5, 0.25], np.float32),
    )
    sample = DetectionDataset(labelled, image=ImageSettings(20, 40))[Draw(epoch=0, index=0)]
    (targets,) = collate([sample], pad_multiple=8).to("cpu").targets
    assert targets.scores is not None
    assert targets.scores.tolist() == [0.75, 0.25]
    taught = targets.taught()
    assert (taught.labels.tolist(), taught.scores.tolist()) == ([0], [0.75])
    assert taught.doubtful.tolist() == [[9, 9, 18, 18]]


@pytest.mark.parametrize("content", [b"no image", None])
def test_one_that_broke_meanwhile_is_said_with_a_remedy_of_its_own(tmp_path, content):
    """There are no annotations that a check could read, or that it could be taken out of."""
    path = picture(tmp_path / "a.png")
    images, _, _ = read_unlabelled(tmp_path, CLASSES)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"got.*\. Put an intact image of the size that it had in its place\.$"):
        DetectionDataset(images, image=ImageSettings(20, 40))[Draw(epoch=0, index=0)]


def with_targets(batch: Batch, targets: Targets) -> Batch:
    return replace(batch, targets=(targets,))


def scene(boxes: list[list[float]], *, ignored: list[bool], scores: list[float] | None) -> Batch:
    batch = scene_batch((boxes,), sizes=((96, 128),))
    (own,) = batch.targets
    given = None if scores is None else torch.tensor(scores)
    return with_targets(batch, replace(own, ignored=torch.tensor(ignored), scores=given))


OBJECT, DOUBTED = [4.0, 6.0, 60.0, 60.0], [70.0, 20.0, 126.0, 90.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_background_is_learned_where_a_teacher_doubts(family):
    """A doubted place costs less than background there; with scores of 1 and no doubts targets are as labels."""
    student = tiny_student(family).train()
    plain = scene([OBJECT], ignored=[False], scores=None)
    labels = scene([OBJECT, DOUBTED], ignored=[False, True], scores=None)
    sure = scene([OBJECT], ignored=[False], scores=[1.0])
    doubtful = scene([OBJECT, DOUBTED], ignored=[False, True], scores=[1.0, 0.2])
    with torch.no_grad():
        pyramid = student.extract(plain)
        losses = [student.observe(pyramid, one, LOSSES).task_loss for one in (plain, labels, sure, doubtful)]
    totals = [float(loss.total) for loss in losses]
    assert totals[0] == totals[1] == totals[2]
    if family == "faster_rcnn":  # it draws as many others in their stead
        assert totals[3] != totals[0]
    else:
        assert totals[3] < totals[0]


@pytest.mark.parametrize("family", [name for name in FAMILIES if tiny_student(name).weighs_objects])
def test_an_object_counts_as_much_as_its_score(family):
    """Half of an object's own costs are gone: the loss lies between those with a score of 0 and of 1."""
    student = tiny_student(family).train()
    pyramid = student.extract(scene([OBJECT], ignored=[False], scores=None))

    def loss(score: float) -> torch.Tensor:
        batch = scene([OBJECT], ignored=[False], scores=[score])
        task = student.observe(pyramid, batch, LOSSES).task_loss
        assert task is not None
        return task.classification.detach().sum()

    none, half, whole = (loss(score) for score in (0.0, 0.5, 1.0))
    assert none < whole
    torch.testing.assert_close(half, (none + whole) / 2)
