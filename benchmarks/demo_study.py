"""The demo, unchanged, over several seeds: the committed evidence that distillation helps there.

python benchmarks/demo_study.py --seeds 0 1 2 --json benchmarks/results/demo_study.json
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.demo import DemoPlan, demo_job  # noqa: E402
from detdistill.files import read_json, write_json  # noqa: E402
from detdistill.jobs.longer import ALONE_EQUAL_TIME  # noqa: E402
from detdistill.jobs.run import ALONE, DISTILLED, TEACHER  # noqa: E402
from detdistill.progress import ScreenProgress  # noqa: E402

MODELS = (TEACHER, ALONE, ALONE_EQUAL_TIME, DISTILLED)


def summary(seeds: dict[str, Any]) -> dict[str, Any]:
    figures = {name: [run[name]["AP"] for run in seeds.values()] for name in MODELS}
    gains = [run[DISTILLED]["AP"] - run[ALONE]["AP"] for run in seeds.values()]
    equal_time = [run[DISTILLED]["AP"] - run[ALONE_EQUAL_TIME]["AP"] for run in seeds.values()]
    rows = {**figures, "distilled - alone": gains, "distilled - alone_equal_time": equal_time}
    return {
        name: {
            "mean": round(mean(values), 2),
            "sd": round(stdev(values), 2) if len(values) > 1 else None,
            "all": values,
        }
        for name, values in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/demo_study.json"))
    chosen = parser.parse_args()
    seeds: dict[str, Any] = {}
    for seed in chosen.seeds:
        out = chosen.out / f"seed_{seed}"
        if not (out / "results.json").is_file():
            demo_job(out=out, seed=seed, progress=ScreenProgress())
        seeds[str(seed)] = read_json(out / "results.json")
        content = {
            "summary": summary(seeds),
            "seeds": seeds,
            "plan": asdict(DemoPlan()),
            "machine": machine(torch.device("cpu")),
        }
        write_json(chosen.json, content)
    for name, row in summary(seeds).items():
        print(f"{name:<32} {row['mean']:>6} ± {row['sd']}  {row['all']}")


if __name__ == "__main__":
    main()
