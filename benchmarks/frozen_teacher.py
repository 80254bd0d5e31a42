"""What a frozen teacher shows with its batch norms folded into its convolutions, beside as it is: time and difference.

    python benchmarks/frozen_teacher.py --json benchmarks/results/frozen_teacher.json

The norms' numbers are drawn, so that they are no identities. Time is the process's own; both take turns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from detdistill.bench.machine import machine
from detdistill.bench.rounds import noise_batch
from detdistill.bench.rows import ROWS, row
from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.files import write_json
from detdistill.types import Need

NEEDS = {"pyramid": frozenset({Need.PYRAMID}), "class logits": frozenset({Need.PYRAMID, Need.CLASS_LOGITS})}

GOAL = 1.15
TRIED = "the residual sum within the convolution, and maps kept channels last: 1 to 2 % each, not kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="retinanet/resnet101")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--image-px", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    detector = build_detector(parse_detector(chosen.teacher), ("car", "truck"), seed=0)
    norms = [part for part in detector.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    teachers = FrozenTeacher(copy.deepcopy(detector)), FrozenTeacher(detector, fold=True)
    batch = noise_batch(chosen.batch_size, chosen.image_px, boxes=4, classes=2)
    found: dict[str, object] = {"norms": len(norms), "folded": teachers[1].folded}
    rows, hardware = [], machine(torch.device("cpu"))
    for name, needs in NEEDS.items():
        plain, folded = (one.observe(batch, needs).maps.levels for one in teachers)
        apart = max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(plain, folded, strict=True))
        times: tuple[list[float], list[float]] = ([], [])
        for round_number in range(-2, chosen.rounds):
            for teacher, own in zip(teachers, times, strict=True):
                began = time.process_time()
                teacher.observe(batch, needs)
                if round_number >= 0:
                    own.append(1000 * (time.process_time() - began))
        faster = [x / y for x, y in zip(*times, strict=True)]
        what = f"{chosen.teacher} as it is ÷ folded, observing {name}; {chosen.batch_size} × {chosen.image_px} px"
        rows.append(row(what, faster, hardware=hardware, at_least=GOAL, tried=TRIED))
        ratios = statistics.quantiles(faster, n=4)
        milliseconds = [round(statistics.median(own), 1) for own in times]
        found[name] = {"ms": milliseconds, "times_as_fast": [round(one, 3) for one in ratios], "apart": apart}
        print(f"{name}: {milliseconds[0]} ms as it is, {milliseconds[1]} ms folded, {apart:.1e} of the largest apart")
        print(f"  {ratios[1]:.3f} times as fast ({ratios[0]:.3f}-{ratios[2]:.3f})")
    if chosen.json is not None:
        settings = {key: value for key, value in vars(chosen).items() if key != "json"}
        write_json(chosen.json, {"machine": hardware, "settings": settings, **found, ROWS: rows})


if __name__ == "__main__":
    main()
