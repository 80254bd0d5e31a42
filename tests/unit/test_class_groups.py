from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detdistill.data.annotations import Annotations
from detdistill.data.sources import open_split
from detdistill.errors import ConfigError, DataError
from detdistill.papers.protocols import AID_CLASSES, aid_classes, group_classes


def rows(annotations: Annotations) -> list[list[tuple]]:
    """(x1, class, ignored) of every object by image."""
    return [
        [
            (
                float(annotations.boxes[k, 0]),
                annotations.class_names[annotations.labels[k]],
                bool(annotations.ignored[k]),
            )
            for k in range(*annotations.objects(index).indices(len(annotations.boxes)))
        ]
        for index in range(len(annotations))
    ]


def small() -> Annotations:
    """Two images: a van, a hidden car, a walker, an ignored region of each class; then a tram."""
    labels = np.array([1, 0, 2, 0, 1, 2, 3], dtype=np.int32)
    boxes = np.array([[x, 0, x + 5, 5] for x in (0, 1, 2, 9, 9, 9, 4)], dtype=np.float32)
    return Annotations(
        images_dir=Path("images"),
        class_names=("Car", "Van", "Pedestrian", "Tram"),
        category_ids=np.array([5, 6, 7, 8], dtype=np.int64),
        image_ids=np.array([1, 2], dtype=np.int64),
        sizes=np.full((2, 2), 50, dtype=np.int32),
        name_bytes=np.zeros(0, dtype=np.uint8),
        name_offsets=np.zeros(3, dtype=np.int64),
        offsets=np.array([0, 6, 7], dtype=np.int64),
        boxes=boxes,
        labels=labels,
        ignored=np.array([0, 0, 0, 1, 1, 1, 0], dtype=np.bool_),
        areas=np.arange(7, dtype=np.float32),
    )


def test_others_become_ignored_everywhere_and_equal_ignored_boxes_one():
    grouped = group_classes(small(), {"Pedestrian": ["Pedestrian"], "Car": ["Car"]})
    assert grouped.class_names == ("Pedestrian", "Car")
    assert grouped.category_ids.tolist() == [1, 2]
    first, second = rows(grouped)
    assert sorted(first) == [
        (0.0, "Car", True),
        (0.0, "Pedestrian", True),
        (1.0, "Car", False),
        (2.0, "Pedestrian", False),
        (9.0, "Car", True),
        (9.0, "Pedestrian", True),
    ]
    assert sorted(second) == [(4.0, "Car", True), (4.0, "Pedestrian", True)]
    assert grouped.areas.tolist() == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 6.0]


def test_merged_objects_count():
    grouped = group_classes(small(), {"Car": ["Car", "Van", "Tram"], "Pedestrian": ["Pedestrian"]})
    first, second = rows(grouped)
    assert sorted(first) == [
        (0.0, "Car", False),
        (1.0, "Car", False),
        (2.0, "Pedestrian", False),
        (9.0, "Car", True),
        (9.0, "Pedestrian", True),
    ]
    assert second == [(4.0, "Car", False)]


@pytest.mark.parametrize("mode", ["ignored", "merged"])
def test_kitti_keeps_its_objects(real_data, mode):
    annotations, _ = open_split(real_data / "kitti33", "train")
    grouped = aid_classes(annotations, mode)
    names = np.array(annotations.class_names)[annotations.labels]
    members = {"ignored": ["Car"], "merged": ["Car", "Van", "Truck", "Tram"]}[mode]
    assert grouped.class_names == AID_CLASSES
    cars = ((grouped.labels == 0) & ~grouped.ignored).sum()
    assert cars == (np.isin(names, members) & ~annotations.ignored).sum() > 10
    assert grouped.ignored.sum() > 0
    assert len(grouped) == len(annotations)
    assert grouped.offsets[-1] == len(grouped.boxes) == len(grouped.labels) == len(grouped.areas)
    again = aid_classes(grouped, "ignored")
    assert rows(again) == rows(grouped)


def test_a_missing_class_and_an_unknown_mode_are_refused():
    with pytest.raises(DataError, match=r"must include Cyclist, got \['Car', 'Van', 'Pedestrian', 'Tram'\]"):
        aid_classes(small(), "ignored")
    with pytest.raises(ConfigError, match=r"must be one of ignored, merged, got 'merge'\. Did you mean 'merged'\?"):
        aid_classes(small(), "merge")
