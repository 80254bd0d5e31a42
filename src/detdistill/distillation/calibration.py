"""Brings the terms of a method to a strength: measures their gradient beside the task's, and scales them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from detdistill.distillation.recipe import Strength, WeightedTerm
from detdistill.types import Clock

WINDOW, _EVERY, _LATER, _MEMORY = 30, 5, 25, 0.1
_BAND = math.log(1.2)
_LEAST = 1e-3
# By what a loss is multiplied before its gradient is taken in float16: the first that leaves it finite.
_HALF_SCALES = (2.0**16, 2.0**8, 1.0, 2.0**-8)


@final
class _Mean:
    """A plain mean of up to 1 / _MEMORY figures, then, where it is to follow, an exponential one."""

    __slots__ = ("count", "value")

    def __init__(self, count: int = 0, value: float | None = None) -> None:
        self.count, self.value = count, value

    def add(self, figure: float, *, follows: bool) -> None:
        self.count += 1
        before = self.value or 0.0
        self.value = before + (figure - before) * max(1.0 / self.count, _MEMORY if follows else 0.0)


@final
class Calibration:
    """The scale of every calibrated term of a recipe: what its method's gradient was measured to be, and what follows.

    A method's ratio is ‖gradient of its terms at their gains‖ ÷ ‖gradient of the task‖ at the student's pyramids,
    before warm-up, fades and weights. The mean of its logarithm counts. Methods that share a strength have gradients
    of one length, whose sum is as strong as is asked for; the angles between them are measured too.

    A scale comes from the steps before: the measure of a whole step, all micro-batches and ranks, counts from the next
    one on. `fixed` measures every fifth of the first 30 steps; `running` goes on every 25 steps, remembers about 10
    measures, and changes a scale that is off by more than a fifth. A measure that is zero, not finite or below a
    thousandth of the task is passed over; a method that has no other keeps its gain.

    Args:
        terms: those without a strength are left alone.
    """

    def __init__(self, terms: Sequence[WeightedTerm] = ()) -> None:
        shared = [(one.member, one.strength) for one in terms if one.strength is not None and one.member]
        self.members: dict[str, Strength] = dict(shared)
        self._windows = {one.member: one.window for one in terms}
        self._ratios = {name: _Mean() for name in self.members}
        self._cosines = {name: _Mean() for name in self.members}
        pairs = combinations(self.members, 2)
        self._angles = {pair: _Mean() for pair in pairs if self.members[pair[0]] == self.members[pair[1]]}
        self._scales: dict[str, float] = {}
        self._wholes: dict[str, float] = {}
        self._pending: tuple[Clock, Tensor] | None = None

    @property
    def measured(self) -> bool:
        """Whether there are scales yet, or nothing that needs one."""
        return bool(self._scales) or not self.members

    def scale(self, weighted: WeightedTerm) -> float:
        """What multiplies a term's loss beside its gain, warm-up and fades; 1 where nothing calibrates it."""
        if weighted.strength is None:
            return 1.0
        kept, name = (self._scales, weighted.member) if weighted.member else (self._wholes, weighted.strength.of)
        return kept.get(name, 1.0)

    def asks(self, clock: Clock) -> bool:
        """Whether this step is to be measured; one without any before it is, too."""
        return not self.measured or any(self._due(name, clock) for name in self.members)

    def begin(self, products: Float[Tensor, "m m"]) -> None:
        """Takes a measure for the first step alone: the first step's own takes its place.

        Args:
            products: inner products of the gradients of the task and of every member, in this order.
        """
        self._take(products.tolist(), None)
        for mean in chain(*self._means()):
            mean.count = 0

    def gather(self, products: Float[Tensor, "m m"], *, images: int, clock: Clock) -> None:
        """Adds the measure of some of a step's images, whose gradients of the step's loss are shares by number."""
        if not self.measured:
            self.begin(joined(products.clone()))
        flat = torch.cat([products.flatten() * images**2, products.new_tensor([images])])
        self._pending = (clock, flat if self._pending is None else self._pending[1] + flat)

    def settle(self, *, before: int | None = None) -> str | None:
        """Ends a measured step: all ranks join theirs, and the scales follow. Without a measure nothing is done.

        Args:
            before: only where the measure is of another step than this; None at a step's own end.

        Returns:
            What is to be said now; None for nothing.
        """
        if self._pending is None or self._pending[0].step == before:
            return None
        (clock, flat), self._pending = self._pending, None
        *products, images = joined(flat).tolist()
        size = len(self.members) + 1
        rows = [[one / images**2 for one in products[at : at + size]] for at in range(0, size * size, size)]
        self._take(rows, clock)
        last = any(self._since(name, clock) == WINDOW - _EVERY for name in self.members)
        return f"strength after {clock.step + 1} steps: {'; '.join(self.lines())}" if last else None

    def _since(self, name: str, clock: Clock) -> int:
        """Steps since a method began; -1 where it is not on."""
        own = self._windows[name].within(clock)
        return -1 if own is None else own.step

    def _due(self, name: str, clock: Clock | None) -> bool:
        return clock is None or _due(self.members[name], self._since(name, clock))

    def _take(self, products: Sequence[Sequence[float]], clock: Clock | None) -> None:
        task, found = products[0][0], dict[str, int]()
        for at, (name, strength) in enumerate(self.members.items(), start=1):
            own = products[at][at]
            usable = math.isfinite(task + own) and task > 0 and own >= _LEAST**2 * task
            if usable and self._due(name, clock):
                found[name] = at
                follows = strength.calibration == "running"
                self._ratios[name].add(0.5 * math.log(own / task), follows=follows)
                self._cosines[name].add(products[0][at] / math.sqrt(task * own), follows=follows)
        for (one, other), mean in self._angles.items():
            if one in found and other in found:
                first, second = found[one], found[other]
                cosine = products[first][second] / math.sqrt(products[first][first] * products[second][second])
                mean.add(cosine, follows=self.members[one].calibration == "running")
        for strength in dict.fromkeys(self.members.values()):
            sharing = [name for name, own in self.members.items() if own == strength and self._due(name, clock)]
            if sharing:
                late = clock is not None and self._since(sharing[0], clock) >= WINDOW
                self._set(strength, banded=strength.calibration == "running" and late)

    def _set(self, strength: Strength, *, banded: bool) -> None:
        """The scales of what shares a strength, from the means."""
        known = [name for name, own in self.members.items() if own == strength]
        ratios = {name: ratio for name in known if (ratio := self._ratio(name)) is not None}
        # No method alone is stronger than all are to be, however much they oppose each other.
        together = max(1.0, self._length(dict.fromkeys(ratios, 1.0)))
        whole = max(self._length(ratios), *ratios.values(), 0.0)
        scales = {name: strength.value / (together * ratio) for name, ratio in ratios.items()}
        for kept, name, new in (
            *((self._scales, name, scales.get(name, 1.0)) for name in known),
            (self._wholes, strength.of, strength.value / whole if ratios else 1.0),
        ):
            old = kept.get(name)
            if old is None or not banded or not old or abs(math.log(max(new, 1e-300) / old)) > _BAND:
                kept[name] = new

    def _means(self) -> tuple[list[_Mean], ...]:
        return [*self._ratios.values()], [*self._cosines.values()], [*self._angles.values()]

    def _ratio(self, name: str) -> float | None:
        value = self._ratios[name].value
        return None if value is None else math.exp(value)

    def _length(self, lengths: Mapping[str, float]) -> float:
        """Of the sum of vectors with these lengths along the members' gradients."""
        both = ((pair, mean) for pair, mean in self._angles.items() if set(pair) <= lengths.keys())
        crossed = sum(lengths[one] * lengths[other] * (mean.value or 0.0) for (one, other), mean in both)
        return math.sqrt(max(sum(one**2 for one in lengths.values()) + 2 * crossed, 0.0))

    def lines(self) -> list[str]:
        """A sentence for each method: its own strength, and its scale."""
        told = []
        for name, strength in self.members.items():
            if (ratio := self._ratio(name)) is None:
                told.append(f"{name} or the task has no gradient that can be measured: its gains stay as they are")
                continue
            share = "" if list(self.members.values()).count(strength) == 1 else f" of {strength.of} together"
            scaled = f"scaled by {self._scales[name]:.3g} for strength {strength.value:g}{share}"
            told.append(f"{name} is {ratio:.3g} times the task; {scaled}")
        return told

    def figures(self) -> dict[str, float]:
        """Ratio before it is scaled, scale, and cosine to the task of every method, as rows of metrics name them."""
        found: dict[str, float] = {}
        for name in self.members:
            if (ratio := self._ratio(name)) is not None:
                found[f"{name}/ratio"] = ratio
                found[f"{name}/scale"] = self._scales[name]
                found[f"{name}/cosine"] = self._cosines[name].value or 0.0
        return found

    def as_dict(self) -> dict[str, dict[str, float | str]]:
        """The same by method, beside what was asked for."""
        told: dict[str, dict[str, float | str]] = {
            name: {"strength": one.value, "calibration": one.calibration} for name, one in self.members.items()
        }
        for key, figure in self.figures().items():
            name, _, kind = key.rpartition("/")
            told[name][kind] = float(f"{figure:.4g}")
        return told

    def counters(self) -> dict[str, Any]:
        """Everything that a resumed run must know, as JSON."""
        return {
            "means": [[[mean.count, mean.value] for mean in some] for some in self._means()],
            "scales": dict(self._scales),
            "wholes": dict(self._wholes),
        }

    def restore(self, counters: Mapping[str, Any] | None) -> None:
        """Goes on from `counters`; None leaves everything as it is."""
        if counters is None:
            return
        for means, written in zip(self._means(), counters["means"], strict=True):
            for mean, (count, value) in zip(means, written, strict=True):
                mean.count, mean.value = count, value
        self._scales, self._wholes = dict(counters["scales"]), dict(counters["wholes"])


