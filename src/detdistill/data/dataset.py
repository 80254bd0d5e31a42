"""A data set whose samples are functions of (seed, epoch, index), and the reading of image files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detdistill.data.annotations import Annotations
from detdistill.data.decoded import Kept
from detdistill.data.image_files import UNREADABLE, Header, as_rgb
from detdistill.data.resizing import resized_to, transform_image, transform_several
from detdistill.data.transforms import (
    Augmentation,
    AugmentSettings,
    ImageSettings,
    draw_augmentation,
)
from detdistill.errors import DataError
from detdistill.files import require_regular
from detdistill.random import draw_seed
from detdistill.types import Targets

# More pixels than this are taken for a decompression bomb: Pillow's own limit for an error.
MAX_PIXELS = 178_956_970

# What Pillow raises on broken or hostile files, depending on the format.
_BROKEN = (*UNREADABLE, LookupError, TypeError, ArithmeticError)

_CHECK = "Run `detdistill data check DATA` to list all such images."
# No list says what an unlabelled image is.
_INTACT = "Put an intact image of the size that it had in its place."

# Streams of random numbers that one sample draws from; Sample.seed itself is left to the detectors.
_AUGMENT_STREAM, _SAMPLE_TRANSFORM_STREAM = 1, 2


@dataclass(frozen=True, slots=True)
class Stored:
    """One RGB image as stored, before the resize.

    Attributes:
        targets: its ground truth.
        twins: versions of its own size, by name.
        found: what a teacher found in it; None where nobody asked.
    """

    image: UInt8[Tensor, "3 h w"]
    targets: Targets
    twins: Mapping[str, UInt8[Tensor, "3 h w"]]
    found: Targets | None = None


# A recipe's change to a sample before the resize; the generator is its only source of randomness. It may change
# the size, and does so to the twins and to what was found alike.
SampleTransform = Callable[[Stored, torch.Generator], Stored]

# Reads the twin of the image at an index of the data set: RGB, of the stored image's size.
TwinReader = Callable[[int], UInt8[Tensor, "3 h w"]]

# What a teacher found in the image at an index of the data set, in pixels of the stored image.
FoundReader = Callable[[int], Targets]

# The number of what is kept of the image at an index of the data set where it was augmented so; -1 where nothing is.
KeptPlaces = Callable[[int, Augmentation | None], int]


@dataclass(frozen=True, slots=True)
class Draw:
    """One use of one image: which pass over the data set, which image, and whether without transform and twins."""

    epoch: int
    index: int
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as the models will see it, before padding.

    Attributes:
        image: RGB, resized; stays uint8 until the batch is made, which is cheap to move.
        targets: ground truth in pixels of `image`.
        size: height and width of `image` in pixels, `stored_size` those on disk.
        image_id: the data set's own image id.
        seed: `draw_seed` of (seed, epoch, index).
        twins: further versions of `image` that underwent the same, by name.
        teacher: the same at the teacher's size, where that is another one.
        found: what a teacher found, in pixels of `image`; None where nobody asked.
        kept: see `Batch.kept`.
    """

    image: UInt8[Tensor, "3 h w"]
    targets: Targets
    size: tuple[int, int]
    stored_size: tuple[int, int]
    image_id: int
    seed: int
    twins: Mapping[str, UInt8[Tensor, "3 h w"]] = field(default_factory=lambda: MappingProxyType({}))
    teacher: Sample | None = None
    found: Targets | None = None
    kept: int | None = None


@contextmanager
def _one_thread() -> Iterator[None]:
    # The last bit of a result can depend on how many threads share the work; loader workers have one.
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_decoded: dict[str, UInt8[Tensor, "3 _h _w"]] = {}


def keep_decoded(paths: Iterable[Path]) -> int:
    """Decodes image files into memory, where `read_image` finds them from now on, as processes forked later do.

    For many short trainings of the same images; nothing looks whether a file has changed since. Returns the bytes kept.
    """
    for path in paths:
        with Image.open(path) as image:
            header = Header.of(image)
        place = os.path.realpath(path)
        _decoded[place] = read_image(path, image_id=0, size=header.size())
    return sum(image.numel() for image in _decoded.values())


