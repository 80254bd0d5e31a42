"""A student's own training step, forward and backward, beside torchvision's of the same model on the same batch.

    python benchmarks/student_step.py --before OTHER/src --json benchmarks/results/student_step.json

A whole step, and what comes after the pyramid alone, forward: heads and losses. Everything takes turns; time is the
process's own, on one thread. `--before` measures heads and losses in another checkout as well. GFL has no step of
torchvision's. A Faster R-CNN of torchvision's draws anchors and regions of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from checkouts import SERVE, Checkout, quartiles, ratios, serve

FAMILIES = ("fcos", "retinanet", "gfl", "faster_rcnn")
OURS, THEIRS, BEFORE = "ours", "torchvision", "before"
STEP, HEADS = "step", "heads and losses forward"


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
            total.backward()
            return {"ms": 1000 * (time.process_time() - began), "loss": float(total.detach())}

        return run

    with torch.no_grad():
        seen = built.extract(batch)

    def heads(loss: Callable[[], Any]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            with torch.no_grad():
                built.extract = lambda _: seen
                try:
                    began = time.process_time()
                    total = loss()
                    return {"ms": 1000 * (time.process_time() - began), "loss": float(total)}
                finally:
                    del built.extract

        return run

    ways = {STEP: timed, HEADS: heads}
    return {f"{what} {name}": way(loss) for what, way in ways.items() for name, loss in found.items()}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    known = steps(*(question[key] for key in ("detector", "side", "count", "boxes")))
    way = f"{question['what']} {question['whose']}"
    return known[way]() if way in known else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="src folder of another checkout")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 320, 640])
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20, help="of heads and losses alone")
    parser.add_argument("--step-rounds", type=int, default=20, help="of whole steps; 0 for none")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    after = Checkout(__file__, chosen.after)
    turns = {OURS: (after, OURS), THEIRS: (after, THEIRS)}
    if chosen.before is not None:
        turns[BEFORE] = (Checkout(__file__, chosen.before), OURS)
    table: dict[str, Any] = {}
    measured: dict[str, list[float]] = {}
    for family, side, (what, rounds) in product(
        chosen.families, chosen.sides, ((HEADS, chosen.rounds), (STEP, chosen.step_rounds))
    ):
        asked = {"detector": f"{family}/{chosen.preset}", "side": side, "count": chosen.batch_size, "what": what}
        if not rounds:
            continue
        rows: dict[str, list[dict[str, float]]] = {}
        order = [one for one in turns.items() if what == HEADS or one[0] != BEFORE]
        for turn in range(-1, rounds):
            for name, (checkout, whose) in order[turn % len(order) :] + order[: turn % len(order)]:
                if (row := checkout.ask(whose=whose, boxes=chosen.boxes, **asked)) and turn >= 0:
                    rows.setdefault(name, []).append(row)
        times = {name: [row["ms"] for row in own] for name, own in rows.items()}
        told = f"{what} of {family}/{chosen.preset} at {side} px"
        table[told] = {
            "ms": {name: quartiles(own, 2) for name, own in times.items()},
            "loss": {name: own[0]["loss"] for name, own in rows.items()},
            "ours_over": {name: ratios(times[OURS], own) for name, own in times.items() if name != OURS},
        }
        for name, own in times.items():
            if name != OURS:
                other = "torchvision's" if name == THEIRS else "what it was before"
                measured[f"{told} ÷ {other}"] = [one / under for one, under in zip(times[OURS], own, strict=True)]
        print(told, table[told]["ms"], table[told]["ours_over"], flush=True)
    for checkout in dict.fromkeys(checkout for checkout, _ in turns.values()):
        checkout.close()
    if chosen.json is not None:
        import torch

        from detdistill.bench.machine import machine
        from detdistill.bench.rows import ROWS, row
        from detdistill.files import write_json

        torch.set_num_threads(1)
        hardware = machine(torch.device("cpu"))
        settings = {key: getattr(chosen, key) for key in ("batch_size", "boxes", "rounds", "step_rounds")}
        rows = [
            row(what, ratio, hardware=hardware, at_most=1.0 if THEIRS in what else None)
            for what, ratio in measured.items()
        ]
        write_json(chosen.json, {"machine": hardware, "settings": settings, "steps": table, ROWS: rows})


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve(answer)
    else:
        main()
