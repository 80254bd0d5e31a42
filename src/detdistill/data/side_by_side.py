"""Data sets whose images and label files lie together: in a folder for every split, or all in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from detdistill.data.label_files import LabelFile, LabelFolder
from detdistill.data.listing import SPLIT_FOLDERS, SPLITS, Everything, Share, folder_of_split, no_test_split
from detdistill.errors import ConfigError, DataError


@final
@dataclass(frozen=True, slots=True)
class SideBySide:
    """A format of such data sets: its title, how its label files end and are read, and which folder has any."""

    title: str
    ending: str
    parse: Callable[[Path], LabelFile]
    has: Callable[[Path], bool]

    def recognises(self, data: Path) -> bool:
        """Whether a folder is one split, or holds one to train or to validate on."""
        return any(self.has(place) for place in (data, *(folder_of_split(data, split) for split in SPLITS)))

    def splits(self, data: Path) -> tuple[str, ...]:
        """The splits that a folder has; one folder for all is divided by a seed."""
        return SPLITS if self.has(data) else tuple(one for one in SPLIT_FOLDERS if self.has(folder_of_split(data, one)))

    def find(self, data: Path, split: str, *, split_seed: int) -> LabelFolder:
        """Finds one split; a `ConfigError` where there is none."""
        other = "val" if split == "train" else "train"
        what = f"images and {self.ending} files"
        if self.has(data):
            if split not in SPLITS:
                raise no_test_split(data, f"a folder {split} with {what}")
            return self._folder(data, data, Share(split, data, split_seed), (data, Share(other, data, split_seed)))
        own, beside = (folder_of_split(data, name) for name in (split, other))
        if not self.has(own):
            raise ConfigError(
                f"{data} must hold the {split} split as a folder {own.name} with {what}, "
                f"got none. Add it, or put all {what} into one folder."
            )
        return self._folder(data, own, Everything(own), (beside, Everything(beside)) if self.has(beside) else None)

    def _folder(
        self,
        data: Path,
        place: Path,
        choice: Share | Everything,
        elsewhere: tuple[Path, Share | Everything] | None,
    ) -> LabelFolder:
        return LabelFolder(
            title=self.title,
            folder=data,
            labels_dir=place,
            images_dir=place,
            choice=choice,
            elsewhere=elsewhere,
            ending=self.ending,
            parse=self.parse,
            classes=classes_seen,
        )


def classes_seen(split: LabelFolder, seen: set[str], demanded: Sequence[str] | None) -> Sequence[str]:
    """The classes demanded where they cover all that are seen, else those of both splits by the alphabet.

    Raises:
        DataError: there are none.
    """
    if demanded is not None and seen <= set(demanded):
        return demanded
    known = seen | split.kinds_elsewhere()
    if not known:
        raise DataError(
            f"the {split.ending} files in {split.labels_dir} must hold at least one object with a class, got none. "
            f"Check that they are annotations of {split.title}."
        )
    return sorted(known)
