"""The demo, unchanged, over several seeds: the committed evidence that distillation helps there.

    python benchmarks/demo_study.py --seeds 0 1 2 --json benchmarks/results/demo_study.json
    python benchmarks/demo_study.py --seeds 0 1 2 --others "frs(strength=3)" "hint(strength=3)" --unlabelled 0.6

`--others` distils the same student on the same scenes with other methods too, `--unlabelled` with the demo's own and
with the scenes that it has no labels for, in such a share of its steps as takes the same time. `--method` makes the
demo another one's.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detdistill.threads import quiet_threads

quiet_threads()

import torch  # noqa: E402

from detdistill.bench.machine import machine  # noqa: E402
from detdistill.data.unlabelled import UnlabelledSettings  # noqa: E402
from detdistill.demo import SCENES, DemoPlan, demo_configs, demo_job  # noqa: E402
from detdistill.files import read_json, write_json, write_text  # noqa: E402
from detdistill.jobs.longer import ALONE_EQUAL_TIME  # noqa: E402
from detdistill.jobs.run import ALONE, DISTILLED, TEACHER, distill_job  # noqa: E402
from detdistill.jobs.settings import RunConfig  # noqa: E402
from detdistill.methods.catalogue import method_text, parse_method  # noqa: E402
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


def others(plan: DemoPlan, out: Path, seed: int, methods: list[str], share: float | None) -> dict[str, RunConfig]:
    """Distillations in the demo's folder beside its own, by what is different."""
    own = replace(demo_configs(plan, out=out, seed=seed)[DISTILLED], alone=None)
    found = {text: replace(own, method=parse_method(text), out=out / f"other_{text}") for text in methods}
    if share is not None:
        images = sorted((out / SCENES / "images").glob("train_*"))[plan.labelled_scenes :]
        names = out / "unlabelled.txt"
        write_text(names, "".join(f"{SCENES}/images/{one.name}\n" for one in images))
        data = replace(own.data, unlabelled=UnlabelledSettings(names))
        train = replace(own.train, steps=round(own.train.steps * share))
        name = f"{method_text(plan.method)} + unlabelled, {share:g} of the steps"
        found[name] = replace(own, data=data, train=train, out=out / "other_unlabelled")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/demo_study.json"))
    parser.add_argument("--others", nargs="*", default=[], help="texts of methods, each distilled as well")
    parser.add_argument("--unlabelled", type=float, help="share of the steps of a distillation with unlabelled scenes")
    parser.add_argument("--method", help="the demo's, if not its own")
    chosen = parser.parse_args()
    plan = DemoPlan() if chosen.method is None else replace(DemoPlan(), method=parse_method(chosen.method))
    seeds: dict[str, Any] = {}
    beside: dict[str, dict[str, Any]] = {}
    for seed in chosen.seeds:
        out = chosen.out / f"seed_{seed}"
        if not (out / "results.json").is_file():
            demo_job(out=out, seed=seed, plan=plan, progress=ScreenProgress())
        seeds[str(seed)] = read_json(out / "results.json")
        for name, config in others(plan, out, seed, chosen.others, chosen.unlabelled).items():
            found = distill_job(config, resume=True, progress=ScreenProgress())
            row = {"AP": found.results[DISTILLED].ap, "steps": found.steps, "seconds": round(found.seconds, 2)}
            beside.setdefault(name, {})[str(seed)] = row
        content = {
            "summary": summary(seeds),
            "seeds": seeds,
            **({"others": beside} if beside else {}),
            "plan": asdict(plan),
            "machine": machine(torch.device("cpu")),
        }
        write_json(chosen.json, content)
    for name, row in summary(seeds).items():
        print(f"{name:<32} {row['mean']:>6} ± {row['sd']}  {row['all']}")
    for name, rows in beside.items():
        figures = [row["AP"] for row in rows.values()]
        seconds = mean(row["seconds"] for row in rows.values())
        print(f"{name:<32} {mean(figures):>6.2f}  {figures}  {seconds:.0f} s")


if __name__ == "__main__":
    main()
