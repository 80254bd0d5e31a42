"""Builds a small FCOS on every timm model that gives maps of several strides, trains one step and detects once.

Weights are random and nothing is downloaded. Each model runs in a process of its own: a step on two images in
landscape, then a detection on two in portrait, so that a size that was fixed on the way is found. What comes out is

    runs        losses, gradients and boxes were finite
    shapes      it has more parameters than `--parameters`: run and run back on the meta device, which computes no
                numbers; all shapes fitted
    refused     an error of this library's own, whose sentence is kept
    traceback   any other error
    not run     it needed more memory or time than was given, with the figures

A stopped sweep goes on where it was; `--again traceback "not run"` runs those once more, and `--again shapes` with a
larger `--parameters` computes what was only looked at.

    python benchmarks/backbones_sweep.py --json benchmarks/results/backbones.json
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import timm  # noqa: E402
import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.detectors.catalogue import build_detector  # noqa: E402
from detdistill.detectors.families.fcos import FCOSSettings  # noqa: E402
from detdistill.distillation.step import SupervisedStep  # noqa: E402
from detdistill.errors import DistillError  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.types import Batch, Clock, Targets  # noqa: E402

LANDSCAPE, PORTRAIT = (64, 96), (96, 64)
IMAGES, CLASSES = 2, ("car", "truck")
STRIDES = (8, 16, 32)
SAVED_EVERY_S = 20.0


def listed(name: str) -> dict[str, Any] | None:
    """Strides and parameters of a timm model that gives maps of several strides; None for another."""
    with torch.device("meta"):
        body = timm.create_model(name, features_only=True)
    offered = sorted(set(body.feature_info.reduction()))
    if len(offered) < 2:
        return None
    return {"offers": spaced(offered), "parameters": sum(one.numel() for one in body.parameters())}


def spaced(numbers: Iterable[int]) -> str:
    """One line of the JSON in the place of many."""
    return " ".join(map(str, numbers))


def chosen(offers: str) -> tuple[int, ...]:
    """The usual strides as far as the model has them, else its own that double each time; the usual where none do."""
    offered = [int(one) for one in offers.split()]
    usual = tuple(stride for stride in STRIDES if stride in offered)
    own = tuple(stride for stride in offered if stride >= 2 and stride.bit_count() == 1)
    return usual if STRIDES[0] in usual else own or STRIDES


def scene(height: int, width: int) -> Batch:
    """Images of noise with a small and a large box each."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 4.0, 20.0, 24.0], [10.0, 8.0, width - 6.0, height - 4.0]])
    targets = Targets(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    sizes, ids = ((height, width),) * IMAGES, tuple(range(IMAGES))
    images = torch.rand(IMAGES, 3, height, width, generator=generator)
    return Batch(images, sizes, sizes, (targets,) * IMAGES, ids, ids)


def run(name: str, strides: tuple[int, ...]) -> None:
    """Builds, trains one step, detects; gradients are looked at and dropped one by one, which halves the memory."""
    settings = FCOSSettings(backbone=name, strides=strides, fpn_channels=32, head_depth=1)
    detector = build_detector(settings, CLASSES, seed=0)
    taught: list[bool] = []

    def seen(parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        taught.append(gradient is not None and bool(torch.isfinite(gradient.sum())))

    for parameter in (one for one in detector.parameters() if one.requires_grad):
        parameter.register_post_accumulate_grad_hook(seen)
    total = SupervisedStep(detector).train()(scene(*LANDSCAPE), Clock(step=0, total_steps=1)).total
    total.backward()  # type: ignore[no-untyped-call]
    if not (torch.isfinite(total) and taught and all(taught)):
        flawed = f"{taught.count(False)} of {len(taught)}"
        raise ArithmeticError(f"loss {float(total.detach())}, {flawed} gradients not finite")
    with torch.no_grad():
        for found in detector.eval().detect(scene(*PORTRAIT)):
            if not torch.isfinite(found.boxes).all():
                raise ArithmeticError("boxes that are not finite")


def look(name: str, strides: tuple[int, ...]) -> None:
    """The same on the meta device, as far as nothing depends on numbers: neither the loss nor the boxes."""
    settings = FCOSSettings(backbone=name, strides=strides, fpn_channels=32, head_depth=1)
    with torch.device("meta"):
        detector: Any = build_detector(settings, CLASSES, seed=0)
    for grid, training in ((LANDSCAPE, True), (PORTRAIT, False)):
        pyramid = detector.train(training).extract(scene(*grid).to("meta"))
        cells = [tuple(level.shape[-2:]) for level in pyramid.levels]
        if cells != [(-(-grid[0] // stride), -(-grid[1] // stride)) for stride in strides]:
            raise ArithmeticError(f"maps of {cells} cells from {grid} pixels")
        heads = detector.class_outputs(pyramid), *detector.box_outputs(pyramid).values()
        if training:
            sum(one.mean() for one in heads).backward()


def in_own_process(name: str, strides: tuple[int, ...], memory: int, real: bool, pipe: Connection) -> None:
    """Sends the outcome and what was said."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (grown + memory, grown + memory))
    try:
        (run if real else look)(name, strides)
        pipe.send(("runs" if real else "shapes", ""))
    except DistillError as error:
        pipe.send(("refused", str(error)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is counted
        short = isinstance(error, MemoryError) or "enough memory" in str(error)
        pipe.send(("not run", f"over {memory / 2**30:.0f} GiB") if short else ("traceback", traceback.format_exc()))


def watched(name: str, strides: tuple[int, ...], *, memory: int, seconds: float, real: bool) -> dict[str, Any]:
    """The outcome of a model's own process."""
    began, context = time.monotonic(), multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=in_own_process, args=(name, strides, memory, real, theirs))
    process.start()
    theirs.close()
    outcome, says = "traceback", "the process died"
    with contextlib.suppress(EOFError):
        outcome, says = ours.recv() if ours.poll(seconds) else ("not run", f"over {seconds:.0f} s")
    process.kill()
    process.join()
    return {"strides": spaced(strides), "outcome": outcome, "says": says, "seconds": round(time.monotonic() - began, 1)}


def free_memory() -> int:
    """Bytes that are available."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def outcome_of(name: str, entry: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Runs or looks at one model, as far as there is memory."""
    strides, real = chosen(entry["offers"]), entry["parameters"] <= options.parameters
    memory = int(min(options.memory_gib * 2**30, free_memory()))
    # What is on the way besides the parameters is small.
    needed = int(1.3 * 4 * entry["parameters"]) + 2**30
    if real and needed > memory:
        says = f"{entry['parameters'] / 1e6:.0f} M parameters need {needed / 2**30:.0f} GiB, {memory / 2**30:.0f} given"
        return {"strides": spaced(strides), "outcome": "not run", "says": says}
    return watched(name, strides, memory=memory, seconds=options.seconds, real=real)


def counted(models: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many models had which outcome."""
    return dict(sorted(Counter(str(one.get("outcome", "to do")) for one in models.values()).items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/backbones.json"))
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    parser.add_argument("--again", nargs="*", default=[], help="outcomes to run once more")
    parser.add_argument("--memory-gib", type=float, default=16.0)
    parser.add_argument("--parameters", type=float, default=3e9, help="above, shapes alone are looked at")
    parser.add_argument("--seconds", type=float, default=900.0)
    options = parser.parse_args()
    progress, file = ScreenProgress(), options.json
    content: dict[str, Any] = read_json(file) if file.is_file() else {"models": {}, "one_stride": ""}
    models: dict[str, dict[str, Any]] = content["models"]
    one_stride = set(content["one_stride"].split())

    def save() -> None:
        grid = {"trained_px": spaced(LANDSCAPE), "detected_px": spaced(PORTRAIT), "images": IMAGES}
        measured = {"timm": timm.__version__, **machine(torch.device("cpu")), **grid}
        found = {"pyramids": len(models), **counted(models)}
        write_json(file, {**measured, **found, "one_stride": spaced(sorted(one_stride)), "models": models})

    def meant(names: Iterable[str]) -> list[str]:
        return [name for name in names if not options.only or any(part in name for part in options.only)]

    try:
        unknown = meant(name for name in timm.list_models() if name not in models and name not in one_stride)
        progress.start("list", len(unknown))
        for index, name in enumerate(unknown):
            if (entry := listed(name)) is None:
                one_stride.add(name)
            else:
                models[name] = entry
            progress.advance(index + 1, name)
        todo = meant(name for name, one in models.items() if one.get("outcome") in (None, *options.again))
        todo.sort(key=lambda name: int(models[name]["parameters"]))
        progress.start("sweep", len(todo))
        saved = time.monotonic()
        for index, name in enumerate(todo):
            models[name] |= outcome_of(name, models[name], options)
            progress.advance(index + 1, f"{name}: {models[name]['outcome']}")
            if time.monotonic() - saved > SAVED_EVERY_S:
                save()
                saved = time.monotonic()
    finally:
        save()
    progress.finish()
    for name, one in models.items():
        if one.get("outcome") in ("traceback", "not run"):
            progress.say(f"{one['outcome']}: {name}: {one['says'].strip().splitlines()[-1]}")
    progress.say(str(counted(models)))


if __name__ == "__main__":
    main()
