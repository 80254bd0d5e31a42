from __future__ import annotations

import json
import random

import numpy as np
import pytest

from coco_rows import CATEGORIES, box, image, only_problem, write
from detdistill.data.annotations import Reading
from detdistill.data.builder import MOST_CLASSES_FOR_REGIONS
from detdistill.data.formats.coco import read_coco
from detdistill.errors import DataError

# Nothing, or next to nothing.


def test_no_images(tmp_path):
    annotations, problems = read_coco(write(tmp_path))
    assert len(annotations) == 0
    assert annotations.boxes.shape == (0, 4)
    assert annotations.offsets.tolist() == [0]
    assert annotations.name_offsets.tolist() == [0]
    assert annotations.class_names == ("car", "person")
    assert len(problems) == 0


def test_boxes_without_images(tmp_path):
    annotations, problems = read_coco(write(tmp_path, annotations=[box(1, 5, [1, 1, 2, 2])]))
    assert len(annotations.boxes) == 0
    assert only_problem(problems).startswith("box of an unknown image | ")


def test_images_without_boxes_are_fine(tmp_path):
    annotations, problems = read_coco(
        write(tmp_path, images=[image(4), image(2), image(9)], annotations=[box(1, 2, [1, 2, 3, 4])])
    )
    assert annotations.offsets.tolist() == [0, 0, 1, 1]
    assert annotations.image_ids.tolist() == [4, 2, 9]
    assert len(problems) == 0


def test_what_the_arrays_hold_and_of_which_type(tmp_path):
    path = write(
        tmp_path,
        images=[image(900, file_name="sub/ä.png"), image(5, width=64, height=48)],
        annotations=[
            box(1, 5, [1.5, 2, 3, 4], category=3, area=7.25, segmentation=[[1.0, 2.0, 3.0, 4.0]]),
            box(2, 900, [0, 0, 40, 30], iscrowd=1, segmentation={"counts": [1, 2, 3], "size": [30, 40]}),
            box(3, 5, [2, 2, 2, 2]),
        ],
    )
    annotations, problems = read_coco(path, images_dir=tmp_path / "elsewhere")
    assert len(problems) == 0
    assert annotations.images_dir == tmp_path / "elsewhere"
    assert annotations.file_name(0) == "sub/ä.png"
    assert annotations.path(1) == tmp_path / "elsewhere" / "5.png"
    assert annotations.sizes.tolist() == [[30, 40], [48, 64]]
    assert annotations.category_ids.tolist() == [7, 3]
    assert annotations.boxes.tolist() == [[0, 0, 40, 30], [1.5, 2, 4.5, 6], [2, 2, 4, 4]]
    assert annotations.labels.tolist() == [0, 1, 0]
    assert annotations.ignored.tolist() == [True, False, False]
    assert annotations.areas.tolist() == [9, 7.25, 9]
    types = {name: getattr(annotations, name).dtype.str for name in ("image_ids", "sizes", "offsets", "boxes")}
    assert types == {"image_ids": "<i8", "sizes": "<i4", "offsets": "<i8", "boxes": "<f4"}
    assert (annotations.labels.dtype, annotations.ignored.dtype) == (np.int32, np.bool_)
    assert (annotations.areas.dtype, annotations.name_bytes.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize("order", [("annotations", "images", "categories"), ("categories", "annotations", "images")])
def test_lists_in_any_order(tmp_path, order):
    content = {
        "images": [image(1), image(2)],
        "annotations": [box(5, 2, [1, 1, 2, 2], category=3)],
        "categories": CATEGORIES,
        "info": {"images": [1, 2], "version": 1.5},
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps({key: content[key] for key in ("info", *order)}))
    annotations, problems = read_coco(path)
    assert annotations.offsets.tolist() == [0, 0, 1]
    assert annotations.labels.tolist() == [1]
    assert len(problems) == 0


def test_against_the_plain_way_on_random_files(tmp_path):
    draw = random.Random(0)
    images = [image(number, width=500, height=400) for number in draw.sample(range(10**6), 50)]
    rows = []
    for own in draw.sample(range(10**9), 400):
        bbox = [draw.randrange(0, 300) / 4 for _ in range(2)] + [draw.randrange(1, 400) / 4 for _ in range(2)]
        changes = {"iscrowd": draw.randrange(2), "area": draw.randrange(1, 99) / 2, "category": draw.choice([3, 7])}
        rows.append(box(own, draw.choice(images)["id"], bbox, **changes))
    annotations, problems = read_coco(write(tmp_path, images=images, annotations=rows))
    assert len(problems) == 0
    for index, entry in enumerate(images):
        mine = annotations.objects(index)
        theirs = [row for row in rows if row["image_id"] == entry["id"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in theirs)]
        assert annotations.boxes[mine].tolist() == corners
        assert annotations.labels[mine].tolist() == [[7, 3].index(row["category_id"]) for row in theirs]
        assert annotations.ignored[mine].tolist() == [row["iscrowd"] == 1 for row in theirs]
        assert annotations.areas[mine].tolist() == [row["area"] for row in theirs]


# Boxes.


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ([5, 5, 0, 4], "box without extent"),
        ([5, 5, 4, -1], "box without extent"),
        ([5, 5, 1e-9, 4], "box without extent"),
        ([float("nan"), 5, 4, 4], "box not four finite numbers"),
        ([5, 5, float("inf"), 4], "box not four finite numbers"),
        ([40, 5, 4, 4], "box outside its image"),
        ([-4, 5, 4, 4], "box outside its image"),
        ([5, 30, 4, 4], "box outside its image"),
        ([5, -9, 4, 4], "box outside its image"),
    ],
)
def test_boxes_that_are_skipped(tmp_path, bbox, kind):
    rows = [box(1, 1, [1, 1, 2, 2]), box(2, 1, bbox), box(3, 1, [2, 2, 2, 2])]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert annotations.boxes.tolist() == [[1, 1, 3, 3], [2, 2, 4, 4]]
    problem = only_problem(problems)
    assert problem.startswith(f"{kind} | {tmp_path / 'a.json'}, annotation 2: bbox [")
    assert problem.endswith("in image 1 (40x30) (skipped)")


