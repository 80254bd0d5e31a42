"""Makes the attempts that are missing, one after the other, and writes the summary."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.attack.attacks import ATTACKS, Attack
from benchmarks.attack.material import Material
from benchmarks.attack.processes import Forked, import_everything
from benchmarks.attack.records import Attempt, Records, draw, table

HUNG_AFTER_S = 20.0
_BATCH = 250


def run_attacks(options: argparse.Namespace, *, home: Path) -> bool:
    """Makes what is missing of the attacks that are named, and prints the table; whether every bar was held."""
    from detdistill.files import write_json

    import_everything()
    content: dict[str, Any] = {"attacks": {}}
    if options.json.is_file():
        content = json.loads(options.json.read_text(encoding="utf-8"))
    found, wanted = content["attacks"], dict[str, int]()
    for name in options.attacks:
        attack, records = ATTACKS[name], Records(options.records / f"{name}_{options.seed}.jsonl")
        if options.again:
            print(f"{name}: {records.forget_faulty()} attempts are made once more")
        wanted[name] = attack.number if options.number is None else options.number
        try:
            _make(name, attack, records, wanted[name], options, home)
        finally:
            found[name] = {"seed": options.seed, **records.summary(attack.bars)}
            write_json(options.json, {**machine(), "attacks": {one: found[one] for one in ATTACKS if one in found}})
    print(table({name: found[name] for name in options.attacks}, wanted))
    return all(not any(found[name]["bars"].values()) for name in options.attacks)


def machine() -> dict[str, Any]:
    """Where the figures are from."""
    import torch

    python = platform.python_version()
    return {"python": python, "torch": torch.__version__, "system": platform.system(), "cores": os.cpu_count()}


def _make(name: str, attack: Attack, records: Records, count: int, options: argparse.Namespace, home: Path) -> None:
    todo = list(records.todo(count))
    if not todo:
        return
    material, began, told = Material.fresh(home), time.monotonic(), 0.0
    until = began + 60 * (options.minutes or float("inf"))
    batches = _batched if attack.batched else _alone
    for made, attempt in enumerate(batches(name, attack, todo, material, options.seed, until), 1):
        records.add(attempt)
        for fault in attempt.faults:
            print(f"{name} {attempt.number}: {fault}: {attempt.kind}: {attempt.says[-600:]}", flush=True)
        if time.monotonic() - told > 15:
            told = time.monotonic()
            print(f"{name}: {made} of {len(todo)} in {told - began:.0f} s", file=sys.stderr, flush=True)


def _alone(
    name: str, attack: Attack, todo: list[int], material: Material, seed: int, until: float
) -> Iterator[Attempt]:
    for number in todo:
        if time.monotonic() > until:
            return
        yield attack.attempt(material, number, draw(seed, name, number))


def _batched(
    name: str, attack: Attack, todo: list[int], material: Material, seed: int, until: float
) -> Iterator[Attempt]:
    """Attempts in forked processes; where one hangs or dies, the next goes on behind that attempt."""
    while todo and time.monotonic() < until:
        batch, lines = todo[:_BATCH], material.home / "batch.jsonl"
        lines.write_text("")

        def work(batch: list[int] = batch, lines: Path = lines) -> int:
            with lines.open("a", encoding="utf-8") as file:
                for number in batch:
                    attempt = attack.attempt(material, number, draw(seed, name, number))
                    file.write(json.dumps(asdict(attempt)) + "\n")
                    file.flush()
            return 0

        process = Forked(work, material.home / "batch.said")
        made, last, fault = 0, time.monotonic(), "crash"
        while True:
            code = process.poll()
            whole = lines.read_text(encoding="utf-8").splitlines()
            for line in whole[made:]:
                content = json.loads(line)
                yield Attempt(**content | {"faults": tuple(content["faults"])})
            if len(whole) > made:
                made, last = len(whole), time.monotonic()
            if code is not None:
                break
            if time.monotonic() - last > HUNG_AFTER_S:
                fault = "hang"
                process.kill_session()
            time.sleep(0.02)
        todo = todo[made:]
        if process.poll() != 0 and todo and made < len(batch):
            said = process.wait().said[-2000:]
            code = process.poll() or 0
            died = signal.Signals(-code).name if code < 0 else str(code)
            yield Attempt(todo[0], "process", fault, (fault,), f"{died}: {said}")
            todo = todo[1:]
