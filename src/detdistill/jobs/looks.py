"""What the method of a finished distillation looks at in a few validation images, for its page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import evaluation_loader
from detdistill.distillation.looks import Look, Weighed, looks
from detdistill.errors import ConfigError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.diagnose import built_apart
from detdistill.jobs.evidence import as_it_ended
from detdistill.progress import Progress
from detdistill.report.page.content import Heat, Looked, Looks, Rows
from detdistill.report.page.gather import Gathered
from detdistill.report.page.pictures import Shown, picture
from detdistill.report.tables import Cell, Table
from detdistill.training.memory import needing_memory
from detdistill.types import Batch

IMAGES = 3
_MOST_MAPS = 60
_WEAK, _STRONG = np.array([110, 20, 130.0]), np.array([255, 225, 70.0])


def looks_of(found: Gathered, *, rows: Sequence[int], progress: Progress) -> tuple[Looks, ...]:
    """The maps of every term over some validation images, with the weights that the student had in the end.

    Args:
        rows: of the images among the validation images, of which the first are taken; none for the split's first.

    Raises:
        ConfigError: the folder is of no distillation, or it has no checkpoint.
        DistillError: its data or its teacher are not here.
    """
    if not found.settings.get("method") or found.config is None:
        raise ConfigError(f"--looked-at must come with a distillation, got {found.path}, which has none. Leave it out.")
    config = read_run_config(found.config, purpose="distill")
    built = built_apart(replace(config, alone=None, alone_differs=False), progress)
    step = as_it_ended(built, found.config.parent)
    if step is None:
        raise ConfigError(
            f"--looked-at must come with a run that has a checkpoint, got {found.config.parent} without. Leave it out."
        )
    opened = built.opened
    val = opened.data.val
    images = val.of(np.array(rows or range(len(val)))[:IMAGES])
    shown = DetectionDataset(images, image=opened.data.image, teacher_image=opened.teacher_image)
    made = []
    progress.start("what the method looks at", len(images), unit="image")
    with needing_memory("an image to look at", remedy="Free memory"):
        for index, batch in enumerate(evaluation_loader(shown, batch_size=1)):
            maps, weights = looks(step, batch.to(opened.first_device))
            made.append(looks_on(images, index, batch, maps, weights))
            progress.advance(index + 1)
    progress.finish()
    return tuple(made)


def looks_on(images: Annotations, index: int, batch: Batch, maps: Sequence[Look], weights: Sequence[Weighed]) -> Looks:
    """Maps and weights of a batch of image `index` alone, over that image as it is stored."""
    # Its number must be no other picture's.
    one = picture(Shown(images, {}), index, reason="", number=1000 + index, score=0.0)
    kinds: dict[tuple[str, str], dict[int, NDArray[np.float32]]] = {}
    height, width = batch.sizes[0]
    for look in maps[:_MOST_MAPS]:
        # Whole cells of the image alone: padding says nothing.
        inside = look.values[0, : -(-height // look.stride), : -(-width // look.stride)]
        kinds.setdefault((look.term, look.what), {})[look.stride] = inside.cpu().numpy()
    looked = []
    for (term, what), levels in kinds.items():
        most, heats = max(float(level.max(initial=0.0)) for level in levels.values()), []
        for stride, level in levels.items():
            high, wide = (stride * cells for cells in level.shape)
            across = round(wide * one.width / width, 1), round(high * one.height / height, 1)
            heats.append(Heat(f"stride {stride}", _png(level, most), across, float(level.max(initial=0.0))))
        looked.append(Looked(term, what, tuple(heats)))
    return Looks(one, tuple(looked), _weights(weights))


def _weights(weights: Sequence[Weighed]) -> Rows | None:
    """How much each level of each term weighs in the image."""
    if not weights:
        return None
    strides = tuple(dict.fromkeys(stride for one in weights for stride in one.strides))
    rows: list[tuple[Cell, ...]] = []
    for one in weights:
        own = dict(zip(one.strides, one.values[0].tolist(), strict=True))
        rows.append((one.term, *(own.get(stride) for stride in strides)))
    columns = ("weight of", *("no level" if stride is None else f"stride {stride}" for stride in strides))
    return Rows("How much every level weighs here", Table(columns, tuple(rows)), decimals=2)


def _png(values: NDArray[np.float32], most: float) -> str:
    """A map as an address that holds it: a pixel a cell, the brighter and the less to be seen through the stronger."""
    share = np.clip(values / (most or 1.0), 0.0, 1.0)[..., None]
    pixels = np.concatenate([_WEAK + (_STRONG - _WEAK) * share, 235 * share**0.7], axis=2)
    content = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA").save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
