"""A small COCO data set on the disk, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("square", "bar")
TRAIN, VAL, WIDTH, HEIGHT = 10, 3, 96, 64


def draw_data(folder: Path, *, train: int = TRAIN, val: int = VAL) -> Path:
    """A hand-made COCO folder: bright rectangles on noise; every third image is empty."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    categories = [{"id": 3 * index + 1, "name": name} for index, name in enumerate(CLASSES)]
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for index in range(count):
            pixels = rng.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            name = f"{split}_{index}.png"
            for kind in range(0 if index % 3 == 2 else 2):
                width, height = ((20, 20), (48, 12))[kind]
                x, y = int(rng.integers(0, WIDTH - width)), int(rng.integers(0, HEIGHT - height))
                pixels[y : y + height, x : x + width] = (250, 60, 40) if kind == 0 else (40, 230, 250)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 100 + index,
                        "category_id": categories[kind]["id"],
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"id": 100 + index, "file_name": name, "width": WIDTH, "height": HEIGHT})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
