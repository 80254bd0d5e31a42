"""A frozen detector made faster: its batch norms folded into its convolutions, whose weights lie as the CPU reads them.

What it shows differs in the last bits: by rounding, to a few millionths of the largest value.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from detdistill.detectors.base import Detector
from detdistill.types import Batch, Need, Observation, Targets

_SIDE = 128
_MOST_APART = 1e-4
_EPSILON = 1e-5  # of transformers' frozen norms, which have it in their code alone


def folded(detector: Detector) -> tuple[Detector, int]:
    """A copy of a detector in eval mode that shows the same faster, and how many norms it was folded by.

    Found by looking at noise: a batch norm that reads one convolution's output, unchanged, and nobody else's, goes into
    that convolution, and so does a ReLU right behind it. What the copy then shows of the noise must be the same to
    1e-4 of the largest value, else, and where anybody listens to a layer or nothing can be folded, the detector itself
    is returned. The copy is for looking alone: no gradient flows through it on a CPU.

    Args:
        detector: frozen, in eval mode; left as it is, and shares what is not folded with the copy.
    """
    if detector.spec.pyramid is None or any(_heard(part) for part in detector.modules()):
        return detector, 0
    if not any(_is_norm(part) for part in detector.modules()):
        return detector, 0
    device = next(one for part in detector.modules() if _is_norm(part) for one in part.buffers()).device
    noise, needs = _noise().to(device), _needs(detector)
    with torch.no_grad(), _traced(detector) as trace:
        before = detector(noise, needs)
    links = trace.links()
    shared = {id(one): one for one in (*detector.parameters(), *detector.buffers())}
    made = copy.deepcopy(detector, cast(Any, shared))
    names = {part: name for name, part in detector.named_modules()}
    for conv, link in links.items():
        norm = None if link.norm is None else made.get_submodule(names[link.norm])
        own = cast(nn.Conv2d, made.get_submodule(names[conv]))
        rectifies = link.relu is not None or _rectifies(norm)
        _put(made, names[conv], Folded.of(own, norm, rectifies=rectifies, calls=link.calls))
        if link.norm is not None:
            _put(made, names[link.norm], nn.Identity() if _rectifies(norm) else _activation(cast(nn.Module, norm)))
        if link.relu is not None:
            _put(made, names[link.relu], nn.Identity())
    with torch.no_grad():
        after = made(noise, needs)
    for one, other in zip(_tensors(before), _tensors(after), strict=True):
        if not (one - other).abs().max() <= _MOST_APART * one.abs().max():
            return detector, 0
    return made, sum(link.norm is not None for link in links.values())


class Folded(nn.Conv2d):
    """A convolution with what a batch norm would do to its output, and a ReLU where it `rectifies`."""

    rectifies, calls = False, 1
    _packed: dict[torch.Size, Tensor]

    @classmethod
    def of(cls, conv: nn.Conv2d, norm: nn.Module | None, *, rectifies: bool, calls: int) -> Folded:
        """A frozen one of the same shape, called so often for a batch."""
        made = cls(
            conv.in_channels,
            conv.out_channels,
            cast(Any, conv.kernel_size),
            cast(Any, conv.stride),
            cast(Any, conv.padding),
            cast(Any, conv.dilation),
            conv.groups,
            device="meta",
        )
        weight, bias = conv.weight.double(), conv.bias.double() if conv.bias is not None else conv.weight.new_zeros(1)
        if norm is not None:
            factor, offset = _affine(norm)
            weight, bias = weight * factor[:, None, None, None], bias * factor + offset
        form = {"dtype": conv.weight.dtype, "memory_format": torch.channels_last}
        made.weight = nn.Parameter(weight.to(**cast(Any, form)), requires_grad=False)
        made.bias = nn.Parameter(bias.to(conv.weight.dtype).expand(conv.out_channels).clone(), requires_grad=False)
        made.rectifies, made.calls, made._packed = rectifies, calls, {}
        return made

    def forward(self, input: Tensor) -> Tensor:
        """The convolution's output. On a CPU in float32, by weights that are brought into its order once."""
        if self._fits(input):
            return self._on_cpu(input)
        said = functional.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return torch.relu(said) if self.rectifies else said

    def _fits(self, input: Tensor) -> bool:
        plain = input.device.type == "cpu" and input.dtype == torch.float32 == self.weight.dtype
        return (
            plain
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        )

    def _on_cpu(self, input: Tensor) -> Tensor:
        own = torch.ops.mkldnn
        shape = [*map(list, (cast(Any, self.padding), self.stride, self.dilation)), self.groups]
        packed = self._packed.get(input.shape)
        if packed is None:  # no more of them than a batch needs
            if len(self._packed) == self.calls:
                self._packed.clear()
            packed = self._packed[input.shape] = own._reorder_convolution_weight(self.weight, *shape, list(input.shape))
        kind = "relu" if self.rectifies else "none"
        return cast(Tensor, own._convolution_pointwise(input, packed, self.bias, *shape, kind, [], None))


