"""How a distillation step grows: time and memory against batch, classes, image size, teacher, terms and processes.

    python benchmarks/cost_growth.py --json FILE.json --picture FILE.png

One quantity changes at a time, all else is as in BASE. Beside every step stands its floor: the student's plain step and
the teacher's observation of what is read. Points of one quantity take turns; time is the process's own, in one thread,
and memory what tensors hold at a time. How fast time grows is the exponent between the two largest points: 1 is in
proportion. Two processes train the same images a step as one with as many threads; that is told by the clock.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

import detdistill  # noqa: E402
from detdistill.bench.machine import machine, peak_mb  # noqa: E402
from detdistill.bench.rounds import STUDENT, Bench, BenchSettings, interleaved  # noqa: E402
from detdistill.bench.rows import ROWS, row  # noqa: E402
from detdistill.detectors.catalogue import build_detector, parse_detector  # noqa: E402
from detdistill.files import write_json  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.scenes import make_scenes  # noqa: E402

BASE = BenchSettings("retinanet/resnet50", "retinanet/resnet18", batch_size=2, image_px=128, classes=5)
METHOD = "frs"
AXES: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "images a step": ("batch_size", (1, 2, 4, 8)),
    "classes": ("classes", (5, 80, 365, 1203)),
    "pixels a side": ("image_px", (64, 128, 256, 512)),
    "million parameters of the teacher": (
        "teacher",
        ("{family}/tiny", "{family}/small", "{family}/resnet18", "{family}/resnet50"),
    ),
    "terms": ("method", ("hint", "frs", "frs + ssim", "frs + attention", "frs + ssim + attention + fgd")),
}
EFFICIENCY = 0.9


def main() -> None:
    """Measures, prints, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="a PNG or an SVG")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24, help="of the trainings in one and in two processes")
    parser.add_argument("--teacher", default=BASE.teacher)
    parser.add_argument("--student", default=BASE.student)
    parser.add_argument("--axes", nargs="*", default=list(AXES), help="by their first words")
    parser.add_argument("--quick", action="store_true", help="tiny detectors and two points each, to see that it runs")
    given = parser.parse_args()
    pair = replace(BASE, teacher=given.teacher, student=given.student)
    base, axes = tiny() if given.quick else (pair, AXES)
    hardware = {**machine(torch.device("cpu")), "threads": base.threads}
    found: dict[str, Any] = {
        "machine": hardware,
        "base": asdict(base),
        "method": METHOD,
        "rounds": given.rounds,
        "axes": {},
    }
    for axis, (key, choices) in axes.items():
        family = base.teacher.partition("/")[0]
        values = [one.format(family=family) if isinstance(one, str) else one for one in choices]
        if any(axis.startswith(word) for word in given.axes):
            found["axes"][axis] = points(key, values, base, rounds=given.rounds)
            print("\n".join(table(axis, found["axes"][axis])), flush=True)
    found["processes"] = processes(given.steps, pair=("fcos/small", "fcos/tiny"), side=64 if given.quick else 160)
    ratios = found["processes"]["ratios"]
    what = "images a second of 2 processes ÷ 1 process with 2 threads; fcos/small → fcos/tiny"
    found[ROWS] = [row(what, ratios, hardware={**hardware, "threads": 2}, at_least=EFFICIENCY)]
    for axis, rows in found["axes"].items():
        for name, one in (("fewest", rows[0]), ("most", rows[-1])):
            told = f"{METHOD if axis != 'terms' else one['of']} ÷ its floor with the {name} {axis}, {one['of']}"
            told += f"; {base.teacher} → {base.student}"
            found[ROWS].append(row(told, one["ratios"], hardware=hardware))
            memory, beside = one["step_mb"] / one["plain_mb"], told.replace("its floor", "the plain step")
            found[ROWS].append(row(f"peak memory: {beside}", [memory], hardware=hardware))
    print(f"{what}: {statistics.median(ratios):.3f}")
    if given.json is not None:
        write_json(given.json, found)
    if given.picture is not None:
        draw(found["axes"], given.picture)


def tiny() -> tuple[BenchSettings, dict[str, tuple[str, tuple[Any, ...]]]]:
    """The same axes on tiny detectors, with the two smallest points of each."""
    base = replace(BASE, teacher="retinanet/tiny", student="retinanet/tiny", batch_size=1, image_px=64)
    return base, {axis: (key, values[:2]) for axis, (key, values) in AXES.items() if key != "teacher"}


