"""What the attacks found: a line for every attempt as soon as it is made, and a summary of all lines."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    """The attempts of one attack, in a file of JSON lines that only grows."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # this process was killed as well
            file.write_text(whole, encoding="utf-8")
        self.attempts = [_read(line) for line in whole.splitlines()]

    def add(self, attempt: Attempt) -> None:
        """Writes an attempt down."""
        self.attempts.append(attempt)
        content = {name: getattr(attempt, name) for name in Attempt.__slots__}
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(content) + "\n")

    def forget_faulty(self) -> int:
        """Drops the attempts with faults, so that they are made again; returns how many there were."""
        faulty = [one for one in self.attempts if one.faults]
        kept = [line for line in self.file.read_text(encoding="utf-8").splitlines() if not json.loads(line)["faults"]]
        self.file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.attempts = [one for one in self.attempts if not one.faults]
        return len(faulty)

    def todo(self, count: int) -> Iterator[int]:
        """The numbers below `count` that were not tried yet."""
        done = {one.number for one in self.attempts}
        return (number for number in range(count) if number not in done)

    def summary(self, bars: Sequence[str]) -> dict[str, Any]:
        """Attempts by kind and end, how often each bar was broken, and the figures."""
        broken = Counter(fault for one in self.attempts for fault in one.faults)
        faulty = [one for one in self.attempts if one.faults]
        figures: dict[str, list[float]] = {}
        for one in self.attempts:
            for name, value in one.figures.items():
                figures.setdefault(name, []).append(value)
        return {
            "attempts": len(self.attempts),
            "bars": {bar: broken.pop(bar, 0) for bar in bars} | dict(broken),
            "kinds": dict(sorted(Counter(one.kind for one in self.attempts).items())),
            "ends": dict(sorted(Counter(one.end for one in self.attempts).items())),
            **({"figures": {name: _spread(values) for name, values in sorted(figures.items())}} if figures else {}),
            **({"faults": [f"{one.number} ({one.kind}): {one.says[-300:]}" for one in faulty[:20]]} if faulty else {}),
        }


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


def _read(line: str) -> Attempt:
    content = json.loads(line)
    return Attempt(**content | {"faults": tuple(content["faults"])})
