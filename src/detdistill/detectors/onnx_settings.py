"""What an ONNX detector takes and gives: said in a small YAML file beside it, or recognised by names and shapes."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.settings import Boxes
from detdistill.errors import ConfigError
from detdistill.settings.bounds import Share, Side, Within

Form = Literal["detections", "queries", "cells", "rows"]
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]
Units = Literal["pixels", "shares", "image"]
Value = Annotated[float, Within(-1000, 1000)]
Three = tuple[Value, Value, Value]

_MOST_ROWS, _LONGEST = 1000, 1333
_GREY = 114 / 255
_DARK = 0.01  # below which a standard deviation is of pixels up to 255
_ORDER: Mapping[Form, tuple[str, ...]] = MappingProxyType(
    {"detections": ("boxes", "scores", "labels"), "queries": ("logits", "boxes"), "cells": ("",), "rows": ("",)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSettings:
    """The keys of the YAML file beside an ONNX detector; null is what the file's shapes say.

    Attributes:
        model: the ONNX file, counted from the YAML file; null is the one of the same name.
        classes: names in label order; null is what the ONNX file's own metadata names.
        size: height and width of the input in pixels; null is the file's own, or as the images come.
        resize: "letterbox" keeps the ratio and pads; "stretch" does not; "keep" takes images as they come.
        centred: whether a letterboxed image lies in the middle, else at the top left.
        fill: the padding's grey, 0 black to 1 white.
        channels: "rgb" or "bgr".
        white: what a white pixel is: 1 or 255.
        mean: subtracted from a pixel, by channel as they are ordered, on the scale of `white`.
        std: what the difference is divided by, likewise.
        form: "detections" are boxes, scores and labels, "queries" class logits and boxes of each query, "cells" one
            output with box and scores of every cell, "rows" one with x1, y1, x2, y2, score, class.
        outputs: their names, in that order.
        boxes: corners, corner and size, or centre and size.
        units: "pixels" of the input, "shares" of its sides, or pixels of the "image" whose size it was told.
        activation: what makes scores of what it gives; "softmax" has no object last.
        objectness: whether a cell says it, before its classes.
        first_label: the number of the first class.
        nms: whether boxes that a better one overlaps are left out here.
        score_threshold: detections below this score are dropped.
        nms_threshold: of two boxes of a class that overlap more than this, the better stays.
        detections_per_image: most detections an image can have.
    """

    model: str | None = None
    classes: tuple[str, ...] | None = None
    size: tuple[Side, Side] | None = None
    resize: Literal["letterbox", "stretch", "keep"] | None = None
    centred: bool | None = None
    fill: Share | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    white: Literal[1, 255] = 1
    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)
    form: Form | None = None
    outputs: tuple[str, ...] | None = None
    boxes: BoxFormat | None = None
    units: Units | None = None
    activation: Literal["none", "sigmoid", "softmax"] | None = None
    objectness: bool | None = None
    first_label: Annotated[int, Within(0, 1)] | None = None
    nms: bool | None = None
    score_threshold: Share = 0.05
    nms_threshold: Share = 0.6
    detections_per_image: Boxes = 300

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ConfigError(f"std must be three numbers above 0, got {list(self.std)}. Leave it out for 1.")
        if self.classes is not None and len({*self.classes}) < max(1, len(self.classes)):
            raise ConfigError(f"classes must be different names, got {list(self.classes)}. Name each once.")

    def seen(self) -> ImageSettings | None:
        """The size to which images are brought before they are fitted to the input: no pixel is lost on the way."""
        if self.size is None:
            return None
        short, long = sorted(self.size)
        return ImageSettings(short, max(long, _LONGEST) if self.resize == "stretch" else long)

    def pixels(self) -> tuple[Three, Three]:
        """Mean and std of pixels in [0, 1], in the order red, green, blue, as everybody else's."""
        (first, second, third), (one, two, three) = self._turned(self.mean), self._turned(self.std)
        white = self.white
        return (first / white, second / white, third / white), (one / white, two / white, three / white)

    def with_pixels(self, mean: Three, std: Three) -> dict[str, Any]:
        """The keys that say the same of such a mean and std."""
        white = 255 if max(std) < _DARK else 1
        given = {"mean": self._turned(mean), "std": self._turned(std)}
        scaled = {key: tuple(round(value * white, 4) for value in values) for key, values in given.items()}
        return {"white": white, **scaled}

    def _turned(self, values: Three) -> Three:
        """From the order of its channels to red, green, blue, or back."""
        return values if self.channels == "rgb" else (values[2], values[1], values[0])

    def text(self) -> str:
        """In words what it takes and gives, once nothing is null."""
        size = "as they come" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        where = "" if self.resize != "letterbox" else f" {'in the middle' if self.centred else 'at the top left'}"
        image = f"images {size}, {self.resize}{where}, {self.channels} up to {self.white}"
        if (self.mean, self.std) != ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
            image += f" less {list(self.mean)} by {list(self.std)}"
        scores = {"none": "scores"}.get(str(self.activation), f"{self.activation} of logits")
        own = f", labels from {self.first_label}" if self.form in ("detections", "rows") else f", {scores}"
        cells = " with objectness" if self.objectness else ""
        nms = "; overlapping boxes are left out here" if self.nms else ""
        boxes = f"{self.form}{cells} in {', '.join(self.outputs or ())}: boxes {self.boxes} in {self.units}"
        return f"{image}; {boxes}{own}{nms}"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, its sides (None where one is not fixed), and its type, such as ``"float"``."""

    name: str
    shape: tuple[int | None, ...]
    kind: str

    def text(self) -> str:
        """In a message."""
        return f"{self.name} {self.kind}{[side or '?' for side in self.shape]}"


@dataclass(frozen=True, slots=True)
class Graph:
    """What an ONNX file says of itself.

    Attributes:
        images: the input of images.
        sizes: the input of their heights and widths, of which some detectors make boxes in pixels; None for none.
        names: of the classes, where its metadata holds them.
    """

    path: Path
    images: Port
    sizes: Port | None
    outputs: tuple[Port, ...]
    names: tuple[str, ...] | None = None
    last: bool = field(default=False)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its images, where both are fixed."""
        sides = self.images.shape[-3:-1] if self.last else self.images.shape[-2:]
        height, width = sides
        return None if height is None or width is None else (height, width)


