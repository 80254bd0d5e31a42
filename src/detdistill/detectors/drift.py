"""Whether a detector's batch-norm layers see what they saw in training: running statistics beside those of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detdistill.detectors.base import Detector, evaluating
from detdistill.types import Batch


@dataclass(frozen=True, slots=True)
class NormDrift:
    """How far what one batch-norm layer sees lies from its running statistics, each the median over its channels.

    Attributes:
        layer: its name in the detector.
        shift: between the means, in running standard deviations.
        scale: by which factor, at least 1, the standard deviations differ.
    """

    layer: str
    shift: float
    scale: float


@torch.no_grad()
def norm_drifts(detector: Detector, batches: Iterable[Batch]) -> tuple[NormDrift, ...]:
    """The drift of every batch-norm layer that the images pass, in the order in which they pass it.

    Layers without running statistics of their own have none, and so have frozen ones of torchvision's, whose statistics
    are of the weights before fine-tuning.

    Args:
        detector: left as it is.
        batches: on its device.
    """
    seen: dict[str, list[Tensor]] = {}
    norms = {
        name: part
        for name, part in detector.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None
    }
    if not norms:
        return ()
    with evaluating(detector), _watched(norms, seen):
        for batch in batches:
            detector.extract(batch)
    return tuple(_drift(name, norms[name], sums) for name, sums in seen.items())


@contextmanager
def _watched(norms: dict[str, _BatchNorm], seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Adds up count, sum and sum of squares by channel of what layers see."""

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            maps = given[0].detach().transpose(0, 1).flatten(1).double()
            sums = [maps.new_tensor(maps.shape[1]), maps.sum(1), maps.square().sum(1)]
            known = seen.setdefault(name, [torch.zeros_like(one) for one in sums])
            seen[name] = [before + now for before, now in zip(known, sums, strict=True)]

        return add

    handles = [norm.register_forward_pre_hook(watch(name)) for name, norm in norms.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _drift(name: str, norm: _BatchNorm, sums: list[Tensor]) -> NormDrift:
    count, total, squares = sums
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, running = total / count, norm.running_mean.double()
    variance, usual = squares / count - mean.square() + norm.eps, norm.running_var.double() + norm.eps
    shift = float(((mean - running).abs() / usual.sqrt()).median())
    return NormDrift(name, shift, math.exp(float((0.5 * (variance / usual).log()).abs().median())))
