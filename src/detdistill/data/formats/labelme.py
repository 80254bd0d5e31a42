"""labelme: a JSON file an image, beside it: in one folder, which is divided 8:2 by a seed, or in one for every split.

A rectangle, polygon or circle becomes the box around it; other shapes (lines, points, masks) have none, and are told.
The classes are those of ``classes.txt`` in the folder, where there is one, else all labels, by the alphabet.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from detdistill.data.builder import Box
from detdistill.data.formats import Format
from detdistill.data.image_files import is_text
from detdistill.data.label_files import UNKNOWN_CLASS, Flaw, LabelFile, LabelFolder, LabelledBox
from detdistill.data.label_text import FileFlaw, head_of, read_text, require_few
from detdistill.data.listing import is_companion
from detdistill.data.side_by_side import SideBySide
from detdistill.json_text import json_object

_HEAD = 2**16
_FILES_LOOKED_AT = 3
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
_FEWEST_POINTS = {"rectangle": 2, "polygon": 3, "circle": 2}
_LARGEST_SIDE = 2**31


def parse_labelme(path: Path) -> LabelFile:
    """Reads a label file.

    Raises:
        FileFlaw: it cannot be read, is no JSON, or lists no shapes.
    """
    try:
        content = json.loads(read_text(path), object_pairs_hook=json_object)
    except (ValueError, RecursionError) as error:
        raise FileFlaw("JSON that cannot be read", str(error)[:80]) from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise FileFlaw("JSON that is no labelme", "no list of shapes")
    require_few(len(shapes), "shapes")
    boxes, flaws = [], []
    for number, shape in enumerate(shapes, start=1):
        fields: dict[str, Any] = shape if isinstance(shape, dict) else {}
        label, kind = fields.get("label"), fields.get("shape_type", "polygon")
        if not isinstance(label, str) or not label.strip() or not is_text(label):
            flaws.append(Flaw(UNKNOWN_CLASS, number, "no label"))
        elif (box := _box(kind, fields.get("points"))) is None:
            flaws.append(Flaw("shape without a box", number, f"{str(kind)[:40]!r} of {label[:40]!r}"))
        else:
            boxes.append(LabelledBox(" ".join(label.split()), box, number))
    height, width = content.get("imageHeight"), content.get("imageWidth")
    usable = all(type(side) is int and 0 < side < _LARGEST_SIDE for side in (height, width))
    image = content.get("imagePath")
    return LabelFile(
        tuple(boxes),
        flaws=tuple(flaws),
        image=image.replace("\\", "/") if isinstance(image, str) and is_text(image) else "",
        size=(height, width) if usable else None,
        lacks_size=not usable,
        part="shape",
    )


def _box(kind: object, points: object) -> Box | None:
    """x1, y1, x2, y2 around the points of a shape; None where it has no extent of its own."""
    fewest = _FEWEST_POINTS.get(kind) if isinstance(kind, str) else None
    if fewest is None or not isinstance(points, list) or len(points) < fewest:
        return None
    if not all(isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in points):
        return None
    across, down = zip(*points, strict=True)
    if kind == "circle":  # its centre, and a point on it
        radius = math.dist(points[0], points[1])
        return across[0] - radius, down[0] - radius, across[0] + radius, down[0] + radius
    return min(across), min(down), max(across), max(down)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # type: ignore[arg-type]


def _has_labelme(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = sorted(path for path in folder.glob("*.json") if not is_companion(path.name))[:_FILES_LOOKED_AT]
    return any(_SHAPES.search(_head(path)) for path in names)


def _head(path: Path) -> bytes:
    return head_of(path, _HEAD)


_TOGETHER = SideBySide("labelme", ending=".json", parse=parse_labelme, has=_has_labelme)


def find(data: Path, split: str, *, exact: bool = False, split_seed: int = 0) -> LabelFolder:
    """Finds one split."""
    del exact
    return _TOGETHER.find(data, split, split_seed=split_seed)


FORMAT = Format(
    name="labelme",
    title="labelme",
    precedence=70,
    holds="",
    file="",
    recognises=lambda data: data.is_dir() and _TOGETHER.recognises(data),
    splits=_TOGETHER.splits,
    find=find,
)
