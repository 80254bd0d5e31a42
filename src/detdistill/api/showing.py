"""The commands that show a run to others, in a browser, a hub or a file, callable; see `api.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detdistill.api.pieces import Place, Source, typed

if TYPE_CHECKING:
    from detdistill.jobs.export import ExportOutcome
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


def export_detector(
    checkpoint: Source,
    /,
    *,
    out: Place,
    to: Literal["onnx", "openvino", "executorch", "litert"] = "onnx",
    data: Place | None = None,
    nms: Literal["outside", "inside"] = "outside",
    normalise: Literal["inside", "outside"] = "inside",
    half: bool = False,
    size: tuple[int, int] | None = None,
    opset: int = 18,
    int8: bool = False,
    calibration: int = 100,
    allow_worse: bool = False,
    progress: Progress | None = None,
) -> ExportOutcome:
    """Write a detector as a file for other programs, and prove that it finds what PyTorch finds.

    Args:
        checkpoint: Run folder, checkpoint, torchvision:NAME[=FILE.pth], or MODULE:CLASS=WEIGHTS.
        out: The file to write, such as model.onnx, model.xml (openvino) or model.pte (executorch); its figures come
            beside it, in model.parity.json.
        to: The format; each is proved by its own package. litert does not install beside the torch of today.
        data: Data set folder, COCO JSON, or data.yaml, on whose validation images the file is proved; without it the
            run's own.
        nms: Where boxes suppress each other: outside, in the program that runs the file, which gets the boxes and
            class scores of every cell; or inside, where a fixed number of rows comes out.
        normalise: Where pixels are normalised; inside, the file takes RGB in [0, 1]. Resizing is always outside.
        half: Weights and maps in 16 bits.
        size: Height and width in pixels of the one size that the file takes, for runtimes and detectors that need it.
            Images that are larger after the usual resize are made smaller, the others padded.
        opset: ONNX's, for a runtime that wants another than 18; up to 21.
        int8: Convolutions and matrix products in 8 bits, calibrated on training images.
        calibration: How many images it is calibrated on.
        allow_worse: Also write a file whose AP is more than 0.1 points below PyTorch's, in 8 bits 0.5.

    Example:
        >>> outcome = detdistill.export_detector("runs/teacher", data="my_data", out="model.onnx", nms="inside")
        >>> outcome.agreement.box < 0.05
        True
    """
    from detdistill.export.targets import require_target

    require_target(to)
    from detdistill.jobs.export import export_job

    form: dict[str, Any] = {"to": to, "nms": nms, "normalise": normalise, "half": half, "int8": int8, "size": size}
    form["opset"] = opset
    proof: dict[str, Any] = {"data": None if data is None else Path(data), "calibration": calibration}
    return export_job(typed(checkpoint), out=Path(out), **form, **proof, allow_worse=allow_worse, progress=progress)
