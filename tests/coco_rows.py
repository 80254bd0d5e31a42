"""COCO JSON files of a few rows, right unless a test says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "person"}]


def image(own: int, **changes: Any) -> dict[str, Any]:
    return {"id": own, "file_name": f"{own}.png", "width": 40, "height": 30} | changes


def box(own: int, of: int, bbox: Any, *, category: int = 7, **changes: Any) -> dict[str, Any]:
    return {"id": own, "image_id": of, "category_id": category, "bbox": bbox, "area": 9.0, "iscrowd": 0} | changes


def write(folder: Path, *, images=(), annotations=(), categories=CATEGORIES, **others: Any) -> Path:
    path = folder / "a.json"
    content = {"images": list(images), "annotations": list(annotations), "categories": list(categories)} | others
    path.write_text(json.dumps(content))
    return path


def only_problem(problems) -> str:
    found = list(problems)
    assert len(found) == 1, found
    return f"{found[0].kind} | {found[0].text()}"
