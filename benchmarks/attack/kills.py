"""SIGKILL at drawn moments, and what a resume makes of it.

A moment is a time, the middle of a write (a temporary name is there), or just before the n-th operation on a file. The
victim is all of a run's processes, or one of them. Then the run is resumed, sometimes killed and resumed once more, at
once or after all that was left behind has ended; it must end with the bits of a run that nobody disturbed. Four of five
runs write empty figures, as drawing them takes longer than all the rest.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attack.material import EVERY, SMALL, STEPS, Material, leftovers, metrics, weights
from benchmarks.attack.nodes import NODES, Nodes
from benchmarks.attack.processes import Ended, Forked, children, command, undrawn
from benchmarks.attack.records import Attempt

BARS = ("lost", "not identical", "orphan", "leftover", "traceback", "hang")
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}
_TOLD = {"time": "at a time", "write": "in a write", "operation": "before an operation"}
_DRAWING = 4.0  # times as long as without its figures a run takes with them
_HELD = "at work there"  # how a sentence says that another process holds the folder


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run to kill, and which of its processes."""

    command: str
    words: tuple[str, ...]
    victims: tuple[str, ...] = ("all",)
    every: int = EVERY
    nodes: int = 1


_BEST = ("train.evaluate_every=2", "train.keep=best", "train.checkpoint_every=2")
SCENARIOS = {
    "train": Scenario("train", ()),
    "train, the best kept": Scenario("train", _BEST, every=2),
    "distill": Scenario("distill", ("--method", "aid(frs(warmup_steps=0))")),
    "ikd with its cache": Scenario("distill", ("--method", "ikd(frs(warmup_steps=0))")),
    "2 workers": Scenario("train", ("train.workers=2",), ("all", "parent", "worker")),
    "2 ranks": Scenario("train", ("train.processes=2",), ("all", "parent", "rank")),
    NODES: Scenario("train", (), ("node", "agent", "worker"), nodes=2),
}
# How many of 20 attempts.
_SHARES = dict(zip(SCENARIOS, (7, 2, 3, 3, 2, 2, 1), strict=True))
_ROUND = [name for name, share in _SHARES.items() for _ in range(share)]


def words_of(scenario: Scenario, material: Material, out: str) -> list[str]:
    """The command of a scenario, into a folder."""
    data = ("--data", str(material.home / "data"), "--steps", str(STEPS), "--seed", "4")
    who = ("--student", "fcos/test_resnet", "--teacher", str(material.teacher))
    taught = scenario.command == "distill"
    detector = who if taught else ("--detector", "fcos/test_resnet")
    return [scenario.command, *detector, *data, *SMALL, *scenario.words, "--out", out]


def attempt(material: Material, number: int, draws: random.Random) -> Attempt:
    """One run that is killed, and resumed until it ends."""
    name = _ROUND[number * 7 % len(_ROUND)]
    return _Kill(material, name, draws, drawn=number % 5 == 0).attempt(number)


