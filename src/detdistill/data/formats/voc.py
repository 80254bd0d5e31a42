"""Pascal VOC: one XML file an image.

Found as ``Annotations/*.xml`` with images in ``JPEGImages`` and lists in ``ImageSets/Main``; as ``train`` and
``val`` (or ``valid``) folders that hold images and XML files together; or as one such folder, which is then divided
8:2 by a seed.

The classes are those of ``classes.txt`` beside ``Annotations``, where there is one, else all that stand in the XML
files of both splits, in alphabetical order. Objects marked ``difficult`` are kept, ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.data.annotations import Annotations
from detdistill.data.formats import Format
from detdistill.data.formats.voc_xml import parse_voc, voc_xml
from detdistill.data.label_files import LabelFolder
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SETS,
    SPLITS,
    Choice,
    Everything,
    ListFile,
    Share,
    choices,
    file_of_split,
    files_below,
    folder_of_list,
    listed_splits,
    shown,
)
from detdistill.data.problems import Problems
from detdistill.data.split import Reading, Split
from detdistill.data.writable import Place, WritableSplit, plain_classes, write_lists, write_plain
from detdistill.errors import ConfigError, DataError

ANNOTATIONS = "Annotations"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_VAL_FOLDERS = ("val", "valid", "validation")


@final
@dataclass(frozen=True, slots=True)
class VocSplit(Split):
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
        """The data set's folder."""
        return self.folder

    @property
    def drawn(self) -> bool:
        """Whether there are no lists."""
        return isinstance(self.choice, Share)

    def text(self) -> str:
        """The choice, and where the images are."""
        return f"Pascal VOC: {self.choice.text()}, images in {shown(self.images_dir, self.folder)}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the split.

        Raises:
            DataError: no XML file can be read, or its classes are not those demanded.
        """

        def classes(seen: set[str]) -> Sequence[str]:
            if reading.class_names is not None and seen <= set(reading.class_names):
                return reading.class_names
            known = seen | (_files(*self.other).kinds() if self.other is not None else set())
            if not known:
                raise DataError(
                    f"the XML files in {self.labels_dir} must hold at least one <object> with a <name>, got none. "
                    f"Check that they are annotations of Pascal VOC."
                )
            return sorted(known)

        return _files(self.labels_dir, self.choice).read(self.folder, self.images_dir, reading, classes)


def _files(folder: Path, choice: Choice) -> LabelFolder:
    return LabelFolder(folder, choice, ".xml", parse_voc)


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.xml"))


def _is_listed(folder: Path) -> bool:
    return (folder / ANNOTATIONS).is_dir()


def recognises(data: Path) -> bool:
    """Whether a folder looks like Pascal VOC, or a text file is one of its lists."""
    if data.is_file():
        return folder_of_list(data, _is_listed) is not None
    labels = data / ANNOTATIONS
    if labels.is_dir() and ((data / IMAGE_SETS).is_dir() or bool(files_below(labels, frozenset({".xml"})))):
        return True
    return any(_has_xml(place) for place in (data, data / "train", *(data / name for name in _VAL_FOLDERS)))


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder has; see `listed_splits`."""
    if data.is_file():
        return ("val",)
    if _is_listed(data):
        return listed_splits(data, data / ANNOTATIONS)
    if _has_xml(data):
        return SPLITS
    return tuple(name for name, place in _folders(data).items() if _has_xml(place))


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> VocSplit:
    """Finds one split, in a folder or by one of its lists.

    Raises:
        ConfigError: the lists do not tell which images are the split's.
    """
    if data.is_file():
        listed = (data if exact else file_of_split(data, split)).resolve()
        folder = folder_of_list(listed, _is_listed) or listed.parent
        labels = folder / ANNOTATIONS
        return VocSplit(folder, labels, _images(folder), ListFile(listed, folder), (labels, Everything(labels)))
    labels, other = data / ANNOTATIONS, "val" if split == "train" else "train"
    if labels.is_dir():
        chosen = choices(data, labels, split_seed)
        return VocSplit(data, labels, _images(data), chosen[split], (labels, chosen[other]))
    if _has_xml(data):
        return VocSplit(data, data, data, Share(split, data, split_seed), other=(data, Share(other, data, split_seed)))
    places = _folders(data)
    if not _has_xml(places[split]):
        raise ConfigError(
            f"{data} must hold the {split} split as a folder {places[split].name} with images and XML files, "
            f"got none. Add it, or put all images and XML files into one folder."
        )
    beside = (places[other], Everything(places[other])) if _has_xml(places[other]) else None
    return VocSplit(data, places[split], places[split], Everything(places[split]), beside)


def _images(folder: Path) -> Path:
    return next(place for name in _IMAGE_FOLDERS if (place := folder / name).is_dir())


def _folders(folder: Path) -> dict[str, Path]:
    """The folders of both splits, for images and XML files together."""
    val = next((folder / name for name in _VAL_FOLDERS if (folder / name).is_dir()), folder / _VAL_FOLDERS[0])
    return {"train": folder / "train", "val": val}


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``Annotations``, ``JPEGImages``, ``ImageSets/Main`` and ``classes.txt``."""
    plain = plain_classes(class_names)
    write_plain(folder / CLASS_LIST, plain)
    write_lists(folder / IMAGE_SETS / "Main", splits)
    (folder / ANNOTATIONS).mkdir()
    for split in splits.values():
        for row in split.images():
            image = split.image(row)
            write_plain(folder / ANNOTATIONS / f"{image.stem}.xml", voc_xml(image, split.size(row), plain))
            place(split, image, folder / "JPEGImages" / image.name)


FORMAT = Format(
    name="voc",
    title="Pascal VOC",
    precedence=40,
    holds="Annotations/*.xml",
    file="a list such as ImageSets/Main/train.txt with Annotations near it",
    recognises=recognises,
    splits=splits,
    find=find,
    write=write,
)
