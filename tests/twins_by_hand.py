"""Five images on disk, a maker of their twins that counts what it is asked, and a cache of these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import read_image
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.twins import RepeatableMaker
from detdistill.store.twins import CachedTwins, open_twin_cache
from detdistill.types import Batch
from made_up_steps import Stub

CPU = torch.device("cpu")
SIZES = ((24, 32), (32, 20), (24, 32), (16, 16), (20, 30))
AS_STORED = ImageSettings(short_side=24, long_side=32, pad_multiple=8)


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stages: list[tuple[str, int, int]] = []
        self.last = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        self.stages.append((what, total, done))

    def advance(self, done: int, note: str = "") -> None:
        self.last = done

    def finish(self) -> None:
        pass


class Brighter(RepeatableMaker):
    """Adds a brightness; stops like a killed run after some batches."""

    def __init__(self, amount: float = 10 / 255, *, stop_after: int | None = None) -> None:
        self.amount, self.stop_after = amount, stop_after
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Tensor:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(batch.image_ids)
        return (batch.images + self.amount).clamp(0, 1)

    def identity(self) -> Mapping[str, str | int | float]:
        return {"twin": "brighter", "amount": self.amount}


def five_images(tmp_path: Path) -> Annotations:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 200, (height, width, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    count = len(SIZES)
    return Annotations(
        images_dir=folder,
        class_names=("car", "truck", "pedestrian"),
        category_ids=np.arange(3),
        image_ids=np.arange(10, 10 + count),
        sizes=np.array(SIZES, dtype=np.int32),
        name_bytes=np.frombuffer("".join(f"{i}.png" for i in range(count)).encode(), dtype=np.uint8),
        name_offsets=np.cumsum([0, *(len(f"{i}.png") for i in range(count))]),
        offsets=np.arange(count + 1),
        boxes=np.tile(np.array([[2, 2, 12, 14]], dtype=np.float32), (count, 1)),
        labels=np.zeros(count, dtype=np.int32),
        ignored=np.zeros(count, dtype=np.bool_),
        areas=np.full(count, 120, dtype=np.float32),
    )


def opened(
    folder: Path,
    annotations: Annotations,
    maker: RepeatableMaker,
    *,
    teacher: FrozenTeacher | None = None,
    image: ImageSettings = AS_STORED,
    progress: Recorder | None = None,
    resize: str = "perturbation",
) -> CachedTwins:
    reader = open_twin_cache(
        folder,
        maker=maker,
        teacher=teacher or FrozenTeacher(Stub(1.0)),
        annotations=annotations,
        image=image,
        batch_size=2,
        device=CPU,
        progress=progress or Recorder(),
        resize="perturbation" if resize == "perturbation" else "twin",
    )
    assert isinstance(reader, CachedTwins)
    return reader


def stored_image(annotations: Annotations, index: int) -> Tensor:
    return read_image(annotations.path(index), image_id=0, size=SIZES[index])