def read_image(
    path: Path,
    *,
    image_id: int,
    size: tuple[int, int],
    labelled: bool = True,
    at_least: tuple[int, int] | None = None,
) -> UInt8[Tensor, "3 h w"]:
    """Reads an image file as RGB, whatever it is stored as; its size must be the one that the annotations state.

    Grey, palette and deeper images are converted (`as_rgb`). A camera's orientation flag is undone unless the stated
    size tells that the annotations mean the stored pixels (`Header`). The header is checked before a pixel is decoded.

    Args:
        at_least: height and width that are enough: a JPEG file is decoded at a half, a quarter or an eighth of its
            sides where that leaves as much. None for all pixels.

    Raises:
        DataError: the file is missing, broken, no image, too large to be one, or not of the stated size.
    """
    what, check = f"Image {image_id} ({path})", _CHECK if labelled else _INTACT
    if _decoded and (kept := _decoded.get(os.path.realpath(path))) is not None and kept.shape[1:] == size:
        return kept
    require_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{what} must be a readable file, got: {error.strerror}. {check}") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{width}x{height} pixels")
            header = Header.of(image)
            if header.size(size) != size:
                raise DataError(
                    f"{what} must be {size[1]}x{size[0]} pixels (width x height) as annotated,"
                    f" got {header.difference(size)}. {check}"
                )
            turn = header.turn(size)
            if at_least is not None:
                rows, columns = at_least if header.size(size) == header.stored else at_least[::-1]
                image.draft(None, (columns, rows))
            rgb = as_rgb(image)
            return torch.from_numpy(np.array(rgb if turn is None else rgb.transpose(turn))).permute(2, 0, 1)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{what} must have at most {MAX_PIXELS} pixels, got a header that says more ({error})."
            " Store it smaller, or take it out of the annotations."
        ) from error
    except DataError:
        raise
    except _BROKEN as error:
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(
            f"{what} must be an image that can be decoded, got a broken or unknown one ({reason})."
            f" {'Replace the file, or take it out of the annotations.' if labelled else _INTACT}"
        ) from error


