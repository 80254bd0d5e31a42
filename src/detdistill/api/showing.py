"""The command that shows a run in a browser, callable; see `api.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detdistill.api.pieces import Place

if TYPE_CHECKING:
    from detdistill.jobs.page import ReportOutcome
    from detdistill.progress import Progress


def write_report(
    run: Place,
    /,
    *,
    out: Place | None = None,
    images: int = 20,
    looked_at: bool = False,
    progress: Progress | None = None,
) -> ReportOutcome:
    """Write one HTML file that tells what a run came to, and opens in any browser without a network.

    Args:
        run: Folder of a training, a distillation, a demo or a proof.
        out: The HTML to write; report.html in that folder by default.
        images: How many validation images to show, those that distillation changed most first; 0 for none.
        looked_at: Also run the pair on a few of them, and show where each term of the method looks.

    Example:
        >>> outcome = detdistill.write_report("runs/distilled", images=2)
        >>> outcome.out.name, outcome.size < 8e6
        ('report.html', True)
    """
    from detdistill.jobs.page import report_job

    place = None if out is None else Path(out)
    return report_job(Path(run), out=place, images=images, looked_at=looked_at, progress=progress)
