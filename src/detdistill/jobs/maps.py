"""What a run's teachers show of its images, computed once per image and flip, where a run asks for that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, final

import numpy as np

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw, Sample
from detdistill.data.loader import collate
from detdistill.data.transforms import Augmentation, AugmentSettings, ImageSettings
from detdistill.detectors.base import DetectorSpec
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.replay import Replay, kept_needs, taken_apart
from detdistill.distillation.step import DistillationStep
from detdistill.errors import ConfigError
from detdistill.jobs.finds import finds_folder
from detdistill.jobs.samples import Opened
from detdistill.progress import Progress
from detdistill.store.cache import hexed, image_name, watched
from detdistill.store.maps import Look, Shown, kept_maps
from detdistill.types import Batch, Need

_FOLDER = "maps"


@final
@dataclass(frozen=True, slots=True)
class Flips:
    """Which augmentations are kept of every image: as it is stored, and flipped where the run flips.

    Others change what a teacher sees in ways that no map follows. Nor does one follow a flip: strides and padding begin
    at the upper left, so that the flipped image has maps of its own.

    Attributes:
        ways: whether each is flipped, and whether upside down.
        image: the student's size.
        first: the number of the first image's first entry.
    """

    ways: tuple[tuple[bool, bool], ...]
    image: ImageSettings
    first: int = 0

    @classmethod
    def of(cls, settings: AugmentSettings, image: ImageSettings, first: int = 0) -> Flips:
        """Those that a run can draw."""

        def drawn(share: float) -> list[bool]:
            return [way for way, chance in ((False, 1 - share), (True, share)) if chance > 0]

        return cls(tuple(product(drawn(settings.flip), drawn(settings.flip_vertical))), image, first)

    def __call__(self, index: int, drawn: Augmentation | None) -> int:
        """The number of the entry of an image that was augmented so; -1 where there is none. See `KeptPlaces`."""
        drawn = drawn or Augmentation()
        sides = (None, self.image.short_side)
        plain = Augmentation(
            crop_y=drawn.crop_y,
            crop_x=drawn.crop_x,
            flip=drawn.flip,
            flip_vertical=drawn.flip_vertical,
            short_side=drawn.short_side if drawn.short_side in sides else None,
        )
        way = (drawn.flip, drawn.flip_vertical)
        return self.first + index * len(self.ways) + self.ways.index(way) if drawn == plain and way in self.ways else -1


def replayed_share(settings: AugmentSettings, image: ImageSettings) -> float:
    """The share of training samples that are flipped at most; windows may leave some more."""
    if settings.colour or settings.scale_jitter != (1.0, 1.0):
        return 0.0
    low, high = settings.short_sides or (image.short_side, image.short_side)
    sides = 1 / (high - low + 1) if low <= image.short_side <= high else 0.0
    return (1 - settings.grey) * (1 - settings.blur) * (1 - settings.crop) * sides


def require_maps(opened: Opened, teachers: Sequence[FrozenTeacher]) -> None:
    """Refuses to keep maps of a teacher that has none.

    Raises:
        ConfigError: a teacher says boxes alone.
    """
    choice = opened.config.teacher
    without = [one.spec.name for one in teachers if one.spec.pyramid is None]
    if choice is not None and choice.cache == "maps" and without:
        raise ConfigError(
            f"teacher.cache must be boxes for a teacher that says boxes alone, such as {without[0]}, got maps. "
            "Set teacher.cache=boxes."
        )


def maps_identity(opened: Opened, step: DistillationStep) -> dict[str, Any]:
    """What of it must be the same on resume: maps in half precision teach otherwise, if by little."""
    return {"cache": "maps"} if _needs(opened, step) else {}


def maps_folder(opened: Opened) -> Path:
    """Where the teachers' maps are kept."""
    return finds_folder(opened) / _FOLDER


def _needs(opened: Opened, step: DistillationStep) -> dict[int, frozenset[Need]]:
    """What is kept of each teacher, by its number; empty where nothing is."""
    choice, augment = opened.config.teacher, opened.config.data.augment
    if choice is None or choice.cache != "maps" or not replayed_share(augment, opened.data.image):
        return {}
    beside = frozenset[Need]() if step.choice is None else step.choice.needs
    found = {number: kept_needs(step.recipe, number, beside=beside) for number in range(len(step.teachers))}
    return {number: needs for number, needs in found.items() if needs}


