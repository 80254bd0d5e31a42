"""Pascal VOC: one XML file an image.

Found as ``Annotations/*.xml`` with images in ``JPEGImages`` and lists in ``ImageSets/Main``; as ``train`` and
``val`` (or ``valid``) folders that hold images and XML files together; or as one such folder, which is then divided
8:2 by a seed.

The classes are those of ``classes.txt`` beside ``Annotations``, where there is one, else all that stand in the XML
files of both splits, in alphabetical order. Objects marked ``difficult`` are kept, ignored. XML is read without
trust: no entity is expanded, no other file is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import final
from xml.parsers import expat
from xml.sax.saxutils import escape

from detdistill.data.builder import Box
from detdistill.data.formats import Format
from detdistill.data.label_files import UNKNOWN_CLASS, Flaw, LabelFile, LabelFolder, LabelledBox
from detdistill.data.label_text import FileFlaw, number, read_bytes, require_few
from detdistill.data.listing import (
    CLASS_LIST,
    IMAGE_SETS,
    Everything,
    ListFile,
    choose,
    file_of_split,
    files_below,
    folder_of_list,
    listed_splits,
)
from detdistill.data.side_by_side import SideBySide, classes_seen
from detdistill.data.writable import (
    Place,
    WritableSplit,
    WrittenImage,
    decimal,
    plain_classes,
    write_lists,
    write_plain,
)
from detdistill.errors import ConfigError
from detdistill.files import make_folder

ANNOTATIONS = "Annotations"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "")
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
            require_few(len(self.objects), "objects")

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


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.xml"))


_TOGETHER = SideBySide("Pascal VOC", ending=".xml", parse=parse_voc, has=_has_xml)


def _is_listed(folder: Path) -> bool:
    return (folder / ANNOTATIONS).is_dir()


def _years(data: Path) -> list[Path]:
    """The data sets in VOC's own ``VOCdevkit``, or in the folder that holds that."""
    return [place for name in ("VOC*", "VOCdevkit/VOC*") for place in sorted(data.glob(name)) if _is_listed(place)]


def _data_set(data: Path) -> Path:
    """The folder itself, or the only data set in a ``VOCdevkit``; several are a `ConfigError`."""
    years = [] if _is_listed(data) else _years(data)
    if len(years) > 1:
        names = ", ".join(place.relative_to(data).as_posix() for place in years)
        raise ConfigError(
            f"{data} must hold one data set of Pascal VOC, got {names}. Give one of them, such as {years[0]}."
        )
    return years[0] if years else data


def recognises(data: Path) -> bool:
    """Whether a folder looks like Pascal VOC, or a text file is one of its lists."""
    if data.is_file():
        return folder_of_list(data, _is_listed) is not None
    if _years(data):
        return True
    if _is_listed(data) and ((data / IMAGE_SETS).is_dir() or files_below(data / ANNOTATIONS, {".xml"})):
        return True
    return _TOGETHER.recognises(data)


def splits(data: Path) -> tuple[str, ...]:
    """The splits that a folder has; see `listed_splits`."""
    if data.is_file():
        return ("val",)
    data = _data_set(data)
    if _is_listed(data):
        return listed_splits(data, data / ANNOTATIONS, ".xml")
    return _TOGETHER.splits(data)


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> LabelFolder:
    """Finds one split, in a folder or by one of its lists."""
    listed, other = None, "val" if split == "train" else "train"
    if data.is_file():
        listed = (data if exact else file_of_split(data, split)).resolve()
        data = folder_of_list(listed, _is_listed) or listed.parent
    data = _data_set(data)
    if listed is None and not _is_listed(data):
        return _TOGETHER.find(data, split, split_seed=split_seed)
    labels = data / ANNOTATIONS
    inside = partial(
        LabelFolder,
        title=_TOGETHER.title,
        folder=data,
        labels_dir=labels,
        images_dir=next(place for name in _IMAGE_FOLDERS if (place := data / name).is_dir()),
        ending=_TOGETHER.ending,
        parse=parse_voc,
        classes=classes_seen,
    )
    if listed is not None:
        return inside(choice=ListFile(listed, data), elsewhere=(labels, Everything(labels)))
    chosen, others = (choose(data, labels, name, split_seed=split_seed) for name in (split, other))
    return inside(choice=chosen, elsewhere=(labels, others))


def write(folder: Path, splits: Mapping[str, WritableSplit], class_names: tuple[str, ...], place: Place) -> None:
    """Writes ``Annotations``, ``JPEGImages``, ``ImageSets/Main`` and ``classes.txt``."""
    plain = plain_classes(class_names)
    write_plain(folder / CLASS_LIST, plain)
    write_lists(folder / IMAGE_SETS / "Main", splits)
    make_folder(folder / ANNOTATIONS)
    for split in splits.values():
        for image in split.images():
            write_plain(folder / ANNOTATIONS / f"{image.stem}.xml", _voc_xml(image, plain))
            place(image, folder / "JPEGImages" / image.name)


def _voc_xml(image: WrittenImage, names: tuple[str, ...]) -> list[str]:
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


FORMAT = Format(
    name="voc",
    title="Pascal VOC",
    precedence=40,
    holds="Annotations/*.xml",
    file="a list such as ImageSets/Main/train.txt with Annotations near it",
    recognises=recognises,
    splits=splits,
    find=find,
    write=write,
    tells_size=True,
)
