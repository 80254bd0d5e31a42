"""Writes a detector as a file for other programs, and proves on validation images that it finds what PyTorch does."""

from __future__ import annotations

import copy
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from detdistill.bench.machine import machine
from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, read_image
from detdistill.data.loader import evaluation_loader
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector, evaluating
from detdistill.detectors.frozen import digest
from detdistill.detectors.own_code import names_code, taken_apart
from detdistill.errors import CapabilityError, ConfigError
from detdistill.evaluation.coco import CocoMetrics, ImageDetections, evaluate_coco
from detdistill.evaluation.detect import detect_split
from detdistill.evaluation.protocols import PROTOCOLS
from detdistill.export import runtime
from detdistill.export.eight_bits import Inputs, quantised
from detdistill.export.graph import INPUTS, NEWEST_OPSET, OPSET, Form
from detdistill.export.parity import COMMAND, MOST_LOST, MOST_LOST_INT8, STUDENT, Agreement, agreement, proof_of
from detdistill.export.targets import Format, Target, package_version, require_target, target
from detdistill.files import figures_of, require_own, write_bytes, write_figures
from detdistill.jobs.config import read_run_config
from detdistill.jobs.inputs import open_data_sets
from detdistill.jobs.opening import LARGEST_LONG_SIDE, detect, open_detector, read_split, seen_size
from detdistill.progress import Progress, Silence, in_bytes
from detdistill.report.tables import Table
from detdistill.store.layout import RunFolder
from detdistill.store.sums import SHA256
from detdistill.types import Batch

_TIMED, _WARM_UP, _AT_ONCE, _LARGEST = 20, 2, 4, 10_000
_CPU = torch.device("cpu")
_NOBODYS = b"\0nobody's"

Place = Literal["inside", "outside"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of both programs: COCO's figures, the median time of an image on the CPU, boxes included, and its weights."""

    metrics: CocoMetrics
    seconds: float
    size: int

    def as_dict(self) -> dict[str, Any]:
        """All figures."""
        return {**self.metrics.as_dict(), "seconds_per_image": self.seconds, "bytes": self.size}


class Together(NamedTuple):
    """How both agree on several images that they are given at once."""

    images: int
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What a file finds beside what PyTorch finds on the same images.

    Attributes:
        to: the format.
        int8: on how many training images it was calibrated; 0 where it is not in 8 bits.
        images: on how many both ran, one at a time.
        agreement: of what both found there.
        together: the same of the first of them, given at once.
        student: `digest` of the detector.
        digest: SHA-256 of the file that --out names.
        written: whether it was written; a worse one is not, unless it was allowed.
    """

    out: Path
    detector: str
    to: Format
    form: Form
    int8: int
    images: int
    pytorch: Side
    file: Side
    agreement: Agreement
    together: Together
    student: str
    digest: str
    machine: Mapping[str, str | int]
    written: bool

    @property
    def lost(self) -> float:
        """Points of AP that the file is below PyTorch."""
        one, other = self.pytorch.metrics.ap, self.file.metrics.ap
        return 0.0 if one is None or other is None else one - other

    @property
    def proof(self) -> Path:
        """The file's figures beside it."""
        return proof_of(self.out)

    @property
    def failure(self) -> str | None:
        """That the file is worse, where it was not written for that."""
        if self.written:
            return None
        most = MOST_LOST_INT8 if self.int8 else MOST_LOST
        return (
            f"The AP of {self.out} must be at most {most} points below PyTorch's {self.pytorch.metrics.ap:.2f}, got "
            f"{self.file.metrics.ap:.2f}, so that nothing was written. Add --allow-worse to have it all the same."
        )

    def table(self) -> list[str]:
        """What was written, the figures of both, how far they agree, and how to run the file."""
        bits = f"8 bits, calibrated on {self.int8} training images" if self.int8 else self.form.bits
        opset = f", opset {self.form.opset}" if self.to == "onnx" else ""
        images = f"images of {self.form.size[0]} x {self.form.size[1]} alone; " if self.form.size else ""
        lines = [
            f"{self.detector} as {target(self.to).name}{opset}, in {bits}; {images}boxes suppressed {self.form.nms}, "
            f"pixels normalised {'inside' if self.form.normalise else 'outside'}; {self.images} validation images, on "
            "the CPU",
            "",
        ]
        sides = {"PyTorch": self.pytorch, self.out.name: self.file}
        rows = [
            (name, *one.metrics.figures().values(), 1000 * one.seconds, in_bytes(one.size))
            for name, one in sides.items()
        ]
        title = ("", *self.pytorch.metrics.figures(), "ms an image", "size")
        lines += [*Table(title, tuple(rows)).text(decimals=2).splitlines(), "", self.agreement.text()]
        lines += [f"{self.together.images} images at once: {self.together.agreement.text()}"]
        if self.written:
            lines += [f"{self.out}, its figures in {self.proof}", target(self.to).how(self.out)]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "file": self.out.name,
            "detector": self.detector,
            "to": self.to,
            **({} if self.to == "executorch" else {"opset": self.form.opset}),
            "nms": self.form.nms,
            "size": self.form.size,
            "normalise": "inside" if self.form.normalise else "outside",
            "bits": 8 if self.int8 else 16 if self.form.half else 32,
            "calibration_images": self.int8,
            "images": self.images,
            "pytorch": self.pytorch.as_dict(),
            "exported": self.file.as_dict(),
            "ap_lost": self.lost,
            "agreement": self.agreement.as_dict(),
            "at_once": {"images": self.together.images, **self.together.agreement.as_dict()},
            STUDENT: self.student,
            SHA256: self.digest,
            "machine": {**self.machine, target(self.to).package: package_version(target(self.to))},
        }