@pytest.mark.parametrize(
    ("bbox", "shown"),
    [
        ([5, 5, 4], "[5, 5, 4]"),
        (["10", "20", "5", "5"], '["10", "20", "5", "5"]'),
        ([5, 5, True, 4], "[5, 5, true, 4]"),
        ([5, None, 4, [1]], "[5, null, 4, [1]]"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, ...]"),
        ({"x": 1}, "{...}"),
        ([], "[]"),
        (None, "null"),
    ],
)
def test_what_is_no_box_is_shown_as_it_was_written(tmp_path, bbox, shown):
    rows = [box(1, 1, [1, 1, 2, 2]), box(2, 1, bbox)]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert annotations.boxes.tolist() == [[1, 1, 3, 3]]
    where = f"box not four finite numbers | {tmp_path / 'a.json'}, annotation 2"
    assert only_problem(problems) == f'{where}: "bbox": {shown} of image_id 1 (skipped)'


@pytest.mark.parametrize(
    ("bbox", "clipped"),
    [
        ([-5, -2, 10, 10], [0, 0, 5, 8]),
        ([35, 25, 10, 10], [35, 25, 40, 30]),
        ([-1, -1, 99, 1e308], [0, 0, 40, 30]),
    ],
)
def test_boxes_partly_outside_are_clipped_and_reported(tmp_path, bbox, clipped):
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=[box(2, 1, bbox)]))
    assert annotations.boxes.tolist() == [clipped]
    assert only_problem(problems).startswith("box partly outside its image | ")
    assert (problems.repaired, problems.skipped) == (1, 0)


def test_half_a_pixel_of_overhang_is_clipped_silently(tmp_path):
    rows = [box(2, 1, [-0.5, 0, 40.9, 30.25])]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert annotations.boxes.tolist() == [[0, 0, 40, 30]]
    assert len(problems) == 0


@pytest.mark.parametrize("area", ["absent", None, 0, -3, float("nan"), 1e200, "big"])
def test_area_is_repaired_from_the_clipped_box(tmp_path, area):
    row = box(2, 1, [38, 0, 2.25, 4], area=area)
    if area == "absent":
        del row["area"]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=[row]))
    assert annotations.areas.tolist() == [8]
    assert only_problem(problems).startswith("area missing or not positive | ")