class DetectionDataset(Dataset[Sample]):
    """Images with their objects; what happens to a sample depends on (seed, epoch, index) alone.

    Args:
        annotations: which images and boxes there are.
        image: the size that models see.
        teacher_image: the size that the teacher sees instead; the same crop, flip and changes are made at both.
        augment: what training may change; None gives the evaluation view, which only resizes.
        seed: of all random choices.
        sample_transform: a recipe's change to image and boxes before the resize, with a generator of its own, seeded
            by (seed, epoch, index) too.
        twins: readers of further versions of every image, by name.
        found: reads what a teacher found in every image; None where nobody asks.
        kept: where what teachers showed is kept; None where it is not.
        decoded: the images that are kept once they were decoded, at the sizes that all samples of an image have, or
            under None as stored.
        reduced: whether JPEG files are decoded at a reduced scale where that is enough; see `scales_down`.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        image: ImageSettings,
        teacher_image: ImageSettings | None = None,
        augment: AugmentSettings | None = None,
        seed: int = 0,
        sample_transform: SampleTransform | None = None,
        twins: Mapping[str, TwinReader] = MappingProxyType({}),
        found: FoundReader | None = None,
        kept: KeptPlaces | None = None,
        decoded: Kept = MappingProxyType({}),
        reduced: bool = False,
    ) -> None:
        self.annotations, self.image, self.augment, self.seed = annotations, image, augment, seed
        self.teacher_image, self.decoded, self.reduced = teacher_image, decoded, reduced
        self.sample_transform, self.twins, self.found, self.kept = sample_transform, dict(twins), found, kept

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, draw: Draw) -> Sample:
        """The sample of image `draw.index` in epoch `draw.epoch`; a `DataError` where `read_image` has one."""
        with _one_thread():
            return self._sample(draw)

    def _sample(self, draw: Draw) -> Sample:
        annotations, index = self.annotations, draw.index
        image_id = int(annotations.image_ids[index])
        size = stored_size = (int(annotations.sizes[index, 0]), int(annotations.sizes[index, 1]))
        whole = cache(partial(self._whole, index, stored_size))
        objects = annotations.objects(index)
        targets = Targets(
            boxes=torch.tensor(annotations.boxes[objects], dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(annotations.labels[objects], dtype=torch.int64),
            ignored=torch.tensor(annotations.ignored[objects], dtype=torch.bool),
            scores=None if annotations.scores is None else torch.tensor(annotations.scores[objects]),
        )
        twins = {} if draw.plain else {name: read(index) for name, read in self.twins.items()}
        found = None if self.found is None else self.found(index)
        changed: Tensor | None = None
        if self.sample_transform is not None and not draw.plain:
            generator = self._generator(draw, _SAMPLE_TRANSFORM_STREAM)
            stored = self.sample_transform(Stored(whole(), targets, twins, found), generator)
            targets, twins, found = stored.targets, dict(stored.twins), stored.found
            if stored.image is not whole():
                changed, size = stored.image, (stored.image.shape[1], stored.image.shape[2])
        augment, generator = self.augment, self._generator(draw, _AUGMENT_STREAM)
        drawn = None
        if augment is not None:
            drawn = draw_augmentation(augment, generator, targets=targets, size=size)

        def pixels(settings: ImageSettings) -> UInt8[Tensor, "3 _h _w"]:
            """The image before anything random, which may be resized already."""
            if changed is not None:
                return changed
            kept = self.decoded.get(settings)
            if kept is None:
                return whole()
            return kept(index, lambda: transform_image(whole(), settings=settings, stored=stored_size))

        def shown(settings: ImageSettings, drawn: Augmentation | None, teacher: Sample | None = None) -> Sample:
            seen = transform_image(pixels(settings), settings=settings, drawn=drawn, stored=size)
            several = (targets,) if found is None or settings is not self.image else (targets, found)
            objects = transform_several(several, size, settings=settings, drawn=drawn)
            return Sample(
                image=seen,
                targets=objects[0],
                size=(seen.shape[1], seen.shape[2]),
                stored_size=stored_size,
                image_id=image_id,
                seed=draw_seed(self.seed, draw.epoch, index),
                twins={name: transform_image(twin, settings=settings, drawn=drawn) for name, twin in twins.items()},
                teacher=teacher,
                found=objects[1] if len(objects) > 1 else None,
            )

        theirs = self.teacher_image
        other = None if theirs is None else shown(theirs, drawn and drawn.at(theirs, drawn_for=self.image))
        sample = shown(self.image, drawn, other)
        if self.kept is None:
            return sample
        return replace(sample, kept=self.kept(index, drawn) if changed is None else -1)

    def _whole(self, index: int, size: tuple[int, int]) -> UInt8[Tensor, "3 _h _w"]:
        """The image as it is decoded, or was."""
        annotations = self.annotations
        read = partial(
            read_image,
            annotations.path(index),
            image_id=int(annotations.image_ids[index]),
            size=size,
            labelled=annotations.labelled,
            at_least=self._enough(size),
        )
        kept = self.decoded.get(None)
        pixels = read() if kept is None else kept(index, read)
        # A change to samples may write to them.
        return pixels if kept is None or self.sample_transform is None else pixels.clone()

    def _enough(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Height and width of a stored image that are enough for all samples of it; None where all its pixels count."""
        if not self.scales_down:
            return None
        augment, theirs = self.augment or AugmentSettings(), self.teacher_image
        highest = None if augment.short_sides is None else augment.short_sides[1]
        most = Augmentation(scale=max(1.0, augment.scale_jitter[1]), short_side=highest)
        rows, columns = resized_to(size, self.image, most)
        if theirs is not None:
            others = resized_to(size, theirs, most.at(theirs, drawn_for=self.image))
            rows, columns = max(rows, others[0]), max(columns, others[1])
        return rows, columns

    @property
    def scales_down(self) -> bool:
        """Whether JPEG files are decoded at a reduced scale where that is enough.

        Not where a part of an image may be enlarged, a change to samples counts stored pixels, or something was made of
        all its pixels before: twins, or what a teacher showed.
        """
        enlarged = self.augment is not None and self.augment.crop > 0
        made = bool(self.twins) or self.kept is not None
        return self.reduced and not (enlarged or made) and self.sample_transform is None

    def _generator(self, draw: Draw, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self.seed, draw.epoch, draw.index, stream))