def kept_bytes(opened: Opened, step: DistillationStep) -> int:
    """Bytes that the maps still to be made take, about."""
    sizes = np.concatenate([images.sizes[:] for images in _images(opened)])
    entries = sum(
        int(count) * _entry_bytes(step.teachers[number].spec, needs, (int(height), int(width)), opened)
        for number, needs in _needs(opened, step).items()
        for (height, width), count in zip(*np.unique(sizes, axis=0, return_counts=True), strict=True)
    )
    made = sum(path.stat().st_size for path in maps_folder(opened).glob("*/*.safetensors"))
    return max(0, len(Flips.of(opened.config.data.augment, opened.data.image).ways) * entries - made)


def _entry_bytes(spec: DetectorSpec, needs: frozenset[Need], size: tuple[int, int], opened: Opened) -> int:
    height, width = _grid(opened.taught_at, size)
    numbers = 0
    for stride in spec.maps.strides:
        own = stride * spec.factor
        cells, logits, bins = (
            math.ceil(height / own) * math.ceil(width / own),
            spec.class_logits,
            spec.box_distributions,
        )
        each = spec.maps.at(stride) if Need.PYRAMID in needs else 0
        if logits is not None and Need.CLASS_LOGITS in needs and stride in logits.strides:
            each += logits.anchors * len(logits.classes)
        if bins is not None and Need.BOX_DISTRIBUTIONS in needs and stride in bins.strides:
            each += 4 * bins.anchors * bins.bins
        numbers += cells * (each + (8 if Need.BOXES in needs else 0))
    if spec.queries is not None and Need.QUERIES in needs:
        numbers += spec.queries.count * (len(spec.queries.classes) + 8)
    return 2 * numbers


def _grid(settings: ImageSettings, size: tuple[int, int]) -> tuple[int, int]:
    """The padded grid of a stored image of this height and width by itself."""
    multiple = settings.pad_multiple
    height, width = (math.ceil(side / multiple) * multiple for side in settings.resized(*size))
    return height, width


