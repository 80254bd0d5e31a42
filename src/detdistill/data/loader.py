"""Batches whose order is a function of the step: the same with any number of workers, and after a resume."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from detdistill.data.dataset import DetectionDataset, Draw, Sample
from detdistill.data.mixture import Mixture
from detdistill.errors import ConfigError, DataError, DistillError
from detdistill.outside import STOPPED, as_outside
from detdistill.random import draw_seed
from detdistill.types import Batch, Targets


@dataclass(frozen=True, slots=True)
class _Objects:
    """The objects of several images on their way between processes, one after the other, by value."""

    counts: tuple[int, ...]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    scores: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None

    @classmethod
    def pack(cls, targets: Sequence[Targets]) -> _Objects:
        scores = [one.scores for one in targets if one.scores is not None]
        classes = [one.probabilities for one in targets if one.probabilities is not None]
        return cls(
            counts=tuple(len(one.labels) for one in targets),
            boxes=torch.cat([one.boxes for one in targets]).numpy(),
            labels=torch.cat([one.labels for one in targets]).numpy(),
            ignored=torch.cat([one.ignored for one in targets]).numpy(),
            scores=torch.cat(scores).numpy() if scores else None,
            probabilities=torch.cat(classes).numpy() if classes else None,
        )

    def unpack(self) -> tuple[Targets, ...]:
        counts = list(self.counts)

        def split(column: NDArray[Any] | None) -> Sequence[Any]:
            return [None] * len(counts) if column is None else torch.split(torch.from_numpy(column), counts)

        columns = (self.boxes, self.labels, self.ignored, self.scores, self.probabilities)
        return tuple(
            Targets(boxes, labels, ignored, scores=scores, probabilities=classes)
            for boxes, labels, ignored, scores, classes in zip(*map(split, columns), strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch on its way between processes: one uint8 tensor in shared memory, the small rest by value."""

    images: UInt8[Tensor, "b 3 h w"]
    sizes: tuple[tuple[int, int], ...]
    stored_sizes: tuple[tuple[int, int], ...]
    targets: _Objects
    image_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    twins: dict[str, UInt8[Tensor, "b 3 h w"]]
    teacher: _Packed | None
    found: _Objects | None
    kept: tuple[int, ...] | None
    unlabelled: _Packed | None = None

    def unpack(self) -> Batch:
        return Batch(
            images=self.images.to(torch.float32).div_(255),
            sizes=self.sizes,
            stored_sizes=self.stored_sizes,
            targets=self.targets.unpack(),
            image_ids=self.image_ids,
            seeds=self.seeds,
            twins={name: images.to(torch.float32).div_(255) for name, images in self.twins.items()},
            teacher=None if self.teacher is None else self.teacher.unpack(),
            unlabelled=None if self.unlabelled is None else self.unlabelled.unpack(),
            found=None if self.found is None else self.found.unpack(),
            kept=self.kept,
        )


def _pack(samples: Sequence[Sample], pad_multiple: int, teachers_multiple: int | None = None) -> _Packed:
    theirs = [sample.teacher for sample in samples if sample.teacher is not None]
    largest = (max(sample.size[side] for sample in samples) for side in (0, 1))
    height, width = (math.ceil(pixels / pad_multiple) * pad_multiple for pixels in largest)
    found = [sample.found for sample in samples if sample.found is not None]

    def padded(images: Sequence[Tensor]) -> Tensor:
        grid = _zeros((len(samples), 3, height, width))
        for place, image in zip(grid, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        return grid

    return _Packed(
        images=padded([sample.image for sample in samples]),
        sizes=tuple(sample.size for sample in samples),
        stored_sizes=tuple(sample.stored_size for sample in samples),
        targets=_Objects.pack([sample.targets for sample in samples]),
        image_ids=tuple(sample.image_id for sample in samples),
        seeds=tuple(sample.seed for sample in samples),
        twins={name: padded([sample.twins[name] for sample in samples]) for name in samples[0].twins},
        teacher=_pack(theirs, teachers_multiple or pad_multiple) if theirs else None,
        found=_Objects.pack(found) if found else None,
        kept=tuple(sample.kept for sample in samples if sample.kept is not None) or None,
    )


def _zeros(shape: tuple[int, ...]) -> UInt8[Tensor, "b 3 h w"]:
    """In a worker in memory that it shares with the main process, so that nothing is copied on the way there."""
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=torch.uint8)
    shared: torch.UntypedStorage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)  # new shared memory is all zeros


