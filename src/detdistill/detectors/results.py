"""What another detector found, read from a file: COCO results, or a COCO data set whose boxes have scores."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.data.formats.json_stream import BEGIN, walk, walk_list
from detdistill.data.image_files import is_text
from detdistill.data.label_text import head_of
from detdistill.errors import DataError

RESULTS = "a list of results as COCO has them, each with image_id, category_id, bbox and score"
_LISTS = ("categories", "images", "annotations")
_ROUNDING = 1.5
# What single precision adds to a probability.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Result:
    """One box that was found: x1, y1, x2, y2 in pixels of the image as stored, and the score of each class if told."""

    image: int | str
    category: int
    box: tuple[float, float, float, float]
    score: float
    scores: tuple[float, ...] | None = None


def checked_result(entry: Any, *, where: str) -> Result:
    """An entry of COCO results.

    Raises:
        DataError: a field is missing or cannot be used.
    """
    if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox", "score"} <= entry.keys():
        raise DataError(
            f"{where} must have image_id, category_id, bbox and score, got {str(entry)[:80]}. Write it in that form."
        )
    image, category, box, score = (entry[key] for key in ("image_id", "category_id", "bbox", "score"))
    if type(image) not in (int, str):
        raise DataError(f"image_id of {where} must be a number or a name, got {image!r}. Write the image's own.")
    if type(category) is not int:
        raise DataError(
            f"category_id of {where} must be a whole number, got {category!r}. Write the ids of the annotations."
        )
    if not _finite(score):
        raise DataError(f"score of {where} must be a finite number, got {score!r}. Leave it out, or mend the detector.")
    usable = isinstance(box, list) and len(box) == 4 and all(map(_finite, box))
    if not usable or min(box[2:]) < 0:
        raise DataError(
            f"bbox of {where} must be x, y, width and height in pixels, got {str(box)[:80]}. Leave it out, or mend the "
            "detector."
        )
    scores = entry.get("scores")
    if scores is not None and not (isinstance(scores, list) and scores and all(map(_finite, scores))):
        raise DataError(
            f"scores of {where} must be a list with a finite number for each class, got {str(scores)[:80]}. Leave it "
            "out, or mend the detector."
        )
    x, y, width, height = box
    return Result(image, category, (x, y, x + width, y + height), score, None if scores is None else tuple(scores))


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Found:
    """The content of a predictions file; image i owns the boxes ``offsets[i] : offsets[i + 1]``, best first.

    Attributes:
        ids: of the images, as the file has them.
        names: their file names, and None of plain results, which name none.
        sizes: their heights and widths, (0, 0) where the file does not say.
        classes: names by category id, in the file's order; None of plain results.
        boxes: x1, y1, x2, y2 in pixels of the images as stored; (m, 4).
        scores: (m,).
        categories: (m,).
        by_class: the score of each class, in the file's order of classes, or else the data's; (m, k) or None.
    """

    path: Path
    digest: bytes
    ids: tuple[int | str, ...]
    names: tuple[str, ...] | None
    sizes: tuple[tuple[int, int], ...]
    classes: Mapping[int, str] | None
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    categories: NDArray[np.int64]
    by_class: NDArray[np.float32] | None


def read_predictions(path: Path) -> Found:
    """Reads a predictions file.

    Raises:
        ConfigError: it cannot be read.
        DataError: it is neither form, or an entry cannot be used.
    """
    pile = _Pile(path)
    if _is_list(path):
        for number, entry in enumerate(walk_list(path, what=RESULTS), start=1):
            where = f"Entry {number} of {path}"
            pile.add(checked_result(entry, where=where), where=where)
        return pile.found(None)
    counts: Counter[str] = Counter()
    for key, entry in walk(path, _LISTS):
        if entry is not BEGIN:
            counts[key] += 1
            pile.take(key, entry, where=f"{key} entry {counts[key]} of {path}")
    return pile.found(pile.classes)


def _is_list(path: Path) -> bool:
    return head_of(path, 64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


@dataclass(slots=True)
class _Pile:
    """What was read so far."""

    path: Path
    rows: dict[int | str, int] = field(default_factory=dict)
    names: dict[int | str, str] = field(default_factory=dict)
    sizes: dict[int | str, tuple[int, int]] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    images: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    by_class: list[tuple[float, ...]] = field(default_factory=list)

    def take(self, key: str, entry: Any, *, where: str) -> None:
        """An entry of a COCO data set."""
        if key == "annotations":
            result = checked_result(entry, where=where)
            self.add(result, where=where)
            return
        own, name = (entry.get("id"), entry.get("file_name" if key == "images" else "name")) if entry else (None, None)
        if type(own) is not int or not isinstance(name, str) or not name.strip() or not is_text(name):
            raise DataError(
                f"{where} must have an id and a {'file_name' if key == 'images' else 'name'}, got {str(entry)[:80]}. "
                "Write both."
            )
        if key == "categories":
            if own in self.classes or name in self.classes.values():
                raise DataError(
                    f"{where} must be a class of its own, got {name!r} with the id {own} again. Name it once."
                )
            self.classes[own] = name
            return
        if own in self.names:
            raise DataError(f"{where} must be an image of its own, got the id {own} again. Give each its own id.")
        self.rows.setdefault(own, len(self.rows))
        self.names[own] = name.replace("\\", "/")
        size = entry.get("height"), entry.get("width")
        if all(type(side) is int and side > 0 for side in size):
            self.sizes[own] = size

    def add(self, result: Result, *, where: str) -> None:
        """A box."""
        for what, one in (("score", result.score), *(("scores", one) for one in result.scores or ())):
            if not -_SLACK <= one <= 1 + _SLACK:
                raise DataError(
                    f"{what} of {where} must be a probability, from 0 to 1, got {one:g}. Write probabilities, not "
                    "logits or percent."
                )
        if bool(self.by_class) != (result.scores is not None) and len(self.images):
            raise DataError(
                f"{self.path} must have scores of each class with all boxes or none, got some. Leave them out."
            )
        self.images.append(self.rows.setdefault(result.image, len(self.rows)))
        self.categories.append(result.category)
        self.numbers.extend((*result.box, result.score))
        if result.scores is not None:
            self.by_class.append(result.scores)

    def found(self, classes: Mapping[int, str] | None) -> Found:
        """All of it, sorted by image and then by score."""
        if classes is not None:
            self._require_known(classes)
        numbers = np.array(self.numbers, dtype=np.float64).reshape(-1, 5)
        images = np.array(self.images, dtype=np.int64)
        order = np.lexsort((-numbers[:, 4], images))
        widths = {len(one) for one in self.by_class}
        if len(widths) > 1 or (classes is not None and widths and widths != {len(classes)}):
            wanted = "one" if classes is None else f"{len(classes)} as there are categories"
            raise DataError(
                f"The lists of scores in {self.path} must have one length, {wanted}, got {sorted(widths)}. "
                "Leave them out."
            )
        if len(numbers) and (most := numbers[:, :4].max()) <= _ROUNDING:
            raise DataError(
                f"Every bbox of {self.path} must be in pixels, got none that reaches beyond {most:.3g}: "
                "shares of the image's sides. Multiply by its width and height."
            )
        return Found(
            path=self.path,
            digest=hashlib.sha256(self.path.read_bytes()).digest(),
            ids=tuple(self.rows),
            names=None if classes is None else tuple(self.names[own] for own in self.rows),
            sizes=tuple(self.sizes.get(own, (0, 0)) for own in self.rows),
            classes=classes,
            offsets=np.searchsorted(images[order], np.arange(len(self.rows) + 1)),
            boxes=numbers[order, :4].astype(np.float32),
            scores=numbers[order, 4].astype(np.float32),
            categories=np.array(self.categories, dtype=np.int64)[order],
            by_class=np.array(self.by_class, dtype=np.float32)[order] if self.by_class else None,
        )

    def _require_known(self, classes: Mapping[int, str]) -> None:
        for what, used, known in (
            ("image_id", self.rows, self.names),
            ("category_id", dict.fromkeys(self.categories), classes),
        ):
            if unknown := [one for one in used if one not in known]:
                of = "images" if what == "image_id" else "categories"
                raise DataError(
                    f'Every {what} of {self.path} must be one of its "{of}", got {unknown[0]!r}. List it there.'
                )
