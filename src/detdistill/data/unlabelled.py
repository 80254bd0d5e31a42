"""Images that nobody labelled, a folder of them or a list, and how a run uses them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.image_files import settled_size, unsafe_name
from detdistill.data.listing import IMAGE_SUFFIXES, files_below, read_list
from detdistill.data.problems import Problems
from detdistill.errors import ConfigError, DataError, astray
from detdistill.settings import given
from detdistill.settings.bounds import Gain, Share, Within


@dataclass(frozen=True, slots=True)
class UnlabelledSettings:
    """Images without labels, which only teaching looks at.

    Attributes:
        source: a folder, of which all images below are taken, or a text file that names images beside or below it, one
            a line. Images of the run's own splits are left out.
        share: how many of them a step sees, as a share of train.batch_size; at least one.
        pseudo: whether the student's own loss learns the teacher's boxes there: not at all, like labels (hard), or each
            object weighted by its score (soft).
        pseudo_gain: multiplier of that loss, beside 1 for the labelled images' own.
        precision: share of the teacher's boxes on labelled training images that must be right (IoU 0.5) from a score
            on; from the least such score on a box counts.
        doubtful: the same for a lower score, at most `precision`: with pseudo, what lies between both scores counts
            neither as object nor as background.
    """

    source: Path = field(metadata=given("Pass --unlabelled FOLDER, or leave data.unlabelled out"))
    share: Annotated[float, Within(0.01, 100)] = 1.0
    pseudo: Literal["none", "hard", "soft"] = "none"
    pseudo_gain: Gain = 1.0
    precision: Share = 0.9
    doubtful: Share = 0.5

    def __post_init__(self) -> None:
        if self.doubtful > self.precision:
            raise ConfigError(
                f"data.unlabelled.doubtful must be at most data.unlabelled.precision, {self.precision:g}, got "
                f"{self.doubtful:g}. Set data.unlabelled.doubtful={self.precision:g}."
            )

    def count(self, batch_size: int) -> int:
        """How many images a step of so many labelled ones sees beside them: at least one."""
        return max(round(self.share * batch_size), 1)


def read_unlabelled(
    source: Path, class_names: tuple[str, ...], *, known: Iterable[Path] = ()
) -> tuple[Annotations, Problems, int]:
    """The images of a folder or list as annotations without boxes, in the order of their names, or of the list.

    Only headers are read. Names that lead out of the folder, files that are not there and files that are no images are
    problems, as they are for labelled images.

    Args:
        class_names: the classes that boxes will be of.
        known: images that are left out, whatever they are called here.

    Returns:
        At least one image; the problems; how many images were left out as known.

    Raises:
        ConfigError: there is no such folder or list.
        DataError: no image is left.
    """
    problems, sizes, left_out = Problems(), dict[str, tuple[int, int]](), 0
    if source.is_dir():
        folder, entries = source, [(str(source), name) for name in files_below(source, IMAGE_SUFFIXES, problems)]
    elif source.suffix.lower() == ".txt" and source.is_file():
        folder, entries = source.parent, read_list(source)
    else:
        got = "no such path" if not source.exists() else "another file"
        raise ConfigError(
            f"data.unlabelled.source {source} must be a folder of images, or a text file that names some, got {got}. "
            f"{astray(source)}"
        )
    taken = set(filter(None, map(_inode, known)))
    for where, name in entries:
        path, flaw = folder / name, unsafe_name(name)
        if flaw is not None:
            problems.add("unusable file name", where, what=f"{name!r} {flaw}", loses="images")
        elif name in sizes:
            problems.add("image listed twice", where, what=f"{name!r} is the second")
        elif _inode(path) in taken:
            left_out += 1
        elif size := settled_size(path, None, decode=False, problems=problems, where=str(path)):
            sizes[name] = size
    if not sizes:
        told = f"; {problems.skipped} were skipped: {', '.join(problems.counts)}" if problems.skipped else ""
        known_ones = f"; {left_out} are images of the run's splits" if left_out else ""
        raise DataError(
            f"data.unlabelled.source {source} must hold at least one image beside the labelled ones, got none{told}"
            f"{known_ones}. Give a folder of other images."
        )
    return Annotations.without_boxes(folder, sizes, class_names), problems, left_out


def digest(images: Annotations) -> str:
    """16 hexadecimal digits that the names, pixel sizes and lengths in bytes of images decide, in their order."""
    found = hashlib.sha256(images.name_bytes.tobytes())
    lengths = [os.stat(images.path(index)).st_size for index in range(len(images))]
    for array in (images.name_offsets, images.sizes, np.array(lengths, dtype=np.int64)):
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def _inode(path: Path) -> tuple[int, int] | None:
    """What tells a file behind any name, links followed; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
