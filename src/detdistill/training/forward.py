"""The thin wrapper that Fabric sees: frozen data goes in hidden from it, plain dicts of tensors come out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol, final

from torch import Tensor, nn

from detdistill.types import Batch, Clock, StepReport


class TrainingStep(Protocol):
    """What training needs of a step, which is a module too: it trains all of the step's parameters."""

    @property
    def student(self) -> nn.Module:
        """The submodule that is averaged and saved."""

    def __call__(self, batch: Batch, clock: Clock) -> StepReport:
        """The loss of one batch; gradients flow from ``total`` alone."""


@final
class Parcel:
    """A batch and a clock that nobody unpacks on the way: Fabric refuses frozen dataclasses."""

    __slots__ = ("batch", "clock")

    def __init__(self, batch: Batch, clock: Clock) -> None:
        self.batch = batch
        self.clock = clock


@final
class PlainStep(nn.Module):
    """Calls a step and returns what it reported as plain dicts.

    The whole forward pass goes through this one module, so that gradients of all ranks are joined.
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, parcel: Parcel) -> dict[str, dict[str, Tensor]]:
        """The report's total (with its graph), parts and diagnostics."""
        report: StepReport = self.step(parcel.batch, parcel.clock)
        return {
            "total": {"total": report.total},
            "parts": dict(report.parts),
            "diagnostics": dict(report.diagnostics),
        }


def micro_batches(batch: Batch, count: int) -> Iterator[tuple[float, Batch]]:
    """Cuts a batch into `count` runs of neighbouring images, each with its share of the images."""
    whole = len(batch)
    edges = [round(whole * index / count) for index in range(count + 1)]
    for first, last in pairwise(edges):
        if last > first:
            yield (last - first) / whole, batch.part(first, last) if count > 1 else batch
