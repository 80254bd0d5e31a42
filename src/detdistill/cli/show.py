"""How the command line shows what a job found out."""

from __future__ import annotations

from pathlib import Path

from detdistill.files import write_json
from detdistill.jobs.interface import Outcome
from detdistill.training.world import leads


def show(outcome: Outcome, *, json: Path | None) -> None:
    """Prints a result's table, and writes it as JSON where a file is asked for.

    Args:
        outcome: what a job found out.
        json: the file to write; None for none.
    """
    if not leads():
        return
    for line in outcome.table():
        print(line)
    if json is not None:
        write_json(json, outcome.as_dict())
