"""Batches whose order is a function of the step: the same with any number of workers, and after a resume."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detdistill.data.dataset import DetectionDataset, Draw, Sample
from detdistill.errors import ConfigError, DataError
from detdistill.random import draw_seed
from detdistill.types import Batch, Targets

__all__ = ["BatchLoader", "collate", "evaluation_loader", "training_loader"]


@dataclass(frozen=True, slots=True)
class _Packed:
    """A batch on its way between processes: one uint8 tensor in shared memory, the small rest by value."""

    images: UInt8[Tensor, "b 3 h w"]
    sizes: tuple[tuple[int, int], ...]
    stored_sizes: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    image_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    twins: dict[str, UInt8[Tensor, "b 3 h w"]]

    def unpack(self) -> Batch:
        counts = list(self.counts)
        parts = zip(
            torch.split(torch.from_numpy(self.boxes), counts),
            torch.split(torch.from_numpy(self.labels), counts),
            torch.split(torch.from_numpy(self.ignored), counts),
            strict=True,
        )
        return Batch(
            images=self.images.to(torch.float32).div_(255),
            sizes=self.sizes,
            stored_sizes=self.stored_sizes,
            targets=tuple(Targets(boxes=boxes, labels=labels, ignored=ignored) for boxes, labels, ignored in parts),
            image_ids=self.image_ids,
            seeds=self.seeds,
            twins={name: images.to(torch.float32).div_(255) for name, images in self.twins.items()},
        )


def _round_up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple


def _pack(samples: Sequence[Sample], pad_multiple: int) -> _Packed:
    height = _round_up(max(sample.size[0] for sample in samples), pad_multiple)
    width = _round_up(max(sample.size[1] for sample in samples), pad_multiple)

    def padded(images: Sequence[Tensor]) -> Tensor:
        grid = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
        for place, image in zip(grid, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        return grid

    return _Packed(
        images=padded([sample.image for sample in samples]),
        sizes=tuple(sample.size for sample in samples),
        stored_sizes=tuple(sample.stored_size for sample in samples),
        counts=tuple(len(sample.targets.labels) for sample in samples),
        boxes=torch.cat([sample.targets.boxes for sample in samples]).numpy(),
        labels=torch.cat([sample.targets.labels for sample in samples]).numpy(),
        ignored=torch.cat([sample.targets.ignored for sample in samples]).numpy(),
        image_ids=tuple(sample.image_id for sample in samples),
        seeds=tuple(sample.seed for sample in samples),
        twins={name: padded([sample.twins[name] for sample in samples]) for name in samples[0].twins},
    )


def collate(samples: Sequence[Sample], *, pad_multiple: int) -> Batch:
    """One batch from samples: padded at the bottom and right with zeros, float in [0, 1].

    Args:
        samples: at least one; their targets stay as they are, since padding moves no box.
        pad_multiple: the batch's height and width are the largest of its images, rounded up to a multiple of
            this many pixels.

    Raises:
        DataError: there is no sample.
    """
    if not samples:
        raise DataError("A batch must have at least one sample, got none. Leave empty batches out.")
    return _pack(samples, pad_multiple).unpack()


class _BatchData(Dataset["_Packed | DataError"]):
    """What a worker does: reads the samples of one batch and packs them."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draws: Sequence[Draw]) -> _Packed | DataError:
        # The error travels as a value: DataLoader would wrap its message into a worker's traceback.
        try:
            return _pack([self.dataset[draw] for draw in draws], self.dataset.image.pad_multiple)
        except DataError as error:
            return error


class _TrainingOrder:
    """The draws of every step, from `start_step` on: an endless line of shuffled epochs, cut into batches."""

    def __init__(
        self, dataset: DetectionDataset, *, batch_size: int, steps: range, plain_from: int, rank: int, ranks: int
    ) -> None:
        self.images = len(dataset)
        self.seed = dataset.seed
        self.batch_size = batch_size
        self.steps = steps
        self.plain_from = plain_from
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        shuffled_epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in self.steps:
            first = (step * self.ranks + self.rank) * self.batch_size
            draws = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.images)
                if epoch != shuffled_epoch:
                    generator = torch.Generator().manual_seed(draw_seed(self.seed, epoch))
                    shuffled_epoch, order = epoch, torch.randperm(self.images, generator=generator)
                draws.append(Draw(epoch=epoch, index=int(order[place]), plain=step >= self.plain_from))
            yield draws


class _EvaluationOrder:
    """Every image once, in the data set's order; all as in epoch 0."""

    def __init__(self, dataset: DetectionDataset, *, batch_size: int) -> None:
        self.images = len(dataset)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        for first in range(0, self.images, self.batch_size):
            yield [Draw(epoch=0, index=index) for index in range(first, min(first + self.batch_size, self.images))]


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

    Workers live as long as one iteration, which for training is the whole run.

    Args:
        dataset: where samples come from.
        order: the draws of every batch.
        workers: processes that read ahead; 0 reads in the calling process.
    """

    def __init__(
        self, dataset: DetectionDataset, order: _TrainingOrder | _EvaluationOrder, *, workers: int = 0
    ) -> None:
        forks = "fork" in multiprocessing.get_all_start_methods()
        self._order = order
        self._loader = DataLoader(
            _BatchData(dataset),
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
            for packed in batches:
                if isinstance(packed, DataError):
                    raise packed
                yield packed.unpack()
        finally:
            # Ends the workers now: left to the garbage collector, an error's traceback would keep them alive.
            del batches


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
        dataset: the training view.
        batch_size: images per step and rank.
        steps: of the whole run.
        start_step: the first step wanted, 0 for a fresh run.
        plain_from: from this step on samples come without the data set's transform and twins; None for never.
        workers: processes that read ahead; 0 reads in the calling process, to the same result.
        rank: this process's place among those that train together.
        ranks: how many train together.

    Returns:
        ``steps - start_step`` batches; an image that cannot be used raises `DataError` while iterating.

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
    order = _TrainingOrder(
        dataset,
        batch_size=batch_size,
        steps=range(start_step, steps),
        plain_from=steps if plain_from is None else plain_from,
        rank=rank,
        ranks=ranks,
    )
    return BatchLoader(dataset, order, workers=workers)


def evaluation_loader(dataset: DetectionDataset, *, batch_size: int, workers: int = 0) -> BatchLoader:
    """Every image once, in the data set's order, those without boxes included; the last batch may be smaller.

    Args:
        dataset: the evaluation view (no augmentation).
        batch_size: images per batch.
        workers: processes that read ahead; 0 reads in the calling process, to the same result.

    Returns:
        The batches; an image that cannot be used raises `DataError` while iterating.

    Raises:
        ConfigError: a number is out of its range.
    """
    _require("batch_size", batch_size, at_least=1)
    _require("workers", workers, at_least=0)
    return BatchLoader(dataset, _EvaluationOrder(dataset, batch_size=batch_size), workers=workers)
