"""Ids in COCO files: missing, repeated, unknown, and written as text."""

from __future__ import annotations

from coco_rows import CATEGORIES, box, image, only_problem, write
from detdistill.data.formats.coco import read_coco


def test_annotations_of_one_id_keep_their_boxes(tmp_path):
    rows = [box(8, 1, [1, 1, 2, 2]), box(8, 1, [5, 5, 2, 2])]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert annotations.boxes.tolist() == [[1, 1, 3, 3], [5, 5, 7, 7]]
    place = f"{tmp_path / 'a.json'}, annotation 8"
    assert only_problem(problems) == f"annotation id twice | {place}: another of image_id 1 (kept)"


def test_ids_written_as_text_are_numbers(tmp_path):
    rows = [box("x", "1", [1, 1, 2, 2], category="4"), box("y", "2", [2, 2, 2, 2], category="9")]
    path = write(
        tmp_path,
        images=[image("1"), image("2")],
        annotations=rows,
        categories=[{"id": "4", "name": "car"}, {"id": "9", "name": "dog"}],
    )
    annotations, problems = read_coco(path)
    assert annotations.image_ids.tolist() == [1, 2]
    assert annotations.labels.tolist() == [0, 1]
    assert annotations.category_ids.tolist() == [4, 9]
    assert problems.counts == {"id written as text": 4}
    assert problems.repaired == 4
    texts = [problem.text().removeprefix(f"{path}, ") for problem in problems]
    assert 'image_id in annotations: "1" and the like are taken as numbers (repaired)' in texts


def test_missing_annotation_ids_are_no_repeats(tmp_path):
    rows = [box(8, 1, [1, 1, 2, 2]), box(8, 1, [5, 5, 2, 2]), box(1, 1, [5, 5, 0, 2])]
    for row in rows:
        del row["id"]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert len(annotations.boxes) == 2
    assert "annotation without id" in only_problem(problems)


def test_second_image_of_an_id_is_skipped(tmp_path):
    images = [image(1), image(1, file_name="other.png"), image(2)]
    annotations, problems = read_coco(write(tmp_path, images=images, annotations=[box(1, 1, [1, 1, 2, 2])]))
    assert [annotations.file_name(index) for index in range(2)] == ["1.png", "2.png"]
    assert annotations.offsets.tolist() == [0, 1, 1]
    assert only_problem(problems).startswith("image id twice | ")


def test_unknown_image_and_category(tmp_path):
    rows = [box(1, 2, [1, 1, 2, 2]), box(2, 1, [1, 1, 2, 2], category=4), box(3, 1, [1, 1, 3, 3])]
    annotations, problems = read_coco(write(tmp_path, images=[image(1)], annotations=rows))
    assert annotations.boxes.tolist() == [[1, 1, 4, 4]]
    assert problems.counts == {"box of an unknown image": 1, "box of an unknown category": 1}
    assert [problem.what for problem in problems] == ["image_id 2", "category_id 4, image_id 1"]


def test_entries_that_are_none(tmp_path):
    path = write(
        tmp_path,
        images=[image(1), 3, image("x"), image(2**70), image(True)],
        annotations=[
            [],
            box(1, "one", [1, 1, 2, 2]),
            box(2, 1.0, [1, 1, 2, 2], category=None),
            box(3, 1.0, [1, 1, 2, 2]),
        ],
        categories=[*CATEGORIES, {"id": 5}, {"name": "van"}, {"id": 6, "name": " "}],
    )
    annotations, problems = read_coco(path)
    assert (len(annotations), len(annotations.boxes), len(annotations.class_names)) == (1, 1, 2)
    assert problems.counts == {
        "bad entry in images": 4,
        "bad entry in annotations": 3,
        "bad entry in categories": 3,
    }
    assert {problem.where.split(", ")[1] for problem in problems} >= {"images entry 2", "annotations entry 1"}
    said = {problem.what for problem in problems}
    assert {"id must be a whole number, got true", 'id must be a whole number, got "x"'} <= said
    assert 'image_id and category_id must be whole numbers, got "one" and 7' in said
