"""``python -m detdistill.bench step|overhead --json FILE``: measures, prints, writes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detdistill.errors import DistillError
from detdistill.files import figures_of, require_own, write_figures
from detdistill.threads import quiet_threads

if TYPE_CHECKING:
    from detdistill.bench.rounds import BenchOutcome

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark and returns the exit code: 0 done, 2 bad input."""
    quiet_threads()
    parser = argparse.ArgumentParser(prog="python -m detdistill.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step", help="a distillation step against its floor, interleaved in one run")
    step.add_argument("--methods", default="hint,frs,ssim", help="texts of methods, separated by commas")
    overhead = commands.add_parser("overhead", help="what aid, attention and ikd add to the steps they stand on")
    for command in (step, overhead):
        command.add_argument("--teacher", default="retinanet/resnet50")
        command.add_argument("--student", default="retinanet/resnet18")
        command.add_argument("--batch-size", type=int, default=2)
        command.add_argument("--image-px", type=int, default=256)
        command.add_argument("--classes", type=int, default=5)
        command.add_argument("--rounds", type=int, default=20)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    chosen = parser.parse_args(arguments)
    written = {"command": f"bench {chosen.command}", "option": "--json"}
    try:
        if chosen.json is not None:
            require_own(chosen.json, "--json", figures_of(written["command"]))
        outcome = _measure(chosen)
        print("\n".join(outcome.table()))
        if chosen.json is not None:
            write_figures(chosen.json, outcome.as_dict(), **written)
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _measure(chosen: argparse.Namespace) -> BenchOutcome:
    # Torch loads here, after the threads' settings.
    from detdistill.bench.overhead import bench_overhead
    from detdistill.bench.rounds import BenchSettings
    from detdistill.bench.step import bench_step, separate
    from detdistill.progress import ScreenProgress

    own = ("command", "methods", "json")
    settings = BenchSettings(**{key: value for key, value in vars(chosen).items() if key not in own})
    if chosen.command == "overhead":
        return bench_overhead(settings, progress=ScreenProgress())
    return bench_step(settings, separate(chosen.methods), progress=ScreenProgress())


if __name__ == "__main__":
    sys.exit(main())
