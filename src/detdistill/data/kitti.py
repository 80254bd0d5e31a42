"""Reads KITTI's object layout: ``training/image_2``, ``training/label_2``, and lists in ``ImageSets`` where there are.

Without lists the images are divided 8:2 by a seed. The classes are those of ``classes.txt`` in the data set's
folder, where there is one, else KITTI's eight types, followed by any other type that the label files show; where
none of KITTI's types is seen, those seen, in alphabetical order. ``DontCare`` is no class but a region in which
nothing counts, in any case of letters: ignored for every class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.data.annotations import Annotations
from detdistill.data.coco import label_order
from detdistill.data.kitti_labels import DONT_CARE, KittiLabels, is_dont_care, parse_kitti_labels, read_kitti_labels
from detdistill.data.label_columns import LabelColumns, usable_size
from detdistill.data.label_text import FileFlaw
from detdistill.data.listing import (
    IMAGE_SUFFIXES,
    Choice,
    ListFile,
    Share,
    by_stem,
    files_below,
    read_class_list,
    report_unlabelled,
    shown,
    without_suffix,
)
from detdistill.data.problems import Problems
from detdistill.data.voc import choices_by_list, listed_splits

__all__ = [
    "DONT_CARE",
    "KITTI_TYPES",
    "KittiLabels",
    "KittiSplit",
    "find_kitti",
    "is_kitti",
    "kitti_splits",
    "read_kitti_labels",
    "read_kitti_truths",
]

KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
IMAGES, LABELS = "image_2", "label_2"
_TEXT = frozenset({".txt"})


@final
@dataclass(frozen=True, slots=True)
class KittiSplit:
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
        """What messages call the split's data."""
        return self.folder

    def text(self) -> str:
        """What is read, in a line."""
        return f"KITTI: {self.choice.text()}, images in {shown(self.training / IMAGES, self.folder)}"

    @property
    def labels_dir(self) -> Path:
        """Where the label files are."""
        return self.training / LABELS

    def _chosen(self, found: Mapping[str, str], problems: Problems) -> list[tuple[str, Path]]:
        labels, chosen = self.labels_dir, []
        for entry in self.choice.choose(list(found), problems):
            if entry.stem in found:
                chosen.append((entry.stem, labels / found[entry.stem]))
            else:
                what = f"no {entry.stem}.txt in {labels}"
                problems.add("label file missing", entry.where, what=what, action="skipped")
        return chosen

    def read(
        self,
        *,
        class_names: Sequence[str] | None = None,
        check_images: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Annotations, Problems]:
        """Reads the split; see `read_coco` for the arguments.

        Raises:
            DataError: its list cannot be read, or its classes are not those demanded.
        """
        problems = Problems()
        names = read_class_list(self.folder) or self._classes(class_names)
        order = label_order(self.folder, names, class_names)
        columns = LabelColumns(str(self.folder), problems, class_names=names)
        images_dir = self.training / IMAGES
        images = by_stem(files_below(images_dir, IMAGE_SUFFIXES, problems))
        labelled = by_stem(files_below(self.labels_dir, _TEXT, problems))
        chosen, used = self._chosen(labelled, problems), []
        for done, (stem, path) in enumerate(chosen, start=1):
            name = images.get(stem, f"{stem}.png")
            size = usable_size(images_dir / name, None, where=str(path), check_images=check_images, problems=problems)
            if size is not None and _add(columns, name, path, size):
                used.append(stem)
            if progress is not None:
                progress(done, len(chosen))
        if isinstance(self.choice, Share):
            report_unlabelled(images, labelled.keys(), problems, images_dir=images_dir, ending=".txt")
        return columns.finish(order, images_dir=images_dir, stems=used), problems

    def _classes(self, demanded: Sequence[str] | None) -> tuple[str, ...]:
        """The classes demanded, where no other is seen, else KITTI's and all others that are seen in any file."""
        seen: set[str] = set()
        labels = self.labels_dir
        for name in files_below(labels, _TEXT):
            try:
                types = parse_kitti_labels(labels / name, Problems()).types
            except FileFlaw:
                continue
            seen |= {kind for kind in types if not is_dont_care(kind)}
        if demanded is not None and seen <= set(demanded):
            return tuple(demanded)
        kitti = KITTI_TYPES if not seen or seen & set(KITTI_TYPES) else ()
        return (*kitti, *sorted(seen - set(kitti)))


def _add(columns: LabelColumns, name: str, path: Path, size: tuple[int, int]) -> bool:
    """Adds an image and its objects; False where its label file cannot be read."""
    try:
        labels = parse_kitti_labels(path, columns.problems)
    except FileFlaw as flaw:
        columns.problems.add(flaw.kind, flaw.where(path), what=flaw.what, action="skipped")
        return False
    row = columns.add_file(name, size=size, labels=str(path))
    for index, (kind, line) in enumerate(zip(labels.types, labels.lines.tolist(), strict=True)):
        left, top, right, bottom = labels.boxes[index].tolist()
        if is_dont_care(kind):
            columns.add_region(row, (left, top, right, bottom), line=line)
        elif kind in columns.class_names:
            category = columns.class_ids[columns.class_names.index(kind)]
            columns.add_box(row, (left, top, right, bottom), category=category, line=line)
        else:
            where, what = f"{path}, line {line}", f"{kind!r} is none of the classes"
            columns.problems.add("box of an unknown class", where, what=what, action="skipped")
    return True


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


def is_kitti(folder: Path) -> bool:
    """Whether a folder looks like KITTI's: it, or ``training`` in it, holds ``label_2``."""
    return _training(folder) is not None


def _root(folder: Path, training: Path) -> Path:
    """The data set that lists and ``classes.txt`` belong to."""
    return folder.parent if training == folder and folder.name == "training" else folder


def kitti_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder in KITTI's layout has; see `listed_splits`."""
    training = _training(folder) or folder / "training"
    return listed_splits(_root(folder, training), training / LABELS)


def find_kitti(folder: Path, split: str, *, listed: Path | None = None, split_seed: int = 0) -> KittiSplit:
    """Finds one split of a data set in KITTI's layout.

    Args:
        folder: the data set, or its ``training`` folder.
        split: ``"train"`` or ``"val"``.
        listed: take the images of this list, whatever its name.
        split_seed: divides a data set without lists.

    Raises:
        ConfigError: the lists do not tell which images are the split's.
    """
    training = _training(folder) or folder / "training"
    labels = training / LABELS
    root = _root(folder, training)
    if listed is not None:
        return KittiSplit(root, training, ListFile(listed, root))
    choices = choices_by_list(root, labels)
    return KittiSplit(root, training, choices[split] if choices else Share(split, labels, split_seed))
