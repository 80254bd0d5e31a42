"""``python -m detdistill.bench step|overhead --json FILE``: measures, prints, writes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detdistill.errors import DistillError
from detdistill.files import write_json
from detdistill.threads import quiet_threads

if TYPE_CHECKING:
    from detdistill.bench.overhead import OverheadOutcome
    from detdistill.bench.step import StepBenchOutcome

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark and returns the exit code: 0 done, 2 bad input."""
    quiet_threads()
    parser = argparse.ArgumentParser(prog="python -m detdistill.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step", help="a distillation step against its floor, interleaved in one run")
    step.add_argument("--methods", default="hint,frs,ssim", help="recipes, separated by commas")
    overhead = commands.add_parser("overhead", help="what aid, attention and ikd add to the steps they stand on")
    for command in (step, overhead):
        command.add_argument("--teacher", default="retinanet/resnet50")
        command.add_argument("--student", default="retinanet/resnet18")
        command.add_argument("--batch-size", type=int, default=8)
        command.add_argument("--image-px", type=int, default=256)
        command.add_argument("--classes", type=int, default=5)
        command.add_argument("--rounds", type=int, default=20)
        command.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    chosen = parser.parse_args(arguments)
    try:
        outcome = _overhead(chosen) if chosen.command == "overhead" else _step(chosen)
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print("\n".join(outcome.table()))
    if chosen.json is not None:
        write_json(chosen.json, outcome.as_dict())
    return 0


# Torch loads in these two, after the threads' settings.


def _step(chosen: argparse.Namespace) -> StepBenchOutcome:
    from detdistill.bench.step import StepBenchSettings, bench_step
    from detdistill.progress import ScreenProgress

    settings = StepBenchSettings(methods=tuple(chosen.methods.split(",")), **_common(chosen))
    return bench_step(settings, progress=ScreenProgress())


def _overhead(chosen: argparse.Namespace) -> OverheadOutcome:
    from detdistill.bench.overhead import OverheadSettings, bench_overhead
    from detdistill.progress import ScreenProgress

    return bench_overhead(OverheadSettings(**_common(chosen)), progress=ScreenProgress())


def _common(chosen: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(chosen).items() if key not in ("command", "methods", "json")}


if __name__ == "__main__":
    sys.exit(main())
