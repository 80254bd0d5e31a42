"""What a run is, as its checkpoints record it, and what those of an earlier version say in the words of this one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.detectors.catalogue import settings_of
from detdistill.detectors.preprocess import with_pixel_statistics
from detdistill.errors import DistillError
from detdistill.jobs.samples import Opened, own_changes
from detdistill.methods.composition import of_before, settings_types
from detdistill.methods.method import PUBLISHED, STRENGTH, FeatureSettings, ScheduledSettings, StrengthSettings
from detdistill.settings import as_tree, build
from detdistill.settings.calls import NAME
from detdistill.settings.reading import renamed

OWN_KEYS: tuple[str, ...] = (
    "student",
    "classes",
    "images",
    "boxes",
    "annotations",
    "image",
    "augment",
    "sample_specific",
    "inherit",
)
OWN_KEYS += ("data", "init", "agnostic", "decode")
"""What `own_identity` may hold."""


def own_identity(opened: Opened) -> dict[str, Any]:
    """What decides the weights of a run's student beside the training settings and what a teacher does."""
    config, data = opened.config, opened.data
    settings = with_pixel_statistics(config.student.settings)
    # The folders of its files are written as the working directory sees them.
    student = settings.to_dict(place=lambda text: Path(text).name)
    return {
        "student": student,
        "classes": list(data.train.class_names),
        "images": len(data.train),
        "boxes": len(data.train.boxes),
        "annotations": data.train.digest(),
        "image": asdict(data.image),
        "augment": asdict(config.data.augment),
        **own_changes(config.data).identity(),
        **({"inherit": True} if config.inherit else {}),
        **({} if data.mixture is None else {"data": {"weights": data.mixture.weights, "images": data.mixture.sizes}}),
        **({"decode": config.data.decode} if config.data.decode != "full" else {}),
        **({"init": opened.start.digest} if opened.start is not None else {}),
        # It decides which weights are the best.
        **({"agnostic": True} if config.evaluate.agnostic and config.train.selects else {}),
    }


def brought_up(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with the settings that have come since at their defaults, as the run then had them.

    What this version cannot read stays as it is, for the comparison to name.
    """
    found = dict(identity)
    readers: dict[str, Callable[[Any], Any]] = {
        "student": lambda tree: settings_of(tree).to_dict(),
        "image": lambda tree: asdict(build(ImageSettings, tree, where="image")),
        "augment": lambda tree: asdict(build(AugmentSettings, tree, where="augment")),
        "method": lambda tree: outermost(_with_schedules(of_before(tree))),
    }
    for key, read in readers.items():
        if isinstance(found.get(key), dict):
            try:
                found[key] = json.loads(json.dumps(read(found[key])))
            except DistillError:
                continue
    return found


def _with_schedules(tree: Any) -> Any:
    """A method's tree with strength, schedule and scale as it had them before there were any, and today's keys.

    Other keys that a method has gained may stand for another way to compute it: they are left for the comparison.
    """
    if isinstance(tree, list):
        return [_with_schedules(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    below = {key: _with_schedules(value) for key, value in tree.items()}
    kind = settings_types().get(str(below.get(NAME)), object)
    if not issubclass(kind, StrengthSettings):
        return below
    bases = (FeatureSettings, ScheduledSettings, StrengthSettings)
    return {**as_tree(next(base for base in bases if issubclass(kind, base))()), **renamed(below, kind)}


def outermost(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A method's tree that says what strength it has where it leaves that to what is around it, where nothing is."""
    return {**tree, STRENGTH: PUBLISHED} if tree.get(STRENGTH, PUBLISHED) is None else dict(tree)
