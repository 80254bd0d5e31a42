"""Which decoded images a run keeps, how much room that takes, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import features

from detdistill.data.annotations import Annotations
from detdistill.data.decoded import Decoded, InMemory, Kept, OnDisk, kept_bytes
from detdistill.data.transforms import ImageSettings
from detdistill.errors import ConfigError
from detdistill.jobs.samples import Opened, SampleChanges, training_data
from detdistill.progress import Progress, in_bytes
from detdistill.store.cache import Shelf
from detdistill.training.memory import free_memory
from detdistill.training.world import launched_by_torchrun, world

# Raise it when images are decoded or resized otherwise in a way that no version below shows.
_FORMAT = 1


def kept_sizes(opened: Opened, changes: SampleChanges) -> tuple[ImageSettings | None, ...]:
    """At what sizes images are kept: those of all samples, or None, as stored, where these are resized one by one."""
    if opened.config.data.cache == "none":
        return ()
    if changes.transform is not None or not opened.config.data.augment.resizes_alike:
        return (None,)
    theirs = opened.teacher_image
    return tuple(dict.fromkeys((opened.data.image, *([] if theirs is None else [theirs]))))


def needed_bytes(opened: Opened, changes: SampleChanges) -> int:
    """Bytes that the decoded images take which are not on the disk yet, at most, or of memory on this machine.

    Raises:
        ConfigError: the memory has no room for them.
    """
    sizes, images = kept_sizes(opened, changes), [opened.data.train]
    images += [] if opened.unlabelled is None else [opened.unlabelled]
    if opened.config.data.cache != "ram":
        return sum(OnDisk(one, size, _home(opened, changes, size)).missing_bytes() for one in images for size in sizes)
    needed = sum(int(kept_bytes(one, size).sum()) for one in images for size in sizes)
    needed *= world().local_ranks if launched_by_torchrun() else 1
    if needed > (free := free_memory()):
        raise ConfigError(
            f"The memory must have {in_bytes(needed)} free for data.cache=ram, got {in_bytes(free)}. Set "
            "data.cache=none, or data.cache=disk and a folder data.cache_folder."
        )
    return needed


def keep_images(opened: Opened, changes: SampleChanges, images: Annotations) -> Kept:
    """Where the decoded images of a set are kept by the processes that are forked from now on."""
    if opened.config.data.cache == "ram":
        needed_bytes(opened, changes)

    def kept(size: ImageSettings | None) -> Decoded:
        if opened.config.data.cache == "ram":
            return InMemory(images, size)
        return OnDisk(images, size, _home(opened, changes, size))

    return {size: kept(size) for size in kept_sizes(opened, changes)}


def say_scale(opened: Opened, changes: SampleChanges, progress: Progress) -> None:
    """Says where images are decoded fully although the settings ask for less."""
    data = training_data(opened, changes)
    if data.reduced and not data.scales_down:
        progress.say(
            "data.decode: every image is decoded fully, as a part of it may be enlarged, a method changes samples by "
            "their stored pixels, or something is kept that was made of all of them"
        )


def _home(opened: Opened, changes: SampleChanges, size: ImageSettings | None) -> Path:
    """The folder for images that are decoded and resized alike, by the same libraries."""
    folder = opened.config.data.cache_folder
    assert folder is not None  # DataSettings has one where the disk is meant
    reduced: Mapping[str, Any] | None = None
    if training_data(opened, changes).scales_down:
        shown = {"image": opened.data.image, "teacher": opened.teacher_image, "augment": opened.config.data.augment}
        reduced = {name: None if one is None else asdict(one) for name, one in shown.items()}
    decoders = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "jpg_2000", "webp")}
    identity = {
        "format": _FORMAT,
        "size": None if size is None else (size.short_side, size.long_side),
        "reduced": reduced,
        "libraries": {name: version(name) for name in ("pillow", "torch", "torchvision")} | decoders,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    return Shelf.of(folder, identity).home
