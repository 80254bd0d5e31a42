"""Seconds and memory of the intervals at COCO's size: `python benchmarks/bootstrap.py --json FILE`.

5,000 images, 80 classes, 100 detections an image, 1,000 draws: the intervals of one detector (`evaluate --interval`),
and the differences of a pair of twins (`prove`), each in a process of its own, which makes the detections, matches them
and draws. Peak memory is the process's whole, with everything that it imports. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detdistill.bench.machine import machine
from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.intervals import image_intervals
from detdistill.evaluation.matches import match
from detdistill.files import write_json
from detdistill.progress import ScreenProgress
from detdistill.proof.differences import Twins, differences

LIMITS = {"seconds": 60.0, "peak_mb": 2000.0}


def split(images: int, classes: int, seed: int = 0) -> Annotations:
    """About seven objects an image, as COCO has, of all sizes, a few classes much more frequent than the others."""
    random = np.random.default_rng(seed)
    counts = random.poisson(7.3, images)
    total = int(counts.sum())
    size = np.exp(random.uniform(np.log(8), np.log(300), (total, 2)))
    corner = random.uniform(0, 1, (total, 2)) * (np.array([640, 480]) - size.clip(max=400))
    share = 1 / np.arange(1, classes + 1)
    return Annotations(
        images_dir=Path("images"),
        image_ids=np.arange(images) + 1,
        sizes=np.tile(np.array([[480, 640]], dtype=np.int32), (images, 1)),
        name_bytes=np.full(images, 97, dtype=np.uint8),
        name_offsets=np.arange(images + 1),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.concatenate([corner, corner + size], axis=1).astype(np.float32),
        class_names=tuple(f"class {k}" for k in range(classes)),
        category_ids=np.arange(classes) + 1,
        labels=random.choice(classes, total, p=share / share.sum()).astype(np.int32),
        ignored=random.random(total) < 0.01,
        areas=size.prod(1),
    )


def detections(truth: Annotations, each: int, seed: int) -> list[ImageDetections]:
    """Each object once or twice, more or less well, and other boxes up to so many an image."""
    random = np.random.default_rng(seed)
    found = []
    for row, image in enumerate(truth.image_ids.tolist()):
        own = truth.objects(row)
        twice = np.concatenate([truth.boxes[own]] * 2)[:each]
        spread = 0.06 * np.tile(twice[:, 2:] - twice[:, :2], 2) * random.lognormal(0, 0.8, (len(twice), 1))
        near = twice + random.normal(0, 1, twice.shape) * spread
        others = each - len(near)
        corner = random.uniform(0, 400, (others, 2))
        boxes = np.concatenate([near, np.concatenate([corner, corner + random.uniform(5, 200, (others, 2))], axis=1)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        kinds = np.concatenate(
            [np.tile(truth.labels[own], 2)[:each], random.integers(0, len(truth.class_names), others)]
        )
        scores = np.concatenate([random.beta(3, 2, len(near)), random.beta(1, 6, others)])
        found.append(
            ImageDetections(image, boxes.astype(np.float32), scores.astype(np.float32), kinds.astype(np.int64))
        )
    return found


def measured(what: str, images: int, classes: int, each: int) -> dict[str, Any]:
    """Times of one process's work, and its peak."""
    truth = split(images, classes)
    made = [detections(truth, each, seed) for seed in range(1 if what == "one detector" else 2)]
    began = time.perf_counter(), time.process_time()
    if what == "one detector":
        ends = image_intervals(truth, made[0], progress=ScreenProgress())["AP"]
    else:
        matches = [match(truth, found) for found in made]
        one = differences([Twins(0, *matches)], progress=ScreenProgress()).figures["AP"]
        ends = one.low, one.high
    return {
        "seconds": round(time.perf_counter() - began[0], 1),
        "cpu_seconds": round(time.process_time() - began[1], 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
        "AP_interval": [round(end, 3) for end in ends],
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """Measures in processes of their own, and tells or writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--each", type=int, default=100, help="detections an image")
    parser.add_argument("--only", help="in this process, one of both, for the other")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measured(given.only, given.images, given.classes, given.each)))
        return
    found: dict[str, Any] = {}
    for what in ("one detector", "a pair of twins"):
        answer = subprocess.run(
            [sys.executable, *sys.argv, "--only", what], check=True, stdout=subprocess.PIPE, text=True
        )
        found[what] = json.loads(answer.stdout)
        print(what, found[what])
    within = all(one[key] <= most for one in found.values() for key, most in LIMITS.items())
    sizes = {"images": given.images, "classes": given.classes, "detections_an_image": given.each, "draws": 1000}
    content = {"machine": machine(torch.device("cpu")), **sizes, **found, "limits": LIMITS, "within_limits": within}
    if given.json is not None:
        write_json(given.json, content)


if __name__ == "__main__":
    main()
