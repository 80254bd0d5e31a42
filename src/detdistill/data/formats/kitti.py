"""KITTI's object layout: ``training/image_2``, ``training/label_2``, and lists in ``ImageSets`` where there are.

Without lists the images are divided 8:2 by a seed. The classes are those of ``classes.txt`` in the data set's
folder, where there is one, else KITTI's eight types, followed by any other type that the label files show; where
none of KITTI's types is seen, those seen, in alphabetical order. ``DontCare`` is no class but a region in which
nothing counts, in any case of letters: ignored for every class.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

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
    Choice,
    Everything,
    ListFile,
    Share,
    choices,
    file_of_split,
    folder_of_list,
    listed_splits,
    shown,
    without_suffix,
)
from detdistill.data.problems import Problems
from detdistill.data.split import Reading, Split
from detdistill.data.writable import Place, WritableSplit, WrittenImage, plain_classes, write_lists, write_plain
from detdistill.errors import DataError

KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
IMAGES, LABELS = "image_2", "label_2"


@final
@dataclass(frozen=True, slots=True)
class KittiSplit(Split):
    """One split of a data set in KITTI's layout.

    Attributes:
        folder: the data set.
        training: the folder of ``image_2`` and ``label_2``.
        choice: which of the images are the split's.
    """

    folder: Path
    training: Path
    choice: Choice

    @property
    def source(self) -> Path:
        """The data set's folder."""
        return self.folder

    @property
    def drawn(self) -> bool:
        """Whether there are no lists."""
        return isinstance(self.choice, Share)

    @property
    def labels_dir(self) -> Path:
        """Where the label files are."""
        return self.training / LABELS

    def text(self) -> str:
        """The choice, and where the images are."""
        return f"KITTI: {self.choice.text()}, images in {shown(self.training / IMAGES, self.folder)}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the split.

        Raises:
            DataError: its list cannot be read, or its classes are not those demanded.
        """

        def classes(seen: set[str]) -> Sequence[str]:
            known = seen | self._files(Everything(self.labels_dir)).kinds()
            if reading.class_names is not None and known <= set(reading.class_names):
                return reading.class_names
            kitti = KITTI_TYPES if not known or known & set(KITTI_TYPES) else ()
            return (*kitti, *sorted(known - set(kitti)))

        return self._files(self.choice).read(self.folder, self.training / IMAGES, reading, classes)

    def _files(self, choice: Choice) -> LabelFolder:
        return LabelFolder(self.labels_dir, choice, ".txt", parse_kitti)

    def label_file(self, name: str) -> Path:
        """The label file of an image, by the image's name."""
        return self.labels_dir / f"{without_suffix(name)}.txt"


def read_kitti_truths(annotations: Annotations) -> dict[int, KittiLabels]:
    """What the label files of a split in KITTI's layout say beyond its arrays: truncated, occluded, every type.

    Args:
        annotations: as `KittiSplit.read` returns them.

    Returns:
        The label file of every image, by image id; flawed lines, reported on reading, are left out here too.

    Raises:
        DataError: the images do not lie in KITTI's layout, or a label file cannot be read.
    """
    labels = annotations.images_dir.parent / LABELS
    return {
        int(annotations.image_ids[index]): read_kitti_labels(
            labels / f"{without_suffix(annotations.file_name(index))}.txt", problems=Problems()
        )
        for index in range(len(annotations))
    }


def _training(folder: Path) -> Path | None:
    return next((place for place in (folder / "training", folder) if (place / LABELS).is_dir()), None)


def _root(folder: Path, training: Path) -> Path:
    """The data set that lists and ``classes.txt`` belong to."""
    return folder.parent if training == folder and folder.name == "training" else folder


def recognises(data: Path) -> bool:
    """Whether a folder, or ``training`` in it, holds ``label_2``, or a text file is one of its lists."""
    if data.is_file():
        return folder_of_list(data, recognises) is not None
    return _training(data) is not None


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder has; see `listed_splits`."""
    if data.is_file():
        return ("val",)
    training = _training(data) or data / "training"
    return listed_splits(_root(data, training), training / LABELS)


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> KittiSplit:
    """Finds one split, in the data set's folder or its ``training``, or by one of its lists.

    Raises:
        ConfigError: the lists do not tell which images are the split's.
    """
    listed = None
    if data.is_file():
        listed = (data if exact else file_of_split(data, split)).resolve()
        data = folder_of_list(listed, recognises) or listed.parent
    training = _training(data) or data / "training"
    root = _root(data, training)
    choice = choices(root, training / LABELS, split_seed)[split] if listed is None else ListFile(listed, root)
    return KittiSplit(root, training, choice)


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
        for row in split.images():
            image = split.image(row)
            place(split, image, training / IMAGES / image.name)
            target = training / LABELS / f"{image.stem}.txt"
            if isinstance(split.origin, KittiSplit):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(split.origin.label_file(split.annotations.file_name(row)), target)
            else:
                write_plain(target, _lines(split, image, types))


def _lines(split: WritableSplit, image: WrittenImage, types: tuple[str, ...]) -> list[str]:
    ignored = sum(item.ignored for item in image.boxes)
    if ignored:
        what = f"{ignored} boxes ignored for one class become {DONT_CARE}, ignored for all"
        split.problems.add("ignored boxes widened", split.place(image.row), what=what, action="repaired")
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
