"""Data formats that come from outside: one of another package's making goes the ways of our own."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pytest

from detdistill.data.annotations import Annotations
from detdistill.data.builder import match_classes
from detdistill.data.formats import FORMATS, Format, Reading, Split
from detdistill.data.label_files import LabelFile, LabelledBox, LabelledImages
from detdistill.data.problems import Problems
from detdistill.data.sources import find_split, open_split, present_splits
from detdistill.data.writable import Place, WritableSplit
from detdistill.errors import ConfigError
from detdistill.jobs.data import check_data_job, convert_data_job
from detdistill.registry import Registry
from folders_by_hand import make_coco, make_kitti

# A table a split: file, class and corners; a row without a class is an image without boxes.


@final
@dataclass(frozen=True, slots=True)
class CsvSplit(Split):
    table: Path

    @property
    def source(self) -> Path:
        return self.table

    def text(self) -> str:
        return f"CSV: {self.table.name}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        problems, rows = Problems(), list(csv.reader(self.table.read_text(encoding="utf-8").splitlines()))
        names = sorted({row[1] for row in rows if row[1]})
        classes = match_classes(self.table, names, reading.class_names)
        collected = LabelledImages(classes, self.table.parent, problems=problems, check_images=reading.check_images)
        images: dict[str, list[LabelledBox]] = {}
        for line, (name, kind, *corners) in enumerate(rows, start=1):
            boxes = images.setdefault(name, [])
            if kind:
                x1, y1, x2, y2 = map(float, corners)
                boxes.append(LabelledBox(kind, (x1, y1, x2, y2), line))
        for name, boxes in images.items():
            collected.add(name, LabelFile(tuple(boxes)), file=self.table, stem=Path(name).stem)
        return collected.finish(), problems


def splits(data: Path) -> tuple[str, ...]:
    return tuple(split for split in ("train", "val") if (data / f"{split}.csv").is_file())


def find(data: Path, split: str, *, exact: bool, split_seed: int) -> CsvSplit:
    del exact, split_seed
    return CsvSplit(data if data.is_file() else data / f"{split}.csv")


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    for name, split in splits.items():
        lines = []
        for image in split.images():
            place(image, folder / image.name)
            rows = [(class_names[item.label], *item.box) for item in image.boxes] or [("", 0, 0, 0, 0)]
            lines += [f"{','.join(map(str, (image.name, *row)))}\n" for row in rows]
        (folder / f"{name}.csv").write_text("".join(lines), encoding="utf-8")


CSV = Format(
    name="csv",
    title="CSV",
    precedence=50,
    holds="train.csv or val.csv",
    file="a table",
    recognises=lambda data: data.suffix == ".csv" if data.is_file() else bool(splits(data)),
    splits=lambda data: ("val",) if data.is_file() else splits(data),
    find=find,
    write=write,
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Format]:
    with monkeypatch.context() as patch:
        patch.setattr(FORMATS, "_added", {})
        yield FORMATS.register(CSV)


def boxes(annotations: Annotations) -> list[tuple[str, list[float]]]:
    names = [annotations.class_names[label] for label in annotations.labels]
    return list(zip(names, annotations.boxes.tolist(), strict=True))


@pytest.mark.usefixtures("registered")
def test_a_registered_format_goes_every_way(tmp_path: Path) -> None:
    make_coco(tmp_path / "in")
    convert_data_job(tmp_path / "in", to="csv", out=tmp_path / "csv")
    outcome = check_data_job(tmp_path / "csv")
    assert outcome.sources == {"train": "CSV: train.csv", "val": "CSV: val.csv"}
    assert [(item.images, item.boxes, len(item.problems)) for item in outcome.splits.values()] == [(3, 3, 0), (2, 3, 0)]
    convert_data_job(tmp_path / "csv", to="coco", out=tmp_path / "back")
    for split in ("train", "val"):
        first, there, back = (open_split(tmp_path / name, split)[0] for name in ("in", "csv", "back"))
        assert boxes(first) == boxes(there) == boxes(back)
    assert present_splits(tmp_path / "csv" / "val.csv") == ("val",)


@pytest.mark.usefixtures("registered")
def test_problems_of_a_registered_format_are_told_by_file_and_line(tmp_path: Path) -> None:
    make_coco(tmp_path / "in")
    convert_data_job(tmp_path / "in", to="csv", out=tmp_path / "csv")
    table = tmp_path / "csv" / "train.csv"
    table.write_text(table.read_text().replace("12.0,13.0", "1.0,13.0"))
    _, problems = open_split(table, "train")
    assert [problem.where for problem in problems] == [f"{table}, line 1"]
    assert problems.counts == {"box without extent": 1}


@pytest.mark.usefixtures("registered")
def test_messages_name_a_registered_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(Pascal VOC\) or train\.csv or val\.csv \(CSV\), got none of them"):
        find_split(tmp_path, "train")


def test_a_format_to_write_is_looked_up(tmp_path: Path, registered: Format) -> None:
    make_coco(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"one of coco, csv, kitti, voc, yolo, got 'kiti'\. Did you mean 'kitti'\?"):
        convert_data_job(tmp_path / "in", to="kiti", out=tmp_path / "out")
    FORMATS.register(dataclasses.replace(registered, write=None))
    with pytest.raises(ConfigError, match=r"one of coco, kitti, voc, yolo, got 'csv', which is only read\. Choose one"):
        convert_data_job(tmp_path / "in", to="csv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_format_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint("csv", f"{__name__}:CSV", group)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: CSV)
    found = Registry(
        "data format",
        group=FORMATS.group,
        package="detdistill.data.formats",
        attribute="FORMAT",
        entry_type=Format,
    )
    assert {"coco", "csv", "kitti", "voc", "yolo"} <= set(found)


def test_what_one_format_knows_another_writer_does_not_copy(tmp_path: Path) -> None:
    make_kitti(tmp_path / "in")
    label = tmp_path / "in" / "training" / "label_2" / "a.txt"
    label.write_text(label.read_text().replace(" 0 0 -10", " 0.35 2 1.5", 1))
    for target in ("kitti", "voc"):
        convert_data_job(tmp_path / "in", to=target, out=tmp_path / target)
    convert_data_job(tmp_path / "voc", to="kitti", out=tmp_path / "again")
    written = [tmp_path / name / "training" / "label_2" / "a.txt" for name in ("kitti", "again")]
    assert ["0.35" in path.read_text() for path in written] == [True, False]
