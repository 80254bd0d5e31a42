"""A disk that is full from the n-th write on, or refuses one write alone, in any way that disks do."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

from detdistill import files

real_write = files._write


@dataclass
class DiskFull:
    """Stands in for `files._write`, through which every byte goes that detdistill writes.

    Attributes:
        at: which write fails, from 0; what it was to write is written in half, as a full disk does. None for none.
        stays: whether all that come after it fail as well.
        code: how it fails.
        writes: how many there were so far.
    """

    at: int | None
    stays: bool = False
    code: int = errno.ENOSPC
    writes: int = field(default=0, init=False)

    def __call__(self, descriptor: int, content: bytes) -> None:
        number, self.writes = self.writes, self.writes + 1
        if self.at is not None and (number == self.at or (self.stays and number > self.at)):
            real_write(descriptor, content[: len(content) // 2])
            raise OSError(self.code, os.strerror(self.code))
        real_write(descriptor, content)
