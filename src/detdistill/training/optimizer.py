"""The optimiser and its learning rate, a pure function of the step."""

from __future__ import annotations

import math

from torch import nn, optim

from detdistill.errors import ConfigError
from detdistill.training.settings import TrainSettings

_MILESTONE_FACTOR = 0.1


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
    """An optimiser over everything that `module` (a step: its student and its terms) trains, in two groups.

    Not decayed are parameters of at most one axis: weights and biases of norms, biases, learned scales.

    Raises:
        ConfigError: nothing in `module` is trainable.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigError("the student must have trainable parameters, got none. Freeze fewer of its stages.")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return optim.AdamW(filled, lr=settings.lr)
    return optim.SGD(filled, lr=settings.lr, momentum=settings.momentum)
