"""A step's way through Fabric: what goes in and comes out as Fabric and DDP take it."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from detdistill.types import Batch, Clock, StepReport


@final
class Parcel:
    """A batch and a clock that nobody unpacks on the way: Fabric refuses frozen dataclasses."""

    __slots__ = ("batch", "clock")

    def __init__(self, batch: Batch, clock: Clock) -> None:
        self.batch, self.clock = batch, clock


@final
class Aside:
    """A tensor that neither Fabric nor DDP looks at on the way out of a step."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor | None) -> None:
        self.tensor = tensor


@final
class PlainStep(nn.Module):
    """Calls a step; the whole forward pass goes through this one module, so that gradients of all ranks are joined."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, parcel: Parcel) -> tuple[dict[str, dict[str, Tensor]], Aside]:
        """The report's total with its graph, parts and diagnostics in plain dicts, which Fabric takes, and its task."""
        report: StepReport = self.step(parcel.batch, parcel.clock)
        parts, diagnostics = dict(report.parts), dict(report.diagnostics)
        return {"total": {"total": report.total}, "parts": parts, "diagnostics": diagnostics}, Aside(report.task)
