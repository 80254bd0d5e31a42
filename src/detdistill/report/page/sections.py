"""The sections of the page, each from what a folder says; one about which it says nothing is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from detdistill.errors import DistillError
from detdistill.evaluation.coco import FIGURES, CocoMetrics
from detdistill.evaluation.error_types import mean_errors
from detdistill.evaluation.shared import mean_of
from detdistill.progress import in_bytes
from detdistill.report.curves import BELOW, FIRST, Series, panel_names, read_curves
from detdistill.report.page.charts import Line, Mark, curves, ends, strip
from detdistill.report.page.content import Charts, Lines, Rows, Section, Text, named
from detdistill.report.page.gather import ALONE, DISTILLED, TEACHER, Gathered
from detdistill.report.tables import Cell, Table, error_costs
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import RunFolder
from detdistill.store.students import find_weights
from detdistill.store.sums import digest

_SIZES = {"APs": "small, below 32² pixels", "APm": "medium, 32² to 96²", "APl": "large, above 96²"}
_PULLS = ("ratio", "scale", "cosine")
_MOST_CLASSES, _MOST_PANELS, _DIGITS = 200, 9, 16
_DIFFERENCE, _INTERVAL = "distilled − alone", "95 % interval"


def difference_rows(verdict: Mapping[str, Any]) -> Rows:
    """AP, distilled minus alone: over the same steps, over the same time, and of every seed."""
    pairs = [("over the same steps", verdict["same_steps"]), ("over the same time", verdict.get("same_time"))]
    rows: list[tuple[str, float, float, float]] = []
    for over, found in pairs:
        one = None if found is None else found["figures"].get("AP")
        if one is None:
            continue
        rows.append((over, one["mean"], one["low"], one["high"]))
        if len(found["seeds"]) > 1:
            each = zip(found["seeds"], one["per_seed"], one.get("per_seed_half", ()), strict=False)
            rows += [(f"— seed {seed}", value, value - half, value + half) for seed, value, half in each]
    low, high = ends([end for row in rows for end in row[1:]], with_zero=True)
    strips = tuple(
        strip([Mark(DISTILLED, mean, least, most)], low=low, high=high, zero=True, told=_interval(least, most))
        for _, mean, least, most in rows
    )
    table = Table(
        ("", "difference", _INTERVAL),
        tuple((over, mean, _interval(least, most)) for over, mean, least, most in rows),
        signed=("difference",),
    )
    seeds = len(verdict["same_steps"]["seeds"])
    whole = "other seeds and other images" if seeds > 1 else "other images alone, as there is one seed"
    note = f"In points of AP. Intervals cover {whole}{'; those of a single seed other images alone' if seeds > 1 else ''}."
    return Rows("AP, distilled minus alone", table, strips, drawn=_ends(low, high, "+.1f"), note=note)


def figures(found: Gathered) -> Section:
    """All detectors overall, by class, by size and by kind of error."""
    means = {name: _mean(of_seeds) for name, of_seeds in found.figures.items()}
    steps = (found.verdict or {}).get("same_steps", {})
    blocks = [_overall(found, means)]
    if steps.get("figures"):
        blocks.append(_differences(found.verdict or {}))
    sizes = {name: {title: one.figures()[key] for key, title in _SIZES.items()} for name, one in means.items()}
    told = {title: steps.get("figures", {}).get(key) for key, title in _SIZES.items()}
    blocks += _parts("AP by the size of objects", "size", sizes, told)
    classes = {name: dict(one.per_class) for name, one in means.items() if one.per_class}
    blocks += _parts("AP by class", "class", classes, steps.get("classes", {}))
    if found.errors:
        blocks.append(_error_rows(found))
    lead = ""
    if len(found.seeds) > 1:
        lead = f"Means over {len(found.seeds)} seeds; a bar goes from the least to the greatest of them."
    return Section("figures", "Figures", "Figures", tuple(blocks), lead)


def _overall(found: Gathered, means: Mapping[str, CocoMetrics]) -> Rows:
    every = {name: [one.ap for one in of_seeds if one.ap is not None] for name, of_seeds in found.figures.items()}
    low, high = ends([value for values in every.values() for value in values], with_zero=True)
    strips = []
    for name, one in means.items():
        mark = None if one.ap is None else Mark(name, one.ap, min(every[name]), max(every[name]))
        strips.append(strip([] if mark is None else [mark], low=low, high=high))
    rows = tuple((named(name), *one.figures().values()) for name, one in means.items())
    return Rows("COCO's figures, in percent", Table(("model", *FIGURES), rows), tuple(strips), _ends(low, high))


def _differences(verdict: Mapping[str, Any]) -> Rows:
    """The difference in each of COCO's figures, with its interval."""
    sides = {"same steps": verdict["same_steps"], "same time": verdict.get("same_time")}
    told = {name: side["figures"] for name, side in sides.items() if side is not None}
    names = [name for name in FIGURES if any(name in one for one in told.values())]
    columns: list[str] = []
    rows: list[list[Cell]] = [[name] for name in names]
    for over, one in told.items():
        columns += [f"over the {over}", _INTERVAL]
        for row, name in zip(rows, names, strict=True):
            row += _both(one.get(name))
    first = told["same steps"]
    low, high = ends([first[name][end] for name in names if name in first for end in ("low", "high")], with_zero=True)
    strips = tuple(strip(_gain(first.get(name)), low=low, high=high, zero=True) for name in names)
    signed = tuple(name for name in columns if name.startswith("over"))
    table = Table(("figure", *columns), tuple(map(tuple, rows)), signed=signed)
    caption = "Distilled minus alone, in points, with 95 % intervals"
    return Rows(caption, table, strips, _ends(low, high, "+.1f"))


