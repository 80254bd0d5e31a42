"""Shows that a change of the code changed no weight: trains every method on every family and hashes what came out.

Run it once in each of two checkouts, with the same data and on the same machine, and compare what they wrote:

    python benchmarks/same_weights.py run --data SCENES --out before.json
    python benchmarks/same_weights.py run --data SCENES --out after.json
    python benchmarks/same_weights.py compare before.json after.json

It drives the command line alone, so that it runs on any version of the library.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from safetensors.torch import load_file

from detdistill.cli import main

METHODS = ("hint", "attention", "frs", "ssim", "fgd", "mgd", "ld", "aid(frs)", "ikd(frs)")
STUDENTS = {"fcos": "tiny", "retinanet": "tiny", "gfl": "tiny", "faster_rcnn": "small"}
SETTINGS = ("train.batch_size=4", "train.threads=1", "train.device=cpu", "train.warmup_steps=2")
STEPS = 6
DEMO_METHOD = "frs(feature_gain=0.02, class_gain=1.5, standardize=true, aligner=conv1x1)"
DEMO_SETTINGS = (
    "train.batch_size=8",
    "train.threads=1",
    "train.device=cpu",
    "train.processes=2",
    "train.lr=0.008",
    "train.schedule=step",
    "train.warmup_steps=50",
    "train.ema_decay=0.98",
    "data.augment.flip=0.5",
)
DEMO_STEPS = 40


def command(*words: str) -> str:
    """Runs the command line; returns what it complained about, empty where it did not."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main(words)
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    return "" if code == 0 else (lines or [f"exit {code}"])[0]


def digests(tensors: dict[str, Any], prefix: str) -> dict[str, str]:
    """SHA-256 of the dtype, shape and bytes of every tensor under a prefix."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
            found[name] = digest.hexdigest()
    return found


def together(parts: Iterator[str]) -> str:
    """One SHA-256 of several texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def weights(run: Path) -> dict[str, str]:
    """Hashes of a run's last checkpoint: the student's tensors by name, the terms' as a set.

    Terms may share a tensor, and what a tensor of theirs is called is nobody's business: each counts once, unnamed.
    """
    folder = max((run / "checkpoints").glob("step_*"))
    student = digests(load_file(folder / "student.safetensors"), "")
    terms = digests(load_file(folder / "training.safetensors"), "step_module.terms.")
    return {
        "student": together(f"{name} {digest}" for name, digest in sorted(student.items())),
        "terms": together(iter(sorted(set(terms.values())))),
    }


def run(data: Path, out: Path, *, families: Sequence[str]) -> None:
    """Trains every case of some families and writes the hashes, case by case."""
    cases: dict[str, Any] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for family, preset in ((family, STUDENTS[family]) for family in families):
            teacher = place / f"{family}_teacher"
            complaint = command(
                "train", *SETTINGS, "--detector", f"{family}/small", "--data", str(data), "--out", str(teacher),
                "--steps", str(STEPS), "--seed", "1",
            )  # fmt: skip
            cases[f"{family} teacher"] = {"refused": complaint} if complaint else weights(teacher)
            for method in METHODS:
                folder = place / f"{family}_{method}"
                complaint = command(
                    "distill", *SETTINGS, "--student", f"{family}/{preset}", "--teacher", str(teacher), "--method",
                    method, "--data", str(data), "--out", str(folder), "--steps", str(STEPS),
                )  # fmt: skip
                cases[f"{family} {method}"] = {"refused": complaint} if complaint else weights(folder)
                print(f"{time.perf_counter() - began:6.0f} s  {family} {method}: {cases[f'{family} {method}']}")
        folder = place / "demo"
        if "fcos" in families:
            command(
                "distill", *DEMO_SETTINGS, "--student", "fcos/tiny", "--teacher", str(place / "fcos_teacher"),
                "--method", DEMO_METHOD, "--data", str(data), "--out", str(folder), "--steps", str(DEMO_STEPS),
            )  # fmt: skip
            cases["demo"] = weights(folder)
    out.write_text(json.dumps(cases, indent=2) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases in {time.perf_counter() - began:.0f} s, written to {out}")


def compare(before: Path, after: Path) -> int:
    """Prints how many cases are equal, and every one that is not."""
    ours, theirs = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    names = sorted({*ours} & {*theirs})
    different = [name for name in names if ours.get(name) != theirs.get(name)]
    for name in different:
        print(f"{name}:\n  before {ours.get(name)}\n  after  {theirs.get(name)}")
    trained = sum("student" in ours.get(name, {}) for name in names)
    print(
        f"{len(names)} cases ({trained} trained, {len(names) - trained} refused) in both: {len(different)} differ; "
        f"{len({*ours} ^ {*theirs})} in one alone"
    )
    return len(different)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train every case and write the hashes")
    running.add_argument("--data", type=Path, required=True, help="drawn scenes, as detdistill data make scenes")
    running.add_argument("--families", nargs="+", choices=[*STUDENTS], default=[*STUDENTS], help="some of them alone")
    running.add_argument("--out", type=Path, required=True, help="JSON file to write")
    comparing = commands.add_parser("compare", help="compare two files of hashes")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "compare":
        return min(1, compare(given.before, given.after))
    run(given.data, given.out, families=given.families)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
