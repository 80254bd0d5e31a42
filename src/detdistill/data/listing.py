"""Which images belong to a split: a list of names, a share drawn by a seed, or all that are there.

Data sets with a label file an image share this, whatever the label files say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from detdistill.data.image_files import unsafe_name
from detdistill.data.label_text import FileFlaw, read_lines
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError

SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")
# How people call the folder or list of a split; "test" is for evaluation alone.
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
IMAGE_SETS = "ImageSets"
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
TRAIN_SHARE = 0.8
CLASS_LIST = "classes.txt"
# Pairs of lists that divide a data set, the preferred first.
_PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a split: its name without the ending, and where that was read, for problems."""

    stem: str
    where: str


@final
@dataclass(frozen=True, slots=True)
class ListFile:
    """The images that a text file names, one a line.

    `train` is the train list beside a val list: images of both are told.
    """

    path: Path
    folder: Path
    train: Path | None = None

    def text(self) -> str:
        """Name of the list."""
        return f"the list {shown(self.path, self.folder)}"

    def choose(self, stems: Sequence[str], problems: Problems) -> list[Entry]:
        """The entries in the list's order; a second column (VOC's lists for one class) is passed over."""
        known, found = set(stems), dict[str, Entry]()
        for where, line in read_list(self.path):
            stem = _listed_stem(line, known)
            if flaw := unsafe_name(stem):
                problems.add("unusable file name", where, what=f"{line!r} {flaw}", loses="images")
            else:
                add_once(found, Entry(stem, where), problems)
        if self.train is not None:
            report_shared(found.values(), {_listed_stem(line, known) for _, line in read_list(self.train)}, problems)
        return list(found.values())


def _listed_stem(line: str, known: Set[str]) -> str:
    """The image that a line of a list names, of those known where it can be one."""
    first = line.split(maxsplit=1)[0]
    name = first if line not in known and (first in known or len(line.split()) == 2) else line
    return name if name in known else without_suffix(name)


@final
@dataclass(frozen=True, slots=True)
class Share:
    """Four fifths of the images for training and one for validation, drawn by a seed."""

    split: str
    labels: Path
    seed: int = 0

    def text(self) -> str:
        """What is drawn."""
        of = "8 of every 10 images" if self.split == "train" else "2 of every 10 images"
        return f"{of}, drawn by seed {self.seed} as there are no split lists"

    def choose(self, stems: Sequence[str], problems: Problems) -> list[Entry]:
        """The split's share, in the folder's order."""
        train, val = split_by_seed(stems, seed=self.seed)
        return [Entry(stem, str(self.labels)) for stem in (train if self.split == "train" else val)]


@final
@dataclass(frozen=True, slots=True)
class Everything:
    """All labelled images of a folder."""

    labels: Path

    def text(self) -> str:
        """Name of the folder."""
        return f"all of {self.labels.name}/"

    def choose(self, stems: Sequence[str], problems: Problems) -> list[Entry]:
        """Every image."""
        return [Entry(stem, str(self.labels)) for stem in stems]


# A way to say which of a folder's labelled images, given by name, are the split's.
Choice = ListFile | Share | Everything


def _choices_by_list(folder: Path, labels: Path) -> Mapping[str, ListFile]:
    """The lists in ``ImageSets/Main`` or ``ImageSets`` that divide a data set with label files; empty without lists."""
    lists = [path for place in ("Main", "") for path in sorted((folder / IMAGE_SETS / place).glob("*.txt"))]
    by_name = {path.stem: path for path in reversed(lists)}
    for train, val in _PAIRS:
        if train in by_name and val in by_name:
            beside = by_name[train]
            others = {"val": by_name[val], "test": by_name.get("test")}
            found = {split: ListFile(path, folder, train=beside) for split, path in others.items() if path is not None}
            return {"train": ListFile(beside, folder), **found}
    if not lists:
        return {}
    present = ", ".join(path.name for path in lists[:8]) + (", ..." if len(lists) > 8 else "")
    raise ConfigError(
        f"{folder / IMAGE_SETS} must hold train.txt and val.txt (or trainval.txt and test.txt), got {present}. "
        f"Name the lists so, or remove them to divide the images of {labels.name} 8:2 by a seed."
    )


def choose(folder: Path, labels: Path, split: str, *, split_seed: int) -> Choice:
    """Which label files are a split's: those of its list, else a share drawn by a seed.

    Raises:
        ConfigError: there is no list of a split that is never drawn, or there are lists of which none is a split's.
    """
    listed = _choices_by_list(folder, labels)
    if split not in listed and (listed or split not in SPLITS):
        raise no_test_split(folder, f"{IMAGE_SETS}/{split}.txt")
    return listed[split] if listed else Share(split, labels, split_seed)


def no_test_split(folder: Path, expected: str) -> ConfigError:
    """The refusal of a split to test on that is not there."""
    return ConfigError(f"{folder} must hold the test split as {expected}, got none. Add it, or give --split val.")


def listed_splits(folder: Path, labels: Path, ending: str) -> tuple[str, ...]:
    """The splits of a data set that may be divided by lists: one whose list is empty is none, unless all are.

    One to test on counts where it is not the val split, and any of its images is labelled, as few benchmarks' are.
    """
    found = dict(_choices_by_list(folder, labels))
    test = found.get("test")
    if test is not None:
        named = (line.split()[0] for _, line in read_list(test.path))
        if test == found["val"] or not any((labels / f"{without_suffix(name)}{ending}").is_file() for name in named):
            del found["test"]
    return tuple(split for split, listed in found.items() if read_list(listed.path)) or SPLITS