def _parts(
    caption: str,
    head: str,
    values: Mapping[str, Mapping[str, float | None]],
    told: Mapping[str, Mapping[str, Any] | None],
) -> Iterator[Rows]:
    """A row for each part, a column for each model, the difference with its interval, and all models in a line."""
    names = [
        part
        for part in dict.fromkeys(part for one in values.values() for part in one)
        if any(one.get(part) is not None for one in values.values())
    ]
    if not names:
        return
    gains = {part: told.get(part) for part in names} if any(told.values()) else {}
    if len(names) > _MOST_CLASSES:
        ranked = sorted(names, key=lambda part: -abs((gains.get(part) or {}).get("mean", 0.0)))[:_MOST_CLASSES]
        names, caption = [part for part in names if part in ranked], f"{caption}, the {_MOST_CLASSES} that differ most"
    low, high = ends([one.get(part) for one in values.values() for part in names], with_zero=True)
    rows, strips = list[tuple[Cell, ...]](), list[Markup]()
    for part in names:
        of_part = {model: one.get(part) for model, one in values.items()}
        rows.append((part, *of_part.values(), *(_both(gains[part]) if gains else ())))
        marks = [Mark(model, value) for model, value in of_part.items() if value is not None]
        strips.append(strip(marks, low=low, high=high))
    columns = (head, *map(named, values), *((_DIFFERENCE, _INTERVAL) if gains else ()))
    table = Table(columns, tuple(rows), signed=(_DIFFERENCE,))
    yield Rows(caption, table, tuple(strips), _ends(low, high))


def _error_rows(found: Gathered) -> Rows:
    means = {name: mean_errors(of_seeds) for name, of_seeds in found.errors.items()}
    change = (DISTILLED, found.against) if DISTILLED in means and found.against in means else None
    whole = error_costs(means, change=change)  # type: ignore[arg-type]
    columns = tuple(name.replace(" vs ", " − ") if " vs " in name else named(name) for name in whole.columns)
    signed = tuple(name for name in columns if " − " in name)
    low, high = ends([cost for one in means.values() for cost in one.costs.values()], with_zero=True)
    strips = tuple(
        strip([Mark(model, cost) for model, one in means.items() if (cost := one.costs[kind]) is not None], low=low, high=high)
        for kind in next(iter(means.values())).costs
    )
    note = "By how many points AP50 would rise if errors of that kind alone were mended; less is better."
    table = Table(columns, whole.rows, signed=signed)
    return Rows("AP50 lost to each kind of error, in points", table, strips, _ends(low, high), note)


def why(found: Gathered) -> Section | None:
    """Why distillation did not help, where that was looked for."""
    told = found.results.get("diagnosis")
    if not told:
        return None
    causes = tuple(f"{one['name']}: {one['evidence']}. {one['action']}" for one in told["causes"])
    lead = "Likeliest cause first." if causes else f"Nothing that was looked for explains it: {', '.join(told['checked'])}."
    unknown = f"Not known: {', '.join(told['unknown'])}." if told["unknown"] else ""
    return Section("why", "Why not", "Why it did not help", (Lines(causes, ordered=True),) if causes else (), f"{lead} {unknown}".strip())


