"""Small drawings in SVG in the page's colours, light or dark as it is. The same figures give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from detdistill.report.curves import LAST, running_mean

Values = NDArray[np.float64]
_STRIP, _HIGH, _EDGE = 220, 22, 8
_WIDE, _TALL, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 214, 46, 10, 28, 32
_POINTS, _MANY = 160, 40
_MODELS = {"teacher", "alone", "distilled", "student"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A value of a detector, with the ends of its interval where there is one."""

    model: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A curve of a detector."""

    model: str
    label: str
    steps: Values
    values: Values


def style_of(model: str) -> str:
    """The name of a detector's colour and sign on the page."""
    if model in _MODELS:
        return f"m-{model}"
    return "m-teacher" if model.startswith("teacher") else "m-longer" if model.startswith("alone_") else "m-other"


def strip(marks: Sequence[Mark], *, low: float, high: float, zero: bool = False, told: str = "") -> Markup:
    """A line with a sign for every mark, between two ends that all lines of a table share.

    Args:
        zero: whether a rule stands at 0.
        told: what it shows, for who cannot see it.
    """
    span = high - low or 1.0

    def x(value: float) -> str:
        return f"{_EDGE + (_STRIP - 2 * _EDGE) * min(max((value - low) / span, 0.0), 1.0):.1f}"

    middle = _HIGH / 2
    parts = [f'<line class="rule" x1="{_EDGE}" y1="{middle}" x2="{_STRIP - _EDGE}" y2="{middle}"/>']
    if zero and low <= 0 <= high:
        parts.append(f'<line class="zero" x1="{x(0)}" y1="1" x2="{x(0)}" y2="{_HIGH - 1}"/>')
    for one in marks:
        if one.low is not None and one.high is not None:
            kind = style_of(one.model)
            parts.append(
                f'<line class="span {kind}" x1="{x(one.low)}" y1="{middle}" x2="{x(one.high)}" y2="{middle}"/>'
            )
    parts += [sign(one.model, float(x(one.value)), middle) for one in marks]
    label = f'role="img" aria-label="{escape(told)}"' if told else 'aria-hidden="true"'
    return Markup(f'<svg class="strip" viewBox="0 0 {_STRIP} {_HIGH}" {label}>{"".join(parts)}</svg>')


def sign(model: str, x: float, y: float) -> str:
    """The sign of a detector at a place: its form tells it apart where colours do not."""
    kind = style_of(model)
    if kind == "m-teacher":
        return f'<path class="sign {kind}" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
    if kind == "m-longer":
        return f'<rect class="sign {kind}" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'<circle class="sign {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def key(model: str) -> Markup:
    """The sign of a detector alone, for a legend."""
    return Markup(f'<svg class="key" viewBox="0 0 16 16" aria-hidden="true">{sign(model, 8, 8)}</svg>')


def ends(values: Iterable[float | None], *, with_zero: bool = False) -> tuple[float, float]:
    """The least and the greatest of some values with a little room, for lines that are to be compared."""
    known = [value for value in values if value is not None] + ([0.0] if with_zero else [])
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = 0.04 * (high - low) or 0.5
    return (low - room if low < 0 or not with_zero else low), high + room


def curves(title: str, lines: Sequence[Line], *, across: Sequence[tuple[str, float]] = ()) -> Markup:
    """A panel with a curve for every run, against the step; logarithmic where the values span very much.

    Args:
        across: detectors that were measured once, and their value: a dashed line.
    """
    everything = np.concatenate([*(one.values for one in lines), np.array([value for _, value in across])])
    last = max(float(one.steps[-1]) for one in lines)
    log = not across and everything.min() > 0 and everything.max() > 20 * everything.min()
    ticks = _powers(everything.min(), everything.max()) if log else _ticks(everything.min(), everything.max())
    low, high = everything.min(), everything.max()
    if log:
        ticks = [one for one in ticks if low <= one <= high]
    else:
        low, high = min(ticks[0], low), max(ticks[-1], high)
    scale = np.log(np.array([low, high])) if log else np.array([low, high])

    def x(step: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * step / (last or 1.0)

    def y(value: float) -> float:
        at = math.log(value) if log else value
        return _TOP + (_TALL - _TOP - _BOTTOM) * float((scale[1] - at) / ((scale[1] - scale[0]) or 1.0))

    parts = [f'<text class="name" x="{_LEFT}" y="16">{escape(title)}{" (log)" if log else ""}</text>']
    for tick in ticks:
        parts.append(f'<line class="rule" x1="{_LEFT}" y1="{y(tick):.1f}" x2="{_WIDE - _RIGHT}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y(tick) + 3.5:.1f}">{_number(tick)}</text>')
    for tick in _ticks(0.0, last, count=4):
        if tick <= last:
            place = "end" if x(tick) > _WIDE - 30 else "mid"
            parts.append(f'<text class="tick {place}" x="{x(tick):.1f}" y="{_TALL - 14}">{_number(tick)}</text>')
    parts.append(f'<text class="tick mid" x="{(_LEFT + _WIDE) / 2:.1f}" y="{_TALL - 1}">step</text>')
    for model, value in across:
        parts.append(
            f'<line class="line across {style_of(model)}" x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDE - _RIGHT}" '
            f'y2="{y(value):.1f}"/>'
        )
    for one in lines:
        kind, many = style_of(one.model), len(one.steps) > _MANY and title not in LAST
        if many:
            parts.append(f'<path class="line faint {kind}" d="{_path(one.steps, one.values, x, y)}"/>')
        drawn = running_mean(one.values) if many else one.values
        parts.append(
            f'<path class="line {kind}" d="{_path(one.steps, drawn, x, y)}"><title>{escape(one.label)}</title></path>'
        )
    told = f"{title} against the step: " + ", ".join(f"{one.label} ends at {_number(one.values[-1])}" for one in lines)
    label = f'role="img" aria-label="{escape(told)}"'
    svg = f'<svg class="panel" viewBox="0 0 {_WIDE} {_TALL}" {label}>{"".join(parts)}</svg>'
    return Markup(svg)


def _path(steps: Values, values: Values, x: object, y: object) -> str:
    assert callable(x)
    assert callable(y)
    rows = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _POINTS)).round().astype(int))
    places = [f"{x(float(steps[row])):.1f} {y(float(values[row])):.1f}" for row in rows.tolist()]
    return f"M{places[0]}h.1" if len(places) == 1 else "M" + "L".join(places)


def _ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Round numbers over a range, from at most its low end to at least its high end."""
    if high <= low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [one * step for one in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 5))
    return [10.0**one for one in range(first, last + every, every)]


def _number(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")