def test_crowd_without_flag_and_written_otherwise(tmp_path):
    rows = [box(number, 1, [1, 1, 2, 2], iscrowd=flag) for number, flag in enumerate([0, 1, True, "1", 1.0, "0", None])]
    del rows[0]["iscrowd"]
    annotations, _ = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert annotations.ignored.tolist() == [False, True, True, True, True, False, False]


# Categories.


def test_category_ids_with_gaps_keep_the_order_of_the_file(tmp_path):
    categories = [{"id": own, "name": f"c{own}"} for own in (90, 0, 13, -4)]
    rows = [box(own, 1, [1, 1, 2, 2], category=own) for own in (-4, 0, 13, 90)]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows, categories=categories))
    assert annotations.class_names == ("c90", "c0", "c13", "c-4")
    assert annotations.labels.tolist() == [3, 1, 2, 0]
    assert annotations.category_ids.tolist() == [90, 0, 13, -4]
    assert len(problems) == 0


def test_category_id_twice_and_name_twice(tmp_path):
    categories = [*CATEGORIES, {"id": 7, "name": "van"}, {"id": 8, "name": "person"}]
    rows = [box(1, 1, [1, 1, 2, 2], category=8)]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows, categories=categories))
    assert annotations.class_names == ("car", "person")
    assert annotations.labels.tolist() == [1]
    assert problems.counts == {"category id twice": 1, "category name twice": 1}
    assert (problems.repaired, problems.skipped) == (1, 1)


def test_demanded_classes_are_matched_by_name(tmp_path):
    rows = [box(1, 1, [1, 1, 2, 2], category=7), box(2, 1, [1, 1, 2, 2], category=3)]
    path = write(tmp_path, images=[image(1, ignore_regions=[[0, 0, 5, 5]])], annotations=rows)
    annotations, _ = read_coco(path, Reading(class_names=("person", "car")))
    assert annotations.class_names == ("person", "car")
    assert annotations.category_ids.tolist() == [3, 7]
    assert annotations.labels.tolist() == [1, 0, 0, 1]
    same, _ = read_coco(path, Reading(class_names=["car", "person"]))
    assert same.labels.tolist()[:2] == [0, 1]


def test_three_demanded_classes_in_turn(tmp_path):
    categories = [{"id": own, "name": name} for own, name in ((10, "a"), (20, "b"), (30, "c"))]
    rows = [box(own, 1, [1, 1, 2, 2], category=own) for own in (10, 20, 30)]
    path = write(tmp_path, images=[image(1)], annotations=rows, categories=categories)
    annotations, _ = read_coco(path, Reading(class_names=("c", "a", "b")))
    assert annotations.class_names == ("c", "a", "b")
    assert annotations.category_ids.tolist() == [30, 10, 20]
    assert annotations.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize("demanded", [("car",), ("car", "person", "van"), ("car", "human")])
def test_other_classes_are_refused_with_both_lists(tmp_path, demanded):
    with pytest.raises(DataError, match=r"must be \[.*\], got \['car', 'person'\] \(.*\)\. Make the names") as error:
        read_coco(write(tmp_path, images=[image(1)]), Reading(class_names=demanded))
    assert str(list(demanded)) in str(error.value)
    assert ("unknown ['person']" in str(error.value)) == ("person" not in demanded)
    assert ("missing ['van']" in str(error.value)) == ("van" in demanded)


# Ignore regions.


def test_an_ignore_region_is_ignored_for_every_class(tmp_path):
    images = [image(1, ignore_regions=[[35, 2, 10, 4]]), image(2, ignore_regions=[[1, 1, 2, 2], [1, 1, 0, 2], 5])]
    path = write(tmp_path, images=images, annotations=[box(1, 1, [1, 1, 2, 2], category=3)])
    annotations, problems = read_coco(path)
    assert annotations.offsets.tolist() == [0, 3, 5]
    assert annotations.labels.tolist() == [1, 0, 1, 0, 1]
    assert annotations.ignored.tolist() == [False, True, True, True, True]
    assert annotations.boxes[1:3].tolist() == [[35, 2, 40, 6]] * 2
    assert annotations.areas.tolist() == [9, 20, 20, 4, 4]
    assert problems.counts == {
        "ignore region not four finite numbers": 1,
        "ignore region without extent": 1,
        "ignore region partly outside its image": 1,
    }
    assert all(", image " in problem.where for problem in problems)


