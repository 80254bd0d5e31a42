"""Where the COCO file of a split is, and its images; which of several files is whose.

A folder's files are, the first that there are: ``train.json``; ``annotations/instances_train*.json``;
``train/_annotations.coco.json`` (Roboflow); a COCO file in the folder or in ``annotations`` whose name tells the split,
as ``trainset.json``. One COCO file whose name tells none holds both splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.image_files import is_text, unsafe_name
from detdistill.data.label_text import head_of
from detdistill.data.listing import SPLIT_FOLDERS, tails
from detdistill.errors import ConfigError, DataError

ROBOFLOW = "_annotations.coco.json"
# One file for a whole run would be divided.
_RENAME = "Rename a file, or name it: data.train=TRAIN.json data.val=VAL.json in a run, --data FILE.json elsewhere."
_ANNOTATIONS = "annotations"
_MOST_FILES = 64
_HEAD = 2**16
_JSON_OBJECT = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"')
_A_LIST = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_WORD = re.compile(r"(?<![a-z])(train(?:ing)?(?!val)|val(?:id(?:ation)?)?|test(?:ing)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Naming:
    """How an annotation file's names become those of its images: slashes turned, and what all begin with left out."""

    prefix: str = ""
    slashes: bool = False

    def __call__(self, name: str) -> str:
        """The name that is looked for."""
        turned = name.replace("\\", "/") if self.slashes else name
        return turned.removeprefix(self.prefix)


@dataclass(frozen=True, slots=True)
class Images:
    """Where the images of a JSON file are: the folder, how its names are to be taken, and how many were found."""

    folder: Path
    naming: Naming
    found: int


def is_json_object(path: Path) -> bool:
    """Whether a file begins as a JSON object does."""
    return _JSON_OBJECT.match(head_of(path, 64)) is not None


def is_coco(path: Path) -> bool:
    """Whether a file begins as a COCO file does, one of whose lists stands near the beginning."""
    head = head_of(path, _HEAD)
    return _JSON_OBJECT.match(head) is not None and _A_LIST.search(head) is not None


def split_of_name(stem: str) -> str | None:
    """The split that a file's name tells; None where it tells none, or several."""
    words = [word.lower() for word in _WORD.findall(stem)]
    told = {split for split in SPLIT_FOLDERS for word in words if word.startswith(split)}
    return told.pop() if len(told) == 1 else None


def named_files(folder: Path) -> Mapping[str, list[Path]]:
    """The files of every split by the names that COCO and Roboflow give them; several where that is ambiguous."""
    found = {}
    for split, folders in SPLIT_FOLDERS.items():
        groups = (
            [folder / f"{split}.json"],
            sorted((folder / _ANNOTATIONS).glob(f"instances_{split}*.json")),
            [folder / name / ROBOFLOW for name in folders],
        )
        found[split] = next((files for group in groups if (files := [one for one in group if one.is_file()])), [])
    return found


def _other_files(folder: Path) -> list[Path]:
    """COCO files under any name."""
    places = (folder, folder / _ANNOTATIONS)
    names = sorted(path for place in places for path in place.glob("*.json") if not path.name.startswith("._"))
    return [path for path in names if is_coco(path)] if len(names) <= _MOST_FILES else []


def files_of_splits(folder: Path) -> tuple[Mapping[str, list[Path]], list[Path]]:
    """The files of every split, whatever they are called, and those whose names tell none."""
    named = {split: list(files) for split, files in named_files(folder).items()}
    taken = {path for files in named.values() for path in files}
    spare = []
    for path in _other_files(folder):
        split = split_of_name(path.stem)
        if split is None:
            spare.append(path)
        elif path not in taken and not (set(named[split]) & taken):
            named[split].append(path)
    return named, spare


def file_in_folder(folder: Path, split: str) -> tuple[Path, bool]:
    """The JSON file of a split, and whether it holds both splits, which are to be divided.

    Raises:
        ConfigError: there is none, or more than one.
    """
    named, spare = files_of_splits(folder)
    if len(named[split]) == 1:
        return named[split][0], False
    if len(spare) == 1 and not any(named.values()) and split != "test":
        return spare[0], True
    if several := named[split] or ([] if any(named.values()) else spare):
        names = ", ".join(path.name for path in several[:8])
        native = several[0].name.startswith(f"instances_{split}")
        one = f"instances_{split}*.json" if native else f"JSON file of the {split} split"
        raise ConfigError(f"{several[0].parent} must hold one {one}, got {names}. {_RENAME}")
    everything = (*folder.glob("*.json"), *folder.glob("*/*.json"))
    present = sorted(filter(is_text, (path.relative_to(folder).as_posix() for path in everything)))
    shortened = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
    raise ConfigError(
        f"{folder} must hold {split}.json or annotations/instances_{split}*.json, got {shortened or 'no JSON file'}. "
        f"{_RENAME}"
    )


