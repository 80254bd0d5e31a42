"""COCO traffic: AID's part of COCO (see `traffic_filter`), both splits, in a folder of its own.

What is written is COCO's own layout, so that every reader of COCO finds it::

    OUT/annotations/instances_train2017.json
    OUT/annotations/instances_val2017.json
    OUT/annotations/coco_traffic.json            what it was made from, and counts
    OUT/train2017  ->  the images of COCO        a symbolic link: no image is copied
    OUT/val2017    ->  the images of COCO
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detdistill.data.formats.coco import find
from detdistill.data.listing import SPLITS, SplitName
from detdistill.errors import ConfigError
from detdistill.files import atomic_folder, link_folder, read_json, write_json
from detdistill.json_text import used_as
from detdistill.papers.traffic_filter import TRAFFIC_CLASSES, TrafficSplit, filter_traffic
from detdistill.progress import Progress, Silence
from detdistill.report.tables import Cell, Table

RECORD = "annotations/coco_traffic.json"
_MB = 1e6


@dataclass(frozen=True, slots=True)
class TrafficOutcome:
    """What was taken of COCO, by split, and the folder that it is in."""

    out: Path
    splits: Mapping[SplitName, TrafficSplit]

    def table(self) -> list[str]:
        """Images of every split, then boxes of every class."""
        lines = [f"{name}: {kept.images} of {kept.images_in_source} images kept" for name, kept in self.splits.items()]
        kept_boxes = [kept.boxes for kept in self.splits.values()]
        rows: list[tuple[Cell, ...]] = [(name, *(boxes[name] for boxes in kept_boxes)) for name in TRAFFIC_CLASSES]
        rows.append(("all", *(sum(boxes.values()) for boxes in kept_boxes)))
        boxes = Table(("boxes", *self.splits), tuple(rows))
        return [*lines, "", *boxes.text().splitlines(), "", f"written to {self.out}"]

    def as_dict(self) -> Mapping[str, Any]:
        """The counts."""
        return {"out": str(self.out), "splits": {name: asdict(kept) for name, kept in self.splits.items()}}


def make_coco_traffic_job(coco: Path, out: Path, *, progress: Progress | None = None) -> TrafficOutcome:
    """Writes the part of COCO that shows traffic, with 13 classes; the folder appears whole or not at all.

    Args:
        coco: COCO's folder, with ``annotations/instances_train2017.json`` and ``train2017``, or any other layout of
            COCO that `find_split` knows.
        out: a new or empty folder; one made of the same files is left as it is.
        progress: told how many megabytes of COCO's files are read, each twice.

    Raises:
        ConfigError: a file is missing, or the folder holds something else.
        DataError: a file is no COCO file, or lacks one of the 13 classes.
    """
    watcher = progress or Silence()
    sources = {split: find(coco, split) for split in SPLITS}
    made_from = {
        split: {
            "json": str(source.json.resolve()),
            "bytes": source.json.stat().st_size,
            "images": str(source.images_dir.resolve()),
        }
        for split, source in sources.items()
    }
    made = _made_before(out, made_from)
    total = 2 * sum(source.json.stat().st_size for source in sources.values())
    watcher.start("read COCO", math.ceil(total / _MB), unit="MB")
    if made is None:
        made, before = {}, 0
        with atomic_folder(out) as folder:
            for split, source in sources.items():

                def advance(read: int, before: int = before) -> None:
                    watcher.advance(math.ceil((before + read) / _MB))

                # ``train2017`` of ``instances_train2017.json`` names the images' folder too.
                tail = source.json.stem.removeprefix("instances_")
                name = tail if tail.startswith(split) else split
                target = folder / "annotations" / f"instances_{name}.json"
                made[split] = filter_traffic(source.json, target, progress=advance)
                link_folder(folder / name, source.images_dir.resolve())
                before += 2 * source.json.stat().st_size
            counts = {split: asdict(kept) for split, kept in made.items()}
            write_json(folder / RECORD, {"sources": made_from, "splits": counts})
    watcher.advance(math.ceil(total / _MB))
    watcher.finish()
    return TrafficOutcome(out, made)


def _made_before(out: Path, made_from: Mapping[SplitName, Any]) -> dict[SplitName, TrafficSplit] | None:
    """The counts of an earlier run on the same files; None for a new or empty folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    record = read_json(out / RECORD) if (out / RECORD).is_file() else None
    if isinstance(record, dict) and record.get("sources") == made_from:
        with used_as(out / RECORD, "a record of what was taken"):
            return {split: TrafficSplit(**record["splits"][split]) for split in made_from}
    raise ConfigError(
        f"{out} must be a new or an empty folder, or COCO traffic made from the same files, got something else. "
        "Give another folder, or delete that one."
    )
