"""The published rows that `detdistill reproduce` runs: a YAML file each, beside a `paper.yaml` for what they share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import detdistill
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.catalogue import parse_detector
from detdistill.detectors.settings import PyramidSettings
from detdistill.errors import ConfigError, suggestion
from detdistill.jobs.run import DISTILLED, TEACHER
from detdistill.methods.catalogue import MethodSettings, parse_method
from detdistill.papers.protocols import ClassMode
from detdistill.settings import build
from detdistill.settings.strict_yaml import load_yaml

DataName = Literal["kitti", "coco_traffic", "coco"]
Metric = Literal["AP", "AP50", "VOC AP50"]

PAPERS = ("aid", "frs", "ssim", "ikd")
PAPER_FILE = "paper.yaml"


@dataclass(frozen=True, slots=True)
class PublishedComplexity:
    """What a paper says that a detector costs: millions of parameters, billions of multiply-adds of a square image."""

    detector: str
    parameters: float
    gflops: float
    classes: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Paper:
    """What all rows of a paper share.

    Attributes:
        figures: where its figures were read.
        differences: what we do otherwise in every row, a sentence each.
        complexity: its table of what the detectors cost, where it has one.
    """

    title: str
    figures: str
    differences: tuple[str, ...] = ()
    complexity: tuple[PublishedComplexity, ...] = ()


@dataclass(frozen=True, slots=True)
class PaperSchedule:
    """How a row's detector is trained, in the paper's own units.

    Attributes:
        lr: learning rate of SGD with momentum 0.9 and weight decay 1e-4.
        drops: epochs after which it falls to a tenth.
        accumulate: micro-batches that a step is computed in.
        warmup_steps: first steps, over which the rate grows linearly.
        clip_norm: 0 for none.
        short_sides: range in pixels that the short side is drawn from, for training at several scales, while the long
            side stays bounded; None for the row's one size.
    """

    epochs: int
    batch_size: int
    lr: float
    drops: tuple[int, ...]
    accumulate: int = 1
    warmup_steps: int = 500
    clip_norm: float = 0.0
    short_sides: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(
                f"train.epochs and train.batch_size must be at least 1, got {self.epochs} and {self.batch_size}. "
                "Raise them."
            )
        if list(self.drops) != sorted(set(self.drops)) or not all(0 < drop < self.epochs for drop in self.drops):
            raise ConfigError(
                f"train.drops must be rising epochs between 1 and {self.epochs - 1}, got {list(self.drops)}. "
                "Write for example [8, 11] for 12 epochs."
            )


@dataclass(frozen=True, slots=True)
class PaperModel:
    """A detector of a row by its short name, its training, and its published figure.

    Attributes:
        settings: changes to what the short name stands for, by the names in its settings.
        published: its own figure without a teacher; None where the row does not show it.
    """

    detector: str
    train: PaperSchedule
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    published: float | None = None

    def resolved(self) -> PyramidSettings:
        """The full settings."""
        named = parse_detector(self.detector)
        tree = {**asdict(named), **self.settings}
        resolved: PyramidSettings = build(type(named), tree, where=f"settings of {self.detector}", what=self.detector)
        return resolved


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One published row.

    A row without method is a detector trained alone. One with a method is a distilled student, shown with its teacher
    and the student alone where those have published figures.

    Attributes:
        metric: what its figures are: COCO's AP or AP50, or Pascal VOC's AP at IoU 0.5 (area).
        published: the row's figure in percent; None where there is none to compare with.
        student: the detector that counts; None in a row that is not covered.
        method: what distils, such as ``"aid(attention)"``, by the teacher; None for a detector trained alone.
        classes: what KITTI's other types are; see `aid_classes`.
        inherit: whether the student's neck and heads start from the teacher's.
        against: the row whose figure this one's gain is measured from; None for the student alone in this row.
        published_gain: the published gain in words, where no figure of the row is known.
        differences: what we do otherwise in this row, a sentence each.
        needs: what we lack for this row; None where it is covered.
        name: the file's name without number and ending.
    """

    title: str
    metric: Metric
    data: DataName
    published: float | None = None
    student: PaperModel | None = None
    teacher: PaperModel | None = None
    method: str | None = None
    classes: ClassMode = "ignored"
    image: ImageSettings = field(default_factory=lambda: ImageSettings(short_side=800, long_side=1333))
    inherit: bool = False
    against: str | None = None
    published_gain: str | None = None
    differences: tuple[str, ...] = ()
    needs: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if (self.student is None) == (self.needs is None):
            got = "neither" if self.student is None else "both"
            raise ConfigError(
                f"A row must have either a student or needs (what we lack for it), got {got}. Give one of the two."
            )
        if (self.method is None) != (self.teacher is None):
            got = "a teacher alone" if self.method is None else "a method alone"
            raise ConfigError(f"A row must have a teacher and a method, or neither, got {got}. Give both.")
        if self.needs is not None and self.method is not None:
            raise ConfigError("A row that is not covered must have no method, got one. Leave it out.")
        for model in (self.student, self.teacher):
            if model is not None:
                model.resolved()
        if self.method is not None:
            parse_method(self.method)

    def published_of(self, role: str) -> float | None:
        """The published figure of the row's teacher, of its student alone, or of what it distils."""
        if role == DISTILLED:
            return self.published
        model = self.teacher if role == TEACHER else self.student
        return None if model is None else model.published

    @property
    def method_settings(self) -> MethodSettings | None:
        """The method's settings; None for a detector trained alone."""
        return None if self.method is None else parse_method(self.method)


