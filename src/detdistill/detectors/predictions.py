"""A file of predictions as a detector: it finds in an image what the file says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detdistill.data.annotations import Annotations
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.load_report import LoadedDetector, LoadReport
from detdistill.detectors.results import Found, read_predictions
from detdistill.errors import CapabilityError, ConfigError, DataError
from detdistill.progress import counted
from detdistill.types import Batch, Detections, Targets, sent

_TELL_APART = (
    'Put the list as "annotations" into a copy of the images\' own COCO file, whose file names tell them apart.'
)
_OTHER_IMAGES = "Predict on these images as they are."
_ROUNDING = 1.5


@final
class Predictions(BoxesAlone):
    """Finds what a file says of the images that it is told to look at (`looking`).

    Labelled images are matched to plain results by their ids, or by file name where an image_id is a text; to a file
    that names its images by file name; and so are images without labels, whose ids mean nothing. An image_id that
    stands for a file's name may lack its ending.

    Attributes:
        found: the file's content.
    """

    content: Tensor

    def __init__(self, found: Found) -> None:
        super().__init__(found.path.name, () if found.classes is None else tuple(found.classes.values()))
        self.found = found
        self._labels = {} if found.classes is None else {own: label for label, own in enumerate(found.classes)}
        # What `digest` tells it from other files by; it is where the detector is, too.
        self.register_buffer("content", torch.tensor(list(found.digest), dtype=torch.uint8))
        self._owners: dict[int, str] = {}
        self._rows: Mapping[int, int] | None = None

    def with_classes_of(self, annotations: Annotations) -> Predictions:
        """The same with the data's classes, where the file names none: its category ids are the data's.

        Raises:
            ConfigError: the data has no classes either.
            DataError: the ids count from 0 and the data's from 1, or the scores of each class are of another number.
        """
        if self.spec.class_names:
            return self
        own, names = annotations.category_ids.tolist(), annotations.class_names
        if not names:
            raise ConfigError(
                f"{self.found.path} must name its classes, got plain results. Give a COCO file with categories."
            )
        used = {*self.found.categories.tolist()}
        if 0 in used - {*own} and {one + 1 for one in used} <= {*own}:
            raise DataError(
                f"Every category_id of {self.found.path} must be one of the data's, {min(own)} to {max(own)}, got "
                f"{min(used)} to {max(used)}, which count from 0. Write the ids of the annotations."
            )
        by_class = self.found.by_class
        if by_class is not None and by_class.shape[1] != len(names):
            raise DataError(
                f"scores in {self.found.path} must have a number for each of the data's {len(names)} classes, got "
                f"{by_class.shape[1]}. Leave them out."
            )
        named = Predictions(self.found)
        named.spec = replace(self.spec, class_names=names)
        named._labels = {category: label for label, category in enumerate(own)}
        return named

    def matched(self, annotations: Annotations) -> NDArray[np.int64]:
        """The file's number of every image, -1 where it says nothing of it; (n,).

        Raises:
            DataError: one image of the file is two of the data's, or is one of another size.
        """
        found, own = self.found, self._numbers(annotations)
        for index in np.flatnonzero(own >= 0).tolist():
            path, number = str(annotations.path(index)), int(own[index])
            if self._owners.setdefault(number, path) != path:
                raise DataError(
                    f"Image {found.ids[number]} of {found.path} must be one image of the data, got {path} and "
                    f"{self._owners[number]}. {_TELL_APART}"
                )
            size, stored = found.sizes[number], tuple(annotations.sizes[index].tolist())
            if size not in ((0, 0), stored):
                raise DataError(
                    f"Image {found.ids[number]} of {found.path} must be {stored[0]} x {stored[1]} pixels (height and "
                    f"width) as {path} is, got {size[0]} x {size[1]}. {_OTHER_IMAGES}"
                )
        return own

    def _numbers(self, annotations: Annotations) -> NDArray[np.int64]:
        if self._by_id(annotations):
            return np.array([self._ids.get(own, -1) for own in annotations.image_ids.tolist()], dtype=np.int64)
        plain = self.found.names is None
        paths = (annotations.path(row).absolute() for row in range(len(annotations)))
        return np.array([self._names.number(path, plain=plain) for path in paths], dtype=np.int64)

    @cached_property
    def _ids(self) -> dict[int | str, int]:
        return {own: number for number, own in enumerate(self.found.ids)}

    @cached_property
    def _names(self) -> _Names:
        return _Names(self.found)

    def _by_id(self, annotations: Annotations) -> bool:
        plain = self.found.names is None and annotations.labelled
        return plain and not any(isinstance(own, str) for own in self.found.ids)

    def _require_inside(self, annotations: Annotations, own: NDArray[np.int64]) -> None:
        """Refuses boxes of which most reach beyond their image: those of another form, or of images of another size."""
        limits = np.full((len(self.found.ids), 2), np.inf)
        limits[own[own >= 0]] = annotations.sizes[own >= 0][:, ::-1] + _ROUNDING
        edges = np.repeat(limits, np.diff(self.found.offsets), axis=0)
        known = np.isfinite(edges[:, 0])
        boxes, edges = self.found.boxes[known], edges[known]
        beyond = (boxes[:, 2:] > edges).any(axis=1)
        if 2 * beyond.sum() <= len(boxes):
            return
        corners = boxes[:, 2:] - boxes[:, :2]
        said, remedy = f"{beyond.sum()} of {len(boxes)} that reach beyond their image", _OTHER_IMAGES
        if ((corners <= edges) & (corners >= boxes[:, :2])).all(axis=1).sum() > len(boxes) // 2:
            said += " and lie in it when read as x1, y1, x2, y2"
            remedy = "Write x, y, width and height."
        raise DataError(f"The boxes of {self.found.path} must lie in their images, got {said}. {remedy}")

    def match_note(self, annotations: Annotations, *, title: str) -> str:
        """How many of these images the file says something of, by what they were matched, and what is left over.

        Raises:
            DataError: as `matched`; or most of its boxes reach beyond their image.
        """
        own = self.matched(annotations)
        self._require_inside(annotations, own)
        known = int((own >= 0).sum())
        by = "id" if self._by_id(annotations) else "file name"
        foreign = sum(category not in self._labels for category in self.found.categories.tolist())
        left = len(self.found.ids) - known
        told = [f"{self.found.path} says what is in {known} of {len(annotations)} {title} (matched by {by})"]
        told += [f"in the other {len(annotations) - known} nothing is found"] if known < len(annotations) else []
        told += [f"{left} of its images are others"] if left else []
        told += [f"{foreign} of its boxes are of categories that the data has not"] if foreign else []
        return "; ".join(told)

    def knows(self, annotations: Annotations) -> bool:
        """Whether the file says something of any of these images."""
        return bool((self.matched(annotations) >= 0).any())

    @property
    def remedy(self) -> str:
        """What to do where it knows none."""
        if self.found.names == ():
            return 'List the images under "images", with their file names, or give COCO results.'
        if self.found.names is not None:
            return f"Its file names end in other folders, as {self.found.names[0]}: write them as the data's are."
        return "Write the ids of the annotations, or of images without labels the file names, as image_id."

    def batches(self, annotations: Annotations, *, batch_size: int) -> Iterator[Batch]:
        """What `detect` needs of these images, none of which is read: pixels do not matter."""
        for first in range(0, len(annotations), batch_size):
            rows = range(first, min(first + batch_size, len(annotations)))
            ids = tuple(int(annotations.image_ids[row]) for row in rows)
            sizes = tuple((int(height), int(width)) for height, width in annotations.sizes[rows.start : rows.stop])
            none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
            yield Batch(torch.zeros(len(rows), 3, 1, 1), sizes, sizes, (none,) * len(rows), ids, ids)

    @contextmanager
    def looking(self, annotations: Annotations) -> Iterator[None]:
        """Within, `detect` is shown these images."""
        own = self.matched(annotations).tolist()
        before, self._rows = self._rows, dict(zip(annotations.image_ids.tolist(), own, strict=True))
        try:
            yield
        finally:
            self._rows = before

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """What the file says of each image, best first; see `Detector.detect`. The images must not be flipped or cut.

        Raises:
            CapabilityError: it was not told which images these are.
        """
        if self._rows is None:
            raise CapabilityError(
                f"The images that {self.spec.name} is asked about must be of a data set, got a batch alone. "
                "Look at it within detector.looking(annotations)."
            )
        return tuple(self._detect(batch, index, self._rows.get(own, -1)) for index, own in enumerate(batch.image_ids))

    def _detect(self, batch: Batch, index: int, number: int) -> Detections:
        found = self.found
        rows = slice(*found.offsets[number : number + 2].tolist()) if number >= 0 else slice(0)
        labels = np.array([self._labels.get(own, -1) for own in found.categories[rows].tolist()], dtype=np.int64)
        kept = labels >= 0
        (height, width), (stored_height, stored_width) = batch.sizes[index], batch.stored_sizes[index]
        scale = np.array([width / stored_width, height / stored_height] * 2)
        boxes = np.clip(found.boxes[rows][kept] * scale, 0, [width, height] * 2).astype(np.float32)
        given = [boxes, found.scores[rows][kept], labels[kept]]
        given += [] if found.by_class is None else [found.by_class[rows][kept]]
        return Detections(*(sent(torch.from_numpy(one), batch.images.device) for one in given))


@contextmanager
def looking(detector: nn.Module, annotations: Annotations) -> Iterator[None]:
    """Within, whatever part of a detector goes by a file is shown these images."""
    with ExitStack() as stack:
        for part in detector.modules():
            if isinstance(part, Predictions):
                stack.enter_context(part.looking(annotations))
        yield


def says_of(detector: nn.Module, annotations: Annotations) -> bool:
    """Whether a detector finds anything in these images but where its file has never heard of them."""
    parts = [part for part in detector.modules() if isinstance(part, Predictions)]
    return not parts or any(part.knows(annotations) for part in parts)


def load_predictions(path: Path) -> LoadedDetector:
    """A predictions file as a detector; see `read_predictions`. One of plain results has no class names yet."""
    detector = Predictions(read_predictions(path))
    found = detector.found
    form = "plain results" if found.classes is None else f"classes {', '.join(found.classes.values())}"
    known = f"{counted(len(found.scores), 'box')} in {counted(len(found.ids), 'image')}, {form}"
    return LoadedDetector(detector, LoadReport(str(path), (), known=known), {}, detector.spec.class_names, extra={})


class _Names:
    """File names, or the ids of plain results that stand for them, to look images up by."""

    def __init__(self, found: Found) -> None:
        self._path, self._known = found.path, dict[str, list[tuple[tuple[str, ...], int]]]()
        for number, name in enumerate(found.names or map(str, found.ids)):
            if parts := PurePosixPath(name).parts:
                self._known.setdefault(parts[-1], []).append((parts, number))

    def number(self, path: Path, *, plain: bool) -> int:
        """The number of the name that ends as the path does, the one with the most folders in common; -1 for none.

        The name must be the path's end, or share a folder with it; a plain result's may lack its ending and zeros.

        Raises:
            DataError: several names have as much in common.
        """
        lasts = {path.name, path.stem, path.stem.lstrip("0")} if plain else {path.name}
        fitting = [
            (common, number)
            for last in sorted(lasts)
            for parts, number in self._known.get(last, ())
            if (common := _common((*path.parts[:-1], last), parts)) == len(parts) or common > 1
        ]
        most = max((common for common, _ in fitting), default=0)
        best = {number for common, number in fitting if common == most}
        if len(best) > 1:
            raise DataError(
                f"The names of images in {self._path} must tell which of them {path} is, got {len(best)} ending "
                "alike. Write them with their folders."
            )
        return best.pop() if best else -1


def _common(path: tuple[str, ...], name: tuple[str, ...]) -> int:
    """How many parts both end with."""
    return next(
        (count for count, (a, b) in enumerate(zip(path[::-1], name[::-1], strict=False)) if a != b),
        min(len(path), len(name)),
    )