def export_job(
    source: str,
    *,
    out: Path,
    to: Format = "onnx",
    data: Path | None = None,
    nms: Place = "outside",
    normalise: Place = "inside",
    half: bool = False,
    int8: bool = False,
    calibration: int = 100,
    size: tuple[int, int] | None = None,
    opset: int = OPSET,
    allow_worse: bool = False,
    progress: Progress | None = None,
) -> ExportOutcome:
    """Exports a detector and measures the file; the words are those of `detdistill.export_detector`."""
    require_target(to)
    watcher, form, kind = progress or Silence(), Form(nms, normalise == "inside", half, size, opset), target(to)
    _require_words(out, kind, form, int8=int8, calibration=calibration)
    loaded = open_detector(source, progress=watcher)
    detector = loaded.detector.to(_CPU)
    detector.limits()  # refused before the data is read
    if detector.one_size and form.size is None:
        most = loaded.image.get("long_side", LARGEST_LONG_SIDE) if loaded.image else LARGEST_LONG_SIDE
        raise CapabilityError(
            f"A detector to export must be a graph for images of any size, got {detector.spec.name}, "
            f"{detector.one_size}. Add --size {most} {most}."
        )
    truth, training = _data(source, data, loaded.class_names, progress=watcher)
    image = seen_size(loaded, truth, source=source, progress=watcher)
    watcher.say(f"{source}: its graph is made by torch's exporter, which takes from half a minute to some minutes")
    used, remedy = 0, _remedy(to, form, int8=int8)

    def eight_bits(content: bytes) -> bytes:
        nonlocal used
        if not int8:
            return content
        chosen = training()
        used = min(calibration, len(chosen))
        watcher.start("calibrate", used, unit="image")
        with tempfile.TemporaryDirectory() as scratch:
            whole = target("onnx").opened({".onnx": content}, name=str(out), remedy=remedy)
            inputs = _inputs(whole, chosen, used, progress=watcher)
            content = quantised(content, inputs, scratch=Path(scratch))
        watcher.finish()
        return content

    files = kind.make(detector, image, form, eight_bits)
    model = kind.opened(files, torch.get_num_threads(), name=str(out), remedy=remedy)
    ours = detect(detector, truth, image, label=f"PyTorch {source}", batch_size=1, device=_CPU, progress=watcher)
    theirs = _found(model, truth, label=f"{kind.package} {out.name}", progress=watcher)
    batches = partial(_fixed, model, truth) if form.size else partial(_batches, truth, image)
    same = detect_split(detector, batches(1), device=_CPU) if form.size else ours
    seconds = _seconds(detector, model, truth, batches(1))
    weights = sum(one.numel() * one.element_size() for one in detector.state_dict().values())
    sides = (
        Side(evaluate_coco(truth, ours), seconds[0], weights),
        Side(evaluate_coco(truth, theirs), seconds[1], sum(map(len, files.values()))),
    )
    digests = digest(detector), hashlib.sha256(files[kind.endings[0]]).hexdigest()
    first = list(islice(batches(_AT_ONCE), 1))
    together = agreement(detect_split(detector, first, device=_CPU), _at_once(model, truth, range(len(first[0]))))
    agreed = agreement(same, theirs), Together(len(first[0]), together)
    about = out, detector.spec.name, to, form, used, len(truth)
    found = ExportOutcome(*about, *sides, *agreed, *digests, machine(_CPU), written=True)
    if not allow_worse and found.lost > (MOST_LOST_INT8 if int8 else MOST_LOST):
        return replace(found, written=False)
    for ending, content in reversed(list(files.items())):
        write_bytes(out.with_suffix(ending), content)
    write_figures(found.proof, found.as_dict(), command=COMMAND, option="--out")
    return found