def learning(found: Gathered) -> Iterator[Section]:
    """Learning curves, and how methods pulled over time."""
    runs = [(model, place) for model, places in found.runs.items() for place in places]
    read = [(model, place, _curves(place)) for model, place in runs]
    names = panel_names({str(at): own for at, (_, _, own) in enumerate(read)}, most=10_000)
    plain = [name for name in names if BELOW not in name][:_MOST_PANELS]
    told = [str(one["text"]) for one in found.results.get("climb", {}).values() if one.get("verdict") != "unknown"]
    shown = tuple(dict.fromkeys(model for model, _, own in read if own))
    if plain:
        panels = tuple(_panel(name, read, found) for name in plain)
        across = (TEACHER,) if TEACHER in found.figures and "AP" in plain else ()
        blocks = (Charts(panels, (*across, *shown)), *((Lines(tuple(dict.fromkeys(told))),) if told else ()))
        yield Section("curves", "Curves", "Learning curves", blocks)
    pulls = [name for name in names if name.rpartition(BELOW)[2] in _PULLS or "/weight" in name]
    taught = [one for one in read if one[0] == found.main]
    if pulls:
        lead = (
            "How strong a method's gradient is beside the labels' (ratio, before scale), by what it is scaled, and whether "
            "both point the same way (cosine, 1 to −1); weights as the method sets them."
        )
        charts = tuple(_panel(name, taught, found) for name in pulls[: 2 * _MOST_PANELS])
        yield Section("strength", "Strength", "Strength over time", (Charts(charts),), lead)


def _curves(place: Path) -> dict[str, Series]:
    """Of a run's training, and AP of its evaluations; what cannot be read is not there."""
    folder, found = RunFolder(place), dict[str, Series]()
    try:
        if folder.metrics.is_file():
            found |= read_curves(folder.metrics)
        if folder.evaluations.is_file():
            found |= {name: one for name, one in read_curves(folder.evaluations).items() if name == FIRST[0]}
    except DistillError:
        return found
    return found


def _panel(name: str, read: Sequence[tuple[str, Path, Mapping[str, Series]]], found: Gathered) -> Markup:
    lines = []
    for model, place, own in read:
        if name in own:
            seed = f", {place.parent.name.replace('_', ' ')}" if len(found.seeds) > 1 and place.parent != found.path else ""
            lines.append(Line(model, f"{named(model)}{seed}", *own[name]))
    teacher = _mean(found.figures[TEACHER]).ap if name == FIRST[0] and TEACHER in found.figures else None
    return curves(name, lines, across=() if teacher is None else ((TEACHER, teacher),))


def cost(found: Gathered) -> Section | None:
    """What training and running took, and whether exported files find the same."""
    blocks: list[Rows] = []
    costs = {name: one for name, one in found.results.get("cost", {}).items() if "parameters" in one and "total_macs" in one}
    if costs:
        rows = tuple(
            (named(name), one["parameters"] / 1e6, one["total_macs"] / 1e9, 1000 * one["seconds_per_image"])
            for name, one in costs.items()
        )
        first = next(iter(costs.values()))
        machine = first.get("machine", {})
        note = f"An image of {first['height']} × {first['width']} pixels on {machine.get('device', 'an unknown machine')}."
        columns = ("model", "parameters, M", "multiply-adds, G", "ms an image")
        blocks.append(Rows("To run", Table(columns, rows), note=note, decimals=2))
    if found.training:
        trained = tuple(
            (named(name), *(mean_of([float(one[at]) for one in of_seeds]) for at in (0, 1)))
            for name, of_seeds in found.training.items()
        )
        over = " (mean over the seeds)" if len(found.seeds) > 1 else ""
        table = Table(("model", "steps", "seconds of training"), trained)
        blocks.append(Rows(f"To train{over}", table, decimals=0))
    if found.parity:
        blocks.append(_parity(found.parity))
    return Section("cost", "Cost", "Cost and export", tuple(blocks)) if blocks else None


def _parity(parity: Mapping[str, Mapping[str, Any]]) -> Rows:
    rows: list[tuple[Cell, ...]] = []
    for file, one in parity.items():
        ours, theirs = one["pytorch"], one["exported"]
        for name, side in (("PyTorch", ours), (file, theirs)):
            took = 1000 * side["seconds_per_image"]
            rows.append((name, side["AP"], side["AP50"], took, in_bytes(side["bytes"])))
    told = "; ".join(f"{file}: {_agreement(one['agreement'])}" for file, one in parity.items())
    columns = ("exported file", "AP", "AP50", "ms an image, CPU", "size")
    return Rows("Exported files beside PyTorch", Table(columns, tuple(rows)), note=told, decimals=2)


def _agreement(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in content.items() if isinstance(value, (int, float)))