@dataclass(slots=True)
class _Link:
    """What comes right behind a convolution."""

    calls: int
    norm: nn.Module | None = None
    relu: nn.Module | None = None


class _Trace:
    """Which layers read which layers' outputs, as they were."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._made: dict[tuple[int, int], nn.Module] = {}
        self._readers: dict[nn.Module, list[nn.Module | None]] = {}
        self._calls: Counter[nn.Module] = Counter()

    def reads(self, layer: nn.Module, given: tuple[object, ...]) -> None:
        first = given[0]
        self._readers.setdefault(layer, []).append(
            self._made.get((id(first), first._version)) if isinstance(first, Tensor) else None
        )

    def says(self, layer: nn.Module, output: object) -> None:
        self.counts(layer)
        if isinstance(output, Tensor):
            self._held.append(output)  # so that no other takes its place
            self._made[id(output), output._version] = layer

    def counts(self, layer: nn.Module) -> None:
        self._calls[layer] += 1

    def links(self) -> dict[nn.Module, _Link]:
        """By convolution; those whose form is another are left out."""
        found = {layer: _Link(calls) for layer, calls in self._calls.items() if _is_plain(layer)}
        for layer in filter(_is_norm, self._readers):
            source = self._only(layer)
            if source in found:
                found[source].norm = layer
        ends = {link.norm or conv: link for conv, link in found.items()}
        for layer in (one for one in self._readers if type(one) is nn.ReLU):
            source = self._only(layer)
            if source in ends and isinstance(_activation(source), nn.Identity):
                ends[source].relu = layer
        return found

    def _only(self, layer: nn.Module) -> nn.Module | None:
        """The layer whose every output this one reads, if it reads nothing else and no layer of its kind does."""
        sources = {*self._readers[layer]}
        if len(sources) != 1 or (source := sources.pop()) is None or self._calls[source] != self._calls[layer]:
            return None
        others = [one for one, read in self._readers.items() if one is not layer and source in read]
        return None if others else source


@contextmanager
def _traced(detector: Detector) -> Iterator[_Trace]:
    """What its layers read and say meanwhile."""
    trace, handles = _Trace(), []
    for layer in detector.modules():
        if _is_norm(layer) or type(layer) is nn.ReLU:
            handles.append(layer.register_forward_pre_hook(trace.reads))
        if _is_norm(layer) or _is_plain(layer):
            handles.append(layer.register_forward_hook(lambda layer, _given, output: trace.says(layer, output)))
        elif type(layer) is nn.ReLU:
            handles.append(layer.register_forward_hook(lambda layer, _given, _output: trace.counts(layer)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _heard(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is a convolution as torch has it, with zeros around."""
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _is_norm(layer: nn.Module) -> bool:
    """Whether it scales and shifts channels by fixed numbers: torch's, torchvision's, timm's, transformers'."""
    known = isinstance(layer, nn.BatchNorm2d) or "FrozenBatchNorm" in type(layer).__name__
    return known and isinstance(getattr(layer, "running_var", None), Tensor)


def _activation(norm: nn.Module) -> nn.Module:
    """What a norm of timm's has behind it."""
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) else nn.Identity()


def _rectifies(norm: nn.Module | None) -> bool:
    return norm is not None and type(_activation(norm)) is nn.ReLU


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """By what a norm multiplies every channel, and what it adds, in float64; (c,)."""
    own = cast(Any, norm)
    factor = torch.rsqrt(own.running_var.double() + getattr(norm, "eps", _EPSILON))
    factor = factor if own.weight is None else factor * own.weight.double()
    shift = -own.running_mean.double() * factor
    return factor, shift if own.bias is None else shift + own.bias.double()


def _put(whole: nn.Module, name: str, part: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    setattr(whole.get_submodule(above), last, part)


def _noise() -> Batch:
    images = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(0, dtype=torch.int64)
    targets = (Targets(torch.zeros(0, 4), labels, labels.bool()),)
    size = ((_SIDE, _SIDE),)
    return Batch(images, sizes=size, stored_sizes=size, targets=targets, image_ids=(0,), seeds=(0,))


def _needs(detector: Detector) -> frozenset[Need]:
    spec = detector.spec
    parts = {Need.CLASS_LOGITS: spec.class_logits, Need.BOX_DISTRIBUTIONS: spec.box_distributions}
    return frozenset({Need.PYRAMID, *(need for need, part in parts.items() if part is not None)})


def _tensors(seen: Observation) -> list[Tensor]:
    parts = (seen.pyramid, seen.class_logits, seen.box_distributions)
    return [level for part in parts if part is not None for level in part.levels]