def papers_folder() -> Path:
    """Where the row files are: in the installed package, else in the repository's ``configs/papers``."""
    package = Path(detdistill.__file__).resolve().parent
    places = (package / "papers" / "rows", package.parents[1] / "configs" / "papers")
    for place in places:
        if place.is_dir():
            return place
    raise ConfigError(
        f"The papers' row files must be in {places[0]} or {places[1]}, got neither folder. Install detdistill anew."
    )


def read_paper(paper: str, *, folder: Path | None = None) -> tuple[Paper, tuple[PaperRow, ...]]:
    """A paper of `PAPERS` and its rows, in the order of its tables.

    Args:
        paper: its name.
        folder: of all papers' folders; None for those that come with detdistill.

    Raises:
        ConfigError: an unknown paper, or a file that cannot be used; it says which, and what is wrong.
    """
    if paper not in PAPERS:
        raise ConfigError(
            f"The paper must be one of {', '.join(PAPERS)}, got '{paper}'. {suggestion(paper, PAPERS, listed=True)}"
        )
    home = (folder or papers_folder()) / paper
    about = build(Paper, load_yaml(home / PAPER_FILE), where=str(home / PAPER_FILE), what="a paper")
    rows = [_read_row(path) for path in sorted(home.glob("*.yaml")) if path.name != PAPER_FILE]
    if not rows:
        raise ConfigError(f"{home} must hold a YAML file for every row, got none. Install detdistill anew.")
    names = [row.name for row in rows]
    for row in rows:
        if names.count(row.name) > 1:
            raise ConfigError(f"The rows in {home} must have different names, got '{row.name}' twice. Rename a file.")
        if row.against is not None and row.against not in names:
            raise ConfigError(
                f"against in {home}, row '{row.name}', must be a row beside it, got '{row.against}'. "
                f"{suggestion(row.against, names)}"
            )
    return about, tuple(rows)


def chosen_rows(rows: tuple[PaperRow, ...], name: str | None) -> tuple[PaperRow, ...]:
    """All rows, or the one asked for after the one that it is measured against."""
    if name is None:
        return rows
    by_name = {row.name: row for row in rows}
    if name not in by_name:
        raise ConfigError(
            f"The row must be one of {', '.join(by_name)}, got '{name}'. {suggestion(name, by_name, listed=True)}"
        )
    row = by_name[name]
    return (row,) if row.against is None else (by_name[row.against], row)


def _read_row(path: Path) -> PaperRow:
    content = load_yaml(path)
    if isinstance(content, dict):
        if "name" in content:
            raise ConfigError(f"{path}: a row is named by its file, got the key name. Leave it out.")
        content["name"] = re.sub(r"^\d+-", "", path.stem)
    row: PaperRow = build(PaperRow, content, where=str(path), what="a row")
    return row
