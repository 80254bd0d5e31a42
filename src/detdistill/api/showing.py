"""The commands that show a run to others, in a browser or a hub, callable; see `api.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detdistill.api.pieces import Place

if TYPE_CHECKING:
    from detdistill.jobs.page import ReportOutcome
    from detdistill.jobs.push import PushOutcome
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


def push(
    run: Place,
    name: str,
    /,
    *,
    to_folder: Place | None = None,
    onnx: Place | None = None,
    licence: str | None = None,
    public: bool = False,
    progress: Progress | None = None,
) -> PushOutcome:
    """Put a run's student into the Hugging Face Hub: its weights, what rebuilds it, a card, and its ONNX file if asked.

    Args:
        run: Folder of a training or a distillation.
        name: The repository, hf:OWNER/NAME; a new one, or one that this command wrote.
        to_folder: A new or empty folder to write the same files to; then nothing is uploaded.
        onnx: The same student as detdistill export wrote it, to go along as model.onnx with the figures of its proof.
        licence: The licence on the card, as the hub writes it, such as apache-2.0; unknown without it.
        public: Let everybody see a new repository; else it is private.

    Example:
        >>> outcome = detdistill.push("runs/distilled", "hf:me/street", to_folder="street")
        >>> sorted(outcome.sizes)
        ['README.md', 'student.json', 'student.safetensors']
        >>> detdistill.load_detector("hf:street").image["short_side"]
        96
    """
    from detdistill.jobs.push import push_job

    folder = None if to_folder is None else Path(to_folder)
    exported = None if onnx is None else Path(onnx)
    words: dict[str, Any] = {"onnx": exported, "licence": licence, "public": public, "progress": progress}
    return push_job(Path(run), name, to_folder=folder, **words)
