"""A Python function as a detector: images in, boxes out."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detdistill.data.transforms import ImageSettings
from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.load_report import LoadedDetector, LoadReport
from detdistill.errors import CapabilityError, ConfigError, either
from detdistill.outside import STOPPED, place_of
from detdistill.types import Batch, Detections, sent

PREFIX = "python:"
Find = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Any]]
_LIVE: dict[str, BlackBox] = {}


@final
class BlackBox(BoxesAlone):
    """A detector that is a function of one's own, for whatever takes a teacher or a detector to measure.

    Args:
        find: takes a list of RGB images, uint8 of (height, width, 3) in sizes of their own, and gives for each of them
            boxes (x1, y1, x2, y2 in pixels of that image), scores in [0, 1] and labels (numbers in the order of
            `class_names`, or names), as arrays, tensors or lists; a fourth entry is the score of every class, (n, k).
        class_names: in label order.
        image: to what size images are brought before, such as ``{"short_side": 640, "long_side": 1024}``; None for
            their own median size, at most 800 x 1333.

    Raises:
        ConfigError: there is no class, or one twice; or it is no function, or the image no size.

    Example:
        >>> def find(images):
        ...     return [([[2, 2, 30, 20]], [0.9], ["car"]) for _ in images]
        >>> box = detdistill.BlackBox(find, class_names=("car", "truck", "pedestrian"))
        >>> detdistill.predict(box, "photos", out="drawn").found[0].scores.round(1).tolist()
        [0.9]
    """

    content: Tensor

    def __init__(self, find: Find, class_names: Sequence[str], *, image: Mapping[str, int] | None = None) -> None:
        names = (class_names,) if isinstance(class_names, str) else tuple(class_names)
        if not names or len({*names}) < len(names):
            raise ConfigError(f"class_names must be different names, at least one, got {list(names)}. Name each once.")
        if not callable(find):
            raise ConfigError(
                f"find must be a function of a list of images, got a {type(find).__name__}. Pass the function itself."
            )
        known = [one.name for one in fields(ImageSettings)]
        for key, value in (image or {}).items():
            if key not in known or type(value) is not int or value < 1:
                raise ConfigError(
                    f"image must have {either(known)}, in whole pixels, got {key}: {value!r}. Leave it out for the "
                    "images' own size."
                )
        super().__init__(getattr(find, "__name__", type(find).__name__), names)
        self.find, self.image = find, dict(image or {})
        self.register_buffer("content", torch.tensor(list(_digest(find, names)), dtype=torch.uint8))
        self._text = f"{PREFIX}{self.spec.name}-{len(_LIVE) + 1}"
        _LIVE[self._text] = self

    def __str__(self) -> str:
        """The text by which this process knows it, as others are known by their path."""
        return self._text

    def __deepcopy__(self, memo: dict[int, object]) -> BlackBox:
        return self

    @torch.no_grad()
    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`.

        Raises:
            CapabilityError: the function fails, or gives something else than boxes, scores and labels of each image.
        """
        images = [
            (image[:, :height, :width] * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(1, 2, 0).numpy()
            for image, (height, width) in zip(batch.images, batch.sizes, strict=True)
        ]
        try:
            said = self.find(images)
        except STOPPED as error:
            raise self._refused(f"what it found in {len(images)} images", place_of(error)) from error
        if not isinstance(said, Sequence) or len(said) != len(images):
            got = f"{len(said)}" if isinstance(said, Sequence) else type(said).__name__
            raise self._refused(f"a list with boxes, scores and labels of each of {len(images)} images", got)
        return tuple(self._checked(one, batch, index) for index, one in enumerate(said))

    def _checked(self, said: Any, batch: Batch, index: int) -> Detections:
        classes = len(self.spec.class_names)
        if not isinstance(said, Sequence) or len(said) not in (3, 4):
            got = " ".join(f"{type(said).__name__} {said}".split())[:60]
            raise self._refused("boxes, scores and labels of an image", got)
        labels = [self._label(one) for one in self._array(said[2], "labels", None).tolist()]
        shapes = ((len(labels), 4), (len(labels),), *([(len(labels), classes)] if len(said) == 4 else []))
        given = []
        whats = ("boxes", "scores", "class scores")[: len(shapes)]
        for what, one, shape in zip(whats, (*said[:2], *said[3:]), shapes, strict=True):
            tensor = torch.as_tensor(self._array(one, what, np.float32))
            if tensor.numel() == 0:
                tensor = tensor.reshape(shape) if labels == [] else tensor
            if tuple(tensor.shape) != shape:
                raise self._refused(
                    f"{what} of shape {shape}, as there are {len(labels)} labels", str(tuple(tensor.shape))
                )
            given.append(tensor)
        height, width = batch.sizes[index]
        boxes, scores = given[:2]
        wrong = ~torch.isfinite(boxes).all(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
        if bool(wrong.any()):
            raise self._refused("boxes x1, y1, x2, y2 with x2 >= x1 and y2 >= y1", str(boxes[wrong][:1].tolist()))
        if labels and 0 < float(boxes.max()) <= 1 and bool((boxes % 1 != 0).any()):
            raise self._refused("boxes in pixels", f"shares of the image, such as {boxes[0].tolist()}")
        for what, one in zip(whats[1:], given[1:], strict=True):
            if bool((beyond := ~((one >= 0) & (one <= 1))).any()):
                raise self._refused(f"{what} from 0 to 1", f"{float(one[beyond][0]):g}")
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height] * 2))
        order = scores.argsort(descending=True, stable=True)
        found = [boxes, scores, torch.tensor(labels, dtype=torch.int64), *given[2:]]
        return Detections(*(sent(one[order], batch.images.device) for one in found))

    def _array(self, said: Any, what: str, kind: type[np.float32] | None) -> NDArray[Any]:
        try:
            return np.asarray(said.detach().cpu() if isinstance(said, Tensor) else said, dtype=kind)
        except (TypeError, ValueError) as error:
            raise self._refused(f"an array of {what}, or what becomes one", place_of(error)) from error

    def _label(self, said: Any) -> int:
        names = self.spec.class_names
        label = names.index(said) if isinstance(said, str) and said in names else -1
        if isinstance(said, (int, float)) and float(said).is_integer():
            label = int(said)
        if not 0 <= label < len(names):
            raise self._refused(f"labels from 0 to {len(names) - 1}, or {', '.join(names)}", str(said))
        return label

    def _refused(self, expected: str, got: str) -> CapabilityError:
        return CapabilityError(f"What {self.spec.name} gives must be {expected}, got {got}. Mend the function.")

    def loaded(self) -> LoadedDetector:
        """As who opens a detector by its text has it."""
        names = ", ".join(self.spec.class_names)
        report = LoadReport(str(self), (), known=f"the function {self.spec.name}, classes {names}")
        return LoadedDetector(self, report, dict(self.image), self.spec.class_names, extra={})


def load_called(text: str) -> LoadedDetector:
    """A `BlackBox` of this process, by its text.

    Raises:
        ConfigError: this process has none of that name.
    """
    if text not in _LIVE:
        raise ConfigError(
            f"{text} must be a function that this Python process made a detdistill.BlackBox of, got none. Make it, and "
            "pass it as the teacher."
        )
    return _LIVE[text].loaded()


def _digest(find: Find, names: tuple[str, ...]) -> bytes:
    """Of the function's text, where it has one, and of the classes."""
    told = f"{getattr(find, '__module__', '')}.{getattr(find, '__qualname__', type(find).__qualname__)}"
    try:
        told += inspect.getsource(find if inspect.isroutine(find) else type(find))
    except (OSError, TypeError):
        told += "?"
    return hashlib.sha256(repr((told, names)).encode()).digest()
