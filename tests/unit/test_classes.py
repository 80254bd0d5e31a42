"""A subset of a data set's classes: the same from every format, told, and fit for evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coco_rows import box, image, write
from detdistill import open_data
from detdistill.data.annotations import Annotations, Reading, find_regions
from detdistill.data.classes import take_classes, with_classes
from detdistill.data.formats.coco import read_coco
from detdistill.detectors.class_map import ClassMap
from detdistill.detectors.load_report import LoadedDetector, LoadReport
from detdistill.detectors.mapped import MappedDetector
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.protocols import PROTOCOLS
from detdistill.jobs import finds
from detdistill.jobs.inputs import open_data_sets
from detdistill.jobs.opening import in_data_classes
from detdistill.jobs.settings import DataSettings, TeacherSettings
from folders_by_hand import make_coco, make_kitti, make_voc, make_yolo
from scenes_in_memory import tiny_student
from watched_jobs import Watcher

FORMATS = (make_coco, make_voc, make_yolo, make_kitti)


def by_image(annotations: Annotations) -> list[list[tuple[str, list[float], bool]]]:
    """Of every image the boxes with their classes' names."""
    return [
        [
            (
                annotations.class_names[annotations.labels[row]],
                annotations.boxes[row].tolist(),
                bool(annotations.ignored[row]),
            )
            for row in range(annotations.offsets[index], annotations.offsets[index + 1])
        ]
        for index in range(len(annotations))
    ]


@pytest.mark.parametrize("make", FORMATS)
def test_classes_are_kept_in_the_order_asked_for_whatever_the_format(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    watcher = Watcher()
    settings = DataSettings(folder=make(tmp_path), classes=("Van",))
    sets, train, val = open_data_sets(settings, progress=watcher)
    assert len(sets) == 1
    for split in (train, val):
        assert split.class_names == ("Van",)
    (first, second, empty), (cars, van) = by_image(train), by_image(val)
    assert [name for name, *_ in first] == [name for name, *_ in second] == [name for name, *_ in van] == ["Van"]
    assert first[0][1] == pytest.approx([20, 10, 40, 30], abs=0.01)
    # An image that has cars alone stays, without objects.
    assert cars == empty == []
    others = "left out Car (1 boxes)" if make is not make_kitti else "left out Car (1 boxes), Truck (0 boxes)"
    assert f"train data {tmp_path}: {others}" in watcher.text()
    assert "1 of 2 images keep no box and count as images without objects" in watcher.text()

    both = open_data_sets(DataSettings(folder=tmp_path, classes=("Van", "Car")), progress=Watcher())[1]
    assert both.class_names == ("Van", "Car")
    assert sorted(by_image(both)[0])[0][0] == "Car"
    plain = open_data_sets(DataSettings(folder=tmp_path), progress=Watcher())[1]
    assert sorted(by_image(both)[0]) == sorted(by_image(plain)[0])


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    make_coco(tmp_path)
    with pytest.raises(ConfigError) as refused:
        open_data_sets(DataSettings(folder=tmp_path, classes=("Vam",)), progress=Watcher())
    assert str(refused.value) == "data.classes must be classes of the data, Car, Van, got 'Vam'. Did you mean 'Van'?"


@pytest.mark.parametrize("classes", [(), ("Car", "Car")])
def test_classes_stand_once_each(classes: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"data\.classes must be the names of classes, each once, got \["):
        DataSettings(folder=Path("d"), classes=classes)


def test_validation_without_a_class_is_told(tmp_path: Path) -> None:
    folder = make_coco(tmp_path)
    content = json.loads((folder / "val.json").read_text())
    content["categories"][0]["name"] = "Bus"
    (folder / "val.json").write_text(json.dumps(content))
    watcher = Watcher()
    val = open_data_sets(DataSettings(folder=folder, classes=("Van", "Car")), progress=watcher)[2]
    assert val.class_names == ("Van", "Car")
    assert "no validation data has the class Car: its figures stay unknown" in watcher.lines
    with pytest.raises(DataError, match=r"must be \['Car', 'Van'\], got \['Bus', 'Van'\]"):
        open_data_sets(DataSettings(folder=folder), progress=Watcher())
    content["categories"][0]["name"] = "car"
    (folder / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"must be \['Van', 'Car'\], got \['car', 'Van'\]"):
        open_data_sets(DataSettings(folder=folder, classes=("Van", "Car")), progress=Watcher())


@pytest.fixture
def regions(tmp_path: Path) -> Annotations:
    """One image of three classes with a crowd of the first, a box of the second, and a region; one image of none."""
    categories = [{"id": 4 + k, "name": name} for k, name in enumerate("abc")]
    rows = [box(1, 1, [0, 0, 9, 9], category=4, iscrowd=1), box(2, 1, [1, 1, 5, 5], category=5, area=20)]
    images = [image(1, ignore_regions=[[20, 2, 10, 4]]), image(2)]
    return read_coco(write(tmp_path, images=images, annotations=rows, categories=categories), Reading())[0]


def test_what_is_ignored_stays_so(regions: Annotations) -> None:
    region, crowd, object_ = [20, 2, 30, 6], [0, 0, 9, 9], [1, 1, 6, 6]
    kept = with_classes(regions, ("b", "a"))
    assert by_image(kept) == [[("a", crowd, True), ("b", object_, False), ("b", region, True), ("a", region, True)], []]
    assert kept.category_ids.tolist() == [5, 4]
    assert kept.areas.tolist() == [9, 20, 40, 40]
    assert find_regions(kept).boxes.tolist() == [region]
    # The crowd goes with its class, the region stays for those that are left.
    assert by_image(with_classes(regions, ("b",))) == [[("b", object_, False), ("b", region, True)], []]
    # Also for a class that the data does not have.
    more = with_classes(regions, ("d", "a", "b", "c"))
    assert find_regions(more).boxes.tolist() == [region]
    assert more.category_ids.tolist() == [7, 4, 5, 6]
    types = {
        name: getattr(more, name).dtype for name in ("boxes", "labels", "ignored", "areas", "offsets", "category_ids")
    }
    assert types == {name: getattr(regions, name).dtype for name in types}
    assert with_classes(regions, ("a", "b", "c")) is regions


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (("a", "b", "c"), []),
        (("c", "b"), ["left out a (0 boxes)"]),
        (("c",), ["left out a (0 boxes), b (1 boxes); 1 of 2 images keep no box and count as images without objects"]),
        (("b", "d", "a", "c"), ["no class d, whose figures stay unknown"]),
        (("b", "d"), ["left out a (0 boxes), c (0 boxes)", "no class d, whose figures stay unknown"]),
    ],
)
def test_a_detector_is_measured_on_the_classes_it_shares_with_the_data(
    regions: Annotations, names: tuple[str, ...], notes: list[str]
) -> None:
    taken, found = take_classes(regions, names, source=Path("x"))
    assert (taken.class_names, found) == (names, notes)


