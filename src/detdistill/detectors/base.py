"""What every detector is to the rest of detdistill: a spec, and three ways to look through it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from detdistill.detectors.nms import best_apart
from detdistill.detectors.settings import DetectorSettings
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Candidates, ClassKind, Detections, Need, Observation, Pyramid

BACKGROUND_ROW, UNUSED_ROW = -1, -2
_BODY = "body"
_WITH_GRAPH = "Take one of the families fcos, retinanet, gfl, faster_rcnn and hf."
LOSS_NEEDS = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})


def nearest_factor(ratio: float) -> float:
    """The power of two nearest to a ratio of sizes."""
    return float(2.0 ** round(math.log2(ratio)))


@dataclass(frozen=True, slots=True)
class PyramidLayout:
    """The neck's output: nominal strides in pixels, fine to coarse, and the channels of all levels, or of each."""

    strides: tuple[int, ...]
    channels: int | tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.channels, tuple) and len({*self.channels}) == 1:
            object.__setattr__(self, "channels", self.channels[0])

    def at(self, stride: int) -> int:
        """The channels of the level of a stride."""
        if isinstance(self.channels, int):
            return self.channels
        return self.channels[self.strides.index(stride)]


@dataclass(frozen=True, slots=True)
class ClassLayout:
    """How class logits are laid out: on which strides, what they mean, anchors a cell, classes by name."""

    strides: tuple[int, ...]
    kind: ClassKind
    anchors: int
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """How box distributions are laid out: on which strides, anchors a cell, bins an edge.

    `anchor_scale` is the side, in strides, of the square around each cell by whose overlap objects are given to cells,
    `bin_width` what a bin stands for, in strides too.
    """

    strides: tuple[int, ...]
    anchors: int
    bins: int
    anchor_scale: float = 8.0
    bin_width: float = 1.0


@dataclass(frozen=True, slots=True)
class TowerLayout:
    """The class tower and the box tower of a dense head: convolutions in a row, and the channels of each."""

    depth: int
    channels: int


@dataclass(frozen=True, slots=True)
class QueryLayout:
    """How a set of queries is laid out: how many there are, what their logits mean, classes by name."""

    count: int
    kind: ClassKind
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How candidates become detections: scores above `score`, the `most` best of those left of their own class.

    `overlap` is the IoU with a better box of its class from which on a box is left out; None: from none.
    """

    score: float
    overlap: float | None
    most: int


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What a detector is and offers; a layout is None where it does not offer such maps.

    Attributes:
        name: how messages call it, such as ``"fcos/resnet18"``.
        class_names: the data set's names, in label order.
        pyramid: None of a detector that says boxes alone, which can neither learn nor show anything else; who reads
            it asks `maps`.
        two_stage: whether a second stage refines proposals.
        towers: of a detector that shows boxes and towers, and goes on from another's (`observe_towers`).
        queries: of a detector that says a set of boxes.
        unknown: names among those that it does not know, a teacher that is shown in its student's classes; its class
            logits have no rows for them.
        free_strides: whether its settings choose the strides: `PyramidSettings` do.
        ratio: how many of its own pixels lie along one of the pixels that its strides are in: other than 1 for a
            teacher that sees images of another size, whose strides are in its student's pixels.
    """

    name: str
    class_names: tuple[str, ...]
    pyramid: PyramidLayout | None = None
    class_logits: ClassLayout | None = None
    box_distributions: BoxLayout | None = None
    two_stage: bool = False
    towers: TowerLayout | None = None
    queries: QueryLayout | None = None
    unknown: tuple[str, ...] = ()
    ratio: float = 1.0
    free_strides: bool = False

    @property
    def maps(self) -> PyramidLayout:
        """The pyramid.

        Raises:
            CapabilityError: there is none.
        """
        if self.pyramid is None:
            raise CapabilityError(
                f"A detector whose feature maps are read must show some, got {self.name}, which says boxes alone. "
                "Distil from it by --method boxes."
            )
        return self.pyramid

    @property
    def factor(self) -> float:
        """The power of two nearest to `ratio`: by so much its strides differ from those that it has by itself."""
        return nearest_factor(self.ratio)

    def at_ratio(self, ratio: float) -> DetectorSpec:
        """The detector beside a student of whose pixels `ratio` of its own fill one, in pixels of that student.

        Its strides are divided by the nearest power of two, so that levels of one stride have cells of the most
        similar share of the image.

        Raises:
            CapabilityError: a stride would be no whole number of the student's pixels.
        """
        if ratio == 1.0 or self.pyramid is None:
            return self
        alone = replace(self, ratio=ratio)
        strides, factor = self.pyramid.strides, alone.factor
        if any(stride % factor for stride in strides):
            raise CapabilityError(
                f"The strides of a teacher that sees images {ratio:g} times the student's size must be multiples of "
                f"{factor:g}, got {list(strides)} ({self.name}). "
                "Leave teacher.image out, or set it to a size nearer to data.image."
            )

        def in_students(own: Sequence[int]) -> tuple[int, ...]:
            return tuple(int(stride / factor) for stride in own)

        logits, boxes = self.class_logits, self.box_distributions
        return replace(
            alone,
            pyramid=replace(self.pyramid, strides=in_students(strides)),
            class_logits=logits and replace(logits, strides=in_students(logits.strides)),
            box_distributions=boxes
            and replace(boxes, strides=in_students(boxes.strides), bin_width=boxes.bin_width * factor / ratio),
        )


