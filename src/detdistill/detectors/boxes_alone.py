"""Detectors of which only their boxes are known: they teach by these, and neither learn nor show anything else."""

from __future__ import annotations

from collections.abc import Set
from typing import NoReturn

from detdistill.detectors.base import Detector, DetectorSpec
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Need, Observation, Pyramid


class BoxesAlone(Detector):
    """A detector that answers `detect` alone: its spec has no layout, and its observations are empty."""

    def __init__(self, name: str, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self.spec = DetectorSpec(name, class_names)

    def extract(self, batch: Batch) -> Pyramid:
        """There are no maps.

        Raises:
            CapabilityError: always.
        """
        del batch
        return self._refuse()

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """There are no heads to read another's maps.

        Raises:
            CapabilityError: always.
        """
        del pyramid, batch, needs
        return self._refuse()

    def forward(self, batch: Batch, needs: Set[Need]) -> Observation:
        """Nothing beside boxes.

        Raises:
            CapabilityError: something else is needed, such as a loss to learn by.
        """
        del batch
        return Observation() if not needs - {Need.PYRAMID} else self._refuse()

    def _refuse(self) -> NoReturn:
        raise CapabilityError(
            f"A detector that learns, or that shows more than boxes, must be a model of its own, got {self.spec.name}, "
            "which says boxes alone. Distil from it by --method boxes."
        )
