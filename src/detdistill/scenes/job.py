"""Draws a data set of scenes and tells what is in it."""

from __future__ import annotations

from pathlib import Path

from detdistill.data.sources import SPLITS, find_split, open_split
from detdistill.data.summary import summarise
from detdistill.jobs.data import DataOutcome
from detdistill.progress import Progress, Silence
from detdistill.scenes.write import make_scenes


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
        sources={split: find_split(out, split).text() for split in SPLITS},
        splits={split: summarise(*pair) for split, pair in opened.items()},
        problems={split: problems for split, (_, problems) in opened.items()},
    )
