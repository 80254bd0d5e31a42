"""A detector's graph in ONNX, by torch's exporter."""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import jaxtyping
import torch
from torch import Tensor, nn

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.base import Detector
from detdistill.detectors.preprocess import beyond, normaliser_of
from detdistill.detectors.suppression import sorted_out
from detdistill.errors import CapabilityError, MissingDependencyError, installing, reason
from detdistill.files import PACKAGE
from detdistill.types import Batch

OPSET, NEWEST_OPSET = 18, 21
INPUTS = ("images", "sizes")
RAW, DETECTED = ("boxes", "scores"), ("boxes", "scores", "labels", "count")
MADE = b"\x12" + bytes([len(PACKAGE)]) + PACKAGE.encode()
"""What stands in the beginning of a file of ours: ONNX's field 2, who produced it."""
# Any image: neither sides nor number are taken over from it.
_TRIED = (2, 96, 160)
# Of such an image, on strides of 8 to 32.
_CELLS = 300


@dataclass(frozen=True, slots=True)
class Form:
    """What a file holds.

    Attributes:
        nms: where boxes are suppressed: in the graph, or outside, by whoever runs it.
        normalise: whether the graph normalises pixels, which are in [0, 1] then.
        half: whether weights and maps are in 16 bits; pixels, boxes and scores are in 32 all the same.
        size: height and width in pixels of the padded images that it takes; None for any.
        opset: ONNX's, in which it is written.
    """

    nms: Literal["inside", "outside"] = "outside"
    normalise: bool = True
    half: bool = False
    size: tuple[int, int] | None = None
    opset: int = OPSET

    @property
    def bits(self) -> str:
        """How large its numbers are, in words."""
        return f"{16 if self.half else 32} bits"


class Graph(nn.Module):
    """A detector as a function of tensors: images (b, 3, h, w) and their sizes (b, 2) inside the padded grid.

    Returns what `RAW` names, or `DETECTED` (see `sorted_out`). Pixels outside an image's own size do not matter.
    """

    def __init__(self, detector: Detector, form: Form) -> None:
        super().__init__()
        part = normaliser_of(detector)
        if part is None:
            raise CapabilityError(
                "A detector to export must normalise its pixels by mean and std, got "
                f"{detector.spec.name}, which does so in a way of its own. Give it a detdistill.Normaliser."
            )
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in part.numbers())
        self.limits = detector.limits()
        self.detector = copy.deepcopy(detector).to("cpu").eval().requires_grad_(False)
        if form.half:
            self.detector.half()
        self.form, self.mean, self.std = form, mean, std
        for one in self.detector.modules():
            if isinstance(one, type(part)):
                one.passes = True

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        pixels = (images - self.mean) / self.std if self.form.normalise else images
        pixels = pixels.masked_fill(beyond(sizes, *images.shape[-2:]), 0.0)
        batch = Batch(pixels.half() if self.form.half else pixels, (), (), (), (), ())
        found = self.detector.candidates(batch, sizes)
        return (found.boxes, found.scores) if self.form.nms == "outside" else sorted_out(found, self.limits)


