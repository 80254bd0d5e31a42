"""KITTI's object layout: ``training/image_2``, ``training/label_2``, and lists in ``ImageSets`` where there are.

Without lists the images are divided 8:2 by a seed. The classes are those of ``classes.txt`` in the data set's
folder, where there is one, else KITTI's eight types, followed by any other type that the label files show; where
none of KITTI's types is seen, those seen, in alphabetical order. ``DontCare`` is no class but a region in which
nothing counts, in any case of letters: ignored for every class.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.data.formats import Format
from detdistill.data.formats.kitti_labels import (
    DONT_CARE,
    KittiLabels,
    is_dont_care,
    kitti_line,
    parse_kitti,
    read_kitti_labels,
)
from detdistill.data.label_files import LabelFolder
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SETS,
    Everything,
    ListFile,
    choices,
    file_of_split,
    folder_of_list,
    listed_splits,
    without_suffix,
)
from detdistill.data.problems import Problems
from detdistill.data.writable import Place, WritableSplit, WrittenImage, plain_classes, write_lists, write_plain
from detdistill.errors import DataError

KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
IMAGES, LABELS = "image_2", "label_2"


def read_kitti_truths(annotations: Annotations) -> dict[int, KittiLabels]:
    """What the label files of a split in KITTI's layout say beyond its arrays: truncated, occluded, every type.

    Returns:
        The label file of every image, by image id; flawed lines, reported on reading, are left out here too.

    Raises:
        DataError: the images do not lie in KITTI's layout, or a label file cannot be read.
    """
    return {
        int(annotations.image_ids[index]): read_kitti_labels(_label_file(annotations, index), problems=Problems())
        for index in range(len(annotations))
    }


def _label_file(annotations: Annotations, index: int) -> Path:
    return annotations.images_dir.parent / LABELS / f"{without_suffix(annotations.file_name(index))}.txt"


def _training(folder: Path) -> Path | None:
    return next((place for place in (folder / "training", folder) if (place / LABELS).is_dir()), None)


def _places(folder: Path) -> tuple[Path, Path]:
    """The data set that lists and ``classes.txt`` belong to, and where its images and label files are."""
    training = _training(folder) or folder / "training"
    return (folder.parent if training == folder and folder.name == "training" else folder), training


def _classes(split: LabelFolder, seen: set[str], demanded: Sequence[str] | None) -> Sequence[str]:
    known = seen | split.kinds_elsewhere()
    if demanded is not None and known <= set(demanded):
        return demanded
    kitti = KITTI_TYPES if not known or known & set(KITTI_TYPES) else ()
    return (*kitti, *sorted(known - set(kitti)))


def recognises(data: Path) -> bool:
    """Whether a folder, or ``training`` in it, holds ``label_2``, or a text file is one of its lists."""
    if data.is_file():
        return folder_of_list(data, recognises) is not None
    return _training(data) is not None


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder has; see `listed_splits`."""
    if data.is_file():
        return ("val",)
    root, training = _places(data)
    return listed_splits(root, training / LABELS)


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> LabelFolder:
    """Finds one split, in the data set's folder or its ``training``, or by one of its lists.

    Raises:
        ConfigError: the lists do not tell which images are the split's.
    """
    listed = None
    if data.is_file():
        listed = (data if exact else file_of_split(data, split)).resolve()
        data = folder_of_list(listed, recognises) or listed.parent
    root, training = _places(data)
    labels = training / LABELS
    return LabelFolder(
        title="KITTI",
        folder=root,
        labels_dir=labels,
        images_dir=training / IMAGES,
        choice=ListFile(listed, root) if listed is not None else choices(root, labels, split_seed)[split],
        elsewhere=(labels, Everything(labels)),
        ending=".txt",
        parse=parse_kitti,
        classes=_classes,
    )


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``training`` and ``ImageSets``; label files that were KITTI's are copied, as they tell more than boxes."""
    types = plain_classes(class_names, space="_")
    for name in types:
        if is_dont_care(name):
            raise DataError(f"Class names must differ from KITTI's {DONT_CARE}, got {name!r}. Rename the class.")
    if types != KITTI_TYPES:
        write_plain(folder / CLASS_LIST, types)
    write_lists(folder / IMAGE_SETS, splits)
    training = folder / "training"
    (training / LABELS).mkdir(parents=True)
    for split in splits.values():
        for image in split.images():
            place(image, training / IMAGES / image.name)
            target = training / LABELS / f"{image.stem}.txt"
            if split.origin == FORMAT.name:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(_label_file(split.annotations, image.row), target)
            else:
                write_plain(target, _lines(split, image, types))


def _lines(split: WritableSplit, image: WrittenImage, types: tuple[str, ...]) -> list[str]:
    ignored = sum(item.ignored for item in image.boxes)
    if ignored:
        what = f"{ignored} boxes ignored for one class become {DONT_CARE}, ignored for all"
        split.problems.add("ignored boxes widened", str(image.path), what=what, action="repaired")
    lines = [kitti_line(DONT_CARE if item.ignored else types[item.label], item.box) for item in image.boxes]
    return lines + [kitti_line(DONT_CARE, box) for box in image.regions]


FORMAT = Format(
    name="kitti",
    title="KITTI",
    precedence=30,
    holds="training/label_2",
    file="a list such as ImageSets/train.txt with label_2 near it",
    recognises=recognises,
    splits=splits,
    find=find,
    write=write,
)