@pytest.mark.parametrize("names", [("d", "e"), ("A", "b"), ("b", "C ")])
def test_none_shared_or_one_spelled_differently_is_refused(regions: Annotations, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"the classes of x must be .*Make the names of its classes the same"):
        take_classes(regions, names, source=Path("x"))


@pytest.mark.parametrize("protocol", ["coco", "voc"])
@pytest.mark.parametrize("make", FORMATS)
def test_a_detector_of_some_classes_or_of_more_is_measured_on_all_the_data(
    tmp_path: Path, make: Callable[[Path], Path], protocol: str
) -> None:
    make(tmp_path)
    rules = PROTOCOLS.find(protocol)
    for names in (("Van",), ("Van", "Car", "Ship")):
        watcher = Watcher()
        open_ = rules.open(tmp_path, split="val", class_names=names, progress=watcher)
        assert open_.annotations.class_names == names
        assert set(open_.measure([]).per_class) == set(names)
        assert ("left out Car (2 boxes)" in watcher.text()) == (names == ("Van",))
        assert ("no class Ship, whose figures stay unknown" in watcher.text()) == ("Ship" in names)


def test_a_loop_of_ones_own_takes_a_teachers_classes(tmp_path: Path) -> None:
    watcher = Watcher()
    data = open_data(make_coco(tmp_path), class_names=("Van",), progress=watcher)
    assert data.class_names == ("Van",)
    assert np.unique(data.annotations.labels).tolist() == [0]
    assert "train data: left out Car (1 boxes)" in watcher.text()


def test_a_teacher_is_shown_in_the_datas_classes(tmp_path: Path) -> None:
    """By equal names in any order and number; one that knows none of them is refused, unless it is allowed for."""
    make_coco(tmp_path)
    names = open_data_sets(DataSettings(folder=tmp_path), progress=Watcher())[1].class_names
    told = "classes: by equal names Van; the teacher does not know Car"

    def opened(*classes: str, **words: Any) -> tuple[LoadedDetector, bool, str]:
        detector, watcher = tiny_student("fcos", classes=classes), Watcher()
        loaded = LoadedDetector(detector, LoadReport("t", ()), {}, classes, {})
        choice = TeacherSettings("t", **words)
        return *in_data_classes(loaded, names, source="t", choice=choice, progress=watcher), watcher.text()

    loaded, whole, said = opened("Van", "Car")
    assert names == ("Car", "Van")
    assert whole
    assert loaded.detector.spec.class_names == names
    assert loaded.class_names == names
    loaded, whole, said = opened("Van")
    assert not whole
    assert f"t: {told}" in said
    assert told in loaded.report.text()
    assert loaded.detector.spec.unknown == ("Car",)
    assert loaded.class_names == ("Van",)
    loaded, whole, said = opened("Car", "Van")
    assert whole
    assert not said
    assert loaded.report.classes is None
    loaded, whole, said = opened("Van", allow=("classes",))
    assert not whole
    assert not said
    assert loaded.detector.spec.class_names == ("Van",)
    with pytest.raises(
        ConfigError, match=r"must know one of the data's classes, Car, Van, got cat\. Say which is which"
    ):
        opened("cat")
    assert opened("cat", classes_map="cat=Car")[0].detector.spec.unknown == ("Van",)


def test_what_a_teacher_of_some_classes_finds_keeps_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels and probabilities are the data's; of one that is taken as it is, with others, they say nothing."""
    said = ImageDetections(1, np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([1]), np.eye(2)[1:])
    monkeypatch.setattr(finds, "detect", lambda *_, **__: [said])
    names = ("Car", "Van")
    bare = tiny_student("fcos", classes=("Van",))
    for detector, label in ((MappedDetector(bare, ClassMap.between(("Van",), names)), 1), (bare, 0)):
        data = SimpleNamespace(train=SimpleNamespace(class_names=names))
        config = SimpleNamespace(evaluate=SimpleNamespace(batch_size=1, agnostic=False))
        teacher = SimpleNamespace(detector=detector, class_names=("Van",))
        opened = SimpleNamespace(teacher=teacher, data=data, config=config, taught_at=None, first_device=None)
        (found,) = finds._looked(opened, None)  # type: ignore[arg-type]
        assert found.labels.tolist() == [label]
        assert (found.probabilities is None) == (label == 0)
