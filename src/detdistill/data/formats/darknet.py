"""YOLO without a ``data.yaml``: darknet's ``obj.data``, as CVAT exports it, and labelImg's ``classes.txt``.

``obj.data`` names a file of class names, and lists of images as ``train`` and ``valid``; their names are matched by
their tail, as they begin with ``data/`` wherever the data set lies. Beside ``classes.txt`` the images and label files
are in the folder itself, or in ``images`` and ``labels``, where ``train`` and ``val`` in them are the splits. What is
divided neither way is divided 8:2 by a seed.
"""

from __future__ import annotations

import os
from pathlib import Path

from detdistill.data.formats import Format
from detdistill.data.formats.yolo_files import YoloData, YoloSplit
from detdistill.data.label_text import FileFlaw, read_lines
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SUFFIXES,
    SPLIT_FOLDERS,
    SPLITS,
    Share,
    files_below,
    folder_of_split,
    is_companion,
    no_test_split,
    read_list,
    tails,
)
from detdistill.errors import ConfigError, DataError

_KEYS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def _description(data: Path) -> Path | None:
    """The ``obj.data`` or ``classes.txt`` of a folder, or such a file itself; None where there is none."""
    if data.is_file():
        fits = _is_data(data) or (data.name == CLASS_LIST and _has_labels(data.parent))
        return data if fits else None
    named = [path for path in sorted(data.glob("*.data")) if not is_companion(path.name) and _is_data(path)]
    if named:
        return named[0]
    lists = (path for path in (data / CLASS_LIST, data / "labels" / CLASS_LIST) if path.is_file())
    return next(lists, None) if _has_labels(data) else None


def _is_data(path: Path) -> bool:
    if path.suffix.lower() != ".data":
        return False
    try:
        return {"train", "names"} <= set(_words(path))
    except FileFlaw:
        return False


def _has_labels(data: Path) -> bool:
    """Whether a folder, or ``labels`` in it, holds a text file that is named as an image."""
    labels, images = (place if (place := data / name).is_dir() else data for name in ("labels", "images"))
    stems = {Path(name).stem for name in files_below(images, IMAGE_SUFFIXES)}
    return any(Path(name).stem in stems for name in files_below(labels, {".txt"}))


def _words(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for _, line in read_lines(path))
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def _read(data: Path) -> YoloData:
    file = _description(data)
    if file is None:
        raise ConfigError(f"data {data} must hold obj.data or {CLASS_LIST}, got neither. Give the data set's folder.")
    if file.name == CLASS_LIST:
        root = file.parent.parent if file.parent.name == "labels" else file.parent
        images = root / "images" if (root / "images").is_dir() else root
        folders = {split: folder_of_split(images, split) for split in SPLIT_FOLDERS}
        splits = {split: (path.relative_to(root).as_posix(),) for split, path in folders.items() if path.is_dir()}
        everything = images.relative_to(root).as_posix()
        return YoloData(file, root, _names(file), splits if "train" in splits else {"train": (everything,)})
    try:
        words = _words(file)
    except FileFlaw as flaw:
        raise flaw.refusal(file) from None
    names = _beside(file, words["names"])
    if not os.path.isfile(file.parent / names):
        raise DataError(
            f"'names' of {file} must be a file of class names beside it, got {words['names'][:80]!r}. Put it there."
        )
    splits = {split: (_beside(file, words[key]),) for key, split in _KEYS.items() if key in words}
    return YoloData(file, file.parent, _names(file.parent / names), splits)


def _beside(file: Path, written: str) -> str:
    """A place as `obj.data` writes it, or what of its end is there."""
    name = written.replace("\\", "/")
    return next((one for one in (name, *tails(name)) if os.path.exists(file.parent / one)), name)


def _names(path: Path) -> dict[int, str]:
    names = dict(enumerate(" ".join(line.split()) for _, line in read_list(path)))
    if not names:
        raise DataError(f"{path} must name a class on every line, got no line. Write the classes by their numbers.")
    return names


def recognises(data: Path) -> bool:
    """Whether a path is, or holds, an ``obj.data``, or a ``classes.txt`` with YOLO's label files."""
    return _description(data) is not None


def splits(data: Path) -> tuple[str, ...]:
    """The splits that are told, or both where they are drawn."""
    content = _read(data)
    present = tuple(split for split in SPLIT_FOLDERS if content.splits.get(split))
    return (
        SPLITS if present == ("train",) else tuple(split for split in present if split in SPLITS or content.has(split))
    )


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> YoloSplit:
    """Finds one split; where there is a train list alone, the seed divides it."""
    del exact
    content = _read(data)
    if content.splits.get("val") or split == "test":
        if not content.splits.get(split):
            raise no_test_split(data, f"{split} = {split}.txt in {content.file.name}, or a folder {split}")
        train = content.places("train") if split != "train" and content.has("train") else ()
        return YoloSplit(content, content.places(split), train)
    return YoloSplit(content, content.places("train"), share=Share(split, content.file, split_seed))


FORMAT = Format(
    name="darknet",
    title="YOLO",
    precedence=60,
    holds="",
    file="",
    recognises=recognises,
    splits=splits,
    find=find,
)
