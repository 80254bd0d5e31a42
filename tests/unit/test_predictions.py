"""A file of predictions as a detector: how its images and classes are matched to the data's, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detdistill
from coco_by_hand import draw_data
from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.data.sources import open_split
from detdistill.data.transforms import ImageSettings
from detdistill.data.unlabelled import read_unlabelled
from detdistill.detectors.predictions import load_predictions, looking
from detdistill.errors import CapabilityError, ConfigError, DataError
from detdistill.jobs.opening import acquainted, detect
from detdistill.progress import Silence
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_student
from watched_jobs import Watcher

IMAGE = ImageSettings(48, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw_data(folder)
    return folder


def labels(data: Path, split: str = "val") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((data / f"{split}.json").read_text())
    for number, entry in enumerate(content["annotations"]):
        entry["score"] = 0.9 - number / 1000
    return content


def results(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox", "score", "scores")
    return [{key: entry[key] for key in keys if key in entry} for entry in content["annotations"]]


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def found_by(path: str, images: Annotations) -> list[Any]:
    loaded = acquainted(detdistill.load_detector(path), {"images": images})
    return detect(loaded.detector, images, IMAGE, label="", progress=Silence())


@pytest.mark.parametrize("plain", [True, False])
def test_what_the_labels_say_is_found_again(data: Path, tmp_path: Path, plain: bool) -> None:
    content = labels(data)
    path = written(tmp_path / "found.json", results(content) if plain else content)
    outcome = detdistill.evaluate(path, data=data)
    assert outcome.metrics.ap == pytest.approx(100)
    assert outcome.checkpoint == path
    audit = detdistill.audit_data(data, teacher=path, split="val", out=tmp_path / "audit")
    assert audit.findings == ()


def test_boxes_lie_in_the_pixels_of_the_batch_and_probabilities_are_kept(data: Path, tmp_path: Path) -> None:
    content, (images, _) = labels(data), open_split(data, "val")
    for entry in content["annotations"]:
        entry["scores"] = [0.25, 0.125]
    loaded = acquainted(load_predictions(Path(written(tmp_path / "f.json", results(content)))), {"images": images})
    (batch, *_) = evaluation_loader(DetectionDataset(images, image=IMAGE), batch_size=4)
    with looking(loaded.detector, images):
        found = loaded.detector.detect(batch)
    for one, target in zip(found, batch.targets, strict=True):
        assert sorted(one.boxes.tolist()) == [pytest.approx(box, abs=1e-3) for box in sorted(target.boxes.tolist())]
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        assert one.probabilities is not None
        assert (one.probabilities == torch.tensor([0.25, 0.125])).all()
    with pytest.raises(CapabilityError, match="must be of a data set, got a batch alone"):
        loaded.detector.detect(batch)


def test_images_are_known_by_name_wherever_the_file_lies_and_without_labels(data: Path, tmp_path: Path) -> None:
    content, (images, _) = labels(data), open_split(data, "val")
    elsewhere = written(tmp_path / "found.json", content)
    others, *_ = read_unlabelled(data / "images", images.class_names, known=[])
    names = {Path(entry["file_name"]).name for entry in content["images"]}
    watcher = Watcher()
    loaded = acquainted(load_predictions(Path(elsewhere)), {"photos": others}, progress=watcher)
    assert f"says what is in {len(names)} of {len(others)} photos (matched by file name)" in watcher.text()
    found = detect(loaded.detector, others, IMAGE, label="", progress=Silence())
    by_name = {Path(others.file_name(row)).name: len(one.scores) for row, one in enumerate(found)}
    assert sum(by_name.values()) == len(content["annotations"])
    assert {name for name, count in by_name.items() if count} <= names
    # As some programs name images in plain results.
    stems = {entry["id"]: Path(entry["file_name"]).stem for entry in content["images"]}
    plain = [entry | {"image_id": stems[entry["image_id"]]} for entry in results(content)]
    named = acquainted(load_predictions(Path(written(tmp_path / "plain.json", plain))), {"val": images})
    again = detect(named.detector, others, IMAGE, label="", progress=Silence())
    assert [len(one.scores) for one in again] == [len(one.scores) for one in found]


def test_what_is_not_matched_is_told(data: Path, tmp_path: Path) -> None:
    content, (images, _) = labels(data), open_split(data, "val")
    first = content["images"][0]["id"]
    told = [entry for entry in results(content) if entry["image_id"] != first]
    gone = len({entry["image_id"] for entry in results(content)} - {first})
    told += [told[0] | {"image_id": 7777}, told[0] | {"category_id": 55}]
    watcher = Watcher()
    acquainted(load_predictions(Path(written(tmp_path / "f.json", told))), {"val images": images}, progress=watcher)
    assert watcher.text().endswith(
        f"f.json says what is in {gone} of {len(images)} val images (matched by id); in the other {len(images) - gone} "
        "nothing is found; 1 of its images are others; 1 of its boxes are of categories that the data has not"
    )


def _moved(entries: list[dict[str, Any]], change: Any) -> list[dict[str, Any]]:
    return [entry | change(entry) for entry in entries]


def _corners(entry: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = entry["bbox"]
    return {"bbox": [x, y, x + width, y + height]}


REFUSED = {
    "none": (
        lambda own: _moved(own, lambda one: {"image_id": one["image_id"] + 5000}),
        "must say what is in the .* got",
    ),
    "no images": (lambda own: {"info": {}}, 'none of .* List the images under "images", with their file names'),
    "shares": (
        lambda own: _moved(own, lambda one: {"bbox": [0.1, 0.2, 0.3, 0.4]}),
        r"must be in pixels, got none .* 0\.6",
    ),
    "corners": (
        lambda own: _moved(own, _corners),
        "lie in it when read as x1, y1, x2, y2. Write x, y, width and height",
    ),
    "size": (
        lambda own: _moved(own, lambda one: {"bbox": [v * 9 for v in one["bbox"]]}),
        "reach beyond their image. Pre",
    ),
    "from 0": (
        lambda own: _moved(own, lambda one: {"category_id": one["category_id"] - 1}),
        "must be one of the data's, 1 to 4, got 0 to 3, which count",
    ),
    "some": (lambda own: [own[0] | {"scores": [0.1, 0.2]}, *own[1:]], "scores of each class with all boxes or none"),
    "number": (
        lambda own: _moved(own, lambda one: {"scores": [0.1]}),
        "a number for each of the data's 2 classes, got 1",
    ),
    "lengths": (
        lambda own: [one | {"scores": [0.1] * (1 + row % 2)} for row, one in enumerate(own)],
        r"must have one length, one, got \[1, 2\]",
    ),
    "percent": (lambda own: [own[0] | {"score": 90}], "score of Entry 1 of .* must be a probability, .*, got 90"),
    "logits": (
        lambda own: _moved(own, lambda one: {"scores": [0.1, -2.0]}),
        "scores of Entry 1 of .* must be a probability, .*, got -2",
    ),
    "score": (lambda own: [own[0] | {"score": "high"}], "score of Entry 1 .* must be a finite number, got 'high'"),
    "box": (lambda own: [own[0] | {"bbox": [1, 2, -3, 4]}], "bbox of Entry 1 .* must be x, y, width and height"),
    "image": (lambda own: [own[0] | {"image_id": None}], "image_id of Entry 1 .* must be a number or a name, got None"),
    "field": (lambda own: [{"image_id": 1}], "Entry 1 of .* must have image_id, category_id, bbox and score"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_results_that_cannot_be_used_are_refused(data: Path, tmp_path: Path, what: str) -> None:
    change, said = REFUSED[what]
    images, _ = open_split(data, "val")
    path = written(tmp_path / "f.json", change(results(labels(data))))
    with pytest.raises(DataError, match=said):
        found_by(path, images)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": [{"id": 1, "file_name": "a.png"}]}, 'Every image_id of .* must be one of its "images", got'),
        ({"categories": [{"id": 9, "name": "square"}]}, 'Every category_id of .* must be one of its "categories", got'),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "must be a class of its own, got 'b'"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "an image of its own, got the id 1"),
        ({"images": [{"id": "x", "file_name": "a"}]}, "images entry 1 of .* must have an id and a file_name"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(data: Path, tmp_path: Path, change: Any, said: str) -> None:
    images, _ = open_split(data, "val")
    with pytest.raises(DataError, match=said):
        found_by(written(tmp_path / "f.json", labels(data) | change), images)


def test_images_of_another_size_or_that_cannot_be_told_apart_are_refused(data: Path, tmp_path: Path) -> None:
    images, _ = open_split(data, "val")
    larger = labels(data)
    larger["images"] = [entry | {"width": 2 * entry["width"]} for entry in larger["images"]]
    with pytest.raises(DataError, match=r"must be \d+ x \d+ pixels .* got .* Predict on these images as they are\."):
        found_by(written(tmp_path / "size.json", larger), images)
    twice = labels(data)
    name = Path(twice["images"][0]["file_name"]).name
    twice["images"] = [twice["images"][0] | {"file_name": name}, *twice["images"][1:]]
    twice["images"].append(twice["images"][0] | {"id": 9999})
    with pytest.raises(DataError, match=r"must tell which of them .* got 2 ending alike\. Write them with"):
        found_by(written(tmp_path / "twice.json", twice), images)
    # Two splits whose ids both count from 1.
    loaded = load_predictions(Path(written(tmp_path / "plain.json", results(labels(data)))))
    shutil.copytree(data / "images", tmp_path / "copy" / "images")
    shutil.copy(data / "val.json", tmp_path / "copy" / "val.json")
    others, _ = open_split(tmp_path / "copy", "val")
    with pytest.raises(DataError, match=r"must be one image of the data, got .* Put the list as .annotations. into a"):
        acquainted(loaded, {"train": images, "val": others})
    with pytest.raises(ConfigError, match="with the ids of one data set, must be one, got 2"):
        acquainted(loaded, {"train": images}, sets=2)


def test_what_predict_writes_of_a_data_set_is_a_teacher(data: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(data, home / "data")
    student = tiny_student("gfl", classes=("square", "bar"), score_threshold=0.0, detections_per_image=5)
    save_detector(student, home / "net", image={"short_side": 48, "long_side": 64})
    words: dict[str, Any] = {"data": home / "data", "score": 0.0, "class_scores": True}
    outcome = detdistill.predict(home / "net", coco=home / "found.json", **words)
    images, _ = open_split(home / "data", "train")
    assert len(outcome.images) == sum(len(open_split(home / "data", split)[0]) for split in ("train", "val"))
    assert not list(home.glob("*.png"))
    loaded = detdistill.load_detector(home / "net")
    own = detect(loaded.detector, images, ImageSettings(48, 64), label="", progress=Silence())
    told = found_by(str(home / "found.json"), images)
    assert sum(len(one.scores) for one in told) > len(images)
    for one, other in zip(own, told, strict=True):
        kept = (one.boxes[:, 2:] > one.boxes[:, :2]).all(axis=1)
        np.testing.assert_allclose(one.boxes[kept], other.boxes, atol=1e-4)
        np.testing.assert_allclose(one.probabilities[kept], other.probabilities, atol=1e-6)
        assert one.labels[kept].tolist() == other.labels.tolist()
    with pytest.raises(ConfigError, match=r"told where to write .* Pass --out DIR\."):
        detdistill.predict(home / "net", data=home / "data")
    with pytest.raises(ConfigError, match=r"--class-scores must come with .* Pass --coco FILE\."):
        detdistill.predict(home / "net", data=home / "data", out=home / "d", class_scores=True)


def test_plain_results_say_nothing_of_images_without_classes(data: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "plain.json", results(labels(data)))
    with pytest.raises(ConfigError, match="must name its classes, got plain results"):
        detdistill.predict(path, data / "images", out=tmp_path / "drawn")
