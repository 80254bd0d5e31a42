"""The trials of a search, drawn: what each measured on its way, and which one won."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detdistill.report.curves import write_figure
from detdistill.report.palette import LINE_COLOURS

_MARKERS = "osD^vPX*"


def draw_trials(trials: Mapping[str, Mapping[int, float]], out: Path, *, winner: str) -> None:
    """Draws AP against steps, a line a trial, and writes it as a PNG.

    The first trial, which the others are compared with, is dashed and black; the winner is thick.

    Args:
        trials: AP in percent by steps, by name.
        out: the PNG to write.
        winner: the name of the one that is chosen.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(trials.items()):
        steps = sorted(curve)
        colour = LINE_COLOURS[(index - 1) % len(LINE_COLOURS)] if index else "black"
        marker = _MARKERS[(index // len(LINE_COLOURS)) % len(_MARKERS)]
        label, width = (f"{name}  ← chosen", 3.5) if name == winner else (name, 1.5)
        style = "-" if index else "--"
        values = [curve[step] for step in steps]
        axes.plot(steps, values, style, marker=marker, color=colour, linewidth=width, markersize=5, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("AP on the held-out images")
    axes.grid(alpha=0.3)
    axes.margins(x=0.03)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    write_figure(figure, out)
