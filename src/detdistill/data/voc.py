"""Reads Pascal VOC: one XML file an image.

Found as ``Annotations/*.xml`` with images in ``JPEGImages`` and lists in ``ImageSets/Main``; as ``train`` and
``val`` (or ``valid``) folders that hold images and XML files together; or as one such folder, which is then divided
8:2 by a seed.

The classes are those of ``classes.txt`` beside ``Annotations``, where there is one, else all that stand in the XML
files of both splits, in alphabetical order. Objects marked ``difficult`` are kept, ignored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.data.annotations import Annotations
from detdistill.data.coco import label_order
from detdistill.data.coco_files import SPLITS
from detdistill.data.image_files import unsafe_name
from detdistill.data.label_columns import LabelColumns, usable_size
from detdistill.data.label_text import FileFlaw
from detdistill.data.listing import (
    IMAGE_SUFFIXES,
    Choice,
    Everything,
    ListFile,
    Share,
    by_stem,
    files_below,
    read_class_list,
    report_unlabelled,
    shown,
)
from detdistill.data.problems import Problems
from detdistill.data.voc_xml import VocFile, parse_voc
from detdistill.errors import ConfigError, DataError

ANNOTATIONS, IMAGE_SETS = "Annotations", "ImageSets"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_VAL_FOLDERS = ("val", "valid", "validation")
_XML = frozenset({".xml"})
# Pairs of lists that divide a data set, the preferred first.
_PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"))


@final
@dataclass(frozen=True, slots=True)
class VocSplit:
    """One split of a Pascal VOC data set.

    Attributes:
        folder: the data set.
        labels_dir: where the XML files are.
        images_dir: where the images are.
        choice: which of them are the split's.
        other: the XML folder and choice of the other split, whose classes count too; None without one.
    """

    folder: Path
    labels_dir: Path
    images_dir: Path
    choice: Choice
    other: tuple[Path, Choice] | None = None

    @property
    def source(self) -> Path:
        """What messages call the split's data."""
        return self.folder

    def text(self) -> str:
        """What is read, in a line."""
        images = shown(self.images_dir, self.folder)
        return f"Pascal VOC: {self.choice.text()}, images in {'the folder itself' if images == '.' else images}"

    def read(
        self,
        *,
        class_names: Sequence[str] | None = None,
        check_images: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Annotations, Problems]:
        """Reads the split; see `read_coco` for the arguments.

        Raises:
            DataError: no XML file can be read, or its classes are not those demanded.
        """
        problems = Problems()
        files = _parse(self.labels_dir, self.choice, problems)
        own = read_class_list(self.folder)
        names = own or self._classes(files, class_names)
        order = label_order(self.folder, names, class_names)
        columns = LabelColumns(str(self.folder), problems, class_names=names)
        images = by_stem(files_below(self.images_dir, IMAGE_SUFFIXES, problems))
        used = []
        for done, (stem, path, file) in enumerate(files, start=1):
            name = images.get(stem) or _named_image(file, self.images_dir, path=path, problems=problems)
            if name is not None:
                image = self.images_dir / name
                size = usable_size(image, file.size, where=str(path), check_images=check_images, problems=problems)
                if size is not None:
                    _add(columns, name, path, file, size)
                    used.append(stem)
            if progress is not None:
                progress(done, len(files))
        if isinstance(self.choice, Share | Everything):
            labelled = by_stem(files_below(self.labels_dir, _XML)).keys()
            report_unlabelled(images, labelled, problems, images_dir=self.images_dir, ending=".xml")
        return columns.finish(order, images_dir=self.images_dir, stems=used), problems

    def _classes(self, files: list[tuple[str, Path, VocFile]], demanded: Sequence[str] | None) -> tuple[str, ...]:
        """The classes demanded, where no other is seen, else all that are seen in both splits."""
        seen = {item.name for _, _, file in files for item in file.objects if item.name}
        if demanded is not None and seen <= set(demanded):
            return tuple(demanded)
        if self.other is not None:
            others = _parse(*self.other, Problems())
            seen |= {item.name for _, _, file in others for item in file.objects if item.name}
        if not seen:
            raise DataError(
                f"the XML files in {self.labels_dir} must hold at least one <object> with a <name>, got none. "
                f"Check that they are annotations of Pascal VOC."
            )
        return tuple(sorted(seen))


def _parse(folder: Path, choice: Choice, problems: Problems) -> list[tuple[str, Path, VocFile]]:
    """Name, path and content of every XML file of a split that can be read."""
    found = by_stem(files_below(folder, _XML, problems))
    parsed = []
    for entry in choice.choose(list(found), problems):
        if entry.stem not in found:
            what = f"no {entry.stem}.xml in {folder}"
            problems.add("label file missing", entry.where, what=what, action="skipped")
            continue
        path = folder / found[entry.stem]
        try:
            parsed.append((entry.stem, path, parse_voc(path)))
        except FileFlaw as flaw:
            problems.add(flaw.kind, flaw.where(path), what=flaw.what, action="skipped")
    return parsed


def _named_image(file: VocFile, images_dir: Path, *, path: Path, problems: Problems) -> str | None:
    """The image that an XML file names, where none bears the file's own name."""
    if not file.file_name:
        what = f"{images_dir} has no image {path.stem}.*, and no <filename> is given"
        problems.add("image file missing", str(path), what=what, action="skipped")
        return None
    flaw = unsafe_name(file.file_name)
    if flaw is not None:
        what = f"filename {file.file_name!r} {flaw}"
        problems.add("unusable file name", str(path), what=what, action="skipped")
        return None
    name = os.path.normpath(file.file_name)
    if (images_dir / name).is_file():
        return name
    what = f"{images_dir} has no image {path.stem}.* and no {file.file_name}"
    problems.add("image file missing", str(path), what=what, action="skipped")
    return None


