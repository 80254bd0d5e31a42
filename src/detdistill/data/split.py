"""Splits the images of a data set into training and validation by a seed, and keeps the lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detdistill.data.image_files import unsafe_name
from detdistill.data.listing import split_by_seed
from detdistill.errors import ConfigError, DataError
from detdistill.files import write_text

TRAIN_LIST, VAL_LIST = "train.txt", "val.txt"


@dataclass(frozen=True, slots=True)
class SplitNames:
    """The images of both splits by name, each sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def split_names(names: Iterable[str], *, seed: int) -> SplitNames:
    """Divides names 8:2 at random: the same division for the same names and seed, in whatever order they come.

    It is the division that the importers make of a data set without lists.

    Args:
        names: of the images, each once.
        seed: decides the division; a whole number from 0.

    Raises:
        ConfigError: the seed is below 0.
        DataError: fewer than two names, a name twice, or one that is no file name.
    """
    if seed < 0:
        raise ConfigError(f"The seed of a division must be a whole number from 0, got {seed}. Leave it out for 0.")
    given = list(names)
    _require_names(given, "the images to split")
    if len(given) < 2:
        raise DataError(f"The images to split must be two or more, got {len(given)}. Add images.")
    train, val = split_by_seed(given, seed=seed)
    return SplitNames(train=tuple(sorted(train)), val=tuple(sorted(val)))


def saved_split(folder: Path, names: Iterable[str], *, seed: int) -> SplitNames:
    """The division that ``train.txt`` and ``val.txt`` in a folder give, made and written there the first time.

    Lists that are there win over the seed, so that a published or an earlier division can be used again.

    Args:
        folder: where the lists are, or will be; ``ImageSets`` of a data set in KITTI's layout, for its importer to
            follow them.
        names: all images there are.
        seed: as in `split_names`, for lists that are not there.

    Raises:
        ConfigError: one list is there without the other or cannot be read, or as in `split_names`.
        DataError: a list names an image that there is not, or both name the same, or as in `split_names`.
    """
    given = list(names)
    present = [(folder / name).is_file() for name in (TRAIN_LIST, VAL_LIST)]
    if not any(present):
        made = split_names(given, seed=seed)
        write_split(folder, made)
        return made
    if not all(present):
        there, lacking = (TRAIN_LIST, VAL_LIST) if present[0] else (VAL_LIST, TRAIN_LIST)
        raise ConfigError(
            f"{folder} must hold {TRAIN_LIST} and {VAL_LIST}, got {there} alone. Add {lacking}, or delete {there}."
        )
    found = read_split_lists(folder)
    unknown = sorted({*found.train, *found.val} - set(given))
    if unknown:
        raise DataError(
            f"{TRAIN_LIST} and {VAL_LIST} in {folder} must name images of the data set, got {unknown[0]} and "
            f"{len(unknown) - 1} more that it does not have. Use the lists of this data set, or delete them."
        )
    return found


def write_split(folder: Path, names: SplitNames) -> None:
    """Writes ``train.txt`` and ``val.txt``, one name a line."""
    write_text(folder / TRAIN_LIST, "".join(f"{name}\n" for name in names.train))
    write_text(folder / VAL_LIST, "".join(f"{name}\n" for name in names.val))


def read_split_lists(folder: Path) -> SplitNames:
    """The division that ``train.txt`` and ``val.txt`` in a folder give.

    Raises:
        ConfigError: a list cannot be read.
        DataError: a list is no text, names nothing, or a name stands twice or leads out of a folder.
    """
    lists = [_read_list(folder / name) for name in (TRAIN_LIST, VAL_LIST)]
    _require_names(lists[0] + lists[1], f"{TRAIN_LIST} and {VAL_LIST} in {folder}")
    return SplitNames(train=tuple(lists[0]), val=tuple(lists[1]))


def _read_list(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{path} must be a readable file, got: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be text in UTF-8, got a byte that is not. Save it as UTF-8.") from error
    if not names:
        raise DataError(f"{path} must name at least one image, got none. Write one name a line, or delete the file.")
    return names


def _require_names(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        flaw = unsafe_name(name) or ("holds a line break" if len(name.splitlines()) != 1 else None)
        if flaw is not None:
            raise DataError(f"The names of {what} must be file names, got {name!r}, which {flaw}. Rename the image.")
        if name in seen:
            raise DataError(f"The names of {what} must stand once each, got {name!r} twice. Remove one.")
        seen.add(name)
