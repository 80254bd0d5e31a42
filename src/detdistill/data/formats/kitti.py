"""KITTI's object layout: ``training/image_2``, ``training/label_2``, lists in ``ImageSets``; and its tracking layout.

A label file has one object a line, in 15 columns, or 16 with the score of a detection.

Without lists the images are divided 8:2 by a seed. The classes are those of ``classes.txt`` in the data set's
folder, where there is one, else KITTI's eight types, followed by any other type that the label files show; where
none of KITTI's types is seen, those seen, in alphabetical order. ``DontCare`` is no class but a region in which
nothing counts, in any case of letters: ignored for every class.

The tracking benchmark has a label file a sequence, ``label_02/0000.txt``, whose lines begin with the frame and the
track, and images ``image_02/0000/000000.png``; there whole sequences are divided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.builder import Box, match_classes
from detdistill.data.formats import Format
from detdistill.data.label_files import Flaw, LabelFile, LabelFolder, LabelledBox, LabelledImages
from detdistill.data.label_text import FileFlaw, number, read_lines, require_few
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SETS,
    IMAGE_SUFFIXES,
    SPLITS,
    Everything,
    ListFile,
    Share,
    choose,
    file_of_split,
    files_below,
    folder_of_list,
    listed_splits,
    no_test_split,
    without_suffix,
)
from detdistill.data.problems import Problems
from detdistill.data.writable import (
    Place,
    WritableSplit,
    WrittenImage,
    decimal,
    plain_classes,
    write_lists,
    write_plain,
)
from detdistill.errors import DataError
from detdistill.files import copy_file, make_folder

KITTI_TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
IMAGES, LABELS = "image_2", "label_2"
TRACKING_IMAGES, TRACKING_LABELS = "image_02", "label_02"
_NO_FRAME = -1
DONT_CARE = "DontCare"
COLUMNS, COLUMNS_WITH_SCORE = 15, 16
_UNKNOWN_3D = "-1 -1 -1 -1000 -1000 -1000 -10"
# Kind, what should stand there, what does.
_Flaw = tuple[str, str, str]


def _is_dont_care(kind: str) -> bool:
    """Whether a type means a region in which nothing counts, in any case of letters."""
    return kind.lower() == DONT_CARE.lower()


@dataclass(frozen=True, slots=True)
class KittiLabels:
    """The objects of one label file, in its order.

    Attributes:
        types: the class of each object as written, ``DontCare`` included; n of them.
        truncated: share of the object outside the image, 0 to 1; -1 where unknown; (n,) float64.
        occluded: 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; -1 where not given; (n,) int64.
        boxes: left, top, right, bottom in pixels of the stored image, not clipped to it; (n, 4) float64.
        scores: of detections; NaN where the line has no 16th column; (n,) float64.
        lines: line number of each object, from 1; (n,) int64.
    """

    types: tuple[str, ...]
    truncated: NDArray[np.float64]
    occluded: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.types)


def _flaw(words: list[str]) -> _Flaw | None:
    """What is wrong with a line; None for an object."""
    if len(words) not in (COLUMNS, COLUMNS_WITH_SCORE):
        return "wrong number of columns", "15 columns (16 with a score)", str(len(words))
    if not all(math.isfinite(number(word)) for word in words[1:3]):
        return "truncated or occluded no number", "numbers in columns 2 and 3", " ".join(words[1:3])
    left, top, right, bottom = box = [number(word) for word in words[4:8]]
    if not all(math.isfinite(side) for side in box):
        return "box not four finite numbers", "finite numbers in columns 5 to 8", " ".join(words[4:8])
    if right < left or bottom < top:
        return "box without extent", "left, top, right, bottom in columns 5 to 8", " ".join(words[4:8])
    if len(words) == COLUMNS_WITH_SCORE and not math.isfinite(number(words[15])):
        return "score no number", "a finite score in column 16", words[15]
    return None


def _parse(path: Path) -> tuple[KittiLabels, dict[int, _Flaw]]:
    """The objects of a file, and the lines that are none."""
    rows: dict[int, list[str]] = {}
    bad: dict[int, _Flaw] = {}
    lines = read_lines(path)
    require_few(len(lines))
    for line, text in lines:
        words = text.split()
        if flaw := _flaw(words):
            bad[line] = flaw
        else:
            rows[line] = words
    objects = rows.values()
    scores = [number(words[15]) if len(words) == COLUMNS_WITH_SCORE else math.nan for words in objects]
    labels = KittiLabels(
        types=tuple(words[0] for words in objects),
        truncated=np.array([number(words[1]) for words in objects], dtype=np.float64),
        occluded=np.array([int(max(-1.0, min(number(words[2]), 3.0))) for words in objects], dtype=np.int64),
        boxes=np.array([[number(word) for word in words[4:8]] for words in objects], dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float64),
        lines=np.array(list(rows), dtype=np.int64),
    )
    return labels, bad


def _parse_kitti(path: Path) -> LabelFile:
    """What a label file says of boxes; ``DontCare`` is a region. Raises `FileFlaw` where it is no text."""
    labels, bad = _parse(path)
    objects = zip(labels.types, labels.boxes.tolist(), labels.lines.tolist(), strict=True)
    return LabelFile(
        tuple(LabelledBox(None if _is_dont_care(kind) else kind, tuple(box), line) for kind, box, line in objects),
        flaws=tuple(Flaw(kind, line, f"{got} instead of {expected}") for line, (kind, expected, got) in bad.items()),
    )


def read_kitti_labels(path: Path, *, problems: Problems | None = None) -> KittiLabels:
    """Reads one label file of KITTI's object benchmark: ground truth, or detections with a score each.

    The columns for 3D (alpha, dimensions, location, rotation) are only counted, not read. Flawed lines go to
    `problems` and are skipped; None refuses the file instead.

    Raises:
        DataError: the file cannot be read as text, or a line is flawed and `problems` is None.
    """
    try:
        labels, bad = _parse(path)
    except FileFlaw as flaw:
        raise flaw.refusal(path) from None
    for line, (kind, expected, got) in bad.items():
        if problems is None:
            raise DataError(f"{path}, line {line} must have {expected}, got {got}. Correct the line.")
        problems.add(kind, f"{path}, line {line}", what=f"{got} instead of {expected}", action="skipped")
    return labels


def read_kitti_truths(annotations: Annotations) -> dict[int, KittiLabels]:
    """What the label files of a split say beyond its arrays, by image id: truncated, occluded, every type.

    Flawed lines, reported on reading, are left out here too.

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
    return listed_splits(root, training / LABELS, ".txt")


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> LabelFolder:
    """Finds one split, in the data set's folder or its ``training``, or by one of its lists."""
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
        choice=ListFile(listed, root) if listed is not None else choose(root, labels, split, split_seed=split_seed),
        elsewhere=(labels, Everything(labels)),
        ending=".txt",
        parse=_parse_kitti,
        classes=_classes,
    )


