from __future__ import annotations

import json
from pathlib import Path

import pytest

from detdistill.data.formats.coco import read_coco
from detdistill.data.problems import Problems
from detdistill.data.summary import ClassCount, Spread, summarise


def split(folder: Path, *, images: int, boxes: list[tuple[int, int, list[float], float, int]]):
    content = {
        "images": [{"id": own, "file_name": f"{own}.png", "width": 400, "height": 300} for own in range(images)],
        "annotations": [
            {"id": own, "image_id": of, "category_id": category, "bbox": bbox, "area": area, "iscrowd": crowd}
            for own, (of, category, bbox, area, crowd) in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "car"}, {"id": 1, "name": "van"}],
    }
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return read_coco(path)


def test_no_images(tmp_path):
    summary = summarise(*split(tmp_path, images=0, boxes=[]))
    assert (summary.images, summary.boxes, summary.box_side, summary.image_width) == (0, 0, None, None)
    assert summary.classes == (ClassCount("car", 0, 0.0, 0), ClassCount("van", 0, 0.0, 0))
    assert summary.rows()[:3] == [("images", "0"), ("images without boxes", "0 (-)"), ("boxes", "0 (-)")]


def test_images_without_boxes(tmp_path):
    summary = summarise(*split(tmp_path, images=3, boxes=[(1, 0, [0, 0, 9, 9], 81, 1)]))
    assert (summary.images_without_boxes, summary.boxes, summary.ignored) == (3, 0, 1)
    assert (summary.image_width, summary.image_height) == (Spread(400, 400, 400), Spread(300, 300, 300))


def test_counts_balance_and_sizes(tmp_path):
    boxes = [
        (0, 0, [0, 0, 10, 10], 100, 0),
        (0, 0, [5, 5, 20, 80], 1024, 0),
        (2, 0, [5, 5, 100, 100], 9216, 0),
        (2, 1, [5, 5, 40, 40], 1023.5, 0),
        (2, 1, [5, 5, 40, 40], 1600, 1),
        (3, 1, [5, 5, 0, 40], 5, 0),
    ]
    annotations, problems = split(tmp_path, images=4, boxes=boxes)
    summary = summarise(annotations, problems)
    assert summary.classes == (ClassCount("car", 3, 75.0, 2), ClassCount("van", 1, 25.0, 1))
    assert (summary.images, summary.images_without_boxes, summary.boxes, summary.ignored) == (4, 2, 4, 1)
    assert (summary.small, summary.medium, summary.large) == (2, 1, 1)
    assert summary.box_side == Spread(10, 40, 100)
    assert (summary.repaired, summary.skipped) == (0, 1)
    assert summary.rows() == [
        ("images", "4"),
        ("images without boxes", "2 (50.0 %)"),
        ("boxes", "4 (1.0 per image)"),
        ("ignored boxes", "1"),
        ("ignore regions", "0"),
        ("small / medium / large", "2 / 1 / 1"),
        ("box side, px", "10 to 100, median 40"),
        ("image width, px", "400 to 400, median 400"),
        ("image height, px", "300 to 300, median 300"),
        ("class car", "3 (75.0 %) in 2 images"),
        ("class van", "1 (25.0 %) in 1 image"),
        ("problem: box without extent", "1"),
        ("repaired / skipped", "0 / 1"),
    ]
    assert json.loads(json.dumps(summary.as_dict()))["classes"][1]["name"] == "van"
    assert summary.as_dict()["problems"] == {"box without extent": 1}


def test_a_region_ignored_by_every_class_counts_once(tmp_path):
    boxes = [(0, 0, [0, 0, 9, 9], 81, 1), (0, 1, [0, 0, 9, 9], 81, 1), (1, 0, [0, 0, 9, 9], 81, 1)]
    summary = summarise(*split(tmp_path, images=2, boxes=boxes))
    assert (summary.regions, summary.ignored, summary.boxes) == (1, 1, 0)


def test_real_data(real_data):
    annotations, _ = read_coco(real_data / "bccd" / "train.json")
    summary = summarise(annotations, Problems())
    assert [(item.name, item.boxes) for item in summary.classes] == [("RBC", 3350), ("WBC", 301), ("Platelets", 292)]
    assert sum(item.percent for item in summary.classes) == pytest.approx(100)
    assert summary.small + summary.medium + summary.large == summary.boxes == 3943
