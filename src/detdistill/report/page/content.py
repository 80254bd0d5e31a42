"""What stands on the page: a verdict, and sections of blocks. What a run lacks is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

from detdistill.report.tables import Table

NAMES: Mapping[str, str] = {
    "teacher": "teacher",
    "teacher_own_size": "teacher at its own size",
    "student": "student",
    "alone": "alone",
    "alone_equal_time": "alone, equal time",
    "alone_longer": "alone, longer",
    "distilled": "distilled",
}
"""How the page calls a detector of ``results.json``."""


def named(model: str) -> str:
    """How the page calls a detector; one of another name by that."""
    return NAMES.get(model, model.replace("_", " "))


@dataclass(frozen=True, slots=True)
class Rows:
    """A table; its first column says what a row is of.

    Attributes:
        strips: a drawing for each row, in a column of its own; none where that is empty.
        drawn: what the two ends of the drawings are.
        decimals: of its numbers.
        facts: whether it is of words, not of figures.
    """

    kind: ClassVar[str] = "rows"
    caption: str
    table: Table
    strips: tuple[Markup, ...] = ()
    drawn: tuple[str, str] = ("", "")
    note: str = ""
    decimals: int = 1
    facts: bool = False

    def cells(self) -> list[tuple[str, list[str]]]:
        """Every row as text: its head, and the rest."""
        told = []
        for row in self.table.rows:
            cells = [self._told(value, name) for value, name in zip(row, self.table.columns, strict=True)]
            told.append((cells[0], cells[1:]))
        return told

    def _told(self, value: str | int | float | None, name: str) -> str:
        if value is None:
            return "–"
        if isinstance(value, float):
            sign = "+" if name in self.table.signed else ""
            return format(value, f"{sign}.{self.decimals}f").replace("-", "−")
        return f"{value:,}" if isinstance(value, int) else value


@dataclass(frozen=True, slots=True)
class Charts:
    """Drawings side by side."""

    kind: ClassVar[str] = "charts"
    charts: tuple[Markup, ...]
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lines:
    """A list of sentences."""

    kind: ClassVar[str] = "lines"
    lines: tuple[str, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A file as it is, folded away behind its name."""

    kind: ClassVar[str] = "text"
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A box to draw, in pixels of the image as stored.

    Attributes:
        score: None of a label.
        state: ``"hit"``, ``"wrong"``, ``"excused"`` on an ignored object; of a label ``"label"`` or ``"ignored"``.
        shown: whether it is there before anybody moves the slider.
    """

    x: float
    y: float
    width: float
    height: float
    label: int
    name: str
    state: str
    score: float | None = None
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """What one detector did in an image."""

    model: str
    boxes: tuple[Box, ...]
    found: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with what every detector found in it; `uri` holds its pixels."""

    number: int
    name: str
    reason: str
    width: int
    height: int
    uri: str
    labels: tuple[Box, ...]
    panels: tuple[Panel, ...]

    @property
    def objects(self) -> int:
        """How many objects there are to find."""
        return sum(one.state == "label" for one in self.labels)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images to look at, and what can be chosen in them.

    Attributes:
        classes: names by label, of the classes that occur in them.
        score: below it a box is hidden at first; `chosen` says why it is that one.
        note: what of all is not here.
    """

    kind: ClassVar[str] = "pictures"
    pictures: tuple[Picture, ...]
    classes: Mapping[int, str]
    models: tuple[str, ...]
    score: float
    chosen: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Heat:
    """A map of one level over an image: `uri` has a pixel a cell, opaque where it is strong.

    Attributes:
        across: how many pixels of the image the map covers, which padding makes larger than the image.
        most: the largest value.
    """

    stride: str
    uri: str
    across: tuple[float, float]
    most: float


@dataclass(frozen=True, slots=True)
class Looked:
    """What one term looked at in an image, level by level; `what` says what the maps are."""

    term: str
    what: str
    levels: tuple[Heat, ...]


@dataclass(frozen=True, slots=True)
class Looks:
    """What every term looked at in an image, and how much each of its levels weighed there."""

    kind: ClassVar[str] = "looks"
    picture: Picture
    maps: tuple[Looked, ...]
    weights: Rows | None = None


Block = Rows | Charts | Lines | Text | Pictures | Looks


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading; `anchor` is its place in the page's address, `short` what leads there."""

    anchor: str
    short: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        title: what was run.
        kind: ``"gains"``, ``"hurts"``, ``"no measurable effect"``; else what the page is about instead.
        sentence: the verdict.
        figure: the verdict drawn.
        limits: what it does not claim.
        models: the detectors on the page, in its order.
    """

    title: str
    kind: str
    sentence: str
    limits: tuple[str, ...] = ()
    figure: Rows | None = None
    models: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default_factory=tuple)
