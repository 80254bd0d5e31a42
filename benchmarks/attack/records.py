"""What the attacks found: a line for every attempt as soon as it is made, and a summary of all lines."""

from __future__ import annotations

import functools
import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NOTHING = "nothing to attack"
"""The end of a number that stands for no attempt."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        number: of the attempt; with the seed it decides everything about it.
        kind: what was attacked, in few words.
        end: how it ended, in a word.
        faults: the bars that it broke, by name; empty where all held.
        says: what helps to understand a fault.
        figures: numbers that the summary adds up, by name.
    """

    number: int
    kind: str
    end: str
    faults: tuple[str, ...] = ()
    says: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Records:
    """The attempts of one attack, in a file of JSON lines that only grows.

    Args:
        file: this process's own.
        others: files of processes that make other attempts of the same attack; they are read alone.
    """

    def __init__(self, file: Path, *, others: Sequence[Path] = ()) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = _whole_lines(file)
        if file.is_file() and file.read_text(encoding="utf-8").splitlines() != whole:  # this process was killed as well
            file.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        lines = whole + [line for other in others for line in _whole_lines(other)]
        self.attempts = [read_attempt(line) for line in lines]
        self.commits = _commits(lines)

    def add(self, attempt: Attempt) -> None:
        """Writes an attempt down."""
        self.attempts.append(attempt)
        content = {**asdict(attempt), "commit": commit()}
        self.commits[commit()] += 1
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(content) + "\n")

    def forget_faulty(self) -> int:
        """Drops this process's own attempts with faults, so that they are made again; returns how many there were."""
        lines = _whole_lines(self.file)
        faulty = [line for line in lines if json.loads(line)["faults"]]
        self.file.write_text("".join(f"{line}\n" for line in lines if line not in faulty), encoding="utf-8")
        numbers = {json.loads(line)["number"] for line in faulty}
        self.attempts = [one for one in self.attempts if one.number not in numbers]
        self.commits -= _commits(faulty)
        return len(faulty)

    def todo(self, count: int) -> Iterator[int]:
        """The numbers below `count` that were not tried yet."""
        done = {one.number for one in self.attempts}
        return (number for number in range(count) if number not in done)

    def summary(self, bars: Sequence[str]) -> dict[str, Any]:
        """Attempts by kind and end, how often each bar was broken, and the figures."""
        made = [one for one in self.attempts if one.end != NOTHING]
        broken = Counter(fault for one in made for fault in one.faults)
        faulty = [one for one in made if one.faults]
        figures: dict[str, list[float]] = {}
        for one in made:
            for name, value in one.figures.items():
                figures.setdefault(name, []).append(value)
        return {
            "attempts": len(made),
            "bars": {bar: broken.pop(bar, 0) for bar in bars} | dict(broken),
            "commits": dict(sorted(self.commits.items())),
            "kinds": dict(sorted(Counter(one.kind for one in made).items())),
            "ends": dict(sorted(Counter(one.end for one in made).items())),
            **({"figures": {name: _spread(values) for name, values in sorted(figures.items())}} if figures else {}),
            **(
                {"faults": [f"{one.number} ({one.kind}): {' '.join(one.says.split())[-1500:]}" for one in faulty[:20]]}
                if faulty
                else {}
            ),
        }


def _commits(lines: Sequence[str]) -> Counter[str]:
    return Counter(str(json.loads(line).get("commit")) for line in lines)


@functools.cache
def commit() -> str:
    """What of the project is attacked, as git names it; empty where that is not known."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _whole_lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def draw(seed: int, attack: str, number: int) -> random.Random:
    """The draws of one attempt."""
    return random.Random(f"{seed} {attack} {number}")


def table(summaries: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, int]) -> str:
    """A line for every attack: attempts of those wanted, and its bars."""
    rows = [("attack", "attempts", "bars")]
    for name, one in summaries.items():
        bars = ", ".join(f"{count} {bar}" for bar, count in one["bars"].items())
        rows.append((name, f"{one['attempts']} of {wanted[name]}", bars))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{one:<{first}}  {two:>{second}}  {three}" for one, two, three in rows)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"sum": round(sum(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def read_attempt(line: str) -> Attempt:
    """An attempt as it was written down."""
    content = json.loads(line)
    content.pop("commit", None)
    return Attempt(**content | {"faults": tuple(content["faults"])})
