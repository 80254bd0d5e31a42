"""Keeps what every test says as it ends, one JSON line each, where `benchmarks/on_gpu.py` asks for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REPORT = "DETDISTILL_GPU_REPORT"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    told = REPORT in os.environ and "PYTEST_XDIST_WORKER" not in os.environ
    if told and (report.when == "call" or report.outcome != "passed"):
        name = report.nodeid.rpartition("::")[2]
        row = {"name": name, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        said = {"message": report.longreprtext[-700:]} if report.outcome == "failed" else {}
        with Path(os.environ[REPORT]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **said, "recorded": dict(report.user_properties)}) + "\n")