def require_exporter() -> None:
    """Refuses to export where what it takes is not installed (MissingDependencyError)."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            raise MissingDependencyError(
                f"The package {name} must be installed to export a detector, got {error}. "
                f"{installing('detdistill[export]')}"
            ) from error


def export_onnx(detector: Detector, image: ImageSettings, form: Form) -> bytes:
    """The detector as an ONNX file: any number of images, of any size or of the form's.

    Its metadata say what `runtime.py` needs. Nothing is printed, and the detector stays as it is.

    Raises:
        CapabilityError: its family has no graph, or torch's exporter does not take it.
        MissingDependencyError: the exporter's packages are not installed.
    """
    require_exporter()
    graph = Graph(detector, form)
    count, height, width = _TRIED
    queries = 0 if detector.spec.queries is None else detector.spec.queries.count
    times = math.ceil(math.sqrt(max(1.0, queries / _CELLS)))  # so that each query finds a cell
    height, width = form.size or (times * height, times * width)
    pixels, sizes = torch.rand(count, 3, height, width), torch.tensor([[height, width], [height - 10, width - 20]])
    dim = torch.export.Dim
    batch, free = dim("batch"), {} if form.size else {2: dim.DYNAMIC, 3: dim.DYNAMIC}
    shapes = {"images": {0: batch, **free}, "sizes": {0: batch}}
    names = RAW if form.nms == "outside" else DETECTED
    with torch.no_grad(), silenced(), unchecked_shapes():
        try:
            traced = torch.export.export(
                graph, (pixels, sizes), dynamic_shapes=shapes, strict=detector.compiled_graph and not form.size
            )
            program = torch.onnx.export(
                traced,
                (pixels, sizes),
                dynamo=True,
                opset_version=form.opset,
                input_names=list(INPUTS),
                output_names=list(names),
                custom_translation_table={torch.ops.detdistill.unrivalled.default: _suppression()},
                verbose=False,
            )
        except CapabilityError:
            raise
        except Exception as error:  # whatever the exporter stumbles over
            raise CapabilityError(
                f"A detector to export must be one that torch's exporter takes, got {detector.spec.name}: "
                f"{reason(error)}. Export another detector."
            ) from error
    assert program is not None
    proto: Any = program.model_proto
    _name_sides(proto, names, axes={0: "batch"} if form.size else {0: "batch", 2: "height", 3: "width"})
    _bare(proto)
    proto.producer_name, proto.producer_version = PACKAGE, import_module(PACKAGE).__version__
    for key, value in metadata(graph, detector, image).items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    content: bytes = proto.SerializeToString()
    return content


def metadata(graph: Graph, detector: Detector, image: ImageSettings) -> dict[str, Any]:
    """What whoever runs the file has to know; `outside` is how pixels in [0, 1] are normalised before."""
    form, limits = graph.form, graph.limits
    mean, std = (one.flatten().tolist() for one in (graph.mean, graph.std))
    return {
        "detector": detector.spec.name,
        "class_names": detector.spec.class_names,
        "image": {
            **{"short_side": image.short_side, "long_side": image.long_side, "pad_multiple": image.pad_multiple},
            **({"size": form.size} if form.size else {}),
        },
        "limits": {"score": limits.score, "overlap": limits.overlap, "most": limits.most},
        "nms": form.nms,
        "outside": {"mean": (0, 0, 0), "std": (1, 1, 1)} if form.normalise else {"mean": mean, "std": std},
    }


def _name_sides(proto: Any, names: tuple[str, ...], *, axes: Mapping[int, str]) -> None:
    """Says the shapes of inputs and outputs in words; the exporter's formulas of outputs are left out.

    Args:
        axes: of the images that are free.

    Raises:
        CapabilityError: the exporter made a constant of what must be free.
    """
    images, sizes = proto.graph.input
    for value, free in ((images, axes), (sizes, {0: "batch"})):
        shape = value.type.tensor_type.shape.dim
        for axis, word in free.items():
            if not shape[axis].dim_param:
                raise CapabilityError(
                    f"The {word} of an exported detector must be free, got {shape[axis].dim_value} alone from torch's "
                    "exporter. Export another detector."
                )
            shape[axis].dim_param = word
    del proto.graph.value_info[:]
    for value, name in zip(proto.graph.output, names, strict=True):
        shape = value.type.tensor_type.shape.dim
        shape[0].dim_param = "batch"
        if names == RAW:
            shape[1].dim_param = "candidates"
        assert value.name == name


def _bare(proto: Any) -> None:
    """Takes out how the exporter came to each operation, stack traces with this machine's paths among it."""
    graph = proto.graph
    for one in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del one.metadata_props[:]
        one.doc_string = ""


def _suppression() -> Callable[..., Any]:
    """ONNX's own operator in the place of `unrivalled`, whose list of places becomes a mask."""
    opset = import_module("onnxscript").opset18

    def translate(boxes: Any, scores: Any, overlap: float, score: float, most: int) -> Any:
        op = opset
        value = op.Constant
        places = op.NonMaxSuppression(
            boxes, scores, value(value_ints=[most]), value(value_floats=[overlap]), value(value_floats=[score])
        )
        none = op.Expand(op.Cast(value(value_int=0), to=9), op.Shape(scores))
        each = op.Expand(op.Cast(value(value_int=1), to=9), op.Slice(op.Shape(places), [0], [1]))
        return op.ScatterND(none, places, each)

    return translate


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Within, no annotated shape is checked, where somebody checks them: while a model is traced sides are symbols."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def silenced() -> Iterator[None]:
    """Within, nothing that is said in Python reaches the terminal."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    with redirect_stdout(nowhere), redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
