"""Two checkouts of the library side by side: each has a process of its own that stays, and answers by turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SERVE = "--serve"


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers each line of the input."""
    said, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        said.write(f"{json.dumps(answer(json.loads(line)))}\n")
        said.flush()


class Checkout:
    """A process of a script that serves, with the library of one checkout."""

    def __init__(self, script: str, source: Path) -> None:
        quiet = {"OMP_WAIT_POLICY": "PASSIVE", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        environment = {**os.environ, "PYTHONPATH": str(source.resolve()), **quiet}
        self._process = subprocess.Popen(
            [sys.executable, script, SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """What it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the checkout must answer {question}, got the end of its process")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def quartiles(values: Sequence[float], digits: int) -> list[float]:
    """First quartile, median and third."""
    return [round(value, digits) for value in statistics.quantiles(values, n=4)]


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """The quartiles of the ratio, round by round."""
    return quartiles([a / b for a, b in zip(over, under, strict=True)], 3)
