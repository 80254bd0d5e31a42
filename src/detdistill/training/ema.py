"""The running average of the student's weights, which is what gets evaluated and saved."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn


@final
class Ema:
    """An exponential moving average of a student's parameters and float buffers.

    average ← d · average + (1 - d) · student, with d = min(decay, (1 + t) / (10 + t)) at update t, so that
    the random weights of the beginning are soon forgotten. Other buffers (counters) are copied.

    Attributes:
        student: the averaged student, in eval mode; no gradients.
        updates: how often it was updated.
    """

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        self.student = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Moves the average towards `student`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = student.state_dict()
        averages: list[Tensor] = []
        targets: list[Tensor] = []
        for name, average in self.student.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                targets.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, targets, 1.0 - decay)