def _remedy(to: Format, form: Form, *, int8: bool) -> str:
    """What to do where a runtime stumbles over what was made: the likeliest cause is left out."""
    left_out = {"opset": form.opset != OPSET, "int8": int8, "half": form.half, "nms": form.nms == "inside"}
    if named := next((word for word, given in left_out.items() if given), None):
        return f"Leave --{named} out."
    return "Export another detector." if to == "onnx" else "Write --to onnx."


def _require_words(out: Path, kind: Target, form: Form, *, int8: bool, calibration: int) -> None:
    if out.suffix != kind.endings[0]:
        name = (out if out.stem else Path("model")).with_suffix(kind.endings[0])
        raise ConfigError(f"--out must be a file name that ends in {kind.endings[0]}, got {out}. Write --out {name}.")
    proof = proof_of(out)
    require_own(proof, f"{proof.name}, beside --out,", figures_of(COMMAND))
    for path in map(out.with_suffix, kind.endings):
        marked = kind.begins is not None and path == out
        if marked or not proof.is_file():  # what cannot say whose it is lies beside figures that can
            require_own(path, "--out", (kind.begins if marked else None) or _NOBODYS)
    if int8 and not kind.eight_bits:
        raise ConfigError(f"--int8 must be left out of {kind.name}, got it. Leave --int8 out, or write --to onnx.")
    if form.half and int8:
        raise ConfigError("The bits of a file must be either 16 or 8, got --half and --int8. Leave --half out.")
    if form.size is not None and not all(0 < side <= _LARGEST for side in form.size):
        given = " ".join(map(str, form.size))
        raise ConfigError(f"--size must be 1 to {_LARGEST} pixels high and wide, got {given}. Write --size 640 640.")
    if not OPSET <= form.opset <= NEWEST_OPSET:
        raise ConfigError(f"--opset must be {OPSET} to {NEWEST_OPSET}, got {form.opset}. Leave --opset out.")
    if form.opset != OPSET and kind.package == "executorch":
        raise ConfigError(f"--opset must be left out of {kind.name}, got {form.opset}. Leave --opset out.")
    if calibration < 1:
        raise ConfigError(f"--calibration must be 1 image or more, got {calibration}. 100 is usual.")


