"""Curves of precision against recall as a picture: a line a class, and their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detdistill.evaluation.precision_recall import RECALLS, PrecisionRecall
from detdistill.files import CURVES
from detdistill.progress import counted
from detdistill.report.curves import write_figure
from detdistill.report.palette import CLASS_COLOURS, INK, class_colour, luminance

_GREY, _LIGHT = "#b5b5b5", 0.6
_NAMED = 5


def draw_precision_recall(found: PrecisionRecall, out: Path, *, title: str) -> None:
    """Writes a PNG; the legend names classes by falling AP50.

    Every class has its colour of all pictures (`class_colour`). Where there are more classes than colours, the best and
    the worst five have one, and the others are grey.

    Args:
        found: what to draw.
        out: the PNG to write.
        title: stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    figure = Figure(figsize=(8.6, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    average, known = found.average(), np.flatnonzero(found.objects)
    order = known[np.argsort(-average[known], kind="stable")].tolist()
    few = len(found.class_names) <= len(CLASS_COLOURS)
    named = order if few or len(order) <= 2 * _NAMED else [*order[:_NAMED], *order[-_NAMED:]]
    for label in (one for one in order if one not in named):
        axes.plot(RECALLS, found.precisions[label], color=_GREY, linewidth=0.7)
    handles = []
    for place, label in enumerate(named):
        colour = class_colour(label if few else place)
        # A thin line of a light colour cannot be seen on white.
        around = [withStroke(linewidth=3, foreground="#777777")] if luminance(colour) > _LIGHT else []
        line: dict[str, Any] = {"color": [part / 255 for part in colour], "path_effects": around, "linewidth": 1.7}
        text = f"{average[label]:5.1f}  {found.class_names[label]} ({found.objects[label]:,})"
        handles += axes.plot(RECALLS, found.precisions[label], label=text, **line)
    if order:
        text = f"{average[order].mean():5.1f}  mean of {counted(len(order), 'class')}"
        mean = found.precisions[order].mean(axis=0)
        handles[:0] = axes.plot(RECALLS, mean, color=[part / 255 for part in INK], linewidth=3, label=text)
        figure.legend(handles=handles, loc="outside right upper", frameon=False, title="AP50  class (objects)")
    else:
        axes.text(0.5, 0.5, "no object to find", ha="center", va="center", fontsize=14)
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, out, kind=CURVES)
