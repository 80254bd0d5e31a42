"""What a trained detector's detection costs beside torchvision's post-processing, and beside another checkout.

    python benchmarks/evaluation.py --run RUN --data SCENES --before OTHER/src --json benchmarks/results/evaluation.json

For every run and image size: the network alone, detection as it is evaluated, and torchvision's own post-processing on
the same head outputs. Everything takes turns; time is the process's own, on one thread, over all images. What is found
is compared with torchvision's and with the other checkout's.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from checkouts import SERVE, Checkout, quartiles, ratios, serve

NETWORK, DETECT, THEIRS, BEFORE = "network", "detect", "torchvision", "before"
WHOSE = {THEIRS: "torchvision's post-processing", BEFORE: "as it was before"}


@cache
def opened(run: str, data: str, images: int, side: int, size: int) -> tuple[Any, list[Any]]:
    """A detector in eval mode, and the batches that it is shown."""
    import numpy as np
    import torch

    from detdistill.data.dataset import DetectionDataset
    from detdistill.data.loader import evaluation_loader
    from detdistill.data.transforms import ImageSettings
    from detdistill.jobs.opening import open_detector, read_split
    from detdistill.progress import Silence

    torch.set_num_threads(1)
    detector = open_detector(run).detector.eval()
    annotations = read_split(Path(data), "train", progress=Silence()).of(np.arange(images))
    image = ImageSettings(short_side=side * 3 // 5, long_side=side)
    return detector, list(evaluation_loader(DetectionDataset(annotations, image=image), batch_size=size))


def network(detector: Any, batch: Any) -> None:
    """The layers alone; of two stages the first."""
    pyramid = detector.extract(batch)
    if hasattr(detector, "class_outputs"):
        detector.class_outputs(pyramid), detector.box_outputs(pyramid)
    else:
        detector.model.rpn.head(list(pyramid.levels))


def theirs(detector: Any, batch: Any) -> list[dict[str, Any]]:
    """torchvision's own way from the same features to detections."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.image_list import ImageList

    model, pyramid = detector.model, detector.extract(batch)
    images, levels = ImageList(batch.images, list(batch.sizes)), list(pyramid.levels)
    if isinstance(model, FasterRCNN):
        features = {str(level): maps for level, maps in enumerate(levels)}
        proposals, _ = model.rpn(images, features)
        found, _ = model.roi_heads(features, proposals, images.image_sizes)
        return list(found)
    outputs, anchors = model.head(levels), model.anchor_generator(images, levels)
    counts = [len(level) for level in detector.model.anchor_generator.anchors(levels)]
    split = {name: list(rows.split(counts, dim=1)) for name, rows in outputs.items()}
    return list(model.postprocess_detections(split, [list(one.split(counts)) for one in anchors], images.image_sizes))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    import torch

    way = question.pop("way")
    detector, batches = opened(**question)
    if way == THEIRS and not hasattr(detector, "model"):
        return {}
    found, boxes = hashlib.sha256(), 0
    with torch.no_grad():
        began = time.process_time()
        for batch in batches:
            if way == NETWORK:
                network(detector, batch)
                continue
            said = theirs(detector, batch) if way == THEIRS else detector.detect(batch)
            for one in said:
                rows = (one["boxes"], one["scores"]) if way == THEIRS else (one.boxes, one.scores)
                boxes += len(rows[1])
                for column in rows:
                    found.update(column.numpy().tobytes())
        seconds = time.process_time() - began
    return {"ms": 1000 * seconds / sum(map(len, batches)), "boxes": boxes, "digest": found.hexdigest()[:16]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--before", type=Path, help="src folder of another checkout")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 320])
    parser.add_argument("--images", type=int, nargs="+", default=[96, 24], help="for each of the sides")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    after = Checkout(__file__, chosen.after)
    turns = {DETECT: (after, DETECT), NETWORK: (after, NETWORK), THEIRS: (after, THEIRS)}
    if chosen.before is not None:
        turns[BEFORE] = (Checkout(__file__, chosen.before), DETECT)
    table: dict[str, Any] = {}
    measured: dict[str, list[float]] = {}
    for run in chosen.run:
        for side, images in zip(chosen.sides, chosen.images, strict=True):
            what = {"run": run, "data": chosen.data, "images": images, "side": side, "size": chosen.batch_size}
            rows: dict[str, list[dict[str, Any]]] = {}
            for turn in range(-1, chosen.rounds):
                order = list(turns.items())
                for name, (checkout, way) in order[turn % len(order) :] + order[: turn % len(order)]:
                    if (row := checkout.ask(way=way, **what)) and turn >= 0:
                        rows.setdefault(name, []).append(row)
            times = {name: [row["ms"] for row in own] for name, own in rows.items()}
            found: dict[str, Any] = {"ms_an_image": {name: quartiles(own, 3) for name, own in times.items()}}
            found["over_detect"] = {name: ratios(own, times[DETECT]) for name, own in times.items() if name != DETECT}
            found["boxes"] = {name: own[0]["boxes"] for name, own in rows.items() if name != NETWORK}
            found["same_bits"] = {
                name: own[0]["digest"] == rows[DETECT][0]["digest"] for name, own in rows.items() if name != NETWORK
            }
            table[f"{Path(run).name} {side}"] = found
            for name, whose in WHOSE.items():
                if name in times:
                    what = f"detection of {Path(run).name} at {side} px: {whose} ÷ ours"
                    measured[what] = [one / own for one, own in zip(times[name], times[DETECT], strict=True)]
            print(run, side, found, flush=True)
    for checkout in dict.fromkeys(checkout for checkout, _ in turns.values()):
        checkout.close()
    if chosen.json is not None:
        import torch

        from detdistill.bench.machine import machine
        from detdistill.bench.rows import ROWS, row
        from detdistill.files import write_json

        torch.set_num_threads(1)
        hardware = machine(torch.device("cpu"))
        settings = {key: getattr(chosen, key) for key in ("sides", "images", "batch_size", "rounds")}
        rows = [row(what, each, hardware=hardware, at_least=1.0) for what, each in measured.items()]
        write_json(chosen.json, {"machine": hardware, "settings": settings, "runs": table, ROWS: rows})


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve(answer)
    else:
        main()
