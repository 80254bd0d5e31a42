"""Memory and descriptors of a long run with two workers: neither grows with the steps."""

from __future__ import annotations

import os
import random
import statistics
import time
from pathlib import Path

from benchmarks.attack.material import SMALL, Material, draw_data
from benchmarks.attack.processes import Forked, children, command
from benchmarks.attack.records import Attempt

BARS = ("memory grew", "descriptors grew", "traceback", "hang", "crash")
STEPS, IMAGES, WORKERS = 20_000, 5_000, 2
_SECONDS_BETWEEN_LOOKS = 2.0
# What an allocator may keep more of late than early, and no leak of a tensor or a row a step would stay below.
_ALLOWED = 24 << 20


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """One run; the smaller its number of steps, the less it says."""
    del draws
    return measured(material, number, steps=STEPS, images=IMAGES)


def measured(material: Material, number: int, *, steps: int, images: int) -> Attempt:
    """Trains, and looks at the process and its workers now and then."""
    folder, out = material.spare("growth") / "data", material.spare("growth") / "out"
    draw_data(folder, train=images, val=8)
    words = ["train", "--detector", "fcos/test_resnet", "--data", str(folder), "--out", str(out), "--steps", str(steps)]
    words += [*SMALL, f"train.workers={WORKERS}", f"train.checkpoint_every={max(steps // 20, 1)}", "train.log_every=10"]
    words += ["train.evaluate_every=" + str(max(steps // 10, 1)), "data.image.short_side=32", "data.image.long_side=48"]
    process, rows = Forked(command(words), material.home / "growth.said"), list[tuple[int, int, int]]()
    while process.poll() is None:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        if (step := _step(out)) and (look := _look(process.pid)) is not None:
            rows.append((step, *look))
    ended = process.wait()
    if ended.code != 0:
        fault = ended.fault or "crash"
        return Attempt(number, f"{steps} steps", fault, (fault,), ended.said[-1500:])
    early = [row for row in rows if 0.2 * steps < row[0] <= 0.4 * steps]
    late = [row for row in rows if 0.8 * steps < row[0] < steps]
    if not early or not late:
        return Attempt(number, f"{steps} steps", "too short to tell")
    memory = [statistics.median(row[1] for row in part) for part in (early, late)]
    descriptors = [max(row[2] for row in part) for part in (early, late)]
    figures = {"steps": steps, "images": images, "seconds": ended.seconds}
    figures |= {"MB early": memory[0] / 2**20, "MB late": memory[1] / 2**20}
    figures |= {"descriptors early": descriptors[0], "descriptors late": descriptors[1]}
    faults = ["memory grew"] * (memory[1] - memory[0] > _ALLOWED)
    faults += ["descriptors grew"] * (descriptors[1] > descriptors[0])
    return Attempt(number, f"{steps} steps", faults[0] if faults else "steady", tuple(faults), str(figures), figures)


def _step(out: Path) -> int:
    """The last step that the log has."""
    file = out / "metrics.csv"
    if not file.is_file():
        return 0
    with file.open("rb") as lines:
        lines.seek(max(0, file.stat().st_size - 2000))
        cells = lines.read().rpartition(b"\n")[0].rpartition(b"\n")[2].partition(b",")[0]
    return int(cells) if cells.isdigit() else 0


def _look(process: int) -> tuple[int, int] | None:
    """Bytes that are held, shared ones in part, and open descriptors of a process and its workers."""
    members = [process, *children(process)]
    if len(members) != 1 + WORKERS:
        return None
    held = descriptors = 0
    try:
        for pid in members:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            held += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    return held, descriptors
