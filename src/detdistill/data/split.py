"""One split of a data set, found and not yet read, in whatever format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.data.problems import Problems


@dataclass(frozen=True, slots=True)
class Reading:
    """What is asked of a reader.

    Attributes:
        class_names: demand these classes; labels then follow this order, matched by name.
        check_images: decode every image fully and compare its size; slow.
        progress: called with (images settled, all images) where images are looked at.
    """

    class_names: Sequence[str] | None = None
    check_images: bool = False
    progress: Callable[[int, int], None] | None = None

    def tell(self, done: int, total: int) -> None:
        """Says how many images are settled."""
        if self.progress is not None:
            self.progress(done, total)


class Split(ABC):
    """One split, found but not read."""

    @property
    @abstractmethod
    def source(self) -> Path:
        """What messages call the split's data: a file or a folder."""

    @property
    def drawn(self) -> bool:
        """Whether a seed decides which images are the split's."""
        return False

    @abstractmethod
    def text(self) -> str:
        """The format, the list or file, and the images' folder, in a line."""

    @abstractmethod
    def read(self, reading: Reading) -> tuple[Annotations, Problems]:
        """The annotations, possibly of no image, and what was repaired or skipped.

        Raises:
            ConfigError: a file cannot be read.
            DataError: a file is none of the format, or the classes are not those demanded.
        """