def _images(opened: Opened) -> list[Annotations]:
    return [opened.data.train, *([] if opened.unlabelled is None else [opened.unlabelled])]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is read in the place of teachers' looking.

    Attributes:
        replays: of each teacher, by its number.
        labelled: where the entries of the training images are.
        unlabelled: where those of the images without labels are.
    """

    replays: Mapping[int, Replay]
    labelled: Flips
    unlabelled: Flips


def open_maps(opened: Opened, step: DistillationStep, *, teacher: str, progress: Progress) -> Kept | None:
    """What the teachers show of all images, from disk; what is not there, or not intact, is made. See `kept_maps`.

    Args:
        teacher: the digests of the teachers in a row.

    Returns:
        None where the run keeps no maps: it does not ask for it, every sample changes in other ways, or nothing is read
        of a teacher.

    Raises:
        DataError: an image cannot be read, the disk has too little room, or what is kept is not what a teacher shows.
    """
    choice, augment = opened.config.teacher, opened.config.data.augment
    if choice is None or choice.cache != "maps":
        return None
    share, needs = replayed_share(augment, opened.data.image), _needs(opened, step)
    if not needs:
        why = "every sample changes in ways that no map can follow" if not share else f"{step.recipe.name} reads none"
        looks = "the live teacher looks" if not share else "only its boxes are kept"
        progress.say(f"teacher.cache: no maps are kept, as {why}: {looks}")
        return None
    flips = Flips.of(augment, opened.data.image)
    folder, images = maps_folder(opened), _images(opened)
    rest = f"; at the other {1 - share:.0%}, which change in other ways, the live teacher looks" if share < 1 else ""
    if step.recipe.sample_transform is not None or opened.config.data.sample_specific is not None:
        rest += "; so it does at samples that are cropped or noised one by one"
    ways = "as stored and flipped" if len(flips.ways) > 1 else "as the run shows them"
    progress.say(f"teacher.cache: maps of {sum(map(len, images))} images {ways}, kept in {folder}{rest}")
    views = _Views(opened, flips, images)
    grids = {views.grid(entry) for entry in range(0, len(views), len(flips.ways))}
    if len(grids) > 1:
        progress.say(
            f"teacher.cache: the images have {len(grids)} padded sizes; the maps of each are as the teacher sees it by "
            "itself, whatever images are beside it"
        )
    names, replays = views.names(progress), {}
    for number, wanted in needs.items():
        one = step.teachers[number]
        identity = {
            "teacher": teacher.split(" ")[number],
            "name": one.spec.name,
            "precision": opened.config.train.precision,
            "image": asdict(opened.taught_at),
            "kept": sorted(need.value for need in wanted),
            **({"fold": True} if one.folded else {}),
        }
        rows = kept_maps(
            folder,
            identity=identity,
            names=names,
            called=views.called,
            look=_look(opened, one, wanted, views),
            batch_size=opened.config.evaluate.batch_size,
            progress=progress,
        )
        like = one.observe(views.batch([0]).to(opened.first_device), wanted)
        replays[number] = Replay(wanted, like, rows)
    labelled = len(opened.data.train) * len(flips.ways)
    return Kept(replays, flips, Flips.of(augment, opened.data.image, labelled))


def _look(opened: Opened, teacher: FrozenTeacher, needs: frozenset[Need], views: _Views) -> Look:
    teacher.to(opened.first_device)

    def look(entries: Sequence[int]) -> list[Shown]:
        found = dict[int, Shown]()
        for grid, some in views.by_grid(entries).items():
            maps = taken_apart(teacher.observe(views.batch(some).to(opened.first_device), needs), needs)
            for row, entry in enumerate(some):
                found[entry] = Shown(grid, {name: one[row].float().cpu() for name, one in maps.items()})
        return [found[entry] for entry in entries]

    return look


@final
class _Views:
    """Every image in every way in which it is kept, as teachers see it: an entry each, image by image."""

    def __init__(self, opened: Opened, flips: Flips, images: Sequence[Annotations]) -> None:
        self._size, self._ways, self._images = opened.taught_at, flips.ways, images
        self._sets = [
            [
                DetectionDataset(
                    one, image=self._size, augment=AugmentSettings(flip=float(way), flip_vertical=float(down))
                )
                for way, down in flips.ways
            ]
            for one in images
        ]

    def __len__(self) -> int:
        return sum(map(len, self._images)) * len(self._ways)

    def _place(self, entry: int) -> tuple[int, int, int]:
        """Which of the sets of images it is of, which image and which way."""
        index, way = divmod(entry, len(self._ways))
        first = len(self._images[0])
        return (0, index, way) if index < first else (1, index - first, way)

    def __getitem__(self, entry: int) -> Sample:
        number, index, way = self._place(entry)
        return self._sets[number][way][Draw(epoch=0, index=index)]

    def batch(self, entries: Sequence[int]) -> Batch:
        """Some of them as one batch."""
        return collate([self[entry] for entry in entries], pad_multiple=self._size.pad_multiple)

    def called(self, entry: int) -> str:
        """What messages call it."""
        number, index, _ = self._place(entry)
        return f"image {self._images[number].image_ids[index]}"

    def grid(self, entry: int) -> tuple[int, int]:
        """The padded grid on which it is seen by itself."""
        number, index, _ = self._place(entry)
        height, width = map(int, self._images[number].sizes[index])
        return _grid(self._size, (height, width))

    def by_grid(self, entries: Sequence[int]) -> dict[tuple[int, int], list[int]]:
        """Some entries by the grid on which each is seen by itself."""
        found: dict[tuple[int, int], list[int]] = {}
        for entry in entries:
            found.setdefault(self.grid(entry), []).append(entry)
        return found

    def names(self, progress: Progress) -> list[str]:
        """What each is made of, as hexadecimal digests."""

        def each() -> Iterator[tuple[Annotations, int]]:
            return ((images, index) for images in self._images for index in range(len(images)))

        own = [image_name(*one) for one in watched(list(each()), "look for the teacher's maps", progress)]
        return [hexed(f"{name} {way}".encode()) for name in own for way in self._ways]