def provenance(found: Gathered, *, version: str, val: str = "") -> Section:
    """Versions, digests of data, teacher and student, and the settings."""
    rows: list[tuple[Cell, ...]] = [("page written by", f"detdistill {version}")]
    machine = next((one["machine"] for one in found.results.get("cost", {}).values() if "machine" in one), {})
    rows += [(key, str(value)) for key, value in machine.items()]
    if val:
        rows.append(("validation data", val))
    for model, places in found.runs.items():
        for place in places:
            rows += _of_run(model if len(places) == 1 else f"{named(model)}, {place.parent.name}", place, main=model == found.main)
    blocks: list[Rows | Lines | Text] = [Rows("What made these figures", Table(("", "what"), tuple(rows)), facts=True)]
    told = [_twin(one) for one in found.twins]
    blocks += [Lines(tuple(dict.fromkeys(told)))] if told else []
    if found.config is not None:
        text = found.config.read_text(encoding="utf-8", errors="replace")
        blocks.append(Text(f"{found.config.name} of the {named(found.main)} student", text))
    return Section("provenance", "Provenance", "Configuration and provenance", tuple(blocks))


def _of_run(name: str, place: Path, *, main: bool) -> Iterator[tuple[str, str]]:
    try:
        record = read_record(place)
        yield f"{named(name)}: weights", f"SHA-256 {digest(find_weights(place))[:_DIGITS]}…"
    except DistillError:  # it is not here any more, or was never saved
        return
    if record is None:
        return
    known = record.identity
    seed = known.get("train", {}).get("seed")
    told = f"{record.step:,} steps, seed {seed}"
    yield f"{named(name)}: training", told
    if "annotations" in known:
        yield f"{named(name)}: training data", f"{known['images']:,} images, {known['boxes']:,} boxes, digest {known['annotations']}"
    if main and isinstance(known.get("teacher"), str):
        yield "teacher: weights", " ".join(f"SHA-256 {one[:_DIGITS]}…" for one in known["teacher"].split())


def _twin(one: Mapping[str, Any]) -> str:
    if one.get("twin"):
        return "The student alone is the same run but for the teacher."
    if not one.get("recorded"):
        return "How the student alone was trained is not recorded: it may differ in more than the teacher."
    told = "; ".join(f"{d['setting']} {d['there']} (distilled: {d['here']})" for d in one["differences"])
    return f"The student alone is NOT the same run but for the teacher: {told}."


def limits(found: Gathered) -> tuple[str, ...]:
    """What the verdict does not claim."""
    told: list[str] = []
    if found.main != DISTILLED:
        told.append("One training: other seeds would give other figures. No teacher is compared here.")
    elif found.against is None:
        told.append(
            "Whether the teacher helped is not known: there is no student alone beside it. Train it with detdistill train, "
            "and pass its folder as --alone."
        )
    else:
        seeds = len((found.verdict or {}).get("same_steps", {}).get("seeds", ()))
        if seeds > 1:
            told.append(
                "The interval covers other seeds and other images like these; it says nothing of other data, other detectors "
                "or another schedule."
            )
        else:
            told.append(
                "There is one seed: the interval covers other images like these, not other trainings. detdistill prove trains "
                "several."
            )
        if (found.verdict or {}).get("same_time") is None:
            told.append(
                "Whether the student alone would get as far in the time that the distillation took was not judged; "
                "--equal-time measures it."
            )
    told += [_twin(one) for one in found.twins if not one.get("twin")]
    for name, one in found.results.get("best", {}).items():
        told.append(f"{named(name)}: {one['text']}, which flatters its figures on the same images.")
    told += [
        f"{named(name)}: {one['text']}." for name, one in found.results.get("climb", {}).items() if one.get("verdict") == "climbing"
    ]
    return tuple(dict.fromkeys(told))


def _mean(of_seeds: Sequence[CocoMetrics]) -> CocoMetrics:
    """The mean over seeds of each figure that all have."""
    if len(of_seeds) == 1:
        return of_seeds[0]
    figures = {name: mean_of([one.figures()[name] for one in of_seeds]) for name in FIGURES}
    classes = dict.fromkeys(name for one in of_seeds for name in one.per_class)
    by_class = {name: mean_of([one.per_class.get(name) for one in of_seeds]) for name in classes}
    return CocoMetrics.from_dict({**figures, "per_class": by_class})


def _both(one: Mapping[str, Any] | None) -> list[Cell]:
    return [None, None] if one is None else [one["mean"], _interval(one["low"], one["high"])]


def _gain(one: Mapping[str, Any] | None) -> list[Mark]:
    return [] if one is None else [Mark(DISTILLED, one["mean"], one["low"], one["high"])]


def _ends(low: float, high: float, form: str = ".0f") -> tuple[str, str]:
    least, most = (format(end, form).replace("-", "−") if round(end, 1) else "0" for end in (low, high))
    return least, most


def _interval(low: float, high: float) -> str:
    return f"{low:+.1f} to {high:+.1f}".replace("-", "−")
