"""Every method at lengths where it counts, on several sets, many trainings side by side: one JSON a run, one table.

    python benchmarks/evidence.py --data FOLDER_OF_DATA_SETS --out runs/evidence --budget 480 --jobs 12
    python benchmarks/evidence.py --table      # what there is so far

Runs are made in the order of their importance: teachers first, then what answers most. Images are decoded once, into
memory that all processes share; each process imports and opens the GPU once and makes one run after another. A run that
is done is not made again, and none is begun that the budget has no time for; what is unfinished at its end is left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from detdistill.files import read_json
from detdistill.proof.quantile import t_quantile
from evidence_plan import ALONE, MORE_SEEDS, SETS, TEACHER, Run, planned
from evidence_runs import Places, carry_out, options


def table(places: Places, runs: Sequence[Run]) -> list[str]:
    """What there is of every set: AP of each row, and against the same seeds alone, with 95 % intervals."""
    lines = [
        "| set | row | AP | against alone | 95 % interval | each seed | AP50 | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    have = {run: found for run in runs if (found := places.done(run))}
    for name, row in dict.fromkeys((run.set, run.row) for run in runs):
        mine = {run.seed: one for run, one in have.items() if (run.set, run.row) == (name, row)}
        if not mine:
            continue
        twin = SETS[name].alone or name
        alone = {seed: one for seed in MORE_SEEDS if (one := places.done(Run(twin, ALONE, seed)))}
        gains = [one["AP"] - alone[seed]["AP"] for seed, one in sorted(mine.items()) if seed in alone]
        compared = gains if row not in (ALONE, TEACHER) else []
        cells = [
            name,
            f"`{row}`",
            f"{mean(one['AP'] for one in mine.values()):.1f}",
            f"{mean(compared):+.1f}" if compared else "",
            interval(compared),
            ", ".join(f"{gain:+.1f}" for gain in compared) or ", ".join(f"{one['AP']:.1f}" for one in mine.values()),
            f"{mean(one['AP50'] for one in mine.values()):.1f}",
            f"{mean(one['steps'] for one in mine.values()):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [run for run in runs if run not in have and places.result(run).is_file()]
    told = [f"{run.name}: {read_json(places.result(run))['error']}" for run in failed]
    missing = len(runs) - len(have) - len(failed)
    return [*lines, "", f"{len(have)} of {len(runs)} runs are there, {missing} were not made.", *told]


def interval(values: Sequence[float]) -> str:
    """The 95 % interval of a mean by Student's t."""
    if len(values) < 2:
        return ""
    half = t_quantile(len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values) - half:+.1f} to {mean(values) + half:+.1f}"


def main(arguments: list[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = options(__doc__, out="runs/evidence", results="benchmarks/results/evidence", budget=480.0)
    parser.add_argument("--data", type=Path, default=os.environ.get("DETDISTILL_TEST_DATA", "."))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(MORE_SEEDS))
    chosen = parser.parse_args(arguments)
    places = Places(Path(chosen.data).resolve(), chosen.out.resolve(), chosen.results.resolve(), chosen.share)
    runs = planned(chosen.sets, chosen.seeds, rows=chosen.rows)
    carry_out(chosen, places, runs, sets=chosen.sets, table=table, file=places.results / "table.md")


if __name__ == "__main__":
    main()