class _Kill:
    def __init__(self, material: Material, name: str, draws: random.Random, *, drawn: bool) -> None:
        self.drawn = drawn
        self.material, self.name, self.draws = material, name, draws
        self.scenario = SCENARIOS[name]
        self.try_ = material.spare("kill")
        self.run = self.try_ / "0" / "cut"
        self.faults: list[str] = []
        self.told: list[str] = []
        self.kills = self.waited = 0
        self.whole = self._whole()

    def _whole(self) -> Path:
        folder = self.material.home / self.name.replace(" ", "_").replace(",", "")
        if self.scenario.nodes == 1:
            return self.material.run(self.name, words_of(self.scenario, self.material, str(folder / "whole")))
        if self.name not in self.material.runs:
            nodes = Nodes(folder, undrawn(command(words_of(self.scenario, self.material, "whole"))))
            ended = nodes.wait()
            if [one.code for one in ended] != [0, 0]:
                raise RuntimeError(f"{self.name} must run undisturbed, got {[one.said[-2000:] for one in ended]}")
            self.material.runs[self.name] = folder / "0" / "whole"
            self.material.seconds[self.name] = max(one.seconds for one in ended)
        return self.material.runs[self.name]

    def attempt(self, number: int) -> Attempt:
        began = time.monotonic()
        wanted = 1 + (self.draws.random() < 0.3)
        victim = self.draws.choice(self.scenario.victims)
        moments = [self.draws.choice(("time", "write", "operation")) for _ in range(wanted)]
        for moment in moments:
            self._kill(victim, moment)
        self._resume()
        if not self.faults:
            self._compare()
        figures: dict[str, float] = {"kills": self.kills, "seconds": time.monotonic() - began, "waited": self.waited}
        for moment in moments:
            figures[f"kills {_TOLD[moment]}"] = figures.get(f"kills {_TOLD[moment]}", 0) + 1
        faults = tuple(dict.fromkeys(self.faults))
        end = faults[0] if faults else "resumed" if self.kills else "not killed"
        says = "" if not faults else f"{victim} killed, {moments}: {' | '.join(self.told)}"
        return Attempt(number, self.name, end, faults, says, figures)

    def _words(self) -> list[str]:
        out = str(self.run) if self.scenario.nodes == 1 else "cut"
        return [*words_of(self.scenario, self.material, out), "--resume"]

    def _command(self) -> Callable[[], int]:
        return command(self._words()) if self.drawn else undrawn(command(self._words()))

    def _start(self, work: Callable[[], int]) -> Forked | Nodes:
        if self.scenario.nodes > 1:
            return Nodes(self.try_, work)
        return Forked(work, self.try_ / "said")

    def _kill(self, victim: str, moment: str) -> None:
        """Kills once; a run that ends before its moment begins anew, with an earlier one."""
        share, operation = self.draws.uniform(0.05, 1.0), self.draws.randrange(240)
        for _ in range(6):
            if moment == "operation" and self.scenario.nodes == 1:
                work = _dying(self._command(), self.try_, operation)
            else:
                work = self._command()
            process = self._start(work)
            killed = self._strike(process, victim, moment, share, operation)
            if killed:
                self.kills += 1
                self._aftermath(process)
                return
            share, operation = share / 2, operation // 2
            self.material.spare("kill")
        self.told.append("no kill hit")

    def _strike(self, process: Forked | Nodes, victim: str, moment: str, share: float, operation: int) -> bool:
        """Waits for the moment and kills; whether the run was still there."""
        until = time.monotonic() + share * self.material.seconds[self.name] * (_DRAWING if self.drawn else 1)
        seen, writes = False, self.draws.randrange(1, 8)
        while process.poll() is None:
            now = time.monotonic()
            if moment == "time" and now > until:
                break
            if moment == "write":
                writing = any(True for place in (self.run, self.run / "checkpoints") for _ in place.glob("*.partial"))
                writes -= writing and not seen
                seen = writing
                if writes <= 0:
                    time.sleep(self.draws.uniform(0, 0.004))
                    break
            if moment == "operation" and self.scenario.nodes > 1 and now > until:
                break
            time.sleep(0.002)
        code = process.poll()
        if code is not None:
            ended = process.wait() if isinstance(process, Forked) else None
            if moment == "operation" and code != 0:
                # It died by its own hand, or of a rank that did.
                self._judge(ended) if code != -signal.SIGKILL else None
                return True
            if code != 0:
                self._failed("lost", ended.said[-1500:] if ended else "the nodes ended")
            return False
        if isinstance(process, Nodes):
            return process.kill(victim, self.draws)
        return self._kill_one(process, victim)

    def _kill_one(self, process: Forked, victim: str) -> bool:
        if victim in ("rank", "worker"):
            others = children(process.pid)
            if not others:  # none was there yet, or none any more
                process.kill_session()
                return True
            os.kill(self.draws.choice(others), signal.SIGKILL)
            return True
        process.kill() if victim == "parent" else process.kill_session()
        return True

    def _aftermath(self, process: Forked | Nodes) -> None:
        """What must have ended ends; sometimes the run is resumed before that."""
        if isinstance(process, Nodes):
            for ended in process.wait():
                self._judge(ended, foreign=True)
        else:
            self._judge(process.wait(60))
        at_once = self.draws.random() < 0.5
        if not at_once and (left := process.orphans()):
            self._failed("orphan", f"{len(left)} processes were left")
        self.behind = process
        if not at_once:
            self._count_lost()

    def _judge(self, ended: Ended | None, *, foreign: bool = False) -> None:
        """A process that was not killed itself says one sentence; torchrun's own agents may trace their own calls."""
        if ended is None or ended.fault is None or ended.code == -signal.SIGKILL:
            return
        if not foreign or ended.fault != "traceback" or ended.traces_ours:
            self._failed(ended.fault, ended.said[-1500:])

    def _count_lost(self) -> None:
        from detdistill.errors import DataError
        from detdistill.store.checkpoints import find_checkpoint

        rows = metrics(self.run)
        try:
            found, warnings = find_checkpoint(self.run)
        except DataError as error:
            self._failed("lost", str(error))
            return
        done = 0 if found is None else found.snapshot.step
        reached = int(rows[-1]["step"] or 0) if rows else 0
        if reached - done > self.scenario.every or warnings:
            self._failed("lost", f"step {reached} was done, {done} is kept; {warnings}")

    def _resume(self) -> None:
        """Resumes to the end; waits once for what an earlier run left behind and that still holds the folder."""
        for last in (False, True):
            process = self._start(self._command())
            ended = [process.wait()] if isinstance(process, Forked) else process.wait()
            codes = {one.code for one in ended}
            if codes == {0}:
                break
            if not last and any(_HELD in one.said for one in ended):
                self.waited += 1
                self.behind.orphans()
                continue
            self._failed("hang" if None in codes else "lost", " / ".join(one.said[-1500:] for one in ended))
            return
        for one in (process, self.behind) if hasattr(self, "behind") else (process,):
            if left := one.orphans():
                self._failed("orphan", f"{len(left)} processes were left")

    def _compare(self) -> None:
        if weights(self.run) != weights(self.whole):
            self._failed("not identical", "weights, optimiser, average or counters differ")
        if metrics(self.run) != metrics(self.whole):
            self._failed("not identical", f"metrics.csv differs: {[row['step'] for row in metrics(self.run)]}")
        names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (self.run, self.whole)]
        if left := leftovers(self.try_) or sorted(set(names[0]) ^ set(names[1])):
            self._failed("leftover", str(left[:5]))

    def _failed(self, fault: str, says: str) -> None:
        self.faults.append(fault)
        self.told.append(says)


def _dying(work: Callable[[], int], folder: Path, operation: int) -> Callable[[], int]:
    """The work, in a process that is killed just before its n-th operation on files below a folder."""

    def dying() -> int:
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in _OPERATIONS and str(arguments[0]).startswith(str(folder)):
                if seen == operation:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(watch)
        return work()

    return dying
