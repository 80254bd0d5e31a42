"""Makes the attempts that are missing, one after the other, and writes the summary."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.attack.attacks import ATTACKS, Attack
from benchmarks.attack.material import Material
from benchmarks.attack.processes import Forked, import_everything
from benchmarks.attack.records import Attempt, Records, draw, read_attempt, table

HUNG_AFTER_S, READY_AFTER_S = 20.0, 120.0
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
        attack, written = ATTACKS[name], f"{name.replace(' ', '_')}_{options.seed}"
        files = [options.records / f"{written}{end}.jsonl" for end in ("", "_backwards")]
        own = files.pop(options.backwards)
        records = Records(own, others=files)
        if options.again:
            print(f"{name}: {records.forget_faulty()} attempts are made once more")
        number = options.number[name]
        wanted[name] = attack.number if number is None else number
        try:
            if todo := list(records.todo(wanted[name])):
                until = time.monotonic() + 60 * (options.minutes or float("inf"))
                todo = todo[::-1] if options.backwards else todo
                _Work(name, attack, todo, seed=options.seed, until=until, home=home).make(records)
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


@dataclass(frozen=True, slots=True)
class _Work:
    """Attempts to make: of one attack, by number, until a moment of the monotonic clock."""

    name: str
    attack: Attack
    todo: Sequence[int]
    seed: int
    until: float
    home: Path

    def make(self, records: Records) -> None:
        """Makes them, and writes each down at once."""
        material, began, told = Material.fresh(self.home), time.monotonic(), 0.0
        self.attack.prepare(material)
        attempts = (self._batched if self.attack.batched else self._alone)(material)
        for made, attempt in enumerate(attempts, 1):
            records.add(attempt)
            for fault in attempt.faults:
                said = " ".join(attempt.says.split())
                print(f"{self.name} {attempt.number}: {fault}: {attempt.kind}: {said[-300:]}", flush=True)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                progress = f"{made} of {len(self.todo)} in {told - began:.0f} s"
                print(f"{self.name}: {progress}", file=sys.stderr, flush=True)

    def _attempt(self, material: Material, number: int) -> Attempt:
        return self.attack.attempt(material, number, draw(self.seed, self.name, number))

    def _alone(self, material: Material) -> Iterator[Attempt]:
        for number in self.todo:
            if time.monotonic() > self.until:
                return
            yield self._attempt(material, number)

    def _batched(self, material: Material) -> Iterator[Attempt]:
        """Attempts in forked processes; where one hangs or dies, the next goes on behind that attempt."""
        todo, lines = list(self.todo), material.home / "batch.jsonl"
        while todo and time.monotonic() < self.until:
            batch = todo[:_BATCH]
            lines.write_text("")

            def work(batch: list[int] = batch) -> int:
                self.attack.ready(material)
                with lines.open("a", encoding="utf-8") as file:
                    file.write("\n")
                    for number in batch:
                        file.write(json.dumps(asdict(self._attempt(material, number))) + "\n")
                        file.flush()
                return 0

            process = Forked(work, material.home / "batch.said")
            made, last, fault = 0, time.monotonic(), "crash"
            while True:
                code = process.poll()
                whole = lines.read_text(encoding="utf-8").splitlines()
                for line in whole[made:]:
                    if line:
                        yield read_attempt(line)
                if len(whole) > made:
                    made, last = len(whole), time.monotonic()
                if code is not None:
                    break
                if time.monotonic() - last > (HUNG_AFTER_S if made else READY_AFTER_S):
                    fault = "hang"
                    process.kill_session()
                time.sleep(0.02)
            if not made:
                raise RuntimeError(f"{self.name} must get ready, got: {process.wait().said[-2000:]}")
            todo = todo[made - 1 :]
            if code != 0 and made <= len(batch):
                died = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                said = process.wait().said[-2000:]
                yield Attempt(todo[0], "process", fault, (fault,), f"{died}: {said}")
                todo = todo[1:]
