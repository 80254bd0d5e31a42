"""The optimiser and its learning rate, a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn, optim

from detdistill.detectors.base import Detector
from detdistill.errors import ConfigError
from detdistill.training.settings import TrainSettings

_MILESTONE_FACTOR = 0.1
_STUDENT = "student."


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step, counted from 0; above 0 for every step of the run.

    Warm-up of w steps, at most half of the run: lr · (t + 1) / w for t < w. Then, with p = (t - w) / (steps - w),
    cosine lr · (1 + cos πp) / 2, or lr · 0.1^(milestones passed, as fractions of all steps), or lr.
    """
    warmup = min(settings.warmup_steps, settings.steps // 2)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "cosine":
        passed = (step - warmup) / max(1, settings.steps - warmup)
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * passed))
    drops = sum(step >= milestone * settings.steps for milestone in settings.milestones)
    return float(settings.lr * _MILESTONE_FACTOR**drops) if settings.schedule == "step" else settings.lr


def build_optimizer(module: nn.Module, settings: TrainSettings) -> optim.Optimizer:
    """An optimiser over everything that `module` (a step: its student and its terms) trains, in groups.

    Not decayed are parameters of at most one axis: weights and biases of norms, biases, learned scales. A group's
    learning rate is `learning_rate` times its ``"lr_factor"``, which is not 1 in the groups of the student's backbone
    alone.

    Raises:
        ConfigError: nothing in `module` is trainable, or a backbone that does not learn has a factor of its own.
    """
    trainable = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ConfigError("the student must have trainable parameters, got none. Freeze fewer of its stages.")
    factor, decay = settings.backbone_lr_factor, settings.weight_decay
    own = _in_backbone(module, trainable, factor) if factor != 1 else frozenset()
    kinds = [(1.0, trainable.keys() - own), (factor, own)]
    groups = [
        {
            "params": [p for name, p in trainable.items() if name in names and (p.ndim >= 2) == decays],
            "weight_decay": decay if decays else 0.0,
            "lr_factor": times,
        }
        for times, names in kinds
        for decays in (True, False)
    ]
    filled = [group for group in groups if group["params"]]
    # One operation for a whole group; on GPUs torch chooses, as it refuses to clip float16's gradients for this one.
    fused = all(one.device.type == "cpu" and one.is_floating_point() for one in trainable.values()) or None
    if settings.optimizer == "adamw":
        return optim.AdamW(filled, lr=settings.lr, fused=fused)
    return optim.SGD(filled, lr=settings.lr, momentum=settings.momentum, fused=fused)


def _in_backbone(step: nn.Module, names: Iterable[str], factor: float) -> frozenset[str]:
    """Which of a step's parameters are those of its student's backbone; refused where none is."""
    student, inside = getattr(step, "student", None), (name for name in names if name.startswith(_STUDENT))
    own = frozenset[str]()
    if isinstance(student, Detector):
        own = frozenset(name for name in inside if student.in_backbone(name.removeprefix(_STUDENT)))
    if not own:
        raise ConfigError(
            f"train.backbone_lr_factor must be 1 for a student whose backbone trains no parameter, got {factor:g}. "
            "Leave it out, or freeze fewer of its stages."
        )
    return own
