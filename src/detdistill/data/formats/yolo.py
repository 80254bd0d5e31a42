"""YOLO: a ``data.yaml``, images in folders or in lists, and one text file of boxes an image (`yolo_files`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detdistill.data.builder import Box
from detdistill.data.formats import Format
from detdistill.data.formats.yolo_files import YoloData, YoloSplit
from detdistill.data.image_files import is_text
from detdistill.data.listing import SPLIT_FOLDERS, SPLITS
from detdistill.data.writable import Place, WritableSplit, plain_classes, write_plain
from detdistill.errors import ConfigError, DataError
from detdistill.files import write_text
from detdistill.settings.strict_yaml import dump_yaml, load_yaml

DATA_YAML = ("data.yaml", "data.yml")
_LIKELY_YAML = "dataset.yaml"


def read_data_yaml(path: Path) -> YoloData:
    """Reads a ``data.yaml``; ``download`` and other keys are passed over."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold the keys train, val and names, got no keys. Write it as YOLO does.")
    names = _names(path, content.get("names"), content.get("nc"))
    splits = {}
    for split, keys in SPLIT_FOLDERS.items():
        written = next((content[key] for key in keys if content.get(key) is not None), None)
        places = written if isinstance(written, list) else [] if written is None else [written]
        if not all(isinstance(place, str) and place.strip() for place in places):
            raise DataError(f"{split!r} of {path} must be a place or places, got {_brief(written)}. Correct it.")
        splits[split] = tuple(places)
    root, note = _root(path, content.get("path"), [*splits["train"], *splits["val"]])
    return YoloData(path, root, names, splits, keypoints=content.get("kpt_shape") is not None, note=note)


def _root(file: Path, written: Any, places: Sequence[str]) -> tuple[Path, str]:
    """The folder that places are relative to, and what is to be said about it.

    It is the one that ``path`` names, relative to the file or absolute. Where that is not there, as in files that came
    from another machine, it is the file's own folder if the places are in that.

    Raises:
        ConfigError: ``path`` names no folder, and the places are not beside the file.
    """
    own = file.parent
    if written is None:
        return own, ""
    if not isinstance(written, str) or not is_text(written):
        raise ConfigError(f"'path' of {file} must be a folder, got {_brief(written)}. Correct it, or leave it out.")
    root = Path(os.path.normpath(own / written))
    if os.path.isdir(root):
        return root, "" if root == own else f" with path {written}"
    beside = YoloData(file, own, {}, {"train": tuple(places)})
    try:
        beside.places("train")
    except (ConfigError, DataError):
        raise ConfigError(
            f"'path' of {file} must be the data set's folder, relative to the file or absolute, got {written!r}, and "
            f"{root} does not exist. Correct it, or leave it out where the images lie beside the file."
        ) from None
    return own, f" (its path {written[:60]} is not there: its own folder taken)"


def _lists_classes(path: Path) -> bool:
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


def yaml_of(data: Path) -> Path | None:
    """A YAML file itself; the ``data.yaml`` of a folder, else its ``dataset.yaml`` or only YAML that lists classes."""
    if data.is_file():
        return data if data.suffix.lower() in (".yaml", ".yml") else None
    for name in DATA_YAML:
        if (data / name).is_file():
            return data / name
    others = [path for path in (*data.glob("*.yaml"), *data.glob("*.yml")) if path.is_file()]
    likely = [path for path in others if path.name == _LIKELY_YAML] or others
    return likely[0] if len(likely) == 1 and _lists_classes(likely[0]) else None


def recognises(data: Path) -> bool:
    """Whether it is a YAML file, or a folder with a ``data.yaml``; see `yaml_of`."""
    return yaml_of(data) is not None


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> YoloSplit:
    """Finds one split by a ``data.yaml``, which says where all are; there is nothing to draw by a seed."""
    del exact, split_seed
    content = read_data_yaml(yaml_of(data) or data)
    places, train = content.places(split), tuple[Path, ...]()
    if split == "val":
        # Where the train split is cannot always be told, as the val split alone may be there.
        train = content.places("train") if content.has("train") else ()
    return YoloSplit(content, places, train)


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a ``data.yaml`` names; one to test on alone only where it is there."""
    content = read_data_yaml(yaml_of(data) or data)
    return tuple(
        split for split, places in content.splits.items() if places and (split in SPLITS or content.has(split))
    )


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``data.yaml``, and ``images`` and ``labels`` with a folder for every split; ignored boxes are left out."""
    places = {name: f"images/{name}" for name in splits}
    content = {"path": ".", **places, "names": dict(enumerate(plain_classes(class_names)))}
    write_text(folder / "data.yaml", dump_yaml(content))
    for name, split in splits.items():
        for image in split.images():
            # The last folder named images is the one that labels stand beside.
            before, _, after = f"images/{name}/{image.stem}".rpartition("images/")
            left_out = len(image.regions) + sum(item.ignored for item in image.boxes)
            if left_out:
                what = f"{left_out} ignored boxes or regions, which YOLO has no word for"
                split.problems.add("ignored boxes left out", str(image.path), what=what)
            lines = [_line(item.label, item.box, image.size) for item in image.boxes if not item.ignored]
            write_plain(folder / f"{before}labels/{after}.txt", lines)
            place(image, folder / places[name] / image.name)


def _line(label: int, box: Box, size: tuple[int, int]) -> str:
    height, width = size
    x1, y1, x2, y2 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    digits = 6 if min(x2 - x1, y2 - y1) >= 1e-4 else 10
    values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return " ".join([str(label), *(f"{value:.{digits}f}" for value in values)])


FORMAT = Format(
    name="yolo",
    title="YOLO",
    precedence=20,
    holds="data.yaml with train or val",
    file="a data.yaml with train or val",
    recognises=recognises,
    splits=splits,
    find=find,
    write=write,
)
