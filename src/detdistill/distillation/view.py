"""ON WHICH INPUTS a term looks: a pure function from a batch to a batch of the same geometry."""

from __future__ import annotations

from dataclasses import dataclass, replace

from detdistill.errors import CapabilityError
from detdistill.types import Batch


@dataclass(frozen=True, slots=True)
class View:
    """The batch as it is, or with its images replaced by one of its twins.

    Attributes:
        twin: the name of the twin in ``batch.twins``; None is the clean view. The task loss is always clean.
    """

    twin: str | None = None

    def __call__(self, batch: Batch) -> Batch:
        """The batch that both detectors see.

        Raises:
            CapabilityError: the batch has no twin of that name.
        """
        if self.twin is None:
            return batch
        if self.twin not in batch.twins:
            raise CapabilityError(
                f"The batch must hold a twin named '{self.twin}', got {sorted(batch.twins)}. "
                "Let the loader make it, or choose a recipe without that view."
            )
        return replace(batch, images=batch.twins[self.twin])


CLEAN = View()