def folder_of_split(folder: Path, split: str) -> Path:
    """The folder of a split beside those of others, by any of its names; by the first where there is none."""
    names = SPLIT_FOLDERS[split]
    return next((place for name in names if (place := folder / name).is_dir()), folder / names[0])


def file_of_split(path: Path, split: str) -> Path:
    """The file itself, or the sibling that is named like it for the split, where its name says another one."""
    for other in SPLITS:
        stem = re.sub(rf"(?<![A-Za-z]){other}(?![A-Za-z])", split, path.stem)
        if other == split or stem == path.stem or split in path.stem:
            continue
        sibling = path.with_name(f"{stem}{path.suffix}")
        if not sibling.is_file():
            raise ConfigError(
                f"the {split} split beside {path} must be {sibling.name}, got no such file. "
                f"Give a folder with both, or name the file so."
            )
        return sibling
    return path


def split_by_seed(stems: Sequence[str], *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Divides image names 8:2 at random, by the set of names and the seed alone, whatever order the names come in.

    The names to train on and those to validate on keep the order given; two or more names leave neither empty.
    """
    ordered = sorted(stems)
    count = min(max(1, round(TRAIN_SHARE * len(ordered))), max(len(ordered) - 1, 1))
    drawn = np.random.default_rng(seed).permutation(len(ordered))[:count]
    chosen = {ordered[index] for index in drawn.tolist()}
    return [stem for stem in stems if stem in chosen], [stem for stem in stems if stem not in chosen]


def read_list(path: Path) -> list[tuple[str, str]]:
    """Place (file and line) and text of every line of a list that is not blank."""
    try:
        return [(f"{path}, line {number}", line) for number, line in read_lines(path)]
    except FileFlaw as flaw:
        raise flaw.refusal(path) from None


def is_companion(name: str) -> bool:
    """Whether a file is one that macOS keeps beside another, such as ``._a.jpg``; such are no images."""
    return name.rpartition("/")[2].startswith("._") or name.startswith("__MACOSX/")


def files_below(folder: Path, suffixes: Set[str] | None, problems: Problems | None = None) -> list[str]:
    """The files with one of the endings, or all, in a folder and its sub-folders, as names relative to it, in order.

    Names that cannot be used, and links to folders that are read already, are `problems`; None where another call
    tells them.
    """
    told = Problems() if problems is None else problems
    found = [
        (Path(place).relative_to(folder) / name).as_posix()
        for place, names in _walk(folder, told)
        for name in names
        if suffixes is None or Path(name).suffix.lower() in suffixes
    ]
    companions = [name for name in found if is_companion(name)]
    if companions:
        what = f"{len(companions)} files such as {min(companions)!r}, which macOS puts beside others"
        told.add("files of macOS passed over", str(folder), what=what, action="kept")
        found = [name for name in found if not is_companion(name)]
    usable = []
    for name in sorted(found):
        if flaw := unsafe_name(name):
            told.add("unusable file name", str(folder), what=f"{name!r} {flaw}")
        else:
            usable.append(name)
    return usable


def _walk(folder: Path, problems: Problems) -> Iterator[tuple[str, list[str]]]:
    """Every folder with its files: those that lie here first, then linked ones, so that no link can lead in circles."""
    waiting, read = [str(folder)], set[str]()
    for top in waiting:
        for place, folders, names in os.walk(top):
            real = os.path.realpath(place)
            if real in read:
                what = f"{os.path.relpath(place, folder)!r} is a folder that is read already"
                problems.add("folder linked twice", str(folder), what=what)
                folders.clear()
                continue
            read.add(real)
            waiting += [path for name in sorted(folders) if os.path.islink(path := os.path.join(place, name))]
            yield place, names


def add_once(found: dict[str, Entry], entry: Entry, problems: Problems) -> None:
    """Adds an image to those found, by name, unless it is there already, which is told."""
    if found.setdefault(entry.stem, entry) is not entry:
        problems.add("image listed twice", entry.where, what=f"{entry.stem!r} is the second")


def report_shared(val: Iterable[Entry], train: Set[str], problems: Problems) -> None:
    """Tells the images of the val split that are in the train split too: figures would be of images learned."""
    for entry in val:
        if entry.stem in train:
            what = f"{entry.stem!r} is in the train split too"
            problems.add("image in both splits", entry.where, what=what, action="kept")


def tails(name: str) -> Iterator[str]:
    """What is left of a name without its first folder, its first two, and so on, where it may be opened."""
    parts = name.split("/")
    ends = ("/".join(parts[first:]) for first in range(1, len(parts)))
    return (end for end in ends if unsafe_name(end) is None)


def by_stem(names: Sequence[str]) -> dict[str, str]:
    """File names by their name without the ending; of two alike, the first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(without_suffix(name), name)
    return found


def without_suffix(name: str) -> str:
    """A name without the ending of an image or label file; other endings belong to the name."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES | {".xml", ".txt", ".json"} else name


def shown(path: Path, folder: Path) -> str:
    """A path as a reader of messages wants it: relative to the data set where it lies in it; folders end in /."""
    if path == folder:
        return "the folder itself"
    place = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return f"{place}/" if path.is_dir() else place


def folder_of_list(path: Path, fits: Callable[[Path], bool]) -> Path | None:
    """The data set that a list of images belongs to: the nearest of the folders above it that fits."""
    if path.suffix.lower() != ".txt":
        return None
    return next((folder for folder in list(path.resolve().parents)[:3] if fits(folder)), None)