def graph_of(path: Path, inputs: Sequence[Port], outputs: Sequence[Port], metadata: Mapping[str, str]) -> Graph:
    """What the inputs of a file are.

    Raises:
        ConfigError: they are not images, or more than images and their sizes.
    """
    images = next((one for one in inputs if len(one.shape) in (3, 4) and 3 in (one.shape[-3], one.shape[-1])), None)
    others = [one for one in inputs if one is not images]
    sizes = next((one for one in others if one.kind.startswith("int") and one.shape[-1:] == (2,)), None)
    if images is None or others != ([] if sizes is None else [sizes]):
        raise ConfigError(
            f"The inputs of {path} must be images of three channels, and at most their sizes, got "
            f"{', '.join(one.text() for one in inputs)}. Export the detector so."
        )
    return Graph(path, images, sizes, tuple(outputs), _names(metadata), last=images.shape[-3] != 3)


def _names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The class names that some exporters leave as ``{0: 'car', ...}`` or ``['car', ...]``."""
    try:
        found = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(found, dict) and {*found} == {*range(len(found))}:
        found = [found[label] for label in range(len(found))]
    usable = isinstance(found, list) and found and all(isinstance(one, str) for one in found)
    return tuple(found) if usable and len({*found}) == len(found) else None


def recognised(settings: OnnxSettings, graph: Graph, *, where: str) -> OnnxSettings:
    """The settings with whatever they leave to the file.

    Args:
        settings: what the YAML file says.
        graph: what the ONNX file says.
        where: what messages call the YAML file.

    Raises:
        ConfigError: the two contradict each other, or what is left open cannot be told.
    """
    classes = settings.classes or graph.names
    if classes is None:
        raise ConfigError(
            f"The classes of {graph.path} must be named, got none in its metadata. "
            f"Write classes: [NAME, NAME] in {where}."
        )
    if settings.size is not None and graph.size not in (None, settings.size):
        height, width = graph.size or (0, 0)
        raise ConfigError(
            f"size of {where} must be the file's own, {height} and {width}, got {list(settings.size)}. Leave it out."
        )
    form, outputs = _outputs(settings, graph, len(classes), where)
    given = {one.name: getattr(settings, one.name) for one in fields(settings)}
    size = settings.size or graph.size
    usual = _usual(form, outputs, graph, len(classes), fixed=size is not None)
    chosen = {key: usual[key] for key, value in given.items() if value is None and key in usual}
    names = tuple(one.name for one in outputs)
    found = replace(settings, classes=tuple(classes), size=size, form=form, outputs=names, **chosen)
    if found.size is None and found.resize != "keep":
        raise ConfigError(
            f"size of {where} must be given with resize {found.resize}, as {graph.path} fixes none, got none. "
            "Write size: [HEIGHT, WIDTH]."
        )
    if found.units == "image" and graph.sizes is None:
        raise ConfigError(
            f"units of {where} must be pixels or shares for {graph.path}, which is told no sizes of images, got image. "
            "Write units: pixels."
        )
    return found


def _outputs(settings: OnnxSettings, graph: Graph, classes: int, where: str) -> tuple[Form, tuple[Port, ...]]:
    """Form and outputs, as they are named or as their shapes and types tell."""
    by_name = {one.name: one for one in graph.outputs}
    if settings.outputs is not None:
        unknown = [name for name in settings.outputs if name not in by_name]
        if unknown or settings.form is None or len(settings.outputs) != len(_ORDER[settings.form]):
            raise ConfigError(
                f"outputs of {where} must be those of a form, in its order, among {', '.join(by_name)}, got "
                f"{list(settings.outputs)} of the form {settings.form}. Write form: detections with outputs: [BOXES, "
                "SCORES, LABELS], or leave both out."
            )
        return settings.form, tuple(by_name[name] for name in settings.outputs)
    found = _guessed(graph, classes)
    form = None if found is None else found[0]
    if found is None or settings.form not in (None, form):
        raise ConfigError(
            f"The outputs of {graph.path} must be boxes, scores and labels, logits and boxes, or one of rows, for "
            f"{classes} classes, got {', '.join(one.text() for one in graph.outputs)}. Write form and outputs in "
            f"{where}, or the right classes."
        )
    return found


def _guessed(graph: Graph, classes: int) -> tuple[Form, tuple[Port, ...]] | None:
    outputs = graph.outputs
    boxes = [one for one in outputs if one.shape[-1:] == (4,) and not ("logit" in one.name or "score" in one.name)]
    labels = [one for one in outputs if one.kind.startswith("int") or "label" in one.name.lower()]
    if len(outputs) == 3 and len(boxes) == len(labels) == 1 and boxes != labels:
        (scores,) = (one for one in outputs if one not in (*boxes, *labels))
        return "detections", (*boxes, scores, *labels)
    logits = [
        one for one in outputs if len(one.shape) == 3 and one.shape[-1] in (classes, classes + 1) and one not in boxes
    ]
    if len(boxes) == 1 and len(boxes[0].shape) == 3 and len(logits) == 1:
        return "queries", (*logits, *boxes)
    if len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    _, rows, columns = outputs[0].shape
    widths = (4 + classes, 5 + classes)
    if columns == 6 and (rows is None or rows <= _MOST_ROWS) and rows not in widths:
        return "rows", outputs
    return ("cells", outputs) if columns in widths or rows in widths else None


def _usual(form: Form, outputs: Sequence[Port], graph: Graph, classes: int, *, fixed: bool) -> dict[str, Any]:
    """What a form usually comes with."""
    told, dense = graph.sizes is not None, form in ("cells", "rows")
    resize = "keep" if not fixed else "stretch" if told or form == "queries" else "letterbox"
    usual: dict[str, Any] = {
        "resize": resize,
        "centred": dense,
        "fill": _GREY if dense else 0.0,
        "boxes": "cxcywh" if form in ("queries", "cells") else "xyxy",
        "units": "image" if told else "shares" if form == "queries" else "pixels",
        "activation": "none",
        "objectness": False,
        "first_label": 1 if form == "detections" and not told else 0,
        "nms": form == "cells",
    }
    if form == "queries":
        usual["activation"] = "softmax" if outputs[0].shape[-1] == classes + 1 else "sigmoid"
    if form == "cells":
        usual["objectness"] = 5 + classes in outputs[0].shape[1:] and 4 + classes not in outputs[0].shape[1:]
    return usual
