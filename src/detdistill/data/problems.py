"""What was found wrong in a data set: every problem with its place, counted by kind.

A reader never stops at a flaw it can live with. It repairs the entry, skips it, or keeps what only looks like a
mistake, and adds a `Problem` that names the file and the entry. The command line prints `Problems.summary()` as
warnings; `data check` prints all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Action = Literal["repaired", "skipped", "kept"]
Lost = Literal["images", "boxes"]
KEPT_PER_KIND = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """One flaw of one entry.

    Attributes:
        kind: what all problems of this sort have in common, a short noun phrase.
        where: file and id.
        what: the values at fault.
        action: the entry is used, changed (``"repaired"``), left out (``"skipped"``) or used as it is (``"kept"``).
    """

    kind: str
    where: str
    what: str
    action: Action

    def text(self) -> str:
        """The problem as one line."""
        return f"{self.where}: {self.what} ({self.action})"


class Problems:
    """Collects problems; counts all of them and keeps the first thousand of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Action]] = Counter()
        self._kept: dict[tuple[str, Action], list[Problem]] = {}
        self._lost: Counter[Lost] = Counter()

    def add(self, kind: str, where: str, *, what: str, action: Action = "skipped", loses: Lost | None = None) -> None:
        """Counts one problem and keeps it unless a thousand of its kind are there already.

        What it `loses` is an image or a box that training will not see.
        """
        self._counts[kind, action] += 1
        if loses is not None:
            self._lost[loses] += 1
        kept = self._kept.setdefault((kind, action), [])
        if len(kept) < KEPT_PER_KIND:
            kept.append(Problem(kind, where, what, action))

    def extend(self, other: Problems) -> None:
        """Adds what another collector found."""
        self._counts.update(other._counts)
        self._lost.update(other._lost)
        for key, found in other._kept.items():
            kept = self._kept.setdefault(key, [])
            kept.extend(found[: KEPT_PER_KIND - len(kept)])

    def __len__(self) -> int:
        return self._counts.total()

    def __iter__(self) -> Iterator[Problem]:
        """The kept problems, kind by kind in order of first appearance."""
        for problems in self._kept.values():
            yield from problems

    @property
    def counts(self) -> Mapping[str, int]:
        """How many problems of each kind there are."""
        by_kind: Counter[str] = Counter()
        for (kind, _), count in self._counts.items():
            by_kind[kind] += count
        return dict(by_kind)

    @property
    def repaired(self) -> int:
        """How many entries are used, changed."""
        return self._count("repaired")

    @property
    def skipped(self) -> int:
        """How many entries are left out."""
        return self._count("skipped")

    def lost(self, what: Lost) -> int:
        """How many images or boxes are left out."""
        return self._lost[what]

    def _count(self, action: Action) -> int:
        return sum(count for (_, own), count in self._counts.items() if own == action)

    def summary(self, *, examples: int = 3) -> list[str]:
        """Every kind with its count, each followed by its first few cases; no line where there is no problem."""
        lines: list[str] = []
        for key, count in self._counts.items():
            lines.append(f"{key[0]}: {count} {key[1]}")
            shown = self._kept[key][: max(examples, 0)]
            lines.extend(f"  {problem.where}: {problem.what}" for problem in shown)
            if examples > 0 and count > len(shown):
                lines.append(f"  ... and {count - len(shown)} more")
        return lines
