"""Learning curves: every column of the metrics files of one or several runs, and AP, against the step."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detdistill.errors import ConfigError
from detdistill.files import SOFTWARE, require_regular, write_bytes
from detdistill.report.palette import LINE_COLOURS, marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = tuple[NDArray[np.float64], NDArray[np.float64]]
_AP = "AP"
_NO_CURVE, FIRST, LAST = ("step", "seconds"), (_AP, "total", "task"), ("lr",)
_MOST_PANELS = 9
# What is logged below a loss, such as frs.features/cost_stride_8, comes after the losses.
BELOW = "/"


def learning_curves(
    runs: Mapping[str, Path],
    out: Path,
    *,
    evaluations: Mapping[str, Path] | None = None,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draws one panel per logged quantity with one line per run, and writes it as a PNG.

    A panel is logarithmic where all its values are positive and span more than a factor of 10. Long curves are
    drawn faint, with a running mean on top. Rows that a killed run left unfinished are skipped, and where a
    resumed run logged a step again the later row counts.

    Args:
        runs: metrics CSV by the name that the legend gives the run; columns step, seconds, lr, and names of
            losses and figures.
        out: the PNG to write.
        evaluations: CSV of the evaluations during a run, by the same names; AP is drawn of them, before the losses.
        levels: AP in percent of detectors that were measured once, by further names: dashed lines across that panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    # A run that stops early may have ended before its first row.
    curves = {label: read_curves(path) if path.is_file() else {} for label, path in runs.items()}
    for label, path in (evaluations or {}).items():
        curves[label] |= {name: series for name, series in read_curves(path).items() if name == _AP}
    names = panel_names(curves)
    columns = min(3, max(1, len(names)))
    lines = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(5.0 * columns, 3.3 * lines + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if not names:
        figure.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", fontsize=14)
    across = {name: value for name, value in (levels or {}).items() if _AP in names and _AP not in curves.get(name, {})}
    labels = dict.fromkeys((*across, *curves))
    colours = {label: LINE_COLOURS[i % len(LINE_COLOURS)] for i, label in enumerate(labels)}
    grid: list[Axes] = figure.subplots(lines, columns, squeeze=False).ravel().tolist() if names else []
    last_step = max([1.0, *(steps[-1] for of_run in curves.values() for steps, _ in of_run.values())])
    for axes, name in zip(grid, names, strict=False):
        found = {label: of_run[name] for label, of_run in curves.items() if name in of_run}
        _draw_panel(axes, name, found, colours=colours, last_step=last_step)
        for label, value in across.items() if name == _AP else ():
            axes.axhline(value, color=colours[label], linewidth=1.8, linestyle="--")
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    drawn = {label for label, of_run in curves.items() if any(name in of_run for name in names)}
    shown = [label for label in labels if label in drawn or label in across]
    if shown:
        handles = [Line2D([], [], color=colours[label], linewidth=2.5, label=label) for label in shown]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(shown), 5), frameon=False, fontsize=12)
    write_figure(figure, out)


def write_figure(figure: Figure, out: Path, *, kind: str = "") -> None:
    """Writes a figure as a PNG, known again as one of that kind."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={SOFTWARE: marked(kind)} if kind else None)
    write_bytes(out, content.getvalue())


def read_curves(path: Path) -> dict[str, Series]:
    """The steps and finite values of every column of a metrics CSV that holds at least one.

    The file may be empty, and its last row unfinished.

    Returns:
        Per column, steps in rising order and the values; ``step`` and ``seconds`` are not among them.

    Raises:
        ConfigError: the file is missing or unreadable, or has columns but none named ``step``.
    """
    require_regular(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"Metrics file {path} must be a readable file, got: {error.strerror}. Check the path."
        ) from error
    reader = csv.DictReader(text.replace("\0", "").splitlines())
    if not reader.fieldnames:
        return {}
    if "step" not in reader.fieldnames:
        raise ConfigError(
            f"Metrics file {path} must have a column 'step', got {', '.join(reader.fieldnames)}. "
            "Pass the metrics CSV of a run."
        )
    values: dict[str, dict[float, float]] = {}
    names = [name for name in reader.fieldnames if name and name not in _NO_CURVE]
    for row in reader:
        step = _number(row["step"])
        for name in names:
            value = _number(row[name])
            if step is not None and value is not None:
                values.setdefault(name, {})[step] = value
    ordered = {name: np.array(sorted(points.items())) for name, points in values.items()}
    return {name: (points[:, 0], points[:, 1]) for name, points in ordered.items()}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def panel_names(curves: Mapping[str, Mapping[str, Series]], *, most: int = _MOST_PANELS) -> list[str]:
    """The columns of some runs in the order in which they are shown, at most so many."""
    names = list(dict.fromkeys(name for of_run in curves.values() for name in of_run))
    middle = sorted((name for name in names if name not in FIRST + LAST), key=lambda name: BELOW in name)
    first, last = ([name for name in wanted if name in names] for wanted in (FIRST, LAST))
    return first + middle[: most - len(first) - len(last)] + last


def _draw_panel(
    axes: Axes, name: str, found: Mapping[str, Series], *, colours: Mapping[str, str], last_step: float
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for label, (steps, values) in found.items():
        colour = colours[label]
        if len(steps) > 40 and name not in LAST:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(steps, running_mean(values), color=colour, linewidth=1.8)
        else:
            axes.plot(steps, values, color=colour, linewidth=1.8, marker="o" if len(steps) <= 12 else "", markersize=4)
    everything = np.concatenate([values for _, values in found.values()])
    if name not in (*LAST, _AP) and everything.min() > 0 and everything.max() > 10 * everything.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(name, fontsize=12)
    axes.set_xlabel("step")
    axes.set_xlim(-0.02 * last_step, 1.02 * last_step)
    axes.grid(visible=True, which="both", alpha=0.25)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of every value and some of its neighbours, the more the longer the curve."""
    half = len(values) // 40 + 1
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))