@final
@dataclass(frozen=True, slots=True)
class TrackingSplit(Split):
    """One split of KITTI's tracking layout: the folder that holds ``label_02``, and which sequences are the split's."""

    folder: Path
    share: Share

    @property
    def source(self) -> Path:
        """The folder."""
        return self.folder

    @property
    def drawn(self) -> bool:
        """A seed divides the sequences."""
        return True

    def text(self) -> str:
        """What is drawn, and where the images are."""
        return f"KITTI tracking: {self.share.text().replace('images', 'sequences')}, images in {TRACKING_IMAGES}"

    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """Reads the split."""
        problems, labels, images = Problems(), self.folder / TRACKING_LABELS, self.folder / TRACKING_IMAGES
        sequences: dict[str, dict[int, LabelFile]] = {}
        for name in files_below(labels, {".txt"}, problems):
            try:
                sequences[without_suffix(name)] = _frames(labels / name)
            except FileFlaw as flaw:
                problems.add(flaw.kind, flaw.where(labels / name), what=flaw.what, loses="images")
        seen = {
            item.kind for frames in sequences.values() for file in frames.values() for item in file.boxes if item.kind
        }
        kinds = {kind for kind in seen if isinstance(kind, str)}
        kitti = KITTI_TYPES if not kinds or kinds & set(KITTI_TYPES) else ()
        demanded = reading.class_names
        known = demanded if demanded is not None and kinds <= set(demanded) else (*kitti, *sorted(kinds - set(kitti)))
        classes = match_classes(self.folder, known, demanded)
        collected = LabelledImages(classes, images, problems=problems, check_images=reading.check_images)
        chosen = [entry.stem for entry in self.share.choose(list(sequences), problems)]
        for done, sequence in enumerate(chosen, start=1):
            frames, file = dict(sequences[sequence]), labels / f"{sequence}.txt"
            there = files_below(images / sequence, IMAGE_SUFFIXES, problems) if (images / sequence).is_dir() else []
            for name in there:
                own = frames.pop(_frame(without_suffix(name)), LabelFile(()))
                collected.add(f"{sequence}/{name}", own, file=file, stem=f"{sequence}/{without_suffix(name)}")
            for bad in frames.pop(_NO_FRAME, LabelFile(())).flaws:
                problems.add(bad.kind, f"{file}, line {bad.line}", what=bad.what, loses="boxes")
            for frame in frames:
                what = f"frame {frame} has no image in {images / sequence}"
                problems.add("image file missing", str(file), what=what, loses="images")
            reading.progress(done, len(chosen))
        return collected.finish(), problems


