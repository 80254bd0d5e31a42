"""How much better distilled students are than their twins alone, drawn: by figure, seed and class."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detdistill.proof.differences import Difference, Differences
from detdistill.proof.verdict import Verdict
from detdistill.report.curves import write_figure
from detdistill.report.palette import LINE_COLOURS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_INK = "#222222"
_MOST_CLASSES = 40


def draw_verdict(verdict: Verdict, out: Path) -> None:
    """Draws every difference with its 95 % interval and each seed's value, over the same steps and the same time.

    Of very many classes those with the largest differences are shown, either way.

    Args:
        out: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    pairs = [("over the same steps", verdict.same_steps)]
    pairs += [] if verdict.same_time is None else [("over the same time", verdict.same_time)]
    classes, shown_classes = verdict.same_steps.classes, _shown(verdict.same_steps.classes)
    of_classes = (
        f", the {len(shown_classes)} of {len(classes)} that differ most" if shown_classes < classes.keys() else ""
    )
    panels: dict[str, list[Mapping[str, Difference]]] = {
        "AP by seed": [_by_seed(found) for _, found in pairs],
        "COCO's figures": [found.figures for _, found in pairs],
        f"AP by class{of_classes}": [
            {name: one for name, one in found.classes.items() if name in shown_classes} for _, found in pairs
        ],
    }
    panels = {title: shown for title, shown in panels.items() if shown[0]}
    rows = max(len(shown[0]) for shown in panels.values())
    figure = Figure(figsize=(4.6 * len(panels), 2.4 + 0.3 * len(pairs) * max(rows, 4)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, shown) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw(axes, shown, worth=verdict.worth)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("distilled minus alone, points")
    figure.suptitle(textwrap.fill(verdict.sentence(), 34 * len(panels)), fontsize=11, x=0.01, ha="left")
    handles: list[Artist] = [
        Line2D([], [], color=LINE_COLOURS[i], linewidth=3, marker="|", markersize=12, label=f"mean, 95 %: {over}")
        for i, (over, _) in enumerate(pairs)
    ]
    if len(verdict.same_steps.seeds) > 1:
        handles.append(Line2D([], [], color=_INK, linestyle="", marker="o", markersize=4, label="each seed"))
    handles.append(Patch(color="0.9", label=f"less than {verdict.worth:g}: not worth it"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    write_figure(figure, out)


def _by_seed(found: Differences) -> dict[str, Difference]:
    """AP of every seed alone, whose interval is over images, and of all of them; nothing where there is one."""
    if len(found.seeds) == 1:
        return {}
    whole, rows = found.figures["AP"], dict[str, Difference]()
    for seed, value, half in zip(found.seeds, whole.per_seed, whole.per_seed_half, strict=True):
        rows[f"seed {seed}"] = replace(whole, per_seed=(), mean=value, low=value - half, high=value + half)
    return rows | {"all": whole}


def _shown(classes: Mapping[str, Difference]) -> set[str]:
    """The classes that are drawn: those that differ most."""
    return {*sorted(classes, key=lambda name: -abs(classes[name].mean))[:_MOST_CLASSES]}


def _draw(axes: Axes, shown: Sequence[Mapping[str, Difference]], *, worth: float) -> None:
    axes.axvspan(-worth, worth, color="0.9", zorder=0)
    axes.axvline(0, color=_INK, linewidth=1, zorder=1)
    names = list(shown[0])
    for row, name in enumerate(names):
        for place, differences in enumerate(shown):
            if (one := differences.get(name)) is None:
                continue
            height = row + 0.36 * (place - (len(shown) - 1) / 2)
            colour, each = LINE_COLOURS[place], one.per_seed if len(one.per_seed) > 1 else ()
            axes.plot((one.low, one.high), (height, height), color=colour, linewidth=3, zorder=2)
            axes.plot(one.mean, height, "|", color=colour, markersize=16, markeredgewidth=3, zorder=3)
            axes.plot(each, [height] * len(each), "o", color=_INK, markersize=4, alpha=0.8, zorder=4)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="x", alpha=0.3)
