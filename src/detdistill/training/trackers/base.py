"""What every tracker is to a run, and the names that figures have in all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Ending = Literal["finished", "failed", "interrupted"]
PROJECT = "detdistill"

_ODD = re.compile(r"[^\w.\- ]")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a tracker begins with, or goes on with.

    Attributes:
        folder: where it may keep what it keeps on the disk.
        name: what people call the run.
        config: the run's settings, as JSON.
        identity: of the tracker's run that it goes on with; None for a new one.
        resume_step: the last step that the tracker was told of.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    identity: str | None = None
    resume_step: int = 0


class Tracker(Protocol):
    """Somebody who is told a run's figures, in a thread of its own; whatever it raises ends it alone.

    Attributes:
        identity: by which a resumed run goes on with it.
        place: where to look at it, in words.
    """

    identity: str
    place: str

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step, by their `tracked` names; steps never fall."""

    def summary(self, step: int, figures: Mapping[str, float], words: Mapping[str, str]) -> None:
        """What a run ended with: figures, and what is said of it."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """A picture, which is a PNG file."""

    def close(self, ending: Ending) -> None:
        """Nothing more will come, until a resumed run goes on."""


def tracked(column: str) -> str:
    """The name in every tracker of a column of ``metrics.csv`` or ``evaluations.csv``.

    None is the folder of another, as MLflow keeps figures in files, and a slash begins a group in all of them: a term's
    loss is the leaf ``loss`` beside its diagnostics, a copy is numbered by a dash.

    >>> tracked("frs.features"), tracked("frs.features@2/cost_stride_8"), tracked("frs/scale"), tracked("lr")
    ('frs/features/loss', 'frs/features-2/cost_stride_8', 'frs/scale', 'lr')
    """
    path = column.replace("@", "-").replace(".", "/")
    if path != column.replace("@", "-") and "/" not in column:
        path += "/loss"
    return "/".join(_ODD.sub("_", part) for part in path.split("/"))


def flat(tree: Mapping[str, Any], *, between: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by the names on the way to each, of which odd letters are replaced."""
    for name, value in tree.items():
        plain = _ODD.sub("_", str(name))
        if isinstance(value, Mapping):
            yield from ((f"{plain}{between}{rest}", leaf) for rest, leaf in flat(value, between=between))
        else:
            yield plain, value
