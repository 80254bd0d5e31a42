"""What a teacher showed of images: kept in safetensors named by their content, read through memory maps."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float16, Float32
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detdistill.distillation.replay import Form, Grid, Rows, dtype_of, of_grid
from detdistill.errors import DataError
from detdistill.files import require_regular, write_bytes, write_json
from detdistill.progress import Progress
from detdistill.store.cache import INDEX, Kind, Shelf, hexed, say_damaged, say_others, watched
from detdistill.store.sums import digest

# Raise it when what is shown changes in a way that neither the teacher's digest nor its settings show.
_FORMAT = 1
_SUFFIX = ".safetensors"
# Bytes of a file, about; what waits for being written is in memory.
_FILE = 64 * 2**20
# How many of those that are known a teacher shows again, at least one.
_CHECKED = 0.01
# By how much of its length a map may differ then. Half precision rounds by 0.0003; another device adds to that.
NEAR = 0.01


@dataclass(frozen=True, slots=True)
class Shown:
    """What a teacher showed of one image.

    Attributes:
        grid: on which it saw it.
        maps: by name, without the batch's axis.
    """

    grid: Grid
    maps: Mapping[str, Tensor]


# What a teacher shows of some of the entries, by their numbers.
Look = Callable[[Sequence[int]], list[Shown]]


@dataclass(frozen=True, slots=True)
class _Row:
    grid: Grid
    form: Form
    halves: Float16[Tensor, " n"]
    singles: Float32[Tensor, " m"]

    @classmethod
    def of(cls, shown: Shown) -> _Row:
        maps = {name: one[None] for name, one in shown.maps.items()}
        form = Form.of(maps)
        halves, singles = form.rows(maps)
        return cls(shown.grid, form, halves[0], singles[0])

    @property
    def nbytes(self) -> int:
        return self.halves.nbytes + self.singles.nbytes + 32


def kept_maps(
    folder: Path,
    *,
    identity: Mapping[str, Any],
    names: Sequence[str],
    called: Callable[[int], str],
    look: Look,
    batch_size: int,
    progress: Progress,
) -> KeptMaps:
    """A reader of what a teacher shows of every entry, an image as it is augmented, from disk or made now.

    Every file is checked by its checksum, and a hundredth of the entries, at random and at least one, by the teacher
    itself. How it is built, see `Shelf.filled`.

    Args:
        folder: of the cache; whatever has an identity gets a folder of its own in it.
        identity: the teacher's digest and precision, the size at which it sees images, and what is kept.
        names: hexadecimal digests of what each entry is made of: image and augmentation.
        called: what messages call an entry.
        look: what the teacher does with the missing ones.
        batch_size: how many it looks at at a time.
        progress: told what is new, changed or damaged, and how much of the disk it takes.

    Raises:
        DataError: the disk has too little room, a number is too large for half precision, or the teacher shows other
            things now.
    """
    shelf = Shelf.of(folder, {"format": _FORMAT, **identity})
    say_others(folder, shelf, "showed", progress)
    maps = _Maps(names, called, look)
    shelf.filled(maps, names, batch_size=batch_size, progress=progress)
    return KeptMaps.of([maps.places[name] for name in names])


@final
@dataclass(frozen=True)
class _Maps(Kind[_Row, bool]):
    """Rows of maps in files of many entries each, of one grid a file.

    Attributes:
        places: the file of each entry, and its row there.
    """

    what: ClassVar = "maps of the teacher"
    names: Sequence[str]
    called: Callable[[int], str]
    look: Look
    places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    waiting: dict[tuple[Grid, Form], dict[str, _Row]] = field(default_factory=dict)

    def make(self, indices: range, wanted: Set[int]) -> dict[str, _Row]:
        """See `Kind.make`."""
        found = {}
        for index, shown in zip(indices, self.look(indices), strict=True):
            if index in wanted:
                found[self.names[index]] = row = _Row.of(shown)
                if not bool(row.halves.isfinite().all()):
                    largest = max(float(one.abs().max()) for one in shown.maps.values() if one.numel())
                    raise DataError(
                        f"What the teacher shows of {self.called(index)} must be numbers of at most 65504 to be kept "
                        f"in half precision, got {largest:.3g}. Set teacher.cache=boxes."
                    )
        return found

    def size(self, made: _Row) -> int:
        """See `Kind.size`."""
        return made.nbytes

    def keep(self, home: Path, made: Mapping[str, _Row]) -> dict[str, bool]:
        """See `Kind.keep`."""
        for name, row in made.items():
            some = self.waiting.setdefault((row.grid, row.form), {})
            some[name] = row
            if len(some) * row.nbytes >= _FILE:
                self._write(home, row.grid, row.form, some)
        return dict.fromkeys(made, True)

    def write(self, home: Path, identity: Mapping[str, Any], known: Mapping[str, bool]) -> None:
        """See `Kind.write`: what came since, in files that bear their checksums."""
        del known
        if not (home / INDEX).is_file():
            write_json(home / INDEX, {"identity": dict(identity)})
        for (grid, form), some in self.waiting.items():
            if some:
                self._write(home, grid, form, some)

    def _write(self, home: Path, grid: Grid, form: Form, some: dict[str, _Row]) -> None:
        names = torch.frombuffer(bytearray.fromhex("".join(some)), dtype=torch.uint8)
        columns = {part: torch.stack([getattr(row, part) for row in some.values()]) for part in ("halves", "singles")}
        about = {"grid": json.dumps(grid), "shapes": json.dumps(form.shapes)}
        content = save({"names": names.reshape(-1, 32), **columns}, metadata=about)
        path = home / f"{hexed(content)}{_SUFFIX}"
        write_bytes(path, content)
        self.places.update({name: (path, row) for row, name in enumerate(some)})
        some.clear()

    def intact(self, home: Path, names: Sequence[str], progress: Progress) -> dict[str, bool]:
        """See `Kind.intact`; the teacher looks at some of what is known again."""
        damaged = []
        files = sorted(home.glob(f"*{_SUFFIX}"))
        for path in watched(files, "check the teacher's maps", progress) if files else ():
            require_regular(path)  # beside the damaged: it is somebody's, and stays
            try:
                if digest(path) != path.stem:
                    raise ValueError("other content")
                held = _File.of(path).names
            except (SafetensorError, LookupError, ValueError, TypeError):
                path.unlink(missing_ok=True)
                damaged.append(path)
            else:
                self.places.update({row.tobytes().hex(): (path, number) for number, row in enumerate(held)})
        say_damaged(damaged, "maps", progress)
        there = [index for index, name in enumerate(names) if name in self.places]
        if not damaged and self.places and len(there) < len(names):
            progress.say(
                f"the teacher's maps: {len(names) - len(there)} of {len(names)} are new, or of images that were "
                "changed since it looked at them: it looks at them anew"
            )
        if there:
            self._check(home, random.SystemRandom().sample(there, math.ceil(_CHECKED * len(there))), progress)
        return {name: True for name in names if name in self.places}

    def _check(self, home: Path, chosen: Sequence[int], progress: Progress) -> None:
        """Refuses a cache that is not what the teacher shows now of some of the entries."""
        reader = KeptMaps.of([self.places[self.names[index]] for index in chosen])
        for number, index in enumerate(watched(chosen, "check them by the teacher", progress)):
            (now,) = self.look([index])
            held = reader([number], now.grid, half=False) or {}
            apart = {name: _apart(held.get(name), one) for name, one in now.maps.items()}
            worst = max(apart, key=lambda name: apart[name])
            if not apart[worst] <= NEAR:
                raise DataError(
                    f"What the teacher shows of {self.called(index)} must be what the cache {home} holds, but for "
                    f"{NEAR:.0%}, got another {worst.partition('.')[0]}, by {apart[worst]:.0%}. Remove that folder."
                )


def _apart(kept: Tensor | None, now: Tensor) -> float:
    """How far a map is from what was kept of it, as a share of its length."""
    if kept is None or kept.shape[1:] != now.shape:
        return math.inf
    now = now.float()
    return float((kept[0] - now).norm()) / max(float(now.norm()), 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A file of rows, memory-mapped: what is read of it is in the system's cache of the disk, not in this process's."""

    grid: Grid
    form: Form
    halves: Float16[Tensor, "r n"]
    singles: Float32[Tensor, "r m"]
    names: NDArray[np.uint8]

    @classmethod
    def of(cls, path: Path) -> _File:
        with safe_open(path, framework="pt") as content:
            about = content.metadata()
            height, width = json.loads(about["grid"])
            form = Form(tuple((name, tuple(shape)) for name, shape in json.loads(about["shapes"])))
            halves, singles, names = (content.get_tensor(name) for name in ("halves", "singles", "names"))
        return cls((height, width), form, halves, singles, names.numpy())