def _add(columns: LabelColumns, name: str, path: Path, file: VocFile, size: tuple[int, int]) -> None:
    if file.size is None:
        what = f"no width and height; the file is {size[1]}x{size[0]}"
        columns.problems.add("image without size", str(path), what=what, action="repaired")
    row = columns.add_file(name, size=size, labels=str(path))
    for item in file.objects:
        if item.name not in columns.class_names:
            known = f"{item.name!r} is none of the classes" if item.name else "no <name>"
            where = f"{path}, line {item.line}"
            columns.problems.add("box of an unknown class", where, what=known, action="skipped")
            continue
        if item.odd_flag is not None:
            line, text = item.odd_flag
            what = f"difficult is {text!r}, taken as 0"
            columns.problems.add("difficult neither 0 nor 1", f"{path}, line {line}", what=what, action="repaired")
        category = columns.class_ids[columns.class_names.index(item.name)]
        columns.add_box(row, item.box(), category=category, line=item.line, ignored=item.difficult)


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.xml"))


def is_voc(folder: Path) -> bool:
    """Whether a folder looks like Pascal VOC."""
    labels = folder / ANNOTATIONS
    if labels.is_dir() and ((folder / IMAGE_SETS).is_dir() or bool(files_below(labels, _XML))):
        return True
    return any(_has_xml(place) for place in (folder, folder / "train", *(folder / name for name in _VAL_FOLDERS)))


def voc_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a Pascal VOC folder has; see `listed_splits`."""
    if (folder / ANNOTATIONS).is_dir():
        return listed_splits(folder, folder / ANNOTATIONS)
    if _has_xml(folder):
        return SPLITS
    return tuple(name for name, place in _folders(folder).items() if _has_xml(place))


def find_voc(folder: Path, split: str, *, listed: Path | None = None, split_seed: int = 0) -> VocSplit:
    """Finds one split of a Pascal VOC data set.

    Args:
        folder: the data set.
        split: ``"train"`` or ``"val"``.
        listed: take the images of this list, whatever its name.
        split_seed: divides a data set without lists.

    Raises:
        ConfigError: the lists do not tell which images are the split's.
    """
    labels = folder / ANNOTATIONS
    other = "val" if split == "train" else "train"
    if not labels.is_dir() and not _has_xml(folder):
        places = _folders(folder)
        if not _has_xml(places[split]):
            raise ConfigError(
                f"{folder} must hold the {split} split as a folder {places[split].name} with images and XML files, "
                f"got none. Add it, or put all images and XML files into one folder."
            )
        beside = (places[other], Everything(places[other])) if _has_xml(places[other]) else None
        return VocSplit(folder, places[split], places[split], Everything(places[split]), beside)
    if not labels.is_dir():
        shares = {name: Share(name, folder, split_seed) for name in (split, other)}
        return VocSplit(folder, folder, folder, shares[split], (folder, shares[other]))
    images = next(place for name in _IMAGE_FOLDERS if (place := folder / name).is_dir())
    if listed is not None:
        return VocSplit(folder, labels, images, ListFile(listed, folder), (labels, Everything(labels)))
    choices = _choices(folder, labels, split_seed)
    return VocSplit(folder, labels, images, choices[split], (labels, choices[other]))


def _folders(folder: Path) -> dict[str, Path]:
    """The folders of both splits, for images and XML files together."""
    val = next((folder / name for name in _VAL_FOLDERS if (folder / name).is_dir()), folder / _VAL_FOLDERS[0])
    return {"train": folder / "train", "val": val}


def _choices(folder: Path, labels: Path, split_seed: int) -> Mapping[str, Choice]:
    """How a folder with ``Annotations`` is divided."""
    return choices_by_list(folder, labels) or {split: Share(split, labels, split_seed) for split in SPLITS}


def listed_splits(folder: Path, labels: Path) -> tuple[str, ...]:
    """The splits of a data set that may be divided by lists: one whose list is empty is none, unless both are.

    Args:
        folder: as `choices_by_list` takes it.
        labels: as `choices_by_list` takes it.

    Raises:
        ConfigError: there are lists, and no pair of them divides the data set.
        DataError: a list cannot be read.
    """
    choices = choices_by_list(folder, labels) or {}
    return tuple(split for split, listed in choices.items() if not listed.is_empty()) or SPLITS


def choices_by_list(folder: Path, labels: Path) -> Mapping[str, ListFile] | None:
    """The lists that divide a data set; None where it has none.

    Args:
        folder: the data set; lists are in its ``ImageSets/Main`` or ``ImageSets``.
        labels: where its label files are.

    Raises:
        ConfigError: there are lists, and no pair of them divides the data set.
    """
    lists = [path for place in ("Main", "") for path in sorted((folder / IMAGE_SETS / place).glob("*.txt"))]
    by_name = {path.stem: path for path in reversed(lists)}
    for train, val in _PAIRS:
        if train in by_name and val in by_name:
            return {
                "train": ListFile(by_name[train], folder),
                "val": ListFile(by_name[val], folder, train=by_name[train]),
            }
    if not lists:
        return None
    present = ", ".join(path.name for path in lists[:8]) + (", ..." if len(lists) > 8 else "")
    raise ConfigError(
        f"{folder / IMAGE_SETS} must hold train.txt and val.txt (or trainval.txt and test.txt), got {present}. "
        f"Name the lists so, or remove them to divide the images of {labels.name} 8:2 by a seed."
    )
