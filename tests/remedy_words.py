"""What a row of the table of remedies is, and the commands that most of them type."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One remedy.

    Attributes:
        wrong: what is typed after `detdistill`; {home} is the folder that the test prepares.
        remedy: how the answer ends: whole sentences.
        right: what is typed then.
        then: part of what is said to that; empty where it works.
        needs_cpu: whether it is said only where there is no CUDA device.
    """

    wrong: str
    remedy: str
    right: str
    then: str = ""
    needs_cpu: bool = False


def train(*words: str) -> str:
    return shlex.join(["train", "--data", "{home}/scenes", "--out", "{home}/run", "--detector", "fcos/tiny", *words])


def distill(*words: str, teacher: str = "teacher", method: str = "frs", student: str | None = "fcos/tiny") -> str:
    options = {"data": "{home}/scenes", "out": "{home}/run", "student": student, "method": method}
    options["teacher"] = teacher if ":" in teacher else f"{{home}}/{teacher}"
    given = [word for key, value in options.items() if value is not None for word in (f"--{key}", value)]
    return shlex.join(["distill", *given, *words])


def evaluate(*words: str, data: str = "scenes") -> str:
    return shlex.join(["evaluate", "{home}/teacher", "--data", f"{{home}}/{data}", *words])
