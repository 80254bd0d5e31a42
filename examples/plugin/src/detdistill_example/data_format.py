"""csv: a table a split, `train.csv` and `val.csv`, a row a box: file, class, x1, y1, x2, y2 in pixels.

Images are named from the table's folder. A row with an empty class is an image without boxes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import final

from detdistill import Format
from detdistill.data.annotations import Annotations
from detdistill.data.builder import match_classes
from detdistill.data.formats import Reading, Split
from detdistill.data.image_files import unsafe_name
from detdistill.data.label_files import LabelFile, LabelledBox, LabelledImages
from detdistill.data.label_text import FileFlaw, number, read_text
from detdistill.data.listing import SPLITS, file_of_split, without_suffix
from detdistill.data.problems import Problems
from detdistill.data.writable import Place, WritableSplit
from detdistill.errors import ConfigError, DataError

COLUMNS = ("file", "class", "x1", "y1", "x2", "y2")


@final
@dataclass(frozen=True, slots=True)
class CsvSplit(Split):
    """One table."""

    table: Path

    @property
    def source(self) -> Path:
        """The table."""
        return self.table

    def text(self) -> str:
        """The table's name; its images are named from its folder."""
        return f"CSV: {self.table.name}, images named from its folder"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the table; its classes are in alphabetical order, and may be fewer than those demanded.

        Raises:
            DataError: it is no such table, or shows other classes than those demanded.
        """
        problems = Problems()
        images: dict[str, list[LabelledBox]] = {}
        for line, (name, kind, *corners) in self._rows(problems):
            boxes = images.setdefault(normpath(name), [])
            if kind:
                x1, y1, x2, y2 = map(number, corners)
                boxes.append(LabelledBox(kind, (x1, y1, x2, y2), line))
        seen = {str(box.kind) for boxes in images.values() for box in boxes}
        demanded = reading.class_names
        names = demanded if demanded is not None and seen <= set(demanded) else sorted(seen)
        classes = match_classes(self.table, names, demanded)
        collected = LabelledImages(classes, self.table.parent, problems=problems, check_images=reading.check_images)
        for done, (name, boxes) in enumerate(images.items(), start=1):
            collected.add(name, LabelFile(tuple(boxes)), file=self.table, stem=without_suffix(name))
            reading.progress(done, len(images))
        return collected.finish(), problems

    def _rows(self, problems: Problems) -> Iterator[tuple[int, list[str]]]:
        """Line number and words of every row that can be used; names of files stay inside the folder."""
        try:
            # Only a strict reader tells of a quotation mark that is never closed.
            rows = csv.reader(io.StringIO(read_text(self.table), newline=None), strict=True)
            header = next(rows, [])
            if tuple(word.strip() for word in header) != COLUMNS:
                raise DataError(
                    f"{self.table}, line 1 must be {','.join(COLUMNS)}, got {','.join(header)!r}. Add this line."
                )
            for row in rows:
                words = [word.strip() for word in row]
                place = f"{self.table}, line {rows.line_num}"
                if not any(words):
                    continue
                if len(words) != len(COLUMNS):
                    problems.add("wrong number of columns", place, what=f"{len(words)} instead of 6", action="skipped")
                elif flaw := unsafe_name(words[0]):
                    problems.add("unusable file name", place, what=f"{words[0]!r} {flaw}", action="skipped")
                else:
                    yield rows.line_num, words
        except FileFlaw as flaw:
            raise flaw.refusal(self.table) from None
        except csv.Error as error:
            raise DataError(
                f"{self.table}, line {rows.line_num} must be a row of a CSV table, got: {error}. Mend the row."
            ) from error


def splits(data: Path) -> tuple[str, ...]:
    """The splits whose tables a folder holds; a table alone counts as the validation split."""
    return ("val",) if data.is_file() else tuple(split for split in SPLITS if (data / f"{split}.csv").is_file())


def find(data: Path, split: str, *, exact: bool, split_seed: int) -> CsvSplit:
    """The split's table in a folder, or the table given or beside it; nothing is drawn, so no seed matters.

    Raises:
        ConfigError: there is no table of the split.
    """
    del split_seed
    if data.is_file():
        return CsvSplit(data if exact else file_of_split(data, split))
    table = data / f"{split}.csv"
    if not table.is_file():
        raise ConfigError(f"the {split} split of {data} must be {table.name}, got no such file. Add it.")
    return CsvSplit(table)


def write(folder: Path, written: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes a table a split, and the images beside it; ignored boxes are left out, which is told."""
    for name, split in written.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for image in split.images():
                place(image, folder / image.name)
                boxes = [item for item in image.boxes if not item.ignored]
                if ignored := len(image.boxes) - len(boxes) + len(image.regions):
                    what = f"{ignored} ignored boxes or regions, which a table has no word for"
                    split.problems.add("ignored boxes left out", str(image.path), what=what, action="skipped")
                rows = [(image.name, class_names[item.label], *item.box) for item in boxes]
                table.writerows(rows or [(image.name, "", "", "", "", "")])


FORMAT = Format(
    name="csv",
    title="CSV",
    precedence=50,
    holds="train.csv or val.csv",
    file="a table such as train.csv",
    recognises=lambda data: data.suffix == ".csv" if data.is_file() else bool(splits(data)),
    splits=splits,
    find=find,
    write=write,
)
