"""Any `nn.Module` as a detector: forward hooks take its feature maps, its loss and boxes come from functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from detdistill.detectors.base import (
    LOSS_NEEDS,
    ClassLayout,
    Detector,
    DetectorSpec,
    Limits,
    PyramidLayout,
    evaluating,
)
from detdistill.detectors.preprocess import Normaliser
from detdistill.errors import CapabilityError, ConfigError, suggestion
from detdistill.outside import count_as_outside
from detdistill.types import Batch, ClassKind, ClassLogits, Detections, Need, Observation, Pyramid, TaskLoss

_PART = re.compile(r"(?P<name>[\w.]+)(?:\[(?P<index>\d+)\])?")
_LEAST_SIDE = 128


@dataclass(frozen=True, slots=True)
class SeenPyramid(Pyramid):
    """A module's feature maps, with what it gave in the same pass."""

    outputs: Any = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a level's map is: the output of a module, or one of several outputs."""

    text: str
    module: str
    index: int | None


def wrap(
    module: nn.Module,
    *,
    class_names: Sequence[str],
    pyramid: Mapping[int, str],
    loss: Callable[[Any, Batch], Tensor | Mapping[str, Tensor] | TaskLoss],
    detect: Callable[[Any, Batch], Sequence[Detections | tuple[Tensor, Tensor, Tensor]]],
    class_logits: Callable[[Any], Sequence[Tensor]] | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    backbone: str = "",
    name: str | None = None,
) -> Detector:
    """Any module as a detector that can be trained, taught, and teach.

    Args:
        module: takes normalised images (b, 3, h, w), zero in the padding.
        class_names: in label order.
        pyramid: by stride in pixels, where its feature maps are: the name of a sub-module, whose output is a map
            (b, c, h, w), or ``"neck[0]"`` for one of several. Forward hooks take them in every pass, and are removed
            behind it.
        loss: from what the module gave, and the batch with its targets, the training loss to minimise: a scalar,
            scalars by name that are added up, or a `TaskLoss`, whose losses by image and level let AID weigh them.
        detect: from what the module gave in eval mode, for each image boxes (n, 4) as x1, y1, x2, y2 in pixels of the
            batch inside the image, scores in [0, 1] and labels from 0, best first.
        class_logits: from what the module gave, a map (b, k, h, w) of logits by level, or (b, a, k, h, w) with anchors,
            for methods that compare classes; None for a module that shows none.
        mean: what is subtracted from RGB in [0, 1], per channel.
        std: what the difference is divided by.
        backbone: the sub-module that ``train.backbone_lr_factor`` slows down.
        name: how messages call the detector; the module's type where nobody says.

    Raises:
        ConfigError: a sub-module is not there or does not run, or its maps have other strides.

    Example:
        >>> import torch
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = torch.nn.Conv2d(3, 8, 8, stride=8)
        ...         self.head = torch.nn.Conv2d(8, 1, 1)
        ...     def forward(self, images):
        ...         return self.head(self.body(images).relu())
        >>> detector = detdistill.wrap(
        ...     Net(), class_names=("car",), pyramid={8: "body"},
        ...     loss=lambda heat, batch: heat.square().mean(),
        ...     detect=lambda heat, batch: [(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())] * len(batch),
        ... )
        >>> detector.spec.pyramid.strides, detector.spec.pyramid.channels
        ((8,), 8)
    """
    return WrappedDetector(
        module,
        class_names=tuple(class_names),
        places={stride: _place(pyramid[stride], module, stride) for stride in sorted(pyramid)},
        functions=(loss, detect, class_logits),
        pixels=Normaliser(mean, std),
        backbone=backbone,
        name=name or type(module).__name__,
    )