def test_ignore_regions_with_many_classes_are_left_out_and_reported(tmp_path):
    categories = [{"id": k, "name": str(k)} for k in range(MOST_CLASSES_FOR_REGIONS + 1)]
    images = [image(1, ignore_regions=[[3, 2, 10, 4]])]
    annotations, problems = read_coco(write(tmp_path, images=images, categories=categories))
    assert len(annotations.boxes) == 0
    assert only_problem(problems).startswith("ignore region with many classes | ")
    fewer, problems = read_coco(write(tmp_path, images=images, categories=categories[1:]))
    assert (len(fewer.boxes), len(problems)) == (MOST_CLASSES_FOR_REGIONS, 0)


# Real data: counts as stated by their makers.


@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("bccd/train", (292, 3943, 0), {"RBC": 3350, "WBC": 301, "Platelets": 292}),
        ("bccd/val", (72, 945, 0), {"RBC": 805, "WBC": 71, "Platelets": 69}),
        ("carla_sim/train", (390, 1275, 0), {"vehicle": 591, "traffic_light": 522, "bike": 77, "motobike": 36}),
        ("carla_sim/val", (125, 935, 0), {"traffic_light": 802, "vehicle": 107, "bike": 17, "motobike": 4}),
        ("coco_mini/train", (173, 1666, 20), {}),
        ("coco_mini/val", (168, 1434, 14), {}),
        ("coco_mini/free_train", (71, 680, 7), {}),
        ("coco_mini/free_val", (73, 626, 8), {}),
        ("coco_mini/traffic_train", (36, 282, 3), {}),
        ("coco_mini/traffic_val", (23, 192, 3), {}),
        ("kitti33/train", (25, 72, 0), {"Car": 43, "Pedestrian": 15, "Truck": 4, "Person_sitting": 0, "Tram": 1}),
        ("kitti33/val", (8, 41, 0), {"Car": 28, "Pedestrian": 5, "Van": 3, "Cyclist": 2, "Truck": 2, "Tram": 1}),
        ("microcontrollers/train", (112, 134, 0), {"Arduino_Nano": 37, "ESP8266": 32}),
        ("microcontrollers/val", (37, 43, 0), {"ESP8266": 15, "Arduino_Nano": 6}),
    ],
)
def test_real_data(real_data, name, counts, classes):
    images, boxes, crowd = counts
    path = real_data / f"{name}.json"
    annotations, problems = read_coco(path)
    assert problems.summary() == []
    assert annotations.images_dir == path.parent / "images"
    assert len(annotations) == images
    assert all(annotations.path(index).is_file() for index in range(images))
    regions = sum(len(entry.get("ignore_regions", ())) for entry in json.loads(path.read_text())["images"])
    assert (regions > 0) == name.startswith("kitti33")
    ignored = crowd + regions * len(annotations.class_names)
    assert int(annotations.ignored.sum()) == ignored
    assert len(annotations.boxes) == boxes + regions * len(annotations.class_names)
    found = np.bincount(annotations.labels[~annotations.ignored], minlength=len(annotations.class_names))
    for class_name, count in classes.items():
        assert found[annotations.class_names.index(class_name)] == count


def test_real_images_are_whole(real_data):
    annotations, problems = read_coco(real_data / "kitti33" / "train.json", Reading(check_images=True))
    assert (len(annotations), problems.summary()) == (25, [])


def test_native_coco_with_polygons(real_data):
    path = real_data / "coco_mini" / "native_coco" / "instances_val2017.json"
    content = json.loads(path.read_text())
    annotations, problems = read_coco(path, images_dir=real_data / "coco_mini" / "images")
    assert len(annotations) == len(content["images"])
    assert len(annotations.boxes) == len(content["annotations"])
    assert annotations.category_ids.tolist() == [entry["id"] for entry in content["categories"]]
    assert float(annotations.areas.sum()) == pytest.approx(sum(entry["area"] for entry in content["annotations"]))
    assert problems.skipped == 0
