"""Two processes at one folder or one cache: each ends as if it were alone, or refuses in a sentence; nothing mixes."""

from __future__ import annotations

import random
import time
from pathlib import Path

from benchmarks.attack.commands import COMMANDS, prepare
from benchmarks.attack.kills import SCENARIOS, words_of
from benchmarks.attack.material import Material, leftovers, metrics, weights
from benchmarks.attack.processes import Ended, Forked, command, undrawn
from benchmarks.attack.records import Attempt

__all__ = ["BARS", "attempt", "prepare"]

BARS = ("mixed", "traceback", "hang", "crash", "leftover")
_SEEDS = ("4", "5")
_KINDS = ("two seeds", "one run twice", "a resume beside the run", "two distillations", "one cache of twins", "convert")


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """Two processes, the second a drawn time after the first."""
    kind = _KINDS[number % len(_KINDS)]
    home = material.spare("together")
    home.mkdir(parents=True)
    wait = draws.choice((0.0, draws.uniform(0, 0.2), draws.uniform(0, 1.5)))
    if kind == "one cache of twins":
        faults, end, told = _cache(material, home, wait)
    elif kind == "convert":
        faults, end, told = _convert(material, home, wait)
    else:
        faults, end, told = _one_folder(material, home, kind, wait)
    if left := leftovers(home):
        faults.append("leftover")
        told += f" left: {left[:3]}"
    return Attempt(
        number, kind, faults[0] if faults else end, tuple(faults), f"after {wait:.2f} s: {told}" * bool(faults)
    )


def _both(home: Path, first: list[str], second: list[str], wait: float) -> tuple[Ended, Ended]:
    one = Forked(undrawn(command(first)), home / "first.said")
    time.sleep(wait)
    other = Forked(undrawn(command(second)), home / "second.said")
    return one.wait(), other.wait()


def _judged(ended: tuple[Ended, Ended]) -> list[str]:
    faults = [one.fault for one in ended if one.fault is not None]
    if not faults and any(one.code not in (0, 2) for one in ended):
        faults = ["mixed"]
    return faults


def _told(ended: tuple[Ended, Ended]) -> str:
    return " / ".join(f"{one.code}: {one.said[-400:]}" for one in ended)


def _one_folder(material: Material, home: Path, kind: str, wait: float) -> tuple[list[str], str, str]:
    scenario = SCENARIOS["distill" if kind == "two distillations" else "train"]
    name, out, wholes = scenario.command, home / "out", list[Path]()
    lines = []
    for seed in _SEEDS:
        base = words_of(scenario, material, "OUT")
        base[base.index("--seed") + 1] = seed
        place = material.home / f"together_{name}_{seed}"
        wholes.append(material.run(f"together {name} {seed}", [*base[:-1], str(place)]))
        lines.append([*base[:-1], str(out)])
    first, second = lines
    if kind in ("one run twice", "a resume beside the run"):
        second = [*first, "--resume"] if kind == "a resume beside the run" else first
        wholes = wholes[:1] * 2
    ended = _both(home, first, second, wait)
    faults, told = _judged(ended), _told(ended)
    if faults:
        return faults, "", told
    winners = [whole for one, whole in zip(ended, wholes, strict=True) if one.code == 0]
    if not winners:
        return ["mixed"], "", told
    # Of two that ended well one after the other, the folder holds the run of both: the same.
    if len(winners) == 2 and kind in ("two seeds", "two distillations"):
        return ["mixed"], "", told
    whole = winners[0]
    if weights(out) != weights(whole) or metrics(out) != metrics(whole):
        return ["mixed"], "", told
    return [], "one refused" if len(winners) == 1 else "one after the other", told


def _cache(material: Material, home: Path, wait: float) -> tuple[list[str], str, str]:
    scenario = SCENARIOS["ikd with its cache"]
    whole = material.run("twins", words_of(scenario, material, str(material.home / "twins_run")))
    cache = f"twins.folder={home / 'cache'}"
    lines = [[*words_of(scenario, material, str(home / name)), cache] for name in ("one", "other")]
    ended = _both(home, lines[0], lines[1], wait)
    faults, told = _judged(ended), _told(ended)
    if not faults and any(one.code for one in ended):
        faults = ["mixed"]
    if not faults and any(weights(home / name) != weights(whole) for name in ("one", "other")):
        faults = ["mixed"]
    return faults, "both as if alone", told


def _convert(material: Material, home: Path, wait: float) -> tuple[list[str], str, str]:
    writing = COMMANDS["data convert to voc"]
    whole = material.run("voc", writing.given(material, material.home / "voc"))
    words = writing.given(material, home / "out")
    ended = _both(home, words, words, wait / 10)
    faults, told = _judged(ended), _told(ended)
    if not faults and (all(one.code for one in ended) or writing.left(home / "out") != writing.left(whole)):
        faults = ["mixed"]
    return faults, "one refused" if any(one.code for one in ended) else "one after the other", told
