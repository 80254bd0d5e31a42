"""What a teacher showed of an image before, in the place of its looking again: maps as numbers in a row, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float16, Float32
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.view import CLEAN
from detdistill.types import Batch, Need, Observation, sent

Grid = tuple[int, int]
"""Height and width in pixels of the padded grid on which a teacher sees images."""

_PARTS = {
    Need.PYRAMID: "pyramid",
    Need.CLASS_LOGITS: "class_logits",
    Need.BOX_DISTRIBUTIONS: "box_distributions",
    Need.BOXES: "boxes",
    Need.QUERIES: "queries",
}
_QUERIES = "queries"
# In pixels, of which half precision tells two thousand apart at most.
_PIXELS = ("boxes", f"{_QUERIES}.boxes")


def kept_needs(recipe: Recipe, teacher: int, *, beside: frozenset[Need] = frozenset()) -> frozenset[Need]:
    """What is kept of all that a recipe reads of a teacher on the images as they are; empty where it reads nothing.

    Losses and towers are not: its heads say them anew, on the pyramid that is kept.

    Args:
        recipe: of the run.
        teacher: its number.
        beside: what else is read, by a choice among teachers.
    """
    needs = recipe.teacher_needs(CLEAN, teacher) | beside
    kept = needs.intersection(_PARTS)
    return kept if kept == needs else kept | {Need.PYRAMID}


@dataclass(frozen=True, slots=True)
class Form:
    """How what is kept of one image lies in two rows of numbers: in half precision, and what is in pixels in single.

    Maps (c, h, w) lie channels last, as detectors compute them.

    Attributes:
        shapes: of everything, by name, without the batch's axis.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, maps: Mapping[str, Tensor]) -> Form:
        """The form of maps of a batch."""
        return cls(tuple((name, tuple(one.shape[1:])) for name, one in maps.items()))

    def rows(self, maps: Mapping[str, Tensor]) -> tuple[Float16[Tensor, "b n"], Float32[Tensor, "b m"]]:
        """The rows of a batch's maps; what does not fit into half precision is infinite."""
        batch = len(next(iter(maps.values())))
        rows: dict[torch.dtype, list[Tensor]] = {torch.float16: [], torch.float32: []}
        for name, one in maps.items():
            lies = one.permute(0, 2, 3, 1) if one.ndim == 4 else one
            rows[dtype_of(name)].append(lies.reshape(batch, -1).to(dtype_of(name)))
        halves, singles = (torch.cat([*some, torch.zeros(batch, 0, dtype=kind)], dim=1) for kind, some in rows.items())
        return halves, singles

    def views(self, halves: Float16[Tensor, " n"], singles: Float32[Tensor, " m"]) -> dict[str, Tensor]:
        """One image's maps, in the memory of its rows."""
        found, at = {}, {torch.float16: 0, torch.float32: 0}
        for name, shape in self.shapes:
            dtype = dtype_of(name)
            row, first = halves if dtype is torch.float16 else singles, at[dtype]
            at[dtype] = last = first + math.prod(shape)
            lies = row[first:last]
            if len(shape) == 3:
                found[name] = lies.view(shape[1], shape[2], shape[0]).permute(2, 0, 1)
            else:
                found[name] = lies.view(shape)
        return found


class Rows(ABC):
    """Reads what is kept."""

    @abstractmethod
    def __call__(self, places: Sequence[int], grid: Grid, *, half: bool) -> dict[str, Tensor] | None:
        """The maps of a batch on a grid, zero in the padding and of images of place -1, by name.

        In half precision as they lie on the disk where `half` asks for it. None where nothing is kept of such a grid.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A teacher's looking, from what is kept of it where that is what it would show.

    Attributes:
        needs: what is kept.
        like: what it shows of any image, for all but the numbers.
        read: the numbers.
    """

    needs: frozenset[Need]
    like: Observation
    read: Rows

    def observe(
        self, teacher: FrozenTeacher, batch: Batch, places: Sequence[int], needs: frozenset[Need]
    ) -> Observation:
        """What the teacher sees of a batch: it looks at those of place -1, or at all on a grid of which nothing is.

        What is not kept its heads say of the pyramid that is. No gradient flows.
        """
        missing = [row for row, place in enumerate(places) if place < 0]
        device = batch.images.device
        grid = (batch.images.shape[-2], batch.images.shape[-1])
        held = None
        if len(missing) < len(places):
            held = self.read(places, grid, half=device.type == "cuda")
        if held is None:
            return teacher.observe(batch, needs)
        maps = {name: sent(one, device).float() for name, one in held.items()}
        if missing:
            live = taken_apart(teacher.observe(batch.only(missing), self.needs), self.needs)
            for name, one in maps.items():
                one[missing] = live[name].to(one)
        seen = put_together(self.like, maps)
        if rest := needs - self.needs:
            said = teacher.observe_pyramid(seen.maps, batch, rest)
            seen = replace(said, **{name: one for name in _PARTS.values() if (one := getattr(seen, name)) is not None})
        return seen


def taken_apart(seen: Observation, needs: frozenset[Need]) -> dict[str, Tensor]:
    """The numbers of an observation by name, such as ``"pyramid.0"``, each with the batch's axis first."""
    found: dict[str, Tensor] = {}
    for need, part in _PARTS.items():
        shown = getattr(seen, part) if need in needs else None
        if shown is None:
            continue
        if part == _QUERIES:
            found |= {f"{part}.logits": shown.logits, f"{part}.boxes": shown.boxes}
        else:
            found |= {f"{part}.{number}": level for number, level in enumerate(shown.levels)}
    return found


def put_together(like: Observation, maps: Mapping[str, Tensor]) -> Observation:
    """The observation that `taken_apart` took apart, but for its numbers like another one."""
    found: dict[str, Any] = {}
    for part in _PARTS.values():
        own = [one for name, one in maps.items() if name.partition(".")[0] == part]
        if own and part == _QUERIES:
            found[part] = replace(getattr(like, part), logits=own[0], boxes=own[1])
        elif own:
            found[part] = replace(getattr(like, part), levels=tuple(own))
    return Observation(**found)


def of_grid(name: str) -> bool:
    """Whether the last two axes are a map's rows and columns."""
    return not name.startswith(_QUERIES)


def dtype_of(name: str) -> torch.dtype:
    """In what precision a part is kept."""
    return torch.float32 if name.startswith(_PIXELS) else torch.float16
