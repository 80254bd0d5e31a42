"""The data formats: one `Format` a module, found by name or by what a path holds.

Another package adds one by an entry point of the group ``detdistill.formats`` that names a `Format`; a notebook by
`FORMATS.register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from detdistill.data.annotations import Reading, Split
from detdistill.data.writable import Place, WritableSplit
from detdistill.registry import Registry

__all__ = ["FORMATS", "Find", "Format", "Reading", "Split", "Write"]


class Find(Protocol):
    """Finds one split of a data set."""

    def __call__(self, data: Path, split: str, *, exact: bool, split_seed: int) -> Split:
        """Finds ``"train"``, ``"val"`` or ``"test"`` at a folder or file that the format recognises; reads it not yet.

        `exact` takes a file for the split whatever its name says; `split_seed` divides a data set without lists.

        Raises:
            ConfigError: there is nothing for the split.
            DataError: a file that tells where the split is cannot be used.
        """


# Fills an empty folder with splits of the same classes, named in label order; what the format cannot say goes to the
# splits' `problems`. Raises DataError where the format cannot tell two classes apart.
Write = Callable[[Path, Mapping[str, WritableSplit], tuple[str, ...], Place], None]


@final
@dataclass(frozen=True, slots=True)
class Format:
    """One way in which data sets are kept.

    Attributes:
        name: as ``data convert --to`` takes it.
        title: as messages have it.
        precedence: where a path fits several formats, the lowest counts; ours are 10 to 40, and from 55 for layouts
            that only their content tells.
        holds: what a folder of it must hold, for messages.
        file: which file may be given in place of the folder, for messages; empty for none.
        recognises: whether a folder or file looks like it.
        splits: which splits such a folder or file has, of ``"train"``, ``"val"`` and ``"test"``; a file that is one of
            them counts as ``"val"``.
        find: finds one of them.
        write: writes the format; None where it is only read.
        tells_size: whether it tells the images' sizes, by which a reader knows photos annotated as stored.
    """

    name: str
    title: str
    precedence: int
    holds: str
    file: str
    recognises: Callable[[Path], bool]
    splits: Callable[[Path], tuple[str, ...]]
    find: Find
    write: Write | None = None
    tells_size: bool = False


FORMATS: Registry[Format] = Registry(
    "data format", group="detdistill.formats", package="detdistill.data.formats", attribute="FORMAT", entry_type=Format
)
