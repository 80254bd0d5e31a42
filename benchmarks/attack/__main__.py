"""Runs the attacks, goes on where they were stopped, and writes what they found.

A line for every attempt goes to a folder of its own as soon as the attempt is made; the summary is made of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

from benchmarks.attack.attacks import ATTACKS
from benchmarks.attack.runner import run_attacks


def main() -> int:
    memory = Path("/dev/shm")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", default=list(ATTACKS), help=f"of {', '.join(ATTACKS)}; all by default")
    parser.add_argument("--number", type=int, nargs="+", help="attempts, of all or of each; its own number by default")
    parser.add_argument("--seed", type=int, default=0, help="decides every attempt")
    parser.add_argument("--again", action="store_true", help="make the attempts with faults once more")
    parser.add_argument("--backwards", action="store_true", help="the last first: a second process beside another")
    parser.add_argument("--minutes", type=float, help="of each attack, at most; what is missing is done next time")
    parser.add_argument("--records", type=Path, default=Path("runs/attack"), help="folder of the lines")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/attack.json"))
    parser.add_argument(
        "--home", type=Path, default=(memory if memory.is_dir() else Path("runs")) / "detdistill-attack"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.attacks) - set(ATTACKS)):
        parser.error(f"no attack is called {', '.join(unknown)}; there are {', '.join(ATTACKS)}")
    numbers = options.number or [None]
    numbers = numbers * len(options.attacks) if len(numbers) == 1 else numbers
    if len(numbers) != len(options.attacks):
        parser.error(f"--number must be one number, or {len(options.attacks)}, as many as attacks, got {len(numbers)}")
    options.number = dict(zip(options.attacks, numbers, strict=True))
    home = options.home / str(os.getpid())
    try:
        held = run_attacks(options, home=home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