def _due(strength: Strength, step: int) -> bool:
    if step < WINDOW:
        return step >= 0 and step % _EVERY == 0
    return strength.calibration == "running" and step % _LATER == 0


def joined(figures: Tensor) -> Tensor:
    """The sum over all ranks."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.all_reduce(figures)
    return figures


def inner_products(losses: Sequence[Tensor], inputs: Sequence[Tensor]) -> Float[Tensor, "m m"]:
    """Inner products of the gradients of losses to `inputs`, in float64; the graph stays, and nothing is accumulated.

    A loss that does not depend on them has the gradient 0.
    """
    tracked = [one for one in inputs if one.requires_grad]
    rows = [_gradient(loss, tracked) for loss in losses]
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=losses[0].device)
    for at, first in enumerate(rows):
        for to, second in enumerate(rows[: at + 1]):
            both = (torch.sum(a * b) for a, b in zip(first, second, strict=True) if a is not None and b is not None)
            found[at, to] = found[to, at] = sum((one.double() for one in both), found.new_zeros(()))
    return found


def _gradient(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    if not (inputs and loss.requires_grad):
        return [None] * len(inputs)
    half = any(one.dtype is torch.float16 for one in inputs)
    for scale in _HALF_SCALES if half else (1.0,):
        found = torch.autograd.grad(loss * scale, inputs, retain_graph=True, allow_unused=True)
        rows: list[Tensor | None] = [None if one is None else one.float() / scale for one in found]
        if not half or all(bool(one.isfinite().all()) for one in rows if one is not None):
            break
    return rows
