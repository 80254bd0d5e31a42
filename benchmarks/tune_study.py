"""What `detdistill tune` picks with few labels and with all of them, and whether that holds on the validation images.

    python benchmarks/tune_study.py --data FOLDER_OF_DATA_SETS --out runs/tune --budget 480 --jobs 8
    python benchmarks/tune_study.py --table      # what there is so far

Each set and seed is searched as `evidence_plan.py` trains it; then what was picked and the student alone are trained
in full and measured on the validation images, which no search has seen. All searches go on side by side: their trials
share processes, which share the decoded images. One JSON a search and a final training; what is done is not made again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from threading import Lock, Thread
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.files import read_json, write_json, write_text  # noqa: E402
from detdistill.jobs import tune  # noqa: E402
from detdistill.methods.catalogue import parse_method  # noqa: E402
from detdistill.training.launch import own_device  # noqa: E402
from evidence import interval  # noqa: E402
from evidence_plan import ALONE, FEW, SECOND, SECOND_ALL, SEEDS, SETS, THIRD, Run, teacher_of  # noqa: E402
from evidence_runs import Listening, Places, config_of, make, prepare  # noqa: E402

SEARCHED = (SECOND_ALL, SECOND, THIRD)
STRENGTHS = (3.0, 1.0, 10.0, 0.3)


class Shared:
    """Processes that all searches share. All but what they do happens in one thread at a time.

    Args:
        jobs: how many; they are forked now, before there is a thread.
    """

    def __init__(self, jobs: int) -> None:
        forked = multiprocessing.get_context("fork")
        self.pool = ProcessPoolExecutor(jobs, mp_context=forked, initializer=torch.set_num_threads, initargs=(1,))
        self.pool.submit(os.getpid).result()
        self.turn = Lock()

    def side_by_side(self, work: Mapping[Any, Callable[[], Any]], jobs: int = 0) -> Iterator[tuple[Any, Any]]:
        """Stands in for `detdistill.jobs.side_by_side` in a thread that has the turn."""
        keys = {self.pool.submit(one): key for key, one in work.items()}
        left = set(keys)
        while left:
            self.turn.release()
            try:
                done, left = wait(left, return_when=FIRST_COMPLETED)
            finally:
                self.turn.acquire()
            for future in done:
                yield keys[future], future.result()

    def one(self, work: Callable[[], Any]) -> Any:
        """What one piece of work returns."""
        return next(self.side_by_side({None: work}))[1]


class Telling(Listening):
    """Says what a search says, with its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def say(self, line: str) -> None:
        print(f"{self.name}: {line}", flush=True)


def trained(run: Run, places: Places, shared: Shared) -> dict[str, Any]:
    """What a training came to, made where it was not; its folder is not kept."""
    found = places.done(run)
    if found is None:
        found = shared.one(partial(make, run, places))
        write_json(places.result(run), found)
        shutil.rmtree(places.out / "runs" / run.name)
    print(f"{run.name}: AP {found['AP']:.1f}", flush=True)
    return found


def searched(name: str, seed: int, places: Places, shared: Shared) -> dict[str, Any]:
    """What the search found, made or gone on with where it is not there."""
    run = Run(name, "search", seed, FEW[0])
    file = places.result(run)
    if not file.is_file():
        config = config_of(run, places)
        search = tune.Search(tuple(map(parse_method, FEW)), STRENGTHS, budget=None, held_out=0.25, jobs=1)
        found = tune.tune_job(config, search, resume=config.out.is_dir(), progress=Telling(run.name))
        content = {"set": name, "seed": seed, **found.as_dict(), "machine": machine(own_device(config.train))}
        write_json(file, content)
    return read_json(file)


