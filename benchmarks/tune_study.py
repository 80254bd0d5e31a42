"""What `detdistill tune` picks with few labels and with all of them, and whether that holds on the validation images.

    python benchmarks/tune_study.py --data FOLDER_OF_DATA_SETS --out runs/tune

Each set and seed is searched as `evidence_plan.py` trains it; then what was picked and the student alone are trained
in full and measured on the validation images, which no search has seen. One JSON a search and a final training; what is
done is not made again, and a search that was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.tune import Search, tune_job  # noqa: E402
from detdistill.methods.catalogue import parse_method  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402
from detdistill.training.launch import own_device  # noqa: E402
from evidence import Places, config_of, make, prepare  # noqa: E402
from evidence_plan import ALONE, FEW, SEEDS, Run, teacher_of  # noqa: E402

SETS = ("bccd, 40 labels", "bccd")
STRENGTHS = (3.0, 1.0, 10.0, 0.3)


def trained(run: Run, places: Places, *, keep: bool = False) -> dict[str, Any]:
    """What a training came to, made where it was not; its folder goes unless it is kept."""
    found = places.done(run)
    folder = places.out / "runs" / run.name
    if found is None or (keep and not folder.is_dir()):
        found = make(run, places)
        write_json(places.result(run), found)
        if not keep:
            shutil.rmtree(folder)
    print(f"{run.name}: AP {found['AP']:.1f}", flush=True)
    return found


def searched(name: str, seed: int, places: Places) -> dict[str, Any]:
    """What the search found, made or gone on with where it is not there."""
    run = Run(name, "search", seed, FEW[0])
    file = places.result(run)
    if not file.is_file():
        config = config_of(run, places)
        search = Search(tuple(map(parse_method, FEW)), STRENGTHS, budget=4.0, held_out=0.25, jobs=1)
        found = tune_job(config, search, resume=config.out.is_dir(), progress=ScreenProgress())
        write_json(file, {"set": name, "seed": seed, **found.as_dict(), "machine": machine(own_device(config.train))})
    return read_json(file)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DETDISTILL_TEST_DATA", "."))
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/tune"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, to try the script")
    chosen = parser.parse_args()
    places = Places(chosen.data.resolve(), chosen.out.resolve(), chosen.results.resolve(), chosen.share)
    torch.set_num_threads(1)
    prepare(places, chosen.sets, chosen.seeds, jobs=1)
    for name in chosen.sets:
        for seed in chosen.seeds:
            trained(teacher_of(Run(name, ALONE, seed)), places, keep=True)
            found = searched(name, seed, places)
            print(f"{name}, seed {seed}: {found['sentence']}", flush=True)
            alone = trained(Run(name, ALONE, seed), places)
            if found["winner"] is not None:
                picked = trained(Run(name, f"picked: {found['winner']}", seed, found["winner"]), places)
                print(f"{name}, seed {seed}: {picked['AP'] - alone['AP']:+.1f} AP on validation", flush=True)


if __name__ == "__main__":
    main()