def points(key: str, values: Sequence[Any], base: BenchSettings, *, rounds: int) -> list[dict[str, Any]]:
    """Time and memory of a step, and of its floor, at every value of one quantity."""
    benches, parts = [], {}
    for value in values:
        method = value if key == "method" else METHOD
        bench = Bench(base if key == "method" else replace(base, **{key: value}))
        bench.add(method, at_most=math.inf)
        benches.append((bench, method, value))
        parts |= {f"{value}: {name}": run for name, run in bench.parts.items()}
    progress = ScreenProgress()
    times = interleaved(parts, rounds, device=benches[0][0].device, progress=progress)
    found = []
    for bench, method, value in benches:
        ratio = bench.compared[method]
        steps, floors = times[f"{value}: {ratio.step}"], [times[f"{value}: {part}"] for part in ratio.floor]
        each = [step / sum(floor) for step, *floor in zip(steps, *floors, strict=True)]
        size = value
        if key == "teacher":
            size = parameters(value)
        elif key == "method":
            size = len(bench.recipe(method).terms)
        found.append(
            {
                "at": size,
                "of": str(value),
                "step_ms": round(statistics.median(steps), 1),
                "floor_ms": round(sum(map(statistics.median, floors)), 1),
                "step_over_floor": round(statistics.median(each), 3),
                "ratios": [round(one, 4) for one in each],
                "step_mb": round(peak_mb(bench.parts[ratio.step]), 1),
                "plain_mb": round(peak_mb(bench.parts[STUDENT]), 1),
            }
        )
    for one, other in itertools.pairwise(found):
        reach = math.log(other["at"] / one["at"])
        for what in ("step_ms", "floor_ms", "step_mb", "plain_mb"):
            other[f"{what}_exponent"] = round(math.log(other[what] / one[what]) / reach, 2)
    return found


def parameters(detector: str) -> float:
    """Of a detector, in millions."""
    built = build_detector(parse_detector(detector), ("class",), seed=0)
    return round(sum(one.numel() for one in built.parameters()) / 1e6, 2)


def table(axis: str, rows: list[dict[str, Any]]) -> list[str]:
    """One quantity's points for a terminal."""
    lines = [f"{axis:<36} {'step':>9} {'floor':>9} {'÷':>6} {'step':>9} {'plain':>9}   grows as"]
    for one in rows:
        label = one["of"] if one["of"] == str(one["at"]) else f"{one['of']} ({one['at']})"
        grows = f"{one['step_ms_exponent']:.2f} (floor {one['floor_ms_exponent']:.2f})" if one is not rows[0] else ""
        lines.append(
            f"{label:<36} {one['step_ms']:>6.0f} ms {one['floor_ms']:>6.0f} ms {one['step_over_floor']:>6.3f} "
            f"{one['step_mb']:>6.0f} MB {one['plain_mb']:>6.0f} MB   {grows}"
        )
    return [*lines, ""]


def processes(steps: int, *, pair: tuple[str, str], side: int) -> dict[str, Any]:
    """Seconds of a step of eight images in one process with two threads, and in two with one: short trainings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scenes(folder / "scenes", train=32, val=4, seed=0, width=side, height=side)
        common = [f"data.image.short_side={side}", f"data.image.long_side={side}", "train.log_every=1"]
        common += ["train.device=cpu", "report=false", "train.workers=0"]
        few = [*common, "train.steps=2", "train.batch_size=2"]
        detdistill.train(*few, detector=pair[0], data=folder / "scenes", out=folder / "teacher")
        each: dict[str, list[float]] = {}
        for count in (1, 2):
            own = [f"train.processes={count}", f"train.threads={2 // count}", f"train.batch_size={8 // count}"]
            detdistill.distill(
                *common,
                *own,
                teacher=folder / "teacher",
                student=pair[1],
                data=folder / "scenes",
                method=METHOD,
                out=folder / str(count),
                steps=steps,
            )
            with (folder / str(count) / "metrics.csv").open() as file:
                seconds = [float(line["seconds"]) for line in csv.DictReader(file)]
            each[str(count)] = [after - before for before, after in itertools.pairwise(seconds)][3:]
    ratios = [one / two for one, two in zip(each["1"], each["2"], strict=True)]
    return {"steps": steps, "pair": " → ".join(pair), "side": side, "seconds": each, "ratios": ratios}


def draw(axes: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Every quantity's time and memory on logarithmic axes, the step beside its floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(axes), 6), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    kinds = (("step_ms", "floor_ms", "ms a step"), ("step_mb", "plain_mb", "MB of tensors"))
    for column, (axis, rows) in enumerate(axes.items()):
        for line, (step, floor, unit) in enumerate(kinds):
            at = panels[line][column]
            xs = [one["at"] for one in rows]
            at.loglog(xs, [one[step] for one in rows], marker="o", color="#1b6ca8", label=f"step of {METHOD}")
            beside = "its floor" if line == 0 else "the student's plain step"
            at.loglog(xs, [one[floor] for one in rows], marker="s", color="#d1813a", linestyle="--", label=beside)
            at.set_xticks(xs, [f"{x:g}" for x in xs], minor=False)
            at.set_xticks([], minor=True)
            at.set_xlabel(axis)
            at.grid(visible=True, which="major", alpha=0.3)
            if column == 0:
                at.set_ylabel(unit)
                at.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