def study(name: str, seed: int, places: Places, made: Places, shared: Shared) -> None:
    """A search, what it picked, and the student alone, which may have been made in the table of evidence."""
    with shared.turn:
        try:
            found = searched(name, seed, places, shared)
            print(f"{name}, seed {seed}: {found['sentence']}", flush=True)
            if found["winner"] is not None:
                trained(Run(name, f"picked: {found['winner']}", seed, found["winner"]), places, shared)
            alone = Run(SETS[name].alone or name, ALONE, seed)
            if made.done(alone) is None:
                trained(alone, places, shared)
        except BaseException:  # noqa: BLE001  the others go on
            traceback.print_exc()


def table(places: Places, made: Places) -> list[str]:
    """What was picked, what it had on the held-out images, its cost, and how it ended on validation against alone."""
    lines = [
        "| set | seed | picked | AP held out, alone | picked | cost | AP on validation, alone | picked | gain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SEARCHED:
        gains = []
        for seed in SEEDS:
            file = places.result(Run(name, "search", seed, FEW[0]))
            twin = Run(SETS[name].alone or name, ALONE, seed)
            alone = made.done(twin) or places.done(twin)
            if not file.is_file() or alone is None:
                continue
            found = read_json(file)
            winner = found["winner"]
            picked = alone if winner is None else places.done(Run(name, f"picked: {winner}", seed, winner))
            if picked is None:
                continue
            gains.append(picked["AP"] - alone["AP"])
            best = found["ap"][winner or ALONE]
            cells = [name, seed, f"`{winner or 'none'}`", f"{found['ap'][ALONE]:.1f}", f"{best:.1f}"]
            cells += [f"{found['trainings']:.1f}", f"{alone['AP']:.1f}", f"{picked['AP']:.1f}", f"{gains[-1]:+.1f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        if gains:
            lines.append(f"| {name} | all | | | | | | | {mean(gains):+.1f} ({interval(gains)}) |")
    return lines


def main() -> None:
    """Runs what the command line asks for."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DETDISTILL_TEST_DATA", "."))
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="that of evidence.py, for its teachers")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/tune"))
    parser.add_argument("--made", type=Path, default=Path("benchmarks/results/evidence"), help="of evidence.py")
    parser.add_argument("--together", type=Path, help="also all results in this one file")
    parser.add_argument("--sets", nargs="+", default=list(SEARCHED), choices=SEARCHED)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds for everything")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, to try the script")
    parser.add_argument("--table", action="store_true", help="make no run")
    parser.add_argument("--unpack", type=Path, help="take the results of such a file over into --results")
    chosen = parser.parse_args()
    places = Places(Path(chosen.data).resolve(), chosen.out.resolve(), chosen.results.resolve(), chosen.share)
    made = replace(places, results=chosen.made.resolve())
    if chosen.unpack is not None:
        for name, content in read_json(chosen.unpack).items():
            write_json(places.results / f"{name}.json", content)

    def together() -> None:
        if chosen.together is not None:
            files = {file.relative_to(places.results).with_suffix(""): file for file in places.results.rglob("*.json")}
            write_text(chosen.together, json.dumps({str(name): read_json(file) for name, file in files.items()}))

    if not chosen.table:
        torch.set_num_threads(1)
        prepare(places, chosen.sets, chosen.seeds, jobs=1)
        shared = Shared(chosen.jobs)
        tune.side_by_side = shared.side_by_side  # type: ignore[assignment]
        for teacher in dict.fromkeys(teacher_of(Run(name, ALONE, 0)) for name in chosen.sets):
            if not made.trained(teacher):
                with shared.turn:
                    write_json(made.result(teacher), shared.one(partial(make, teacher, made)))
        print(f"searches begin after {time.monotonic() - began:.0f} s", flush=True)
        ways = [(name, seed) for name in chosen.sets for seed in chosen.seeds]
        threads = [Thread(target=study, args=(*way, places, made, shared), daemon=True) for way in ways]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and time.monotonic() - began < chosen.budget:
            time.sleep(1.0)
            together()
    lines = table(places, made)
    write_text(places.results / "table.md", "\n".join(lines) + "\n")
    together()
    print("\n".join(lines), flush=True)
    if not chosen.table:
        for process in list(shared.pool._processes.values()):
            process.kill()  # what it makes is unfinished
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