@final
class WrappedDetector(Detector):
    """What `wrap` makes: every pass runs the whole module, and one pass serves `extract` and `observe` both.

    A pyramid that another pass made is put in the place of the module's own maps.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        class_names: tuple[str, ...],
        places: Mapping[int, _Place],
        functions: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None],
        pixels: Normaliser,
        backbone: str,
        name: str,
    ) -> None:
        super().__init__()
        self.module = module
        count_as_outside(type(module).__module__)
        self._places, self._backbone = dict(places), backbone
        self._task, self._found, self._logits = functions
        self._pixels = pixels
        if backbone and backbone not in dict(module.named_modules()):
            raise ConfigError(
                f"The backbone of {name} must be one of its modules, got '{backbone}'. "
                f"{suggestion(backbone, dict(module.named_children()))}"
            )
        self.spec = self._probed(name, class_names)

    def _probed(self, name: str, class_names: tuple[str, ...]) -> DetectorSpec:
        """The spec, by what one pass shows."""
        strides = tuple(self._places)
        if not strides:
            raise ConfigError(f"The pyramid of {name} must name at least one level, got none. Write {{16: 'neck'}}.")
        side = max(_LEAST_SIDE, 2 * max(strides))
        first = next(self.module.parameters(), torch.zeros(()))
        with evaluating(self.module):
            outputs, levels = self._look(torch.zeros((1, 3, side, side), device=first.device))
            logits = None if self._logits is None else _with_anchors(self._logits(outputs))
        for (stride, place), level in zip(self._places.items(), levels, strict=True):
            cells = -(-side // stride)
            if level.shape[-2:] != (cells, cells):
                found = side / level.shape[-1]
                raise ConfigError(
                    f"The level '{place.text}' of {name} must have {stride} pixels a cell as the pyramid says, got "
                    f"{found:g}: {tuple(level.shape[-2:])} cells of {side} pixels. Write {found:g}: '{place.text}'."
                )
        layout = None
        if logits is not None:
            if [one.shape[-2:] for one in logits] != [one.shape[-2:] for one in levels]:
                raise ConfigError(
                    f"The class_logits of {name} must be a map for each of its {len(levels)} levels, got "
                    f"{[tuple(one.shape) for one in logits]}. Give one a level, fine to coarse."
                )
            layout = ClassLayout(strides, ClassKind.SIGMOID, logits[0].shape[1], class_names)
        channels = tuple(level.shape[1] for level in levels)
        return DetectorSpec(name, class_names, PyramidLayout(strides, channels), layout)

    def extract(self, batch: Batch) -> Pyramid:
        """See `Detector.extract`."""
        outputs, levels = self._look(self._pixels(batch))
        return SeenPyramid(levels, tuple(self._places), outputs)

    def observe(self, pyramid: Pyramid, batch: Batch, needs: Set[Need]) -> Observation:
        """See `Detector.observe`."""
        wants_logits = Need.CLASS_LOGITS in needs and self._logits is not None
        if not wants_logits and not needs & LOSS_NEEDS:
            return Observation(pyramid)
        outputs = self._outputs(pyramid, batch)
        logits = task = None
        if wants_logits and self._logits is not None:
            logits = ClassLogits(_with_anchors(self._logits(outputs)), pyramid.strides, ClassKind.SIGMOID)
        if needs & LOSS_NEEDS:
            task = _as_loss(self._task(outputs, batch), name=self.spec.name)
        return Observation(pyramid, class_logits=logits, task_loss=task)

    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`."""
        found = self._found(self._outputs(self.extract(batch), batch), batch)
        return tuple(one if isinstance(one, Detections) else Detections(*one) for one in found)

    def limits(self) -> Limits:
        """See `Detector.limits`: its functions see what is really there, so that it has none."""
        raise CapabilityError(
            f"A detector to export must be a graph of tensors, got {self.spec.name}, which detdistill.wrap made of a "
            "module. Export its .module by torch.onnx.export, or write a Detector with candidates and limits."
        )

    def in_backbone(self, tensor: str) -> bool:
        """See `Detector.in_backbone`."""
        return bool(self._backbone) and tensor.startswith(f"module.{self._backbone}.")

    def _outputs(self, pyramid: Pyramid, batch: Batch) -> Any:
        if isinstance(pyramid, SeenPyramid):
            return pyramid.outputs
        return self._look(self._pixels(batch), instead=pyramid.levels)[0]

    def _look(self, images: Tensor, *, instead: Sequence[Tensor] = ()) -> tuple[Any, tuple[Tensor, ...]]:
        """What the module gives, and the maps on the way; maps `instead` of them are what it goes on from."""
        with self._heard(instead) as heard:
            outputs = self.module(images)
        for stride, place in self._places.items():
            if not isinstance(heard.get(stride), Tensor) or heard[stride].ndim != 4:
                got = "no pass through it" if stride not in heard else _kind_of(heard[stride])
                raise ConfigError(
                    f"The level '{place.text}' must be a map (b, c, h, w) in every pass of the module, got {got}. Name "
                    f"the module that gives the map of stride {stride}, or one of its outputs as {place.module}[0]."
                )
        return outputs, tuple(heard[stride] for stride in self._places)

    @contextmanager
    def _heard(self, instead: Sequence[Tensor]) -> Iterator[dict[int, Any]]:
        """Within, the maps that go by, by stride; the hooks are removed afterwards."""
        heard: dict[int, Any] = {}
        given = dict(zip(self._places, instead, strict=False))

        def hook(stride: int, index: int | None) -> Callable[[nn.Module, Any, Any], Any]:
            def hear(_module: nn.Module, _arguments: Any, output: Any) -> Any:
                several = index is not None and isinstance(output, (list, tuple)) and index < len(output)
                heard[stride] = given.get(stride, output[index] if several else output)
                if stride not in given or not several:
                    return given.get(stride)  # None leaves the output as it is
                changed = [given[stride] if at == index else one for at, one in enumerate(output)]
                return type(output)(changed) if type(output) in (list, tuple) else type(output)(*changed)

            return hear

        handles = []
        try:
            for stride, place in self._places.items():
                handles.append(self.module.get_submodule(place.module).register_forward_hook(hook(stride, place.index)))
            yield heard
        finally:
            for handle in handles:
                handle.remove()


def _place(text: str, module: nn.Module, stride: int) -> _Place:
    found = _PART.fullmatch(text)
    known = dict(module.named_modules())
    if found is None or found["name"] not in known:
        closest = suggestion(text, known if len(known) < 50 else dict(module.named_children()))
        of = type(module).__name__
        raise ConfigError(
            f"pyramid[{stride}] must name a module of {of}, such as 'neck' or 'neck[0]', got '{text}'. {closest}"
        )
    return _Place(text, found["name"], None if found["index"] is None else int(found["index"]))


def _with_anchors(levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(level.unsqueeze(1) if level.ndim == 4 else level for level in levels)


def _as_loss(found: Any, *, name: str) -> TaskLoss:
    if isinstance(found, TaskLoss):
        return found
    if isinstance(found, Mapping):
        found = sum(found.values(), torch.zeros(()).to(next(iter(found.values()), torch.zeros(()))))
    if not isinstance(found, Tensor):
        raise CapabilityError(
            f"The loss of {name} must be a scalar tensor, scalars by name or a TaskLoss, got {_kind_of(found)}. "
            "Return the loss to minimise."
        )
    return TaskLoss(found)


def _kind_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (list, tuple, dict)) else type(value).__name__
