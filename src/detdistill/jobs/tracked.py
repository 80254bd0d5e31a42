"""What a run ended with, for the loggers that were told how it went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from detdistill.jobs.outcomes import RunOutcome
from detdistill.jobs.settings import RunConfig
from detdistill.progress import Progress, Silence
from detdistill.store.layout import RunFolder
from detdistill.store.lock import displaced
from detdistill.training.loggers import Loggers


def tell_loggers(config: RunConfig, found: RunOutcome, progress: Progress | None) -> None:
    """Tells them results, the table as the verdict, and pictures; what fails there is said and ends nothing."""
    run = RunFolder(config.out)
    if not config.train.told or displaced(run.path):
        return
    say: Callable[[str], None] = (progress or Silence()).say
    loggers = Loggers(run.path, config.train, {}, step=found.steps, resume=True, say=say, anew=False)
    pictures: list[Path] = [path for path in (run.curves, run.pictures, run.confusion) if path.is_file()]
    loggers.end(found.steps, found.as_dict(), verdict="\n".join(found.table()), pictures=pictures)
    loggers.close("finished")
