"""A tiny student, step and loader, so that training is tested without detectors; and runs in forked processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.utils.data._utils import worker

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import training_loader
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.files import write_bytes, write_json
from detdistill.random import draw_seed
from detdistill.store.layout import CHECKPOINTS, WEIGHTS
from detdistill.training.loop import TrainResult, train
from detdistill.training.settings import TrainSettings
from detdistill.training.signals import Interrupted
from detdistill.types import Batch, Clock, StepReport, Targets

# How a process ends that dies by itself.
KILLED = 9


class TinyStudent(nn.Module):
    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.second = nn.Conv2d(6, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.norm(self.first(images)).relu())


class TinyStep(nn.Module):
    """A task, and one term with an aligner of its own; the dropout draws from torch's global generator."""

    def __init__(self, *, norm: bool = True, drop: float = 0.3, poison: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(7)
            self.student = TinyStudent(norm=norm)
            self.terms = nn.ModuleDict({"hint": nn.Conv2d(4, 5, 1)})
        self.drop = drop
        self.poison = poison

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        seen = self.student(batch.images)
        task = seen.square().mean((1, 2, 3)) + (seen.mean((1, 2, 3)) - batch.images.mean((1, 2, 3))).square()
        hint = (self.terms["hint"](dropout(seen, self.drop)) - 0.5).square().mean()
        if clock.step == self.poison:
            hint = hint * float("nan")
        total = task.mean() + hint
        return StepReport(
            total=total,
            parts={"task": task.mean().detach(), "hint": hint.detach()},
            diagnostics={"seen": seen.mean().detach()},
        )


class NamedStep(TinyStep):
    """Its parts and figures are named as a recipe's are."""

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        report = super().forward(batch, clock)
        figure: Tensor = report.diagnostics["seen"]
        return StepReport(
            total=report.total,
            parts={"task": report.parts["task"], "frs.features": report.parts["hint"]},
            diagnostics={"frs.features/cost_stride_8": figure, "frs.features@2/cost_stride_8": figure},
        )


def tiny_evaluate(student: Any) -> dict[str, Any]:
    found = float(student.first.weight.sum() * 1e5) % 100
    return {"AP": found, "APl": None, "per_class": {"a": found}}


def tiny_settings(**changes: Any) -> TrainSettings:
    plain: dict[str, Any] = {
        "steps": 12,
        "batch_size": 4,
        "optimizer": "sgd",
        "lr": 0.05,
        "weight_decay": 1e-4,
        "device": "cpu",
        "checkpoint_every": 5,
        "log_every": 2,
        "warmup_steps": 3,
        "ema_decay": 0.9,
        "clip_norm": 1.0,
    }
    return TrainSettings(**(plain | changes))


def tiny_batch(step: int, size: int, *, rank: int = 0, ranks: int = 1) -> Batch:
    """Batch `step`, the part of `size` images that a rank gets of the same whole."""
    generator = torch.Generator().manual_seed(draw_seed(step, 99))
    images = torch.rand((size * ranks, 3, 12, 16), generator=generator)[rank * size : (rank + 1) * size]
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return Batch(
        images=images,
        sizes=((12, 16),) * size,
        stored_sizes=((12, 16),) * size,
        targets=(empty,) * size,
        image_ids=tuple(range(size)),
        seeds=tuple(range(size)),
    )


def tiny_loader(settings: TrainSettings, *, wait: float = 0.0) -> Callable[[int, int, int], Iterator[Batch]]:
    def batches(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        for step in range(start, settings.steps):
            time.sleep(wait)
            yield tiny_batch(step, settings.batch_size, rank=rank, ranks=ranks)

    return batches


def images_on_disk(folder: Path, count: int = 10) -> DetectionDataset:
    """A data set of small images without boxes; 10 images make epochs end in the middle of a batch of 4."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    annotations = Annotations(
        images_dir=folder,
        class_names=("a",),
        category_ids=np.array([1]),
        image_ids=np.arange(count),
        sizes=np.full((count, 2), (12, 16), dtype=np.int32),
        name_bytes=np.frombuffer("".join(f"{i}.png" for i in range(count)).encode(), dtype=np.uint8),
        name_offsets=np.cumsum([0, *(len(f"{i}.png") for i in range(count))]),
        offsets=np.zeros(count + 1, dtype=np.int64),
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.int32),
        ignored=np.zeros(0, dtype=np.bool_),
        areas=np.zeros(0, dtype=np.float32),
    )
    return DetectionDataset(annotations, image=ImageSettings(12, 16, 4), augment=AugmentSettings(), seed=3)


def disk_loader(
    dataset: DetectionDataset, settings: TrainSettings, *, wait: float = 0.0
) -> Callable[[int, int, int], Iterator[Batch]]:
    def batches(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        for batch in training_loader(
            dataset,
            batch_size=settings.batch_size,
            steps=settings.steps,
            start_step=start,
            workers=settings.workers,
            rank=rank,
            ranks=ranks,
        ):
            time.sleep(wait)
            yield batch

    return batches


def save_tiny(student: nn.Module, folder: Path) -> None:
    assert not student.training
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in student.state_dict().items()
    }
    write_bytes(folder / WEIGHTS, save(tensors))
    write_json(folder / "student.json", {"tiny": True})


def run_tiny(folder: Path, settings: TrainSettings, *, step: nn.Module | None = None, **options: Any) -> TrainResult:
    options.setdefault("loader", tiny_loader(settings))
    return train(step or TinyStep(), settings, save_student=save_tiny, folder=folder, **options)


def checkpoint_tensors(folder: Path, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, the plain student's and the sidecar's."""
    path = folder / CHECKPOINTS / f"step_{step:07d}"
    return load_file(path / WEIGHTS) | load_file(path / "training.safetensors")


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit-equal."""
    shared = one.keys() & other.keys()
    return sorted((one.keys() ^ other.keys()) | {name for name in shared if not torch.equal(one[name], other[name])})


def fork(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    """Starts `work` in a forked process, which ends with 0, with 130 where it was interrupted, else with 1."""

    def run() -> None:
        torch.cuda._is_in_bad_fork = lambda: False  # it may fork ranks of its own, all without a GPU
        worker.MP_STATUS_CHECK_INTERVAL = 0.2  # seconds in which a loader's worker sees that this process was killed
        code = 1
        try:
            work()
            code = 0
        except Interrupted:
            code = 130
        except Exception:  # noqa: BLE001  this process has no caller that could report it
            traceback.print_exc()
        finally:
            os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def die_before(work: Callable[[], object], folder: Path, operation: int) -> None:
    """Does the work in a process of its own that ends before the n-th operation on the files below a folder."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"} and str(
            arguments[0]
        ).startswith(str(folder)):
            if seen == operation:
                os._exit(KILLED)
            seen += 1

    sys.addaudithook(watch)
    work()
