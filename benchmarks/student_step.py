"""A student's own training step, forward and backward, beside torchvision's of the same model on the same batch.

    python benchmarks/student_step.py --before OTHER/src --json benchmarks/results/student_step.json

Everything takes turns; time is the process's own, on one thread. `--before` measures the same step in another checkout
as well. GFL has no step of torchvision's. A Faster R-CNN of torchvision's draws anchors and regions of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from checkouts import SERVE, Checkout, quartiles, ratios, serve

FAMILIES = ("fcos", "retinanet", "gfl", "faster_rcnn")
OURS, THEIRS, BEFORE = "ours", "torchvision", "before"


@cache
def steps(detector: str, side: int, count: int, boxes: int) -> dict[str, Callable[[], Any]]:
    """The loss of a new detector, by whose step it is."""
    import torch
    from torchvision.models.detection.image_list import ImageList

    from detdistill.bench.rounds import noise_batch
    from detdistill.detectors.catalogue import build_detector, parse_detector
    from detdistill.detectors.torchvision_dense import torchvision_loss
    from detdistill.types import Need

    torch.set_num_threads(1)
    names = tuple("abcde")
    built = build_detector(parse_detector(detector), names, seed=0).to(memory_format=torch.channels_last).train()
    batch = noise_batch(count, side, boxes=boxes, classes=len(names))

    def ours() -> Any:
        return built(batch, {Need.TASK_LOSS}).task_loss.total

    def two_stages() -> Any:
        features = dict(enumerate(built.extract(batch).levels))
        features = {str(level): maps for level, maps in features.items()}
        targets = [{"boxes": one.boxes, "labels": one.labels + 1} for one in batch.targets]
        images = ImageList(batch.images, list(batch.sizes))
        proposals, first = built.model.rpn(images, features, targets)
        _, second = built.model.roi_heads(features, proposals, images.image_sizes, targets)
        return sum([*first.values(), *second.values()])

    family = detector.partition("/")[0]
    theirs = {"gfl": None, "faster_rcnn": two_stages}.get(family, lambda: torchvision_loss(built, batch))
    found = {OURS: ours, **({} if theirs is None else {THEIRS: theirs})}

    def timed(loss: Callable[[], Any]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            built.zero_grad()
            began = time.process_time()
            total = loss()
            forward = time.process_time() - began
            total.backward()
            return {
                "forward": 1000 * forward,
                "step": 1000 * (time.process_time() - began),
                "loss": float(total.detach()),
            }

        return run

    return {name: timed(loss) for name, loss in found.items()}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    known = steps(*(question[key] for key in ("detector", "side", "count", "boxes")))
    whose = question["whose"]
    return known[whose]() if whose in known else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="src folder of another checkout")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 320, 640])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    after = Checkout(__file__, chosen.after)
    turns = [(after, OURS), (after, THEIRS)]
    if chosen.before is not None:
        turns.append((Checkout(__file__, chosen.before), OURS))
    names = (OURS, THEIRS, BEFORE)
    table: dict[str, Any] = {}
    measured: dict[str, list[float]] = {}
    for family in chosen.families:
        for side in chosen.sides:
            what = {"detector": f"{family}/{chosen.preset}", "side": side, "count": chosen.batch_size}
            rows: dict[str, list[dict[str, float]]] = {}
            for turn in range(-2, chosen.rounds):
                order = list(zip(names, turns, strict=False))
                for name, (checkout, whose) in order[turn % len(order) :] + order[: turn % len(order)]:
                    if (row := checkout.ask(whose=whose, boxes=chosen.boxes, **what)) and turn >= 0:
                        rows.setdefault(name, []).append(row)
            times = {name: [row["step"] for row in of_one] for name, of_one in rows.items()}
            found: dict[str, Any] = {"ms": {name: quartiles(own, 2) for name, own in times.items()}}
            found["forward_ms"] = {name: quartiles([row["forward"] for row in own], 2) for name, own in rows.items()}
            found["loss"] = {name: own[0]["loss"] for name, own in rows.items()}
            found["ours_over"] = {name: ratios(times[OURS], own) for name, own in times.items() if name != OURS}
            table[f"{family}/{chosen.preset} {side}"] = found
            if THEIRS in times:
                measured[f"{family}/{chosen.preset} {side}"] = [
                    ours / theirs for ours, theirs in zip(times[OURS], times[THEIRS], strict=True)
                ]
            print(f"{family:<12}{side:>5} px", found["ms"], found["ours_over"], flush=True)
    for checkout in dict.fromkeys(checkout for checkout, _ in turns):
        checkout.close()
    if chosen.json is not None:
        import torch

        from detdistill.bench.machine import machine
        from detdistill.bench.rows import ROWS, row
        from detdistill.files import write_json

        torch.set_num_threads(1)
        hardware = machine(torch.device("cpu"))
        settings = {key: getattr(chosen, key) for key in ("batch_size", "boxes", "rounds")}
        rows = [
            row(f"step of {what} px ÷ torchvision's", ratio, hardware=hardware, at_most=1.0)
            for what, ratio in measured.items()
        ]
        write_json(chosen.json, {"machine": hardware, "settings": settings, "steps": table, ROWS: rows})


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve(answer)
    else:
        main()
