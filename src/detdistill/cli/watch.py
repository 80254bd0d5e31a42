"""How the command line runs a job: with progress on the screen, and interruptions as the shell knows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from detdistill.progress import Progress

Result = TypeVar("Result")


def watched(job: Callable[[Progress], Result]) -> Result:
    """Runs a job under the eyes of the screen; its own interruption, checkpoint saved, becomes Ctrl-C's.

    Args:
        job: is given the progress to tell.
    """
    from detdistill.progress import ScreenProgress
    from detdistill.training.signals import Interrupted
    from detdistill.training.world import watched_by_leader

    progress = watched_by_leader(ScreenProgress())
    try:
        return job(progress)
    except Interrupted as stopped:
        raise KeyboardInterrupt(str(stopped)) from stopped
    finally:
        progress.finish()
