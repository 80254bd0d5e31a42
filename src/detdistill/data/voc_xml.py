"""One annotation file of Pascal VOC, read without trust: no entity is expanded, no other file is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import final
from xml.parsers import expat

from detdistill.data.label_text import FileFlaw, number, read_bytes

Box = tuple[float, float, float, float]
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OBJECT = ("annotation", "object")
_DEEPEST = 32
_DIFFICULT = frozenset({"1", "1.0", "true", "yes"})
_NOT_DIFFICULT = frozenset({"", "0", "0.0", "false", "no", "unspecified"})


@dataclass(slots=True)
class VocObject:
    """One ``<object>``.

    Attributes:
        line: where it begins.
        name: its class, white space tidied; empty where none is given.
        difficult: whether it is to be left out of training and evaluation.
        odd_flag: line and text of a ``<difficult>`` that says neither yes nor no, which counts as no; None without one.
        corners: xmin, ymin, xmax, ymax as written, counted from 1; NaN where missing or no number.
    """

    line: int
    name: str = ""
    difficult: bool = False
    odd_flag: tuple[int, str] | None = None
    corners: list[float] = field(default_factory=lambda: [math.nan] * 4)

    def box(self) -> Box:
        """x1, y1, x2, y2 in pixels from 0: VOC's pixel xmin begins at xmin - 1.

        Files that count from 0, against the format, are seen only by a 0: it stays 0.
        """
        x, y, right, bottom = self.corners
        return _from_zero(x), _from_zero(y), right, bottom


@dataclass(frozen=True, slots=True)
class VocFile:
    """One annotation file: what it calls its image, its size (height, width) where it tells one, its objects."""

    file_name: str
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def _from_zero(value: float) -> float:
    return value - 1.0 if value >= 1.0 else min(value, 0.0)


@final
class _Handler:
    """Collects what counts while expat walks through a file."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.objects: list[VocObject] = []
        self.file_name = ""
        self.sides: dict[str, float] = {}
        self._parser = parser
        self._path: list[str] = []
        self._text: list[str] = []
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._entity

    def _doctype(self, *_: object) -> None:
        raise FileFlaw("XML with a document type", "a DOCTYPE is not read", line=self._parser.CurrentLineNumber)

    def _entity(self, *_: object) -> None:
        raise FileFlaw("XML with a document type", "an ENTITY is not read", line=self._parser.CurrentLineNumber)

    def _begin(self, tag: str, _: dict[str, str]) -> None:
        if not self._path and tag != "annotation":
            raise FileFlaw("XML that is no Pascal VOC", f"its root is <{tag[:40]}>, not <annotation>", line=1)
        self._path.append(tag)
        self._text.clear()
        if len(self._path) > _DEEPEST:
            what = f"elements more than {_DEEPEST} deep"
            raise FileFlaw("XML nested too deep", what, line=self._parser.CurrentLineNumber)
        if tuple(self._path) == _OBJECT:
            self.objects.append(VocObject(self._parser.CurrentLineNumber))

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, tag: str) -> None:
        place = tuple(self._path[:-1])
        text = " ".join("".join(self._text).split())
        if place == ("annotation",) and tag == "filename":
            self.file_name = text
        elif place == ("annotation", "size") and tag in ("width", "height"):
            self.sides[tag] = number(text)
        elif place == _OBJECT and tag == "name":
            self.objects[-1].name = text
        elif place == _OBJECT and tag == "difficult":
            self._difficult(self.objects[-1], text)
        elif place == (*_OBJECT, "bndbox") and tag in _CORNERS:
            self.objects[-1].corners[_CORNERS.index(tag)] = number(text)
        self._path.pop()
        self._text.clear()

    def _difficult(self, item: VocObject, text: str) -> None:
        item.difficult = text.lower() in _DIFFICULT
        known = item.difficult or text.lower() in _NOT_DIFFICULT
        item.odd_flag = None if known else (self._parser.CurrentLineNumber, text[:40])


def parse_voc(path: Path) -> VocFile:
    """Reads an annotation file; the parts of people that VOC lists inside an object are passed over.

    Raises:
        FileFlaw: it cannot be read, is no XML or not of this kind, or declares a document type or entities.
    """
    content = read_bytes(path)
    if not content.strip():
        raise FileFlaw("label file empty", "a file without content")
    parser = expat.ParserCreate()
    handler = _Handler(parser)
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        what = expat.errors.messages.get(error.code, "a syntax error")
        raise FileFlaw("XML that cannot be read", what, line=error.lineno) from None
    except (LookupError, ValueError) as error:
        raise FileFlaw("XML that cannot be read", f"its encoding: {error}", line=1) from None
    height, width = handler.sides.get("height", math.nan), handler.sides.get("width", math.nan)
    usable = all(1 <= side < 2**31 and side == int(side) for side in (height, width) if not math.isnan(side))
    size = (int(height), int(width)) if usable and not math.isnan(height + width) else None
    return VocFile(handler.file_name, size, tuple(handler.objects))
