"""Checks a data set, or writes one in another format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detdistill.data.annotations import Annotations, Reading, Split
from detdistill.data.leaks import tell_leaks
from detdistill.data.listing import IMAGE_SUFFIXES, files_below
from detdistill.data.problems import Problems
from detdistill.data.sources import find_split, no_images, present_splits, read_found, recognise
from detdistill.data.summary import SplitSummary, summarise
from detdistill.data.writing import require_empty, write_data_set, writer
from detdistill.errors import ConfigError, DistillError
from detdistill.progress import Progress, Silence, counted


@dataclass(frozen=True, slots=True)
class DataOutcome:
    """What is in a data set, by split.

    Attributes:
        sources: the format each split was recognised as, with its files.
        splits: the figures of those that can be used.
        problems: of every split that was read.
        failures: why the others cannot be used.
    """

    path: Path
    sources: Mapping[str, str]
    splits: Mapping[str, SplitSummary]
    problems: Mapping[str, Problems]
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def failure(self) -> str | None:
        """Why the first split that cannot be used cannot; None where all can."""
        return next(iter(self.failures.values()), None)

    def table(self) -> list[str]:
        """Figures and problems of every split."""
        lines: list[str] = []
        for name in (*self.splits, *self.failures):
            rows = self.splits[name].rows() if name in self.splits else [("cannot be used", self.failures[name])]
            width = max(len(title) for title, _ in rows)
            lines += [f"{self.path} ({name}), read as {self.sources.get(name, 'nothing')}"]
            lines += [f"  {title:<{width}}  {value}" for title, value in rows]
            told = self.problems.get(name, Problems()).summary()
            lines += [f"  {line}" for line in told or (("no problems",) if name in self.splits else ())] + [""]
        return lines[:-1]

    def as_dict(self) -> Mapping[str, Any]:
        """The figures, or why there are none, and every kept problem as a line of text."""
        splits: dict[str, dict[str, Any]] = {name: summary.as_dict() for name, summary in self.splits.items()}
        for name, failure in self.failures.items():
            splits[name] = {"failure": failure, "problems": dict(self.problems.get(name, Problems()).counts)}
        for name, content in splits.items():
            content |= {"read_as": self.sources.get(name), "problem_list": _listed(self.problems.get(name, Problems()))}
        return {"path": str(self.path), "splits": splits}


@dataclass(frozen=True, slots=True)
class ConvertOutcome:
    """What was read of a data set, and what was written to the folder `out`.

    Attributes:
        sources: the format each split was recognised as, with its files.
        boxes: written boxes by split, those to ignore left out.
        problems: what was repaired or skipped on reading and on writing, by split.
    """

    out: Path
    to: str
    sources: Mapping[str, str]
    images: Mapping[str, int]
    boxes: Mapping[str, int]
    problems: Mapping[str, Problems]

    def table(self) -> list[str]:
        """What was written, and problems, of every split."""
        lines = []
        for name, images in self.images.items():
            contents = f"{counted(images, 'image')} and {counted(self.boxes[name], 'box')}"
            lines += [f"{name}: {contents}, read as {self.sources[name]}"]
            lines += [f"  {line}" for line in self.problems[name].summary()]
        return [*lines, f"written to {self.out} (--to {self.to})"]

    def as_dict(self) -> Mapping[str, Any]:
        """The counts, and every kept problem as a line of text."""
        splits = {
            name: {
                "read_as": self.sources[name],
                "images": images,
                "boxes": self.boxes[name],
                "problems": dict(self.problems[name].counts),
                "problem_list": _listed(self.problems[name]),
            }
            for name, images in self.images.items()
        }
        return {"out": str(self.out), "format": self.to, "splits": splits}


def _listed(problems: Problems) -> list[str]:
    return [problem.text() for problem in problems]


def _counted(watcher: Progress, title: str, *, passes: int = 1) -> Callable[[int, int], None]:
    """Tells a watcher how many images are done, from the first on; each is counted in every one of several passes."""
    started = False

    def advance(done: int, total: int) -> None:
        nonlocal started
        if not started:
            watcher.start(title, total // passes, unit="image")
            started = True
        watcher.advance(done // passes)

    return advance


def check_data_job(path: Path, *, progress: Progress | None = None) -> DataOutcome:
    """Reads a data set as training would, every image decoded, and counts what is in it.

    Args:
        path: a folder with one split or both, or a COCO JSON or list that is taken as it is; see `find_split`.

    A split that cannot be used is one of the outcome's `failures`. Images of two splits are told with the later one.

    Raises:
        ConfigError: there is no such data set.
    """
    watcher = progress or Silence()
    found: dict[str, Split] = {}
    read: dict[str, Annotations] = {}
    problems: dict[str, Problems] = {}
    failures: dict[str, str] = {}
    names: tuple[str, ...] | None = None
    present = present_splits(path)
    for split in present:
        reading = Reading(names, check_images=True, progress=_counted(watcher, f"check {split}"))
        try:
            found[split] = find_split(path, split, exact=len(present) == 1)
            annotations, problems[split] = found[split].read(reading)
            if len(annotations) == 0:
                raise no_images(found[split], split, problems[split])
        except DistillError as error:
            failures[split] = str(error)
        else:
            read[split], names = annotations, annotations.class_names
        finally:
            watcher.finish()
    tell_leaks(read, problems)
    if path.is_dir() or len(present) > 1:
        _tell_unnamed(found, read, problems)
    sources = {split: own.text() for split, own in found.items()}
    summaries = {split: summarise(annotations, problems[split]) for split, annotations in read.items()}
    return DataOutcome(path, sources, summaries, problems, failures)


def _tell_unnamed(
    found: Mapping[str, Split], read: Mapping[str, Annotations], problems: Mapping[str, Problems]
) -> None:
    """Tells, with the first split, the images beside its own that no split names, where splits name images."""
    named = [own.named() for own in found.values()]
    if not read or any(names is None for names in named):
        return
    known = {path for names in named for path in names or ()}
    for folder in dict.fromkeys(own.images_dir for own in read.values()):
        for name in files_below(folder, IMAGE_SUFFIXES):
            if folder / name not in known:
                what = "no split names it"
                problems[next(iter(read))].add("image in no split", str(folder / name), what=what, action="kept")


def convert_data_job(
    path: Path, *, to: str, out: Path, split_seed: int | None = None, progress: Progress | None = None
) -> ConvertOutcome:
    """Writes a data set in another format, images as hard links where the disk allows it.

    Args:
        path: a data set in any format; see `find_split`.
        to: the name of the format to write.
        out: a new or empty folder.
        split_seed: divides a data set that nothing else divides, which seed 0 does everywhere else.

    Raises:
        ConfigError: there is no such data set or format, the folder is in use, or a seed is given that draws nothing.
        DataError: a split cannot be used at all, or an image cannot be read.
    """
    writer(to)
    require_empty(out)
    watcher = progress or Silence()
    origins: dict[str, Split] = {}
    present = present_splits(path)
    for split in present:
        origins[split] = find_split(path, split, exact=len(present) == 1, split_seed=split_seed or 0)
        if split_seed is not None:
            _require_drawn(path, origins[split], split_seed)
    annotations: dict[str, Annotations] = {}
    problems: dict[str, Problems] = {}
    names: tuple[str, ...] | None = None
    for split, found in origins.items():
        watcher.say(f"{split} data read as {found.text()}")
        annotations[split], problems[split] = read_found(found, split, Reading(names))
        names = annotations[split].class_names
    advance = _counted(watcher, f"write {to}", passes=2)
    written = write_data_set(annotations, out, to=to, origin=recognise(path).name, progress=advance)
    watcher.finish()
    for split, lost in written.items():
        problems[split].extend(lost.problems)
    return ConvertOutcome(
        out=out,
        to=to,
        sources={split: found.text() for split, found in origins.items()},
        images={split: own.images for split, own in written.items()},
        boxes={split: own.boxes for split, own in written.items()},
        problems=problems,
    )


def _require_drawn(path: Path, found: Split, seed: int) -> None:
    """Refuses a seed that cannot be used, or that would decide nothing."""
    if seed < 0:
        raise ConfigError(f"--split-seed must be a whole number from 0, got {seed}. Leave it out for 0.")
    if not found.drawn:
        raise ConfigError(
            f"--split-seed must come with a data set that has no splits of its own, got {path}, "
            f"read as {found.text()}. Leave it out, or take the lists away."
        )
