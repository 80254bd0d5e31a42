"""Images that nobody labelled beside a distillation's own: what they change, what they leave alone, and a resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from coco_by_hand import draw_data
from detdistill.data.annotations import Reading
from detdistill.data.listing import SPLITS
from detdistill.data.sources import find_split, read_found
from detdistill.detectors.torchvision_dense import DenseDetector
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.jobs import finds, predict, stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.data import check_data_job
from detdistill.jobs.plan import plan_of
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_student
from watched_jobs import Watcher, Witness

SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "train.batch_size=4")
SMALL += ("train.steps=2", "train.checkpoint_every=1", "train.warmup_steps=1", "train.log_every=1", "train.device=cpu")
IMAGE = {"short_side": 48, "long_side": 64}


@dataclass
class Lab:
    """Labelled data, a folder of others with a list of some, a teacher, and what trainings saw."""

    folder: Path
    witness: Witness
    watcher: Watcher

    def fit(self, out: str, *settings: str, resume: bool = False, beside: bool = True, **words: Any) -> dict[str, Any]:
        """The weights of a run after its steps, by what it trained."""
        known = {"data": "data", "teacher": "teacher", "out": out} | ({"unlabelled": "others"} if beside else {})
        options = {name: self.folder / place for name, place in known.items()} | words
        named = {"teacher": "teacher.source", "unlabelled": "data.unlabelled.source"}
        config = read_run_config(
            None,
            [*SMALL, *settings],
            purpose="distill",
            options={"student": "fcos/test_resnet", "method": "hint"}
            | {named.get(name, name): value for name, value in options.items()},
        )
        self.watcher.lines.clear()
        opened = stages.open_inputs(config, resume=resume, progress=self.watcher)
        proved = stages.prove(stages.build(opened, progress=self.watcher), progress=self.watcher)
        self.watcher.lines += plan_of(proved).table()
        stages.fit(proved, progress=self.watcher)
        return self.weights(out)

    def weights(self, out: str) -> dict[str, Any]:
        run = RunFolder(self.folder / out)
        return load_file(run.checkpoint(run.steps()[-1]) / "training.safetensors")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    draw_data(folder / "data")
    draw_data(folder / "more")
    shutil.move(folder / "more" / "images", folder / "others")
    for path in (folder / "others").iterdir():  # images of their own
        with Image.open(path) as image:
            ImageOps.mirror(image).save(path)
    (folder / "some.txt").write_text("others/train_0.png\nothers/train_3.png\n../away.png\n")
    teacher = tiny_student("fcos", backbone="test_efficientnet", classes=("square", "bar"), seed=7)
    save_detector(teacher, folder / "teacher", image=IMAGE)
    witness, watcher = Witness(), Watcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train", witness.train)
        patch.setattr(finds, "detect", told)
        yield Lab(folder, witness, watcher)


def told(_: object, annotations: Any, *__: object, **___: object) -> list[ImageDetections]:
    """A square that a teacher is sure of and a bar that it doubts in every image; of labelled ones its own boxes."""
    found = []
    for index, image_id in enumerate(annotations.image_ids.tolist()):
        objects = annotations.objects(index)
        boxes = annotations.boxes[objects]
        scores = np.linspace(0.9, 0.7, len(boxes)).astype(np.float32)
        labels = annotations.labels[objects].astype(np.int64)
        if not annotations.labelled:
            boxes = np.array([[8, 8, 40, 40], [50, 20, 90, 32]], np.float32)
            scores, labels = np.array([0.8, 0.3], np.float32), np.array([0, 1])
        elif not len(boxes):
            boxes = np.array([[0, 0, 10, 10], [60, 40, 90, 60]], np.float32)
            scores, labels = np.array([0.4, 0.25], np.float32), np.array([0, 0])
        found.append(ImageDetections(image_id, boxes, scores, labels))
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_they_are_seen_beside_the_labelled_ones_and_a_resume_ends_with_the_same_bits(lab: Lab) -> None:
    whole = lab.fit("whole", method="hint(strength=3)")
    said = lab.watcher.text()
    assert f"unlabelled images: 13 in {lab.folder / 'others'}" in said
    assert "train data: 3 of 10 images have no box: they teach background alone" in said
    assert "unlabelled: 13 images, 4 in a step beside the labelled ones" in said
    fed = lab.witness.fed["whole"]
    assert all(batch.unlabelled is not None and len(batch.unlabelled) == 4 for batch in fed)
    seeds = [seed for batch in fed for seed in (*batch.seeds, *batch.unlabelled.seeds)]
    assert len(set(seeds)) == len(seeds)
    plain = lab.fit("plain", beside=False)
    for one, other in zip(fed, lab.witness.fed["plain"], strict=True):
        assert torch.equal(one.images, other.images)
        assert other.unlabelled is None
    assert not same(whole, plain)
    for file in RunFolder(lab.folder / "whole").checkpoint(2).iterdir():
        file.unlink()
    assert same(lab.fit("whole", resume=True, method="hint(strength=3)"), whole)
    with pytest.raises(ConfigError, match=r"unlabelled\.a_step must be 4 to resume from .*, got 2"):
        lab.fit("whole", "data.unlabelled.share=0.5", resume=True, method="hint(strength=3)")


def test_a_run_without_them_records_nothing_of_them(lab: Lab) -> None:
    lab.fit("bare", beside=False)
    recorded = json.loads((RunFolder(lab.folder / "bare").checkpoint(2) / "training.json").read_text())
    assert "unlabelled" not in recorded["identity"]
    assert not RunFolder(lab.folder / "bare").unlabelled.exists()


def test_terms_that_need_boxes_have_the_teachers(lab: Lab) -> None:
    """Above the score from which 9 of 10 boxes are right on the labelled images; pseudo none has no doubtful ones."""
    lab.fit("boxes", "teacher.image.short_side=32", "teacher.image.long_side=48", method="fgd")
    said = lab.watcher.text()
    assert "boxes of the teacher count from a score of 0.70 on" in said
    assert "unlabelled images: 13 such boxes, 0 doubtful ones" in said
    for batch in lab.witness.fed["boxes"]:
        for seen in (batch.unlabelled, batch.unlabelled.teacher):
            assert [target.labels.tolist() for target in seen.targets] == [[0]] * 4
            assert all(target.scores is None for target in seen.targets)
    assert json.loads(RunFolder(lab.folder / "boxes").unlabelled.read_text())["sure"] == pytest.approx(0.7)
    assert len(list(RunFolder(lab.folder / "boxes").finds.glob("*/*.safetensors"))) == 2


@pytest.mark.parametrize(("pseudo", "worth"), [pytest.param("hard", 1.0, marks=pytest.mark.slow), ("soft", 0.8)])
def test_as_labels_they_have_a_loss_of_their_own(lab: Lab, pseudo: str, worth: float) -> None:
    lab.fit(pseudo, f"data.unlabelled.pseudo={pseudo}", method="hint(strength=3)")
    (first, *_) = lab.witness.fed[pseudo]
    for target in first.unlabelled.targets:
        assert target.ignored.tolist() == [False, True]
        assert target.scores[0] == pytest.approx(worth)
    rows = (lab.folder / pseudo / "metrics.csv").read_text().splitlines()
    assert "pseudo" in rows[0].split(",")


def test_adversarial_twins_and_crops_are_made_of_them_too(lab: Lab) -> None:
    whole = lab.fit("twins", method="ikd(hint)")
    (first, *_) = lab.witness.fed["twins"]
    assert first.unlabelled.twins["adversarial"].shape == first.unlabelled.images.shape
    index = next((lab.folder / "twins" / "twins").glob("*/index.json"))
    assert len(json.loads(index.read_text())["twins"]) == 10 + 13
    for file in RunFolder(lab.folder / "twins").checkpoint(2).iterdir():
        file.unlink()
    assert same(lab.fit("twins", method="ikd(hint)", resume=True), whole)


@pytest.mark.slow
def test_a_list_names_them_and_stays_in_its_folder(lab: Lab) -> None:
    lab.fit("listed", "train.steps=1", unlabelled=lab.folder / "some.txt")
    said = lab.watcher.text()
    assert "some.txt, line 3: '../away.png' leads out of the images' folder" in said
    assert f"unlabelled images: 2 in {lab.folder / 'some.txt'}" in said


@pytest.mark.slow
def test_images_of_the_runs_own_splits_are_left_out(lab: Lab) -> None:
    both = lab.folder / "both"
    shutil.copytree(lab.folder / "others", both)
    for name in ("train_1.png", "val_1.png"):
        (both / f"known_{name}").symlink_to(lab.folder / "data" / "images" / name)
    lab.fit("beside", "train.steps=1", unlabelled=both)
    assert "13 in" in lab.watcher.text()
    assert "; 2 that are training or validation images left out" in lab.watcher.text()


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ((), {"unlabelled": "nowhere"}, "must be a folder of images, or a text file that names some, got no such path"),
        (("data.unlabelled.share=0",), {}, "data.unlabelled.share must be from 0.01 to 100, got 0.0"),
        (
            ("data.unlabelled.doubtful=0.95",),
            {},
            "must be at most data.unlabelled.precision, 0.9, got 0.95",
        ),
        (("train.accumulate=2", "data.unlabelled.share=0.75"), {}, "train.accumulate must divide"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(lab: Lab, settings: Any, words: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.fit("refused", *settings, **words)
    assert message in str(caught.value)
    assert not (lab.folder / "refused").exists()


def test_a_loss_that_weighs_no_object_learns_hard_labels_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DenseDetector, "weighs_objects", False)
    with pytest.raises(ConfigError, match=r"must be hard or none for fcos/test_resnet, whose loss weighs no object"):
        lab.fit("refused", "data.unlabelled.pseudo=soft")


def test_what_a_teacher_found_is_a_data_set_that_a_run_reads(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "detect", told)
    place = lab.folder / "others" / "found.json"
    images = [lab.folder / "others" / f"train_{number}.png" for number in range(10)]
    outcome = predict.predict_job(str(lab.folder / "teacher"), images, out=lab.folder / "drawn", coco=place, score=0.5)
    assert f"--data {place}" in outcome.table()[-2]
    content = json.loads(place.read_text())
    assert content["images"][3] == {"id": 4, "file_name": "train_3.png", "width": 96, "height": 64}
    assert content["annotations"][3] | {"score": 0.0} == {
        **{"id": 4, "image_id": 4, "category_id": 1, "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0},
        "score": 0.0,
    }
    assert content["annotations"][3]["score"] == pytest.approx(0.8)
    checked = check_data_job(place)
    assert checked.failure is None
    assert (
        sum(len(images) for images, _ in (read_found(find_split(place, one), one, Reading()) for one in SPLITS)) == 10
    )
    config = read_run_config(
        None,
        SMALL,
        purpose="train",
        options={"student": "fcos/test_resnet", "data": place, "out": lab.folder / "taught"},
    )
    stages.fit(stages.prove(stages.build(stages.open_inputs(config))))
    with pytest.raises(ConfigError, match=r"^--coco must be a file in a folder with all images in or below it"):
        predict.predict_job(
            str(lab.folder / "teacher"), images, out=lab.folder / "d", coco=lab.folder / "data" / "f.json"
        )
    with pytest.raises(ConfigError, match=r"^--coco must be a new file, or one that this command wrote"):
        predict.predict_job(str(lab.folder / "teacher"), images, out=lab.folder / "d", coco=images[0])
    assert not (lab.folder / "d").exists()


def test_boxes_teach_labelled_and_unlabelled_images_alike_and_a_resume_ends_with_the_same_bits(lab: Lab) -> None:
    """The labels are objects with what was found beside them; of the others all that was found is."""
    shared = f"teacher.cache_folder={lab.folder / 'shared'}"
    whole = lab.fit("by_boxes", shared, method="boxes(score=0.5, doubtful=0.2)")
    said = lab.watcher.text()
    assert "training images: what the teacher finds in 10 images, kept in" in said
    assert "unlabelled images: what the teacher finds in 13 images, kept in" in said
    for batch in lab.witness.fed["by_boxes"]:
        assert batch.found is not None
        for found, target in zip(batch.found, batch.targets, strict=True):
            count = len(target.labels)
            assert torch.equal(found.boxes[:count], target.boxes)
            assert found.scores[:count].tolist() == [1.0] * count
        assert batch.unlabelled.found is not None
        for found in batch.unlabelled.found:
            assert found.ignored.tolist() == [False, True]
            assert found.scores[0] == pytest.approx(0.8)
            assert found.probabilities.tolist() == [[1, 0], [0, 1]]
    rows = (lab.folder / "by_boxes" / "metrics.csv").read_text().splitlines()
    assert "boxes.objects" in rows[0]
    for file in RunFolder(lab.folder / "by_boxes").checkpoint(2).iterdir():
        file.unlink()
    assert same(lab.fit("by_boxes", shared, resume=True, method="boxes(score=0.5, doubtful=0.2)"), whole)
    assert not RunFolder(lab.folder / "by_boxes").finds.exists()
    assert same(lab.fit("own", method="boxes(score=0.5, doubtful=0.2)"), whole)
    assert RunFolder(lab.folder / "own").finds.is_dir()