def split_of_file(path: Path) -> str | None:
    """The split that a JSON file's name tells, or its folder's where Roboflow wrote it; None for both splits."""
    if path.name != ROBOFLOW:
        return split_of_name(path.stem)
    folder = path.resolve().parent.name
    return next((split for split, names in SPLIT_FOLDERS.items() if folder in names), None)


def sibling(path: Path, split: str) -> tuple[Path, bool]:
    """The JSON file of a split where one file is given, and whether it holds both splits, as its name tells none.

    Raises:
        ConfigError: the name tells another split, and there is no such file for this one.
    """
    told = split_of_file(path)
    if told is None:
        return path, True
    if told == split:
        return path, False
    if path.name == ROBOFLOW:
        top = path.resolve().parent.parent
        expected, beside = f"{SPLIT_FOLDERS[split][0]}/{ROBOFLOW} in {top}", named_files(top)[split]
    else:
        expected, rest = _WORD.sub(split, path.stem) + path.suffix, _WORD.sub("", path.stem)
        others = [one for one in sorted(path.parent.glob(f"*{path.suffix}")) if split_of_file(one) == split]
        beside = [one for one in others if _alike(_WORD.sub("", one.stem), rest)]
    if len(beside) == 1:
        return beside[0], False
    raise ConfigError(
        f"the {split} split beside {path} must be {expected}, got {'several' if beside else 'no such file'}. "
        f"Give a folder with both, or name the file so."
    )


def _alike(name: str, other: str) -> bool:
    """Whether two names are the same but for a year."""
    return re.sub(r"\d{4}$", "", name) == re.sub(r"\d{4}$", "", other)


def candidate_folders(json_path: Path) -> list[Path]:
    """The folders where the images of a JSON file may be, likeliest first; not all of them exist."""
    parent = json_path.parent
    near = [parent / "images", parent]
    if parent.name != _ANNOTATIONS:
        return near
    base = parent.parent
    tail = json_path.stem.removeprefix("instances_")
    named = [base / tail, base / "images" / tail]
    for split in SPLIT_FOLDERS:
        if tail.startswith(split):
            named += sorted(base.glob(f"{split}*")) + sorted(base.glob(f"images/{split}*"))
    return list(dict.fromkeys([*named, base / "images", base, *near]))


def find_images(json_path: Path, names: Sequence[str]) -> Images:
    """The folder that holds most of some named images; with none the first folder that exists.

    Where no name is found as it is written, one is looked for with its back-slashes turned, then by its tail, as where
    names begin with the folders of another machine.
    """
    folders = [folder for folder in candidate_folders(json_path) if folder.is_dir()] or [json_path.parent]

    def best(naming: Naming) -> Images:
        written = [name for name in map(naming, names) if unsafe_name(name) is None]
        found = [sum((folder / name).is_file() for name in written) for folder in folders]
        at = max(range(len(folders)), key=lambda index: (found[index], -index))
        return Images(folders[at], naming, found[at])

    as_it_is = best(Naming())
    if as_it_is.found:
        return as_it_is
    slashes = any("\\" in name for name in names)
    namings = [Naming(slashes=True)] if slashes else []
    for name in names:
        turned = name.replace("\\", "/") if slashes else name
        ends = (tail for tail in tails(turned) if any((folder / tail).is_file() for folder in folders))
        if (tail := next(ends, None)) is not None:
            namings.append(Naming(turned.removesuffix(tail), slashes))
            break
    return max((as_it_is, *map(best, namings)), key=lambda images: images.found)


def require_images(json_path: Path, names: Sequence[str], images: Images) -> None:
    """Refuses, with a `DataError`, a JSON file of which none of the first images is in any of the folders."""
    usable = [name for name in names if unsafe_name(name) is None]
    if usable and not images.found:
        looked = ", ".join(map(str, candidate_folders(json_path)))
        raise DataError(
            f"the images of {json_path} must be in one of the folders {looked}, got none of the first {len(usable)} "
            f"(such as {usable[0]}). Put them there, or correct file_name in the JSON."
        )
