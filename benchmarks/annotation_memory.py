"""Memory and time of indexing annotations of COCO's size: `python benchmarks/annotation_memory.py --json FILE`.

Three processes, so that none measures another's memory: this one writes a COCO file with segmentations into a
temporary folder; a second one imports everything, notes its size, and reads the file; two loader workers that it
forks then touch every array. Figures are MiB from /proc, Linux only.

Growth is resident memory after reading minus resident memory after the imports. A worker's private memory is what
it holds alone (Private_Clean + Private_Dirty). What the annotations add is that figure after touching every array
minus the same worker's figure before, and, as a check, minus that of a worker whose data set holds none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
LIMITS = {"growth_mib": 300.0, "peak_mib": 1024.0, "workers_private_mib": 50.0}


def write_coco(path: Path, *, images: int, boxes: int, seed: int = 0) -> int:
    """Writes a COCO file of that many images and boxes with polygons and a few run-length crowds; its bytes."""
    draw = random.Random(seed)
    pool = [f"{draw.random() * 640:.2f}" for _ in range(200_000)]
    with path.open("w", encoding="utf-8") as out:
        categories = [{"supercategory": "thing", "id": k + 1 + k // 9, "name": f"class {k}"} for k in range(80)]
        out.write('{"info": {"description": "made by annotation_memory.py"}, "licenses": [], "images": [')
        for i in range(images):
            name = f"{(i * 581_869) % 10**12:012d}.jpg"
            out.write(
                f'{", " if i else ""}{{"license": 3, "file_name": "{name}", '
                f'"coco_url": "http://images.example.org/train2017/{name}", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 11:18:45", '
                f'"flickr_url": "http://farm9.example.org/8186/8119368305_4e622c8349_z.jpg", "id": {7 * i + 9}}}'
            )
        out.write('], "annotations": [')
        for i in range(boxes):
            w, h = draw.uniform(4, 300), draw.uniform(4, 250)
            x, y = draw.uniform(0, 639 - w), draw.uniform(0, 479 - h)
            category = draw.randrange(80)
            crowd = draw.random() < 0.01
            if crowd:
                counts = ", ".join(str(draw.randrange(1, 400)) for _ in range(400))
                segmentation = f'{{"counts": [{counts}], "size": [480, 640]}}'
            else:
                numbers = 2 * min(400, max(3, int(draw.lognormvariate(2.75, 0.85))))
                start = draw.randrange(len(pool) - numbers)
                segmentation = f"[[{', '.join(pool[start : start + numbers])}]]"
            out.write(
                f'{", " if i else ""}{{"segmentation": {segmentation}, "area": {w * h * 0.6:.4f}, '
                f'"iscrowd": {int(crowd)}, "image_id": {7 * draw.randrange(images) + 9}, '
                f'"bbox": [{x:.2f}, {y:.2f}, {w:.2f}, {h:.2f}], '
                f'"category_id": {category + 1 + category // 9}, "id": {i + 1}}}'
            )
        out.write(f'], "categories": {json.dumps(categories)}}}\n')
    return path.stat().st_size
