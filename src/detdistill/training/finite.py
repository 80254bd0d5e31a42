"""Steps whose loss or gradient is not finite: the run stops, or leaves up to so many of them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from detdistill.errors import DistillError
from detdistill.training.settings import TrainSettings


@final
class LeftOut:
    """The steps that a run left out, as `TrainSettings.nan` lets it; all its ranks leave out the same.

    Such a step changes nothing: neither weights and their average, nor the optimiser, nor what modules keep in buffers.

    Attributes:
        steps: which, counted from 1.
    """

    def __init__(self, step: nn.Module, settings: TrainSettings) -> None:
        self._step, self._settings = step, settings
        self.steps: list[int] = []

    def restore(self, steps: Sequence[int] | None) -> None:
        """Goes on from a checkpoint's counters; None of a version that left none out."""
        self.steps = list(steps or ())

    def buffers(self) -> list[Tensor]:
        """What a forward pass may change, to be put back; empty where no step is left out."""
        return [one.clone() for one in self._step.buffers()] if self._settings.nan == "skip" else []

    @torch.no_grad()
    def add(self, step: int, what: str, *, buffers: Sequence[Tensor], kept: str) -> str:
        """Leaves a step out, or ends the run.

        Args:
            step: its number.
            what: what is not finite, and what it is.
            buffers: as they were before it.
            kept: where the last checkpoint is.

        Returns:
            What there is to say.

        Raises:
            DistillError: no step is to be left out, or no more of them.
        """
        settings, limit = self._settings, self._settings.nan_skips
        where = f"step {step} of {settings.steps}"
        if settings.nan == "stop" or len(self.steps) >= limit:
            after = "" if settings.nan == "stop" else f", after {limit} such steps that were skipped (train.nan_skips)"
            raise DistillError(
                f"{where}: the {what}{after}. Lower train.lr "
                f"({settings.lr:g}), warm up for longer or clip the gradient (train.clip_norm); {kept}."
            )
        for buffer, before in zip(self._step.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.steps.append(step)
        return f"{where} is skipped, number {len(self.steps)} of at most {limit}: its {what}"
