"""The sections of the page, each from what a folder says; one about which it says nothing is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from detdistill.errors import DistillError
from detdistill.evaluation.shared import mean_of
from detdistill.progress import in_bytes
from detdistill.report.curves import BELOW, FIRST, Series, panel_names, read_curves
from detdistill.report.page.charts import Line, curves
from detdistill.report.page.content import Charts, Lines, Rows, Section, Text, named
from detdistill.report.page.figures import mean_of_seeds
from detdistill.report.page.gather import DISTILLED, TEACHER, Gathered
from detdistill.report.tables import Cell, Table
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import RunFolder
from detdistill.store.students import find_weights
from detdistill.store.sums import digest

_PULLS = ("ratio", "scale", "cosine")
_MOST_PANELS, _DIGITS = 9, 16


def why(found: Gathered) -> Section | None:
    """Why distillation did not help, where that was looked for."""
    told = found.results.get("diagnosis")
    if not told:
        return None
    causes = tuple(f"{one['name']}: {one['evidence']}. {one['action']}" for one in told["causes"])
    lead = (
        "Likeliest cause first."
        if causes
        else f"Nothing that was looked for explains it: {', '.join(told['checked'])}."
    )
    unknown = f"Not known: {', '.join(told['unknown'])}." if told["unknown"] else ""
    return Section(
        "why",
        "Why not",
        "Why it did not help",
        (Lines(causes, ordered=True),) if causes else (),
        f"{lead} {unknown}".strip(),
    )


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
            "How strong a method's gradient is beside the labels' (ratio, before scale), by what it is scaled, and "
            "whether both point the same way (cosine, 1 to −1); weights as the method sets them."
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
            seed = (
                f", {place.parent.name.replace('_', ' ')}"
                if len(found.seeds) > 1 and place.parent != found.path
                else ""
            )
            lines.append(Line(model, f"{named(model)}{seed}", *own[name]))
    teacher = mean_of_seeds(found.figures[TEACHER]).ap if name == FIRST[0] and TEACHER in found.figures else None
    return curves(name, lines, across=() if teacher is None else ((TEACHER, teacher),))


def cost(found: Gathered) -> Section | None:
    """What training and running took, and whether exported files find the same."""
    blocks: list[Rows] = []
    costs = {
        name: one for name, one in found.results.get("cost", {}).items() if "parameters" in one and "total_macs" in one
    }
    if costs:
        rows = tuple(
            (named(name), one["parameters"] / 1e6, one["total_macs"] / 1e9, 1000 * one["seconds_per_image"])
            for name, one in costs.items()
        )
        first = next(iter(costs.values()))
        machine = first.get("machine", {})
        note = (
            f"An image of {first['height']} × {first['width']} pixels on {machine.get('device', 'an unknown machine')}."
        )
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
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.4g}" for key, value in content.items() if isinstance(value, (int, float))
    )


def provenance(found: Gathered, *, version: str, val: str = "") -> Section:
    """Versions, digests of data, teacher and student, and the settings."""
    rows: list[tuple[Cell, ...]] = [("page written by", f"detdistill {version}")]
    machine: Mapping[str, Any] = next(
        (one["machine"] for one in found.results.get("cost", {}).values() if "machine" in one), {}
    )
    rows += [(key, str(value)) for key, value in machine.items()]
    if val:
        rows.append(("validation data", val))
    for model, places in found.runs.items():
        for place in places:
            rows += _of_run(
                model if len(places) == 1 else f"{named(model)}, {place.parent.name}", place, main=model == found.main
            )
    blocks: list[Rows | Lines | Text] = [Rows("What made these figures", Table(("", "what"), tuple(rows)), facts=True)]
    told = [_twin(one) for one in found.twins]
    blocks += [Lines(tuple(dict.fromkeys(told)))] if told else []
    if found.config is not None:
        text = found.config.read_text(encoding="utf-8", errors="replace")
        blocks.append(Text(f"{found.config.name} of the {named(found.main)} run", text))
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
        yield (
            f"{named(name)}: training data",
            f"{known['images']:,} images, {known['boxes']:,} boxes, digest {known['annotations']}",
        )
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
            "Whether the teacher helped is not known: there is no student alone beside it. Train it with detdistill "
            "train, and pass its folder as --alone."
        )
    else:
        seeds = len((found.verdict or {}).get("same_steps", {}).get("seeds", ()))
        if seeds > 1:
            told.append(
                "The interval covers other seeds and other images like these; it says nothing of other data, other "
                "detectors or another schedule."
            )
        else:
            told.append(
                "There is one seed: the interval covers other images like these, not other trainings. detdistill "
                "prove trains several."
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
        f"{named(name)}: {one['text']}."
        for name, one in found.results.get("climb", {}).items()
        if one.get("verdict") == "climbing"
    ]
    return tuple(dict.fromkeys(told))
