"""One annotation file of Pascal VOC, read without trust: no entity is expanded, no other file is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import final
from xml.parsers import expat
from xml.sax.saxutils import escape

from detdistill.data.builder import Box
from detdistill.data.label_files import UNKNOWN_CLASS, Flaw, LabelFile, LabelledBox
from detdistill.data.label_text import FileFlaw, number, read_bytes
from detdistill.data.writable import WrittenImage, decimal

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OBJECT = ("annotation", "object")
_DEEPEST = 32
_DIFFICULT = frozenset({"1", "1.0", "true", "yes"})
_NOT_DIFFICULT = frozenset({"", "0", "0.0", "false", "no", "unspecified"})


@dataclass(slots=True)
class _Object:
    """One ``<object>`` as far as it is read: where it begins, and the corners as written, counted from 1."""

    line: int
    name: str = ""
    difficult: bool = False
    flaw: Flaw | None = None
    corners: list[float] = field(default_factory=lambda: [math.nan] * 4)

    def box(self) -> Box:
        """x1, y1, x2, y2 in pixels from 0: VOC's pixel xmin begins at xmin - 1.

        Files that count from 0, against the format, are seen only by a 0: it stays 0.
        """
        x, y = (value - 1.0 if value >= 1.0 else min(value, 0.0) for value in self.corners[:2])
        return x, y, self.corners[2], self.corners[3]


@final
class _Handler:
    """Collects what counts while expat walks through a file."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.objects: list[_Object] = []
        self.file_name = ""
        self.sides = {"height": math.nan, "width": math.nan}
        self._parser = parser
        self._path: list[str] = []
        self._text: list[str] = []
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = lambda *_: self._refuse("a DOCTYPE is not read")
        parser.EntityDeclHandler = lambda *_: self._refuse("an ENTITY is not read")

    def _refuse(self, what: str, kind: str = "XML with a document type") -> None:
        raise FileFlaw(kind, what, line=self._parser.CurrentLineNumber)

    def _begin(self, tag: str, _: dict[str, str]) -> None:
        if not self._path and tag != "annotation":
            raise FileFlaw("XML that is no Pascal VOC", f"its root is <{tag[:40]}>, not <annotation>", line=1)
        self._path.append(tag)
        self._text.clear()
        if len(self._path) > _DEEPEST:
            self._refuse(f"elements more than {_DEEPEST} deep", "XML nested too deep")
        if tuple(self._path) == _OBJECT:
            self.objects.append(_Object(self._parser.CurrentLineNumber))

    def _end(self, tag: str) -> None:
        self._path.pop()
        place, text = tuple(self._path), " ".join("".join(self._text).split())
        self._text.clear()
        if place == ("annotation",) and tag == "filename":
            self.file_name = text
        elif place == ("annotation", "size") and tag in self.sides:
            self.sides[tag] = number(text)
        elif place == _OBJECT and tag == "name":
            self.objects[-1].name = text
        elif place == _OBJECT and tag == "difficult":
            self._difficult(self.objects[-1], text)
        elif place == (*_OBJECT, "bndbox") and tag in _CORNERS:
            self.objects[-1].corners[_CORNERS.index(tag)] = number(text)

    def _difficult(self, item: _Object, text: str) -> None:
        item.difficult = text.lower() in _DIFFICULT
        known = item.difficult or text.lower() in _NOT_DIFFICULT
        what, line = f"difficult is {text[:40]!r}, taken as 0", self._parser.CurrentLineNumber
        item.flaw = None if known else Flaw("difficult neither 0 nor 1", line, what, "repaired")


def parse_voc(path: Path) -> LabelFile:
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
    height, width = handler.sides["height"], handler.sides["width"]
    usable = all(1 <= side < 2**31 and side == int(side) for side in (height, width))
    boxes = (LabelledBox(item.name, item.box(), item.line, item.difficult, item.flaw) for item in handler.objects)
    return LabelFile(
        tuple(box for box in boxes if box.kind),
        flaws=tuple(Flaw(UNKNOWN_CLASS, item.line, "no <name>") for item in handler.objects if not item.name),
        image=handler.file_name,
        size=(int(height), int(width)) if usable else None,
        lacks_size=not usable,
    )


def voc_xml(image: WrittenImage, names: tuple[str, ...]) -> list[str]:
    """The lines of an annotation file: an image's boxes, and its regions as a difficult object of every class.

    `names` are the classes in label order.
    """
    height, width = image.size
    lines = [
        "<annotation>",
        f"\t<filename>{escape(image.name)}</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    everywhere = [(box, label, True) for box in image.regions for label in range(len(names))]
    for box, label, ignored in [*((item.box, item.label, item.ignored) for item in image.boxes), *everywhere]:
        # VOC counts pixels from 1, and its last pixel belongs to the box.
        corners = zip(_CORNERS, (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
        written = "".join(f"<{tag}>{decimal(value)}</{tag}>" for tag, value in corners)
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(names[label])}</name>",
            f"\t\t<difficult>{int(ignored)}</difficult>",
            f"\t\t<bndbox>{written}</bndbox>",
            "\t</object>",
        ]
    return [*lines, "</annotation>"]
