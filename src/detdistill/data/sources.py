"""Recognises a data set by its files, and opens a split of it; the formats themselves are in `detdistill.data.formats`.

A folder of several formats is of the one with the lowest precedence; a file may be given instead to take another.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from detdistill.data.annotations import Annotations, Reading, Split, ignore_progress
from detdistill.data.formats import FORMATS, Format
from detdistill.data.image_files import is_text
from detdistill.data.label_text import head_of
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError, DataError, astray, either


def _by_precedence() -> list[Format]:
    return sorted(FORMATS.values(), key=lambda item: (item.precedence, item.name))


def recognise(data: Path) -> Format:
    """The format of a data set, given as a folder or a file."""
    if not data.exists():
        raise ConfigError(f"data {data} must be a data set folder or file, got no such path. {astray(data)}")
    for item in _by_precedence():
        if item.recognises(data):
            return item
    raise _of_no_format(data)


def _of_no_format(data: Path) -> ConfigError:
    folder = data.is_dir()
    known = [f"{text} ({item.title})" for item in _by_precedence() if (text := item.holds if folder else item.file)]
    listed = either(known)
    if not folder:
        return ConfigError(
            f"data {data} must be {listed}, got a file that is none of them. Give such a file, or the data's folder."
        )
    if (project := _via_project(data)) is not None:
        return ConfigError(
            f"{project} must be annotations that are read, got a project of the VGG Image Annotator (VIA). Export it "
            f"there by Annotation, Export Annotations (COCO format), and give that file."
        )
    names = sorted(filter(is_text, (path.name for path in data.iterdir())))
    among = f" among {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else " in an empty folder"
    above = data.parent if any(item.recognises(data.parent) for item in FORMATS.values()) else None
    remedy = "Give the folder of a data set, or a file of one." if above is None else f"Give {above} instead."
    return ConfigError(f"{data} must hold {listed}, got none of them{among}. {remedy}")


def _via_project(folder: Path) -> Path | None:
    """A file of the VGG Image Annotator, which exports COCO itself; None where there is none."""
    for path in islice(sorted(folder.glob("*.json")), 8):
        head = head_of(path, 2**16)
        if b'"_via_' in head or (b'"regions"' in head and b'"file_attributes"' in head):
            return path
    return None


def present_splits(data: Path) -> tuple[str, ...]:
    """The splits that a data set has; a JSON file or list alone counts as ``"val"``, unless both are drawn from it.

    A split of Pascal VOC or KITTI whose list is empty is left out.
    """
    present = recognise(data).splits(data)
    if not present:
        raise _of_no_format(data)
    return present


def find_split(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> Split:
    """Finds one split, ``"train"`` or ``"val"``, of a data set.

    Args:
        data: a folder, or a file of some format: a JSON file, a ``data.yaml``, or a list such as
            ``ImageSets/Main/trainval.txt``. Where the name of a JSON file or list says another split than the one asked
            for, that is the file beside it: for ``traffic_train.json`` the val split is ``traffic_val.json``. A JSON
            file whose name says none is divided.
        exact: take a JSON file or list for the split whatever its name says, as where a user names what to evaluate.
        split_seed: divides a data set that nothing else divides.

    Raises:
        ConfigError: there is no such path, or nothing for the split.
        DataError: a file cannot be used, or none of its first images is in any of the folders.
    """
    return recognise(data).find(data, split, exact=exact, split_seed=split_seed)


def open_split(
    data: Path,
    split: str,
    *,
    class_names: tuple[str, ...] | None = None,
    exact: bool = False,
    split_seed: int = 0,
    check_images: bool = False,
    progress: Callable[[int, int], None] = ignore_progress,
    say: Callable[[str], None] | None = None,
) -> tuple[Annotations, Problems]:
    """Finds and reads one split of a data set; `data`, `split`, `exact` and `split_seed` are as in `find_split`.

    The annotations are of at least one image; problems are what was repaired or skipped.

    Args:
        class_names: the classes it must have, by name; labels then follow this order. A data set without a list of
            its classes (Pascal VOC, KITTI) may show fewer.
        check_images: decode every image fully and compare its size; slow. Without it no image is opened, except for
            the header of one whose size the annotations do not give.
        progress: called with (images settled, all images) where images are looked at.
        say: told in a line what the data was recognised as.
    """
    found = find_split(data, split, exact=exact, split_seed=split_seed)
    if say is not None:
        say(f"{split} data read as {found.text()}")
    return read_found(found, split, Reading(class_names, check_images, progress))


def read_found(found: Split, split: str, reading: Reading) -> tuple[Annotations, Problems]:
    """Reads a split that was found, as `open_split` does: of no image it is a `DataError`."""
    annotations, problems = found.read(reading)
    if len(annotations) == 0:
        raise no_images(found, split, problems)
    return annotations, problems


# What helps where problems of a kind left no image.
_REMEDIES = {
    "unusable file name": "Write names relative to the images' folder, with / between folders.",
    "image of another size": "Write the images' own sizes into the annotations.",
    "image file missing": "Put the images where the annotations name them, or correct the names.",
    "image file unreadable": "Put files there that can be decoded as images.",
    "image of unknown ending": "Convert the images to .jpg or .png.",
    "label file without image": "Put the images beside them, or correct the place.",
    "label file of too many boxes": "Leave such images out, or take boxes out of their label files.",
    "label file missing": "Correct the list, or add the label files.",
    "label file not UTF-8": "Save the label files as text in UTF-8.",
    "bad entry in images": "Give every image a whole number as its id.",
}


def no_images(found: Split, split: str, problems: Problems) -> DataError:
    """The refusal of a split without a usable image: what was skipped, and what helps against the first cause."""
    skipped, remedy = "", "Add images to it, or give other data."
    first = next((item for item in problems if item.action == "skipped" and item.kind in _REMEDIES), None)
    if problems.skipped:
        skipped = f"; {problems.skipped} entries were skipped: {', '.join(problems.counts)}"
    elif found.drawn:
        skipped = ", as there are too few to be divided"
    if first is not None:
        skipped += f", such as {first.where[-300:]}: {first.what[:300]}"
        swapped = "width and height swapped" in first.what
        remedy = "Swap width and height in the annotations." if swapped else _REMEDIES[first.kind]
    return DataError(
        f"the {split} split {found.source} must list at least one image that can be used, got none{skipped}. {remedy}"
    )
