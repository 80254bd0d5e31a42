"""Pascal VOC: one XML file an image.

Found as ``Annotations/*.xml`` with images in ``JPEGImages`` and lists in ``ImageSets/Main``; as ``train`` and
``val`` (or ``valid``) folders that hold images and XML files together; or as one such folder, which is then divided
8:2 by a seed.

The classes are those of ``classes.txt`` beside ``Annotations``, where there is one, else all that stand in the XML
files of both splits, in alphabetical order. Objects marked ``difficult`` are kept, ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from detdistill.data.formats import Format
from detdistill.data.formats.voc_xml import parse_voc, voc_xml
from detdistill.data.label_files import LabelFolder
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SETS,
    SPLITS,
    Everything,
    ListFile,
    Share,
    choices,
    file_of_split,
    files_below,
    folder_of_list,
    listed_splits,
)
from detdistill.data.writable import Place, WritableSplit, plain_classes, write_lists, write_plain
from detdistill.errors import ConfigError, DataError

ANNOTATIONS = "Annotations"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
_VAL_FOLDERS = ("val", "valid", "validation")


def _classes(split: LabelFolder, seen: set[str], demanded: Sequence[str] | None) -> Sequence[str]:
    if demanded is not None and seen <= set(demanded):
        return demanded
    known = seen | split.kinds_elsewhere()
    if not known:
        raise DataError(
            f"the XML files in {split.labels_dir} must hold at least one <object> with a <name>, got none. "
            f"Check that they are annotations of Pascal VOC."
        )
    return sorted(known)


_split = partial(LabelFolder, title="Pascal VOC", ending=".xml", parse=parse_voc, classes=_classes)


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.xml"))


def _is_listed(folder: Path) -> bool:
    return (folder / ANNOTATIONS).is_dir()


def _folders(folder: Path) -> dict[str, Path]:
    """The folders of both splits, for images and XML files together."""
    val = next((folder / name for name in _VAL_FOLDERS if (folder / name).is_dir()), folder / _VAL_FOLDERS[0])
    return {"train": folder / "train", "val": val}


def recognises(data: Path) -> bool:
    """Whether a folder looks like Pascal VOC, or a text file is one of its lists."""
    if data.is_file():
        return folder_of_list(data, _is_listed) is not None
    if _is_listed(data) and ((data / IMAGE_SETS).is_dir() or files_below(data / ANNOTATIONS, {".xml"})):
        return True
    return any(_has_xml(place) for place in (data, data / "train", *(data / name for name in _VAL_FOLDERS)))


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder has; see `listed_splits`."""
    if data.is_file():
        return ("val",)
    if _is_listed(data):
        return listed_splits(data, data / ANNOTATIONS)
    return SPLITS if _has_xml(data) else tuple(name for name, place in _folders(data).items() if _has_xml(place))


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> LabelFolder:
    """Finds one split, in a folder or by one of its lists.

    Raises:
        ConfigError: the lists do not tell which images are the split's.
    """
    listed, other = None, "val" if split == "train" else "train"
    if data.is_file():
        listed = (data if exact else file_of_split(data, split)).resolve()
        data = folder_of_list(listed, _is_listed) or listed.parent
    if listed is not None or _is_listed(data):
        labels = data / ANNOTATIONS
        images = next(place for name in _IMAGE_FOLDERS if (place := data / name).is_dir())
        inside = partial(_split, folder=data, labels_dir=labels, images_dir=images)
        if listed is not None:
            return inside(choice=ListFile(listed, data), elsewhere=(labels, Everything(labels)))
        chosen = choices(data, labels, split_seed)
        return inside(choice=chosen[split], elsewhere=(labels, chosen[other]))
    if _has_xml(data):
        shares = {name: Share(name, data, split_seed) for name in SPLITS}
        return _split(
            folder=data, labels_dir=data, images_dir=data, choice=shares[split], elsewhere=(data, shares[other])
        )
    places = _folders(data)
    own, beside = places[split], places[other]
    if not _has_xml(own):
        raise ConfigError(
            f"{data} must hold the {split} split as a folder {own.name} with images and XML files, "
            f"got none. Add it, or put all images and XML files into one folder."
        )
    elsewhere = (beside, Everything(beside)) if _has_xml(beside) else None
    return _split(folder=data, labels_dir=own, images_dir=own, choice=Everything(own), elsewhere=elsewhere)


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``Annotations``, ``JPEGImages``, ``ImageSets/Main`` and ``classes.txt``."""
    plain = plain_classes(class_names)
    write_plain(folder / CLASS_LIST, plain)
    write_lists(folder / IMAGE_SETS / "Main", splits)
    (folder / ANNOTATIONS).mkdir()
    for split in splits.values():
        for image in split.images():
            write_plain(folder / ANNOTATIONS / f"{image.stem}.xml", voc_xml(image, plain))
            place(image, folder / "JPEGImages" / image.name)


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