def _frames(path: Path) -> dict[int, LabelFile]:
    """What a label file of a sequence says, by frame."""
    boxes: dict[int, list[LabelledBox]] = {}
    flaws: dict[int, list[Flaw]] = {}
    for line, text in read_lines(path):
        first, *words = text.split()
        own = _frame(first)
        flaw = _flaw(words[1:]) if own != _NO_FRAME else ("frame no number", "a whole number in column 1", first[:40])
        boxes.setdefault(own, [])
        if flaw is not None:
            flaws.setdefault(own, []).append(Flaw(flaw[0], line, f"{flaw[2]} instead of {flaw[1]}"))
            continue
        left, top, right, bottom = (number(word) for word in words[5:9])
        kind = None if _is_dont_care(words[1]) else words[1]
        boxes[own].append(LabelledBox(kind, (left, top, right, bottom), line))
    return {own: LabelFile(tuple(found), flaws=tuple(flaws.get(own, ()))) for own, found in boxes.items()}


def _frame(word: str) -> int:
    """The number of a frame; `_NO_FRAME` where it is none."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else _NO_FRAME


def _tracking(folder: Path) -> Path | None:
    return next((place for place in (folder / "training", folder) if (place / TRACKING_LABELS).is_dir()), None)


def _find_tracking(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> TrackingSplit:
    del exact
    place = _tracking(data)
    if place is None or split not in SPLITS:
        raise no_test_split(data, "a data set of its own, as the sequences are divided 8:2")
    return TrackingSplit(place, Share(split, place / TRACKING_LABELS, split_seed))


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``training`` and ``ImageSets``; label files that were KITTI's are copied, as they tell more than boxes."""
    types = plain_classes(class_names, space="_")
    for name in types:
        if _is_dont_care(name):
            raise DataError(f"Class names must differ from KITTI's {DONT_CARE}, got {name!r}. Rename the class.")
    if types != KITTI_TYPES:
        write_plain(folder / CLASS_LIST, types)
    write_lists(folder / IMAGE_SETS, splits)
    training = folder / "training"
    make_folder(training / LABELS)
    for split in splits.values():
        for image in split.images():
            place(image, training / IMAGES / image.name)
            target = training / LABELS / f"{image.stem}.txt"
            if split.origin == "kitti":
                copy_file(_label_file(split.annotations, image.row), target)
            else:
                write_plain(target, _lines(split, image, types))


def _lines(split: WritableSplit, image: WrittenImage, types: tuple[str, ...]) -> list[str]:
    ignored = sum(item.ignored for item in image.boxes)
    if ignored:
        what = f"{ignored} boxes ignored for one class become {DONT_CARE}, ignored for all"
        split.problems.add("ignored boxes widened", str(image.path), what=what, action="repaired")
    lines = [_kitti_line(DONT_CARE if item.ignored else types[item.label], item.box) for item in image.boxes]
    return lines + [_kitti_line(DONT_CARE, box) for box in image.regions]


def _kitti_line(kind: str, box: Box) -> str:
    """A line to write: a class or ``DontCare``, and x1, y1, x2, y2 in pixels; the rest is unknown."""
    corners = " ".join(f"{value:.2f}" if round(value, 2) == value else decimal(value) for value in box)
    return f"{kind} -1 -1 -10 {corners} {_UNKNOWN_3D}"


FORMAT = (
    Format(
        name="kitti",
        title="KITTI",
        precedence=30,
        holds="training/label_2",
        file="a list such as ImageSets/train.txt with label_2 near it",
        recognises=recognises,
        splits=splits,
        find=find,
        write=write,
    ),
    Format(
        name="kitti-tracking",
        title="KITTI tracking",
        precedence=35,
        holds="",
        file="",
        recognises=lambda data: data.is_dir() and _tracking(data) is not None,
        splits=lambda _: SPLITS,
        find=_find_tracking,
    ),
)
