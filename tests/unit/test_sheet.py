from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.report.palette import CLASS_COLOURS
from detdistill.report.sheet import SheetRow, comparison_sheet, sheet_rows

NAMES = ("car", "truck")
TITLES = ("teacher", "alone", "distilled")


def found(image_id: int, n: int, label: int = 0, score: float = 0.9) -> ImageDetections:
    boxes = np.array([[10, 10, 60, 60]] * n, dtype=np.float32).reshape(-1, 4)
    return ImageDetections(image_id, boxes, np.full(n, score, dtype=np.float32), np.full(n, label))


def row(size=(160, 96), *, n: int = 1, **scores: float) -> SheetRow:
    return SheetRow(
        image=Image.new("RGB", size, (90, 90, 90)),
        boxes=np.array([[20, 20, 70, 70]] * n, dtype=np.float32).reshape(-1, 4),
        labels=np.zeros(n, dtype=np.int32),
        detections={title: found(1, 1, label=1, score=scores.get(title, 0.9)) for title in TITLES},
        caption="image 1",
    )


def class_pixels(picture: Image.Image, label: int) -> np.ndarray:
    """How many pixels of a class's colour each fourth of the picture's width holds, header left out."""
    pixels = (np.asarray(picture)[90:] == CLASS_COLOURS[label]).all(axis=-1)
    return np.array([part.sum() for part in np.array_split(pixels, 4, axis=1)])


def test_every_column_shows_its_own_boxes(tmp_path):
    out = tmp_path / "deep" / "pictures.png"
    comparison_sheet(out, [row(alone=0.1)], class_names=NAMES)
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        truth, guesses = class_pixels(picture, 0) > 200, class_pixels(picture, 1) > 200
    assert truth.tolist() == [True, False, False, False]
    assert guesses.tolist() == [False, True, False, True]
    assert [file.name for file in out.parent.iterdir()] == ["pictures.png"]


def test_the_threshold_is_a_setting(tmp_path):
    comparison_sheet(tmp_path / "a.png", [row(alone=0.1)], class_names=NAMES, score_threshold=0.05)
    with Image.open(tmp_path / "a.png") as picture:
        assert (class_pixels(picture, 1)[1:] > 200).all()


def test_titles_stand_in_the_header(tmp_path):
    comparison_sheet(tmp_path / "a.png", [row()], class_names=NAMES)
    with Image.open(tmp_path / "a.png") as picture:
        header = np.asarray(picture.convert("L"))[:44]
    for part in np.array_split(header, 4, axis=1):
        assert (part < 100).sum() > 300


@pytest.mark.parametrize("size", [(160, 96), (640, 480), (96, 1000), (2000, 300), (1, 1)])
def test_images_of_any_shape_fit_their_panels(tmp_path, size):
    comparison_sheet(tmp_path / "a.png", [row(size), row((160, 96), n=0)], class_names=NAMES)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 4 * 492 + 12
        assert picture.height < 44 + 100 + 2 * (24 + 480 + 12)


def test_ground_truth_alone_makes_a_sheet_too(tmp_path):
    comparison_sheet(tmp_path / "a.png", [replace(row(), detections={})], class_names=NAMES)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 492 + 12


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="must have at least one row, got none"):
        comparison_sheet(tmp_path / "a.png", [], class_names=NAMES)
    assert list(tmp_path.iterdir()) == []


def test_rows_with_other_columns_are_refused(tmp_path):
    rows = [row(), replace(row(), detections={"teacher": found(1, 0)})]
    with pytest.raises(ConfigError, match=r"must have the columns \['teacher', 'alone', 'distilled'\], got"):
        comparison_sheet(tmp_path / "a.png", rows, class_names=NAMES)


def split(folder: Path, counts: list[int]) -> Annotations:
    for index in range(len(counts)):
        Image.new("RGB", (100, 80), (index, 0, 0)).save(folder / f"{index}.png")
    total = sum(counts)
    return Annotations(
        images_dir=folder,
        class_names=NAMES,
        category_ids=np.array([1, 2]),
        image_ids=np.arange(len(counts)) + 500,
        sizes=np.full((len(counts), 2), (80, 100), dtype=np.int32),
        name_bytes=np.frombuffer("".join(f"{i}.png" for i in range(len(counts))).encode(), dtype=np.uint8),
        name_offsets=np.arange(len(counts) + 1) * 5,
        offsets=np.cumsum([0, *counts]),
        boxes=np.array([[i, 0, i + 9, 9] for i in range(total)], dtype=np.float32).reshape(-1, 4),
        labels=np.zeros(total, dtype=np.int32),
        ignored=np.zeros(total, dtype=np.bool_),
        areas=np.full(total, 81, dtype=np.float32),
    )


def test_rows_come_from_all_over_the_split_and_have_objects(tmp_path):
    annotations = split(tmp_path, [1, 0, 2, 1, 0, 1, 1])
    rows = sheet_rows(annotations, {"teacher": [found(502, 3), found(500, 1)], "alone": []}, count=3)
    assert [one.caption for one in rows] == ["image 500 · 0.png", "image 503 · 3.png", "image 506 · 6.png"]
    assert [one.image.getpixel((0, 0)) for one in rows] == [(0, 0, 0), (3, 0, 0), (6, 0, 0)]
    assert rows[1].boxes.tolist() == [[3, 0, 12, 9]]
    assert [len(one.detections["teacher"].boxes) for one in rows] == [1, 0, 0]
    assert [list(one.detections) for one in rows] == [["teacher", "alone"]] * 3
    comparison_sheet(tmp_path / "sheet.png", rows, class_names=NAMES)


@pytest.mark.parametrize(("counts", "expected"), [([], 0), ([0, 0], 2), ([1], 1), ([1] * 9, 6)])
def test_small_and_empty_splits_give_the_rows_they_have(tmp_path, counts, expected):
    assert len(sheet_rows(split(tmp_path, counts), {})) == expected


@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    annotations = split(tmp_path, [1])
    (tmp_path / "0.png").unlink()
    if content is not None:
        (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.png\) must be (a readable file|an image that can be decoded), got"):
        sheet_rows(annotations, {})
