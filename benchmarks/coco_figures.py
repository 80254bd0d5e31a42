"""COCO's figures by our default program beside pycocotools: time, and whether they are the same.

    python benchmarks/coco_figures.py --json benchmarks/results/coco_figures.json

Objects and detections are drawn; both get the same ones and take turns. Time is on the clock, as one of them has
threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from detdistill.threads import quiet_threads

quiet_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from checkouts import quartiles  # noqa: E402
from detdistill.bench.machine import machine  # noqa: E402
from detdistill.bench.rows import ROWS, row  # noqa: E402
from detdistill.data.annotations import Annotations  # noqa: E402
from detdistill.evaluation.coco import ImageDetections, evaluate_coco  # noqa: E402
from detdistill.files import write_json  # noqa: E402

OURS, THEIRS = "hotcoco", "pycocotools"
SIDE, OBJECTS = 640, 8
GOAL = 20.0


def drawn(images: int, classes: int, boxes: int) -> tuple[Annotations, list[ImageDetections]]:
    """Images with OBJECTS each, and `boxes` detections, of which the first are near those."""
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 0.7 * SIDE, (images, boxes, 2))
    found = np.concatenate([corners, corners + draw.uniform(8, 0.3 * SIDE, corners.shape)], 2).astype(np.float32)
    labels = draw.integers(classes, size=(images, boxes))
    shaken = found[:, :OBJECTS] + draw.normal(0, 3, (images, OBJECTS, 4)).astype(np.float32)
    truth = np.concatenate([shaken[..., :2], np.maximum(shaken[..., 2:], shaken[..., :2] + 4)], 2).reshape(-1, 4)
    scores = draw.uniform(0, 1, (images, boxes)).astype(np.float32)
    names = [f"{image}.jpg".encode() for image in range(images)]
    annotations = Annotations(
        images_dir=Path("images"),
        class_names=tuple(f"class {number}" for number in range(classes)),
        category_ids=np.arange(1, classes + 1),
        image_ids=np.arange(images),
        sizes=np.full((images, 2), SIDE, dtype=np.int32),
        name_bytes=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, names)]),
        offsets=np.arange(images + 1) * OBJECTS,
        boxes=truth,
        labels=labels[:, :OBJECTS].reshape(-1).astype(np.int32),
        ignored=np.zeros(len(truth), dtype=bool),
        areas=(truth[:, 2:] - truth[:, :2]).prod(1),
    )
    rows = zip(found, scores, labels, strict=True)
    return annotations, [ImageDetections(image, *one) for image, one in enumerate(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, default=100, help="detections an image")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    annotations, detections = drawn(chosen.images, chosen.classes, chosen.boxes)
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    figures = {}
    for turn in range(-1, chosen.rounds):
        for backend in (OURS, THEIRS)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            figures[backend] = evaluate_coco(annotations, detections, backend=backend).as_dict()
            if turn >= 0:
                seconds[backend].append(time.perf_counter() - began)
    apart = max(abs((figures[OURS][name] or 0) - (figures[THEIRS][name] or 0)) for name in ("AP", "AP50", "AP75"))
    ratios = [theirs / ours for ours, theirs in zip(seconds[OURS], seconds[THEIRS], strict=True)]
    size = f"{chosen.images} images, {chosen.classes} classes, {chosen.boxes} boxes each"
    what = f"COCO's figures: {THEIRS} ÷ ours, {size}"
    print(f"{what}: {statistics.median(ratios):.1f}; AP at most {apart:.1e} apart")
    if chosen.json is not None:
        hardware = machine(torch.device("cpu"))
        told = {name: quartiles(each, 4) for name, each in seconds.items()}
        settings = {key: getattr(chosen, key) for key in ("images", "classes", "boxes", "rounds")}
        content = {"machine": hardware, "settings": settings, "seconds": told, "apart": apart}
        write_json(chosen.json, {**content, ROWS: [row(what, ratios, hardware=hardware, at_least=GOAL)]})


if __name__ == "__main__":
    main()