def _data(
    source: str, data: Path | None, class_names: tuple[str, ...], *, progress: Progress
) -> tuple[Annotations, Callable[[], Annotations]]:
    """The validation images with the detector's classes, and what reads the training images."""
    if data is not None:
        examined = PROTOCOLS.find("coco").open(data, split="val", class_names=class_names, progress=progress)
        return examined.annotations, lambda: read_split(data, "train", progress=progress)
    config = RunFolder(Path(taken_apart(source).weights if names_code(source) else source).expanduser()).config
    if not config.is_file():
        raise ConfigError(
            f"The data that an exported file is proved on must be named where no run's settings name it, got {source}, "
            "which is no run folder. Add --data FOLDER."
        )
    _, train, val = open_data_sets(read_run_config(config, purpose="train").data, progress=progress)
    return val, lambda: train


def _image(annotations: Annotations, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image as stored, upright: (h, w, 3)."""
    height, width = (int(side) for side in annotations.sizes[index])
    image_id = int(annotations.image_ids[index])
    read = read_image(annotations.path(index), image_id=image_id, size=(height, width), labelled=annotations.labelled)
    return read.permute(1, 2, 0).numpy()


def _inputs(model: runtime.Detector, chosen: Annotations, count: int, *, progress: Progress) -> Iterator[Inputs]:
    """So many images, from all of a split evenly, as the graph takes them."""
    for done, index in enumerate(np.linspace(0, len(chosen) - 1, count).round().astype(int).tolist(), start=1):
        yield dict(zip(INPUTS, model.prepare([_image(chosen, index)]), strict=True))
        progress.advance(done)


def _found(model: runtime.Detector, truth: Annotations, *, label: str, progress: Progress) -> list[ImageDetections]:
    """What the file finds in every image."""
    progress.start(label, len(truth), unit="image")
    found = list[ImageDetections]()
    for index in range(len(truth)):
        found += _at_once(model, truth, [index])
        progress.advance(index + 1)
    progress.finish()
    return found


def _at_once(model: runtime.Detector, truth: Annotations, indices: Sequence[int]) -> list[ImageDetections]:
    """What the file finds in images that it is given as one batch."""
    images = [_image(truth, index) for index in indices]
    batch, sizes = model.prepare(images)
    found = []
    for index, image, size, one in zip(indices, images, sizes, model.find(batch, sizes), strict=True):
        stored = model.stored(one, size, image.shape[:2])
        edges, scores = (part.astype(np.float32) for part in (stored.boxes, stored.scores))
        found.append(ImageDetections(int(truth.image_ids[index]), edges, scores, stored.labels))
    return found


def _batches(truth: Annotations, image: ImageSettings, count: int) -> Iterable[Batch]:
    """The images, so many at a time, as PyTorch sees them."""
    return evaluation_loader(DetectionDataset(truth, image=image), batch_size=count)


def _fixed(model: runtime.Detector, truth: Annotations, count: int) -> Iterator[Batch]:
    """The same on the one grid that a file of fixed size takes, resized as the file's own runtime does it."""
    plain = copy.copy(model)
    plain.mean, plain.std = np.zeros_like(model.mean), np.ones_like(model.std)
    for first in range(0, len(truth), count):
        stored = [_image(truth, index) for index in range(first, min(first + count, len(truth)))]
        images, sizes = plain.prepare(stored)
        seen, before = ([(int(one[0]), int(one[1])) for one in each] for each in (sizes, [one.shape for one in stored]))
        ids = truth.image_ids[first : first + count].tolist()
        yield Batch(torch.from_numpy(images), tuple(seen), tuple(before), (), tuple(ids), (0,) * len(ids))


def _seconds(
    detector: Detector, model: runtime.Detector, truth: Annotations, batches: Iterable[Batch]
) -> tuple[float, float]:
    """Median time of an image that is read and resized already, in PyTorch and in the file, of the first images."""
    count = min(_TIMED, len(truth))
    seen = list(islice(batches, count))
    inputs = [model.prepare([_image(truth, index)]) for index in range(count)]
    with evaluating(detector):
        ours = _median([partial(detector.detect, batch) for batch in seen])
    return ours, _median([partial(model.find, *one) for one in inputs])


def _median(runs: Sequence[Callable[[], object]]) -> float:
    times = list[float]()
    for run in [*runs[:_WARM_UP], *runs]:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[-len(runs) :])