def collate(samples: Sequence[Sample], *, pad_multiple: int, teachers_multiple: int | None = None) -> Batch:
    """One batch from one sample or more: padded at the bottom and right with zeros, float in [0, 1].

    The batch's height and width are the largest of its images, rounded up to a multiple of `pad_multiple` pixels;
    the teacher's view is padded alike to a multiple of `teachers_multiple`, where it has another.
    Targets stay as they are, since padding moves no box.
    """
    if not samples:
        raise DataError("A batch must have at least one sample, got none. Leave empty batches out.")
    return _pack(samples, pad_multiple, teachers_multiple).unpack()


@dataclass(frozen=True, slots=True)
class Beside:
    """Images without labels that come along with every training batch: `count` of the data set per step and rank."""

    dataset: DetectionDataset
    count: int


# What a batch shows of the data set, and of the images beside it.
_Draws = tuple[list[Draw], list[Draw]]


class _BatchData(Dataset["_Packed | DistillError"]):
    """What a worker does: reads the samples of one batch and packs them."""

    def __init__(self, dataset: DetectionDataset, beside: DetectionDataset | None = None) -> None:
        self.dataset, self.beside = dataset, beside

    def __getitem__(self, draws: _Draws) -> _Packed | DistillError:
        # The error travels as a value: DataLoader would wrap its message into a worker's traceback.
        try:
            packed = _packed(self.dataset, draws[0])
            return packed if self.beside is None else replace(packed, unlabelled=_packed(self.beside, draws[1]))
        except DataError as error:
            return error
        except STOPPED as error:
            if (told := as_outside(error)) is None:
                raise
            return told


def _packed(dataset: DetectionDataset, draws: Sequence[Draw]) -> _Packed:
    multiple, theirs = dataset.image.pad_multiple, dataset.teacher_image
    samples = [dataset[draw] for draw in draws]
    return _pack(samples, multiple, multiple if theirs is None else theirs.pad_multiple)


@dataclass(frozen=True, slots=True)
class _Order:
    """The draws of every batch: how many batches, and what starts anew at the first."""

    batches: int
    draws: Callable[[], Iterator[_Draws]]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[_Draws]:
        return self.draws()


def _heed_only_parent() -> None:
    # Ctrl-C, `timeout` and batch systems signal the whole process group. The main process must then be able
    # to save, which it cannot if its workers die first. They still end when it says so, or when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = os.getppid()

    def wait_for_parent() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _start_worker(_worker: int) -> None:
    # After a fork only one thread is safe: the main process's OpenMP threads do not exist here.
    torch.set_num_threads(1)
    # The garbage collector would write to, and so copy, the pages shared with the main process.
    gc.freeze()
    _heed_only_parent()


