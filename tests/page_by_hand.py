"""Finished runs by hand, without a training: settings, results, curves, and what made-up detectors found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import detdistill
from coco_by_hand import draw_data
from detdistill.data.annotations import Annotations
from detdistill.evaluation.coco import ImageDetections, evaluate_coco
from detdistill.evaluation.error_types import error_types
from detdistill.files import write_json, write_text
from detdistill.jobs.found import Found
from detdistill.jobs.opening import read_split
from detdistill.progress import Silence

HOSTILE = "<script>alert(1)</script>"
"""The name of the first class."""
SHIFTS = {"teacher": 0.0, "alone": 9.0, "alone_equal_time": 6.0, "distilled": 2.0}
"""By so many pixels each detector's boxes lie beside the objects."""


def hostile_data(folder: Path, *, val: int = 6) -> Annotations:
    """The small data set, whose first class has the name of a script, and one of whose images likewise."""
    draw_data(folder, val=val)
    for split in ("train", "val"):
        path = folder / f"{split}.json"
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = HOSTILE
        first = content["images"][0]
        name = '"><img src=x onerror=alert(2)>.png'
        (folder / "images" / first["file_name"]).rename(folder / "images" / f"{split}{name}")
        first["file_name"] = f"{split}{name}"
        path.write_text(json.dumps(content))
    return read_split(folder, "val", progress=Silence())


def made_up(truth: Annotations, shift: float) -> list[ImageDetections]:
    """Every object a little beside its place, and one box of nothing."""
    found = []
    for index, image_id in enumerate(truth.image_ids.tolist()):
        rows = truth.objects(index)
        nothing = np.array([[1, 1, 9, 9]], dtype=np.float32)
        boxes = np.concatenate([truth.boxes[rows] + np.float32(shift), nothing])
        scores = np.linspace(0.9, 0.2, len(boxes), dtype=np.float32)
        labels = np.append(truth.labels[rows], 0).astype(np.int64)
        found.append(ImageDetections(image_id, boxes, scores, labels))
    return found


def finished(folder: Path, data: Path, truth: Annotations, *, strength: bool = True) -> dict[str, Found]:
    """The folder of a distillation, and what its detectors found."""
    looks = {name: made_up(truth, shift) for name, shift in SHIFTS.items()}
    words: dict[str, Any] = {"student": "fcos/tiny", "teacher": data.parent / "teacher", "method": "frs"}
    config = detdistill.run_config("train.device=cpu", purpose="distill", data=data, out=folder, **words)
    write_text(folder / "config.yaml", config.yaml())
    cost = {"height": 64, "width": 96, "parameters": 1000, "total_macs": 2000, "seconds_per_image": 0.01}
    results = {
        **{name: evaluate_coco(truth, one).as_dict() for name, one in looks.items()},
        "method": "frs",
        "steps": 20,
        "seconds": 12.5,
        "alone_run": {"run": str(folder / "alone"), "twin": True, "recorded": True, "differences": []},
        "error_types": {name: error_types(truth, one).as_dict() for name, one in looks.items()},
        "cost": {name: {**cost, "machine": {"device": "a CPU", "torch": "2"}} for name in ("teacher", "distilled")},
    }
    write_json(folder / "results.json", results)
    pulls = ",frs/ratio,frs/scale,frs/cosine" if strength else ""
    rows = [f"{step},{step},{3 / step:.4f},{2 / step:.4f}{',2,1.5,0.1' if strength else ''}" for step in range(1, 21)]
    write_text(folder / "metrics.csv", "\n".join([f"step,seconds,total,task{pulls}", *rows]) + "\n")
    write_text(folder / "evaluations.csv", "step,seconds,AP\n10,5,3.5\n20,10,7.25\n")
    return {name: Found(truth.digest(), False, one) for name, one in looks.items()}
