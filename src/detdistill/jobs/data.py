"""Draws a data set, or checks one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.data.problems import Problems
from detdistill.data.scenes import make_scenes
from detdistill.data.sources import SPLITS, open_split
from detdistill.data.summary import SplitSummary, summarise
from detdistill.errors import ConfigError
from detdistill.progress import Progress, Silence


@dataclass(frozen=True, slots=True)
class DataOutcome:
    """What is in a data set.

    Attributes:
        path: where it is.
        splits: figures of every split that was found.
        problems: what was repaired or skipped, by split.
    """

    path: Path
    splits: Mapping[str, SplitSummary]
    problems: Mapping[str, Problems]

    def table(self) -> list[str]:
        """Figures and problems of every split."""
        lines: list[str] = []
        for name, summary in self.splits.items():
            rows = summary.rows()
            width = max(len(title) for title, _ in rows)
            lines += [f"{self.path} ({name})", *(f"  {title:<{width}}  {value}" for title, value in rows)]
            lines += [f"  {line}" for line in self.problems[name].summary()] + [""]
        return lines[:-1]

    def as_dict(self) -> Mapping[str, Any]:
        """The figures, and every kept problem as a line of text."""
        return {
            "path": str(self.path),
            "splits": {
                name: {**summary.as_dict(), "problem_list": [problem.text() for problem in self.problems[name]]}
                for name, summary in self.splits.items()
            },
        }


def check_data_job(path: Path, *, progress: Progress | None = None) -> DataOutcome:
    """Reads a data set as training would, every image decoded, and counts what is in it.

    Args:
        path: a folder with one split or both, or a COCO JSON that is taken as it is.
        progress: told how many images were looked at.

    Raises:
        ConfigError: there is no such data set.
        DataError: a split cannot be used at all.
    """
    watcher = progress or Silence()
    summaries: dict[str, SplitSummary] = {}
    found: dict[str, Problems] = {}
    names: tuple[str, ...] | None = None
    for split in _splits(path):
        started = False

        def advance(done: int, total: int, split: str = split) -> None:
            nonlocal started
            if not started:
                watcher.start(f"check {split}", total)
                started = True
            watcher.advance(done)

        annotations, problems = open_split(
            path, split, class_names=names, exact=path.is_file(), check_images=True, progress=advance
        )
        watcher.finish()
        names = annotations.class_names
        summaries[split] = summarise(annotations, problems)
        found[split] = problems
    return DataOutcome(path=path, splits=summaries, problems=found)


def _splits(path: Path) -> tuple[str, ...]:
    if path.is_file():
        return ("val",)
    present = tuple(
        split
        for split in SPLITS
        if (path / f"{split}.json").is_file() or any((path / "annotations").glob(f"instances_{split}*.json"))
    )
    if not present and path.is_dir():
        raise ConfigError(
            f"{path} must hold train.json, val.json or annotations/instances_*.json, got none of them. "
            "Give the folder of a COCO data set, or a JSON file."
        )
    return present or SPLITS


def make_scenes_job(
    out: Path, *, train: int, val: int, seed: int, kitti: bool = False, progress: Progress | None = None
) -> DataOutcome:
    """Draws street scenes and tells what is in them.

    Args:
        out: a new folder; one with the very same scenes is left as it is.
        train: training scenes.
        val: validation scenes.
        seed: decides every scene.
        kitti: write KITTI's layout too.
        progress: told how many are drawn.

    Raises:
        ConfigError: the folder holds something else.
    """
    watcher = progress or Silence()
    watcher.start("draw scenes", train + val)
    make_scenes(out, train=train, val=val, seed=seed, kitti=kitti, progress=lambda done, total: watcher.advance(done))
    watcher.finish()
    opened = {split: open_split(out, split) for split in SPLITS}
    return DataOutcome(
        path=out,
        splits={split: summarise(*pair) for split, pair in opened.items()},
        problems={split: problems for split, (_, problems) in opened.items()},
    )
