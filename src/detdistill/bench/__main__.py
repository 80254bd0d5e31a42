"""``python -m detdistill.bench step --methods hint,frs,ssim --json FILE``: measures, prints, writes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detdistill.errors import DistillError
from detdistill.files import write_json
from detdistill.threads import quiet_threads

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark and returns the exit code: 0 done, 2 bad input."""
    quiet_threads()
    parser = argparse.ArgumentParser(prog="python -m detdistill.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step", help="a distillation step against its floor, interleaved in one run")
    step.add_argument("--methods", default="hint,frs,ssim", help="recipes, separated by commas")
    step.add_argument("--teacher", default="retinanet/resnet50")
    step.add_argument("--student", default="retinanet/resnet18")
    step.add_argument("--batch-size", type=int, default=8)
    step.add_argument("--image-px", type=int, default=256)
    step.add_argument("--classes", type=int, default=5)
    step.add_argument("--rounds", type=int, default=20)
    step.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    chosen = parser.parse_args(arguments)
    # Torch loads here, after the threads' settings.
    from detdistill.bench.step import StepBenchSettings, bench_step
    from detdistill.progress import ScreenProgress

    try:
        outcome = bench_step(
            StepBenchSettings(
                methods=tuple(chosen.methods.split(",")),
                teacher=chosen.teacher,
                student=chosen.student,
                batch_size=chosen.batch_size,
                image_px=chosen.image_px,
                classes=chosen.classes,
                rounds=chosen.rounds,
            ),
            progress=ScreenProgress(),
        )
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print("\n".join(outcome.table()))
    if chosen.json is not None:
        write_json(chosen.json, outcome.as_dict())
    return 0


if __name__ == "__main__":
    sys.exit(main())
