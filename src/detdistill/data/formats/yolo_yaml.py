"""The ``data.yaml`` of a YOLO data set: where its splits are, and what its classes are called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.data.image_files import is_text, unsafe_name
from detdistill.errors import ConfigError, DataError
from detdistill.settings.strict_yaml import load_yaml

SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation")}


@dataclass(frozen=True, slots=True)
class YoloData:
    """What a ``data.yaml`` says.

    Attributes:
        file: the YAML file.
        root: the folder that its splits are relative to; the file's own or one in it.
        names: class names by class id.
        splits: the places of every split, as written.
        keypoints: whether label lines carry key points behind the box.
    """

    file: Path
    root: Path
    names: Mapping[int, str]
    splits: Mapping[str, tuple[str, ...]]
    keypoints: bool

    def places(self, split: str) -> tuple[Path, ...]:
        """The folders and lists of a split."""
        if not self.splits.get(split):
            raise ConfigError(
                f"{self.file} must say where the {split} images are, got no {split!r}. "
                f"Add a line such as {split}: images/{split}."
            )
        return tuple(map(self._place, self.splits[split]))

    def _place(self, written: str) -> Path:
        for root in dict.fromkeys((self.root, self.file.parent)):
            # Many files lead out of their own folder by mistake: ../train/images stands for train/images.
            for text in dict.fromkeys((_within(written, root), re.sub(r"^(?:\.\./)+", "", written))):
                itself = os.path.normpath(text) == "."
                if itself or (unsafe_name(text) is None and (root / text).exists()):
                    return root / os.path.normpath(text)
        flaw = unsafe_name(_within(written, self.root))
        if flaw is not None:
            raise DataError(
                f"{self.file} must name places inside {self.file.parent}, got {written!r}, which {flaw}. "
                f"Put data.yaml at the top of the data set and write places relative to it."
            )
        raise ConfigError(
            f"{self.file} must name a folder of images or a list of them, got {written!r}, and {self.root / written} "
            f"does not exist. Correct the line."
        )


def _within(written: str, root: Path) -> str:
    """An absolute place inside the data set as a relative one; anything else as it is."""
    normal, base = Path(os.path.normpath(written)), Path(os.path.abspath(root))
    inside = normal.is_absolute() and normal.is_relative_to(base)
    return normal.relative_to(base).as_posix() if inside else written


def read_data_yaml(path: Path) -> YoloData:
    """Reads a ``data.yaml``; ``download`` and other keys are passed over."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold the keys train, val and names, got no keys. Write it as YOLO does.")
    names = _names(path, content.get("names"), content.get("nc"))
    splits = {}
    for split, keys in SPLIT_KEYS.items():
        written = next((content[key] for key in keys if content.get(key) is not None), None)
        places = written if isinstance(written, list) else [] if written is None else [written]
        if not all(isinstance(place, str) and place.strip() for place in places):
            raise DataError(f"{split!r} of {path} must be a place or places, got {_brief(written)}. Correct it.")
        splits[split] = tuple(places)
    # The folder named by ``path`` counts where it lies in the file's own.
    root, within = path.parent, content.get("path")
    if isinstance(within, str) and unsafe_name(within) is None and (root / within).is_dir():
        root /= os.path.normpath(within)
    return YoloData(path, root, names, splits, keypoints=content.get("kpt_shape") is not None)


def lists_classes(path: Path) -> bool:
    """Whether a file is YAML with the key ``names``, as files that have nothing to do with YOLO are not."""
    try:
        content = load_yaml(path)
    except ConfigError:
        return False
    return isinstance(content, dict) and "names" in content


def _brief(value: Any) -> str:
    """A value for a message; a list or mapping by its kind alone, as few lines of YAML make endless ones."""
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _names(path: Path, written: Any, count: Any) -> dict[int, str]:
    given = dict(enumerate(written)) if isinstance(written, list) else written if isinstance(written, dict) else {}
    names: dict[int, str] = {}
    for own, name in given.items():
        usable = isinstance(own, int) and not isinstance(own, bool) and 0 <= own < 2**31
        if not usable or not isinstance(name, str | int | float) or not str(name).strip() or not is_text(str(name)):
            raise DataError(
                f"'names' of {path} must give a text for every class number, got {_brief(name)} for {_brief(own)}. "
                f"Correct it."
            )
        names[own] = " ".join(str(name).split())
    if not names:
        raise DataError(f"'names' of {path} must list the classes, got {_brief(written)}. Add names: [first, second].")
    if isinstance(count, int) and not isinstance(count, bool) and count != len(names):
        raise DataError(f"'names' of {path} must list the nc = {count} classes, got {len(names)}. Correct one of them.")
    return names