class Detector(nn.Module, ABC):
    """A trainable detector that shows what it saw.

    `Need.PYRAMID` is always answered, but by one that says boxes alone (`BoxesAlone`). Every other part of an
    observation is computed only when it is asked for.

    Attributes:
        spec: what it is and offers.
        settings: what it was built from; None for a model that was not built from settings, which cannot be saved.
        agnostic: whether boxes of all classes suppress each other in `detect`, not those of a class alone; None: it
            cannot be asked for. A family whose `detect` ends in `suppress` sets it to False.
        weighs_objects: whether the losses count every object as much as `Targets.scores` says.
        compiled_graph: whether `candidates` runs code that takes shapes for numbers, which only a compiler can trace.
        one_size: why `candidates` is a graph for images of one size alone, in words that follow its name; empty where
            it is one for any.
    """

    spec: DetectorSpec
    settings: DetectorSettings | None = None
    agnostic: bool | None = None
    weighs_objects: bool = False
    compiled_graph: bool = False
    one_size: str = ""

    @abstractmethod
    def extract(self, batch: Batch) -> Pyramid:
        """The neck's feature maps. Gradients flow to the parameters and to ``batch.images``."""

    @abstractmethod
    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """What the heads see on `pyramid` (any pyramid of this detector's layout, its own or another's).

        Args:
            pyramid: gradients flow through it; the observation's own.
            batch: image sizes, targets (for the losses) and seeds (for sampling).
            needs: which parts to compute.
        """

    def observe_towers(
        self, classes: Pyramid, boxes: Pyramid, batch: Batch, needs: Set[Need], *, after: int
    ) -> Observation:
        """What the heads see whose towers go on from maps of another detector's, without losses. Gradients flow.

        Args:
            classes: what the class tower reads next, on all levels.
            boxes: what the box tower reads next.
            batch: image sizes.
            needs: which parts to compute.
            after: how many convolutions of both towers are left out; 0 reads pyramids.

        Raises:
            CapabilityError: the detector has no towers.
        """
        raise CapabilityError(
            f"A detector whose towers go on from another's must have a layout of them, got none from {self.spec.name}. "
            "Take a method on features alone, such as hint."
        )

    @abstractmethod
    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """Detections of every image, best first, in pixels of the padded batch image, clipped to the image.

        Runs as the module stands; put it into eval mode and under ``no_grad`` for inference.
        """

    def candidates(self, batch: Batch, sizes: Int64[Tensor, "b 2"]) -> Candidates:
        """What `detect` chooses from, as a graph of tensors alone: what is computed depends on shapes, never on values.

        Args:
            batch: its images are read alone; those that a `Normaliser` is told to pass are normalised already.
            sizes: height and width in pixels of each image inside the padded grid, in the place of the batch's own.

        Raises:
            CapabilityError: the detector has no such graph.
        """
        raise self._no_graph()

    def limits(self) -> Limits:
        """How `detect` chooses from the candidates; a family that has `candidates` says it.

        Raises:
            CapabilityError: it has none.
        """
        raise self._no_graph()

    def _no_graph(self) -> CapabilityError:
        own = self.settings is not None and self.settings.family == "own"
        whose, remedy = (
            ("class", "Give its class the methods candidates and limits.") if own else ("family", _WITH_GRAPH)
        )
        return CapabilityError(
            f"A detector to export must be a graph of tensors, got {self.spec.name}, whose {whose} has none. {remedy}"
        )

    def in_backbone(self, tensor: str) -> bool:
        """Whether the parameter or buffer of this name is the backbone's, without its neck.

        ``train.backbone_lr_factor`` and `inherit` ask. As it stands: what lies in a module called ``body``, as
        in a `PyramidBackbone`.
        """
        return _BODY in tensor.split(".")

    def class_rows(self) -> Mapping[str, tuple[int, ...]]:
        """The label that each row (axis 0) of the class layers' tensors stands for, by the tensors' names.

        `BACKGROUND_ROW` and `UNUSED_ROW` are no labels. `initialise` takes over the rows of the classes that source and
        student both know, a class's first row from its first, and so on. As it stands nothing is known: among other
        classes every tensor whose shape depends on their number is then drawn anew.
        """
        return {}

    def suppress(self, found: Detections, *, threshold: float, most: int) -> Detections:
        """The `most` best, best first, none of which overlaps a better one by more than `threshold`.

        Boxes suppress those of their own class, or of any where the detector is `agnostic`.
        """
        rivals = torch.zeros_like(found.labels) if self.agnostic else found.labels
        keep = best_apart(found.boxes, found.scores, rivals, threshold, most=most)
        classes = None if found.probabilities is None else found.probabilities[keep]
        return Detections(found.boxes[keep], found.scores[keep], found.labels[keep], classes)

    def forward(self, batch: Batch, needs: Set[Need]) -> Observation:
        """`extract`, then `observe`."""
        return self.observe(self.extract(batch), batch, needs)


def require_agnostic(detector: Detector) -> None:
    """Refuses a detector that cannot suppress boxes across classes.

    Raises:
        CapabilityError: it says nothing of `agnostic`.
    """
    if detector.agnostic is None:
        raise CapabilityError(
            "A detector whose boxes are suppressed across classes must be of a family that can do so, got "
            f"{detector.spec.name}. Leave out --agnostic and evaluate.agnostic."
        )


@contextmanager
def suppressing(detector: Detector, *, agnostic: bool) -> Iterator[None]:
    """Within, the detector's boxes suppress each other across classes where `agnostic` asks for it.

    Raises:
        CapabilityError: the detector cannot.
    """
    before = detector.agnostic
    if agnostic:
        require_agnostic(detector)
        detector.agnostic = True
    try:
        yield
    finally:
        detector.agnostic = before


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients within; afterwards every sub-module is in the mode it was in before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