@final
class KeptMaps(Rows):
    """Reads the maps of entries by their numbers.

    Args:
        files: the files that hold them.
        places: of every entry, the number of its file and its row there.
    """

    def __init__(self, files: Sequence[_File], places: NDArray[np.int64]) -> None:
        self._files, self._places = files, places
        # Which rows a level has on a grid of that height, and which columns on one of that width.
        self._rows: dict[tuple[str, int], int] = {}
        self._columns: dict[tuple[str, int], int] = {}
        for one in files:
            for name, shape in one.form.shapes:
                if of_grid(name):
                    self._rows[name, one.grid[0]], self._columns[name, one.grid[1]] = shape[-2:]

    @classmethod
    def of(cls, places: Sequence[tuple[Path, int]]) -> KeptMaps:
        """The reader of entries by their files and rows."""
        numbers = {path: number for number, path in enumerate(dict.fromkeys(path for path, _ in places))}
        rows = np.array([(numbers[path], row) for path, row in places], dtype=np.int64).reshape(-1, 2)
        return cls([_File.of(path) for path in numbers], rows)

    def __len__(self) -> int:
        return len(self._places)

    def __call__(self, places: Sequence[int], grid: Grid, *, half: bool) -> dict[str, Tensor] | None:
        """See `Rows`."""
        where = [None if place < 0 else self._places[place].tolist() for place in places]
        first = next(self._files[one[0]] for one in where if one is not None)
        found = {}
        for name, shape in first.form.shapes:
            dtype, extent = dtype_of(name) if half else torch.float32, list(shape)
            if of_grid(name):
                if (name, grid[0]) not in self._rows or (name, grid[1]) not in self._columns:
                    return None
                extent[-2:] = self._rows[name, grid[0]], self._columns[name, grid[1]]
            if len(extent) == 3:
                channels, rows, columns = extent
                found[name] = torch.zeros((len(where), rows, columns, channels), dtype=dtype).permute(0, 3, 1, 2)
            else:
                found[name] = torch.zeros((len(where), *extent), dtype=dtype)
        for number, one in enumerate(where):
            if one is not None:
                file, row = self._files[one[0]], one[1]
                for name, held in file.form.views(file.halves[row], file.singles[row]).items():
                    target = found[name][number]
                    if of_grid(name):
                        target = target[..., : held.shape[-2], : held.shape[-1]]
                    target.copy_(held)
        return found
