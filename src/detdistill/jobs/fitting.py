"""Trains a step on opened data into a run folder, and reads back the student that counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import training_loader
from detdistill.detectors.base import Detector
from detdistill.detectors.catalogue import build_detector
from detdistill.errors import ConfigError
from detdistill.files import write_text
from detdistill.jobs.opening import Measured, OpenedData, image_dict, measure
from detdistill.jobs.samples import UNCHANGED, SampleChanges
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress
from detdistill.store.students import load_detector, save_detector
from detdistill.training.launch import own_device
from detdistill.training.loop import TrainResult, train
from detdistill.training.world import by_leader, leads

CONFIG, RESULTS, PICTURES, CURVES = "config.yaml", "results.json", "pictures.png", "curves.png"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training.

    Attributes:
        training: how the training went.
    """

    training: TrainResult

    @property
    def student(self) -> Detector:
        """The detector that counts: the average of its weights where one was kept. It lies on the leader's disk."""
        return load_detector(self.training.checkpoint).detector


def require_free(out: Path, *, resume: bool) -> None:
    """Refuses a folder that holds something else, before any work is done.

    Raises:
        ConfigError: the folder is not empty and the run was not to be resumed, or it is no folder.
    """
    by_leader(lambda: _require_free(out, resume=resume))


def _require_free(out: Path, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"The run folder {out} must be a folder, got a file of that name. Choose another --out.")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise ConfigError(
            f"The run folder {out} must be new or empty, got one with files in it. "
            "Choose another --out, or go on with that run by --resume."
        )


def new_student(config: RunConfig, data: OpenedData) -> Detector:
    """The run's student with its initial weights: the same for every run with this seed, distilled or not."""
    return build_detector(config.student.settings, data.train.class_names, seed=config.seed)


def training_data(config: RunConfig, data: OpenedData, *, changes: SampleChanges = UNCHANGED) -> DetectionDataset:
    """The training view of the data.

    Args:
        config: of the run.
        data: opened for it.
        changes: what a recipe changes about samples, and the twins it looks at.
    """
    return DetectionDataset(
        data.train,
        image=data.image,
        augment=config.data.augment,
        seed=config.seed,
        sample_transform=changes.transform,
        twins=changes.twins,
    )


def device_of(config: RunConfig) -> torch.device:
    """Where this process of the run computes."""
    return own_device(config.train)


def fit(
    step: nn.Module,
    config: RunConfig,
    data: OpenedData,
    *,
    label: str,
    identity: Mapping[str, Any],
    resume: bool,
    progress: Progress,
    changes: SampleChanges = UNCHANGED,
) -> Fitted:
    """Trains `step` into ``config.out``, which gets ``config.yaml``, checkpoints and ``metrics.csv``.

    Args:
        step: holds the student.
        config: of the run.
        data: opened for it.
        label: what progress calls the training.
        identity: what must be the same on resume beyond the settings.
        resume: go on from the latest checkpoint, where there is one.
        progress: told how it goes.
        changes: what a recipe changes about samples, and the twins it looks at.

    Raises:
        ConfigError: other settings than those of the run that is resumed.
        DataError: an image cannot be read.
        DistillError: the loss is not finite.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    dataset = training_data(config, data, changes=changes)
    settings = config.train
    image = image_dict(data.image)
    resolved = replace(config, data=replace(config.data, image=data.image))
    if leads():
        write_text(config.out / CONFIG, resolved.yaml())
    result = train(
        step,
        settings,
        loader=lambda start, rank, ranks: training_loader(
            dataset,
            batch_size=settings.batch_size,
            steps=settings.steps,
            start_step=start,
            plain_from=round(changes.until * settings.steps),
            workers=settings.workers,
            rank=rank,
            ranks=ranks,
        ),
        save_student=lambda student, folder: save_detector(student, folder, image=image),
        folder=config.out,
        resume=resume,
        progress=progress,
        label=label,
        identity={
            "student": config.student.settings.to_dict(),
            "classes": list(data.train.class_names),
            "images": len(data.train),
            "boxes": len(data.train.boxes),
            "image": image,
            "augment": asdict(config.data.augment),
            **identity,
        },
    )
    return Fitted(result)


def measure_fitted(
    detector: Detector, config: RunConfig, data: OpenedData, *, what: str, progress: Progress
) -> Measured:
    """The figures of a detector on the run's validation images."""
    return measure(
        detector,
        data.val,
        data.image,
        what=what,
        backend=config.evaluate.backend,
        batch_size=config.evaluate.batch_size,
        device=device_of(config),
        progress=progress,
    )
