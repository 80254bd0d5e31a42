"""What every benchmark of a step shares: made-up images, training steps that change nothing, interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from detdistill.detectors.base import Detector
from detdistill.detectors.torchvision_dense import torchvision_loss
from detdistill.distillation.step import DistillationStep
from detdistill.progress import Progress
from detdistill.types import Batch, Clock, Targets

Part = Callable[[], object]
_WARM_UP_ROUNDS = 2


def interleaved(
    parts: Mapping[str, Part], rounds: int, *, device: torch.device, progress: Progress
) -> dict[str, list[float]]:
    """Every part's milliseconds in every round; all parts take turns, so that a machine's drift meets all alike.

    Args:
        parts: what to measure, by name.
        rounds: how many are kept, after two that are not.
        device: is waited for after every part.
        progress: told how many rounds are done.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in parts}
    progress.start("rounds", rounds)
    for round_number in range(-_WARM_UP_ROUNDS, rounds):
        for name, run in parts.items():
            elapsed = _time(run, device)
            if round_number >= 0:
                milliseconds[name].append(elapsed)
        progress.advance(max(0, round_number + 1))
    progress.finish()
    return milliseconds


def _time(run: Part, device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - began)


def plain_step(student: Detector, batch: Batch) -> Part:
    """A training step of the student through torchvision's own losses, without any observation."""
    return _training_step(student, lambda: torchvision_loss(student, batch))


def distillation_step(step: DistillationStep, batch: Batch) -> Part:
    """A training step at 1000 of 2000 steps: past every warm-up, with everything on."""
    clock = Clock(step=1000, total_steps=2000)
    return _training_step(step, lambda: step(batch, clock).total)


def _training_step(module: nn.Module, loss: Callable[[], Tensor]) -> Part:
    module.train()
    # A rate of 0 keeps the weights: every round then computes the same, at the same cost.
    optimizer = optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def noise_batch(count: int, side: int, *, boxes: int, classes: int) -> Batch:
    """Square images of noise with boxes.

    Args:
        count: images.
        side: height and width in pixels.
        boxes: objects an image.
        classes: number of classes.
    """
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(count):
        corner = torch.rand(boxes, 2, generator=generator) * side * 0.7
        extent = (0.1 + 0.2 * torch.rand(boxes, 2, generator=generator)) * side
        labels = torch.randint(classes, (boxes,), generator=generator)
        targets.append(
            Targets(
                boxes=torch.cat((corner, corner + extent), dim=1),
                labels=labels,
                ignored=torch.zeros(boxes, dtype=torch.bool),
            )
        )
    return Batch(
        images=torch.rand(count, 3, side, side, generator=generator),
        sizes=((side, side),) * count,
        stored_sizes=((side, side),) * count,
        targets=tuple(targets),
        image_ids=tuple(range(count)),
        seeds=tuple(range(count)),
    )


def table(
    milliseconds: Mapping[str, Sequence[float]], ratios: Mapping[str, Sequence[float]], *, what: str
) -> list[str]:
    """Every part's median with its quartiles, then every ratio's.

    Args:
        milliseconds: by part and round.
        ratios: by name and round.
        what: the ratios' headline.
    """
    width = max(len(name) for name in (*milliseconds, *ratios, what)) + 2
    lines = [f"{'part':<{width}}{'median ms':>10}  {'quartiles':>17}"]
    for name, times in milliseconds.items():
        low, middle, high = statistics.quantiles(times, n=4)
        lines.append(f"{name:<{width}}{middle:>10.1f}  {low:>8.1f}-{high:<8.1f}")
    lines += ["", f"{what:<{width}}{'median':>10}  {'quartiles':>17}"]
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        lines.append(f"{name:<{width}}{middle:>10.3f}  {low:>8.3f}-{high:<8.3f}")
    return lines


def figures(milliseconds: Mapping[str, Sequence[float]], ratios: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians and quartiles of the ratios, and all times, as JSON can hold them."""
    return {
        "ratios": {name: round(statistics.median(values), 4) for name, values in ratios.items()},
        "ratio_quartiles": {
            name: [round(value, 4) for value in statistics.quantiles(values, n=4)] for name, values in ratios.items()
        },
        "milliseconds": {
            name: {
                "median": round(statistics.median(times), 2),
                "quartiles": [round(value, 2) for value in statistics.quantiles(times, n=4)],
                "all": [round(value, 2) for value in times],
            }
            for name, times in milliseconds.items()
        },
    }