class BatchLoader(Iterable[Batch]):
    """Batches of a fixed order; each iteration starts anew at its beginning. `len` is the number of batches.

    Workers are processes that read ahead; they live as long as one iteration, which for training is the whole run.
    """

    def __init__(
        self, dataset: DetectionDataset, order: _Order, *, workers: int = 0, beside: DetectionDataset | None = None
    ) -> None:
        forks = "fork" in multiprocessing.get_all_start_methods()
        self._order = order
        self._loader = DataLoader(
            _BatchData(dataset, beside),
            batch_size=None,
            sampler=order,
            collate_fn=_as_it_is,
            num_workers=workers,
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if workers and forks else None,
            # Only so that the loader leaves the global generator alone; nothing is drawn from it.
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        try:
            for packed in _taken(batches):
                if isinstance(packed, DistillError):
                    raise packed
                yield packed.unpack()
        finally:
            # Ends the workers now: left to the garbage collector, an error's traceback would keep them alive, and one
            # that is killed meanwhile would be an error that is printed.
            with suppress(RuntimeError):
                getattr(batches, "_shutdown_workers", lambda: None)()
            del batches


def _taken(batches: Iterator[_Packed | DistillError]) -> Iterator[_Packed | DistillError]:
    """What the workers made; the loss of one while its memory is taken over is told as that of any other."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker is gone ({type(error).__name__})") from error


def _as_it_is(packed: Any) -> Any:
    return packed


def _require(name: str, value: int, *, at_least: int, at_most: int | None = None) -> None:
    if value < at_least or (at_most is not None and value > at_most):
        expected = f"at least {at_least}" if at_most is None else f"between {at_least} and {at_most}"
        raise ConfigError(f"{name} must be {expected}, got {value}. Give such a number.")


def training_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    steps: int,
    start_step: int = 0,
    plain_from: int | None = None,
    mixture: Mixture | None = None,
    beside: Beside | None = None,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> BatchLoader:
    """The batches of a training run from `start_step` on, one per step.

    The order is an endless line of epochs, each shuffled by (seed, epoch). Step k takes the next
    ``batch_size * ranks`` images of it, an epoch's end inside a batch included, and every rank its contiguous
    slice. So step k's content depends on (``dataset.seed``, k, ``batch_size``, ``ranks``) alone, and a run
    that resumes at `start_step` reads none of the images before it.

    Args:
        dataset: the training view; an image that cannot be used raises `DataError` while iterating.
        batch_size: images per step and rank.
        steps: of the whole run.
        start_step: the first step wanted, 0 for a fresh run.
        plain_from: from this step on samples come without the data set's transform and twins; None for never.
        mixture: the order in the place of plain epochs, for several sets in one.
        beside: images without labels, in an order of their own that follows the same rules; see `Batch.unlabelled`.
        workers: processes that read ahead; 0 reads in the calling process, to the same result.
        rank: this process's place among the `ranks` that train together.
        ranks: how many train together.

    Raises:
        ConfigError: a number is out of its range.
        DataError: the data set has no images.
    """
    _require("batch_size", batch_size, at_least=1)
    _require("steps", steps, at_least=0)
    _require("start_step", start_step, at_least=0, at_most=steps)
    _require("workers", workers, at_least=0)
    _require("ranks", ranks, at_least=1)
    _require("rank", rank, at_least=0, at_most=ranks - 1)
    if not len(dataset):
        raise DataError("The training set must have at least one image, got none. Check the annotation file.")

    def slices(epoch_of: _EpochOf, size: int) -> Iterator[list[Draw]]:
        start, order = 0, list[tuple[int, int]]()
        for step in range(start_step, steps):
            plain = plain_from is not None and step >= plain_from
            first = (step * ranks + rank) * size
            batch = []
            for position in range(first, first + size):
                if position >= start + len(order):
                    start, order = epoch_of(position)
                epoch, index = order[position - start]
                batch.append(Draw(epoch=epoch, index=index, plain=plain))
            yield batch

    def draws() -> Iterator[_Draws]:
        own = slices(_plain_epochs(dataset) if mixture is None else mixture.epoch_of, batch_size)
        if beside is None:
            return ((batch, []) for batch in own)
        return zip(own, slices(_plain_epochs(beside.dataset), beside.count), strict=True)

    order = _Order(steps - start_step, draws)
    others = None if beside is None else beside.dataset
    return BatchLoader(dataset, order, workers=workers, beside=others)


# The epoch that a place in the endless line belongs to: the place of its first draw, and each draw's pass and image.
_EpochOf = Callable[[int], tuple[int, list[tuple[int, int]]]]


def _plain_epochs(dataset: DetectionDataset) -> _EpochOf:
    def epoch_of(position: int) -> tuple[int, list[tuple[int, int]]]:
        epoch = position // len(dataset)
        generator = torch.Generator().manual_seed(draw_seed(dataset.seed, epoch))
        order = torch.randperm(len(dataset), generator=generator).tolist()
        return epoch * len(dataset), [(epoch, index) for index in order]

    return epoch_of


def evaluation_loader(dataset: DetectionDataset, *, batch_size: int, workers: int = 0) -> BatchLoader:
    """Every image once, in the data set's order, those without boxes included; the last batch may be smaller."""
    _require("batch_size", batch_size, at_least=1)
    _require("workers", workers, at_least=0)
    images = len(dataset)

    def draws() -> Iterator[_Draws]:
        for first in range(0, images, batch_size):
            yield [Draw(epoch=0, index=index) for index in range(first, min(first + batch_size, images))], []

    return BatchLoader(dataset, _Order(math.ceil(images / batch_size), draws), workers=workers)
