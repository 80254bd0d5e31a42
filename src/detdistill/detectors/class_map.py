"""Which of a student's classes each class of a teacher is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from detdistill.errors import ConfigError, suggestion

Merge = Literal["sum", "max"]
OPTION = "--classes-map"
_DROPPED = -1
_LISTED = 8


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The student's class that each of the teacher's is.

    Attributes:
        teacher: names of its classes, in label order.
        student: names of the student's.
        labels: the student's label of each of the teacher's classes; -1 for one that the student lacks.
        merge: how several classes of the teacher are one of the student's, z their logits: ``"sum"`` log Σ exp z, whose
            odds are the sum of theirs, as of classes that exclude each other; ``"max"`` max z.
    """

    teacher: tuple[str, ...]
    student: tuple[str, ...]
    labels: tuple[int, ...]
    merge: Merge = "sum"

    @classmethod
    def between(
        cls,
        teacher: Sequence[str],
        student: Sequence[str],
        *,
        pairs: Iterable[tuple[str, str]] = (),
        merge: Merge = "sum",
    ) -> ClassMap:
        """By `pairs` of names, the teacher's first; every class that they do not name by equal names.

        Names are equal where they differ in case, blanks, ``_`` and ``-`` alone, unless one stands there as it is. A
        pair whose second name is empty drops the first.
        """
        place, written = {name: label for label, name in enumerate(student)}, dict(pairs)
        unlike, plain = [name for name in student if name not in teacher], dict[str, int]()
        for name in unlike:
            # Two that are spelt alike are neither.
            plain[_plain(name)] = _DROPPED if _plain(name) in plain else place[name]

        def label(name: str) -> int:
            if name in written:
                return place.get(written[name], _DROPPED)
            return place.get(name, plain.get(_plain(name), _DROPPED))

        return cls(tuple(teacher), tuple(student), tuple(map(label, teacher)), merge)

    @property
    def identical(self) -> bool:
        """Whether both have the same classes in the same order."""
        return self.labels == tuple(range(len(self.student)))

    @property
    def known(self) -> tuple[int, ...]:
        """The student's labels that the teacher knows, in order."""
        return tuple(sorted({*self.labels} - {_DROPPED}))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The student's classes that the teacher lacks."""
        return tuple(name for label, name in enumerate(self.student) if label not in self.labels)

    @property
    def merges(self) -> bool:
        """Whether several classes of the teacher are one of the student's."""
        return len(self.known) < len(self.labels) - self.labels.count(_DROPPED)

    def of(self, label: int) -> tuple[int, ...]:
        """The teacher's labels that are one of the student's."""
        return tuple(own for own, mapped in enumerate(self.labels) if mapped == label)

    def text(self) -> str:
        """In a line: what is what, what is dropped and what nobody teaches."""
        both = list(zip(self.teacher, self.labels, strict=True))
        same = [name for name, label in both if label != _DROPPED and name == self.student[label]]
        other = [f"{name}={self.student[label]}" for name, label in both if label != _DROPPED and name not in same]
        dropped = [name for name, label in both if label == _DROPPED]
        parts = (
            ("by equal names", same),
            ("as", other),
            ("the student lacks", dropped),
            ("the teacher does not know", self.unknown),
        )
        told = [f"{what} {_listed(names)}" for what, names in parts if names]
        if self.merges:
            told.append(f"merged by the {'sum of their odds' if self.merge == 'sum' else 'highest'}")
        return f"classes: {'; '.join(told)}"

    def as_dict(self) -> dict[str, Any]:
        """The map as JSON can hold it."""
        named = {name: "" if label == _DROPPED else self.student[label] for name, label in self._both()}
        return {"teacher": named, "unknown": list(self.unknown), "merge": self.merge}

    def _both(self) -> Iterable[tuple[str, int]]:
        return zip(self.teacher, self.labels, strict=True)


def merged(logits: Sequence[Tensor], merge: Merge) -> Tensor:
    """One logit of several classes', see `ClassMap.merge`; gradients flow. One alone is as it was."""
    if len(logits) == 1:
        return logits[0]
    several = torch.stack(list(logits)).float()
    return (several.logsumexp(0) if merge == "sum" else several.amax(0)).to(logits[0].dtype)


def read_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """The pairs of names in ``"car=vehicle, truck=vehicle"``.

    Raises:
        ConfigError: a part is no such pair, or a name stands on the left twice.
    """
    found: list[tuple[str, str]] = []
    for part in filter(None, map(str.strip, text.split(","))):
        first, mark, second = (one.strip() for one in part.partition("="))
        if not (first and mark):
            raise ConfigError(
                f"Each part of {OPTION} must be a class of the teacher and one of the data's, got '{part}'. "
                f'Write for example {OPTION} "car=vehicle, truck=vehicle".'
            )
        if first in dict(found):
            raise ConfigError(
                f"{OPTION} must name every class of the teacher once, got '{first}' twice. Leave one of them out."
            )
        found.append((first, second))
    return tuple(found)


def require_known(pairs: Iterable[tuple[str, str]], *, teacher: Sequence[str], student: Sequence[str]) -> None:
    """Refuses pairs that name a class that is none.

    Raises:
        ConfigError: with what there is.
    """
    for names in pairs:
        for name, known, whose in zip(names, (teacher, student), ("teacher's", "data's"), strict=True):
            if name and name not in known:
                side = "left" if known is teacher else "right"
                raise ConfigError(
                    f"{OPTION} must have the {whose} classes on the {side}, got '{name}'. {suggestion(name, known)}"
                )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"
