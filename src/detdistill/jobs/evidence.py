"""What a run's folder, its data and its detectors say of why it gained nothing, put together for the rules."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from detdistill.data.classes import boxes_by_class
from detdistill.data.leaks import tell_leaks
from detdistill.data.problems import Problems
from detdistill.detectors.drift import NormDrift
from detdistill.distillation.pulls import measured_pulls
from detdistill.distillation.recipe import Recipe
from detdistill.distillation.step import DistillationStep
from detdistill.errors import DistillError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.files import read_json
from detdistill.jobs import examine, samples, sizes, stages
from detdistill.jobs.alone import Comparison
from detdistill.jobs.examine import Sample
from detdistill.jobs.outcomes import DISTILLED
from detdistill.jobs.samples import Opened
from detdistill.json_text import used_as
from detdistill.methods.catalogue import method_text, method_tree
from detdistill.progress import Progress
from detdistill.proof import checks
from detdistill.proof.checks import Check
from detdistill.proof.differences import Differences
from detdistill.proof.evidence import Classes, Evidence, Part, Pull, Sizes, Span
from detdistill.proof.verdict import to_settle
from detdistill.store.checkpoints import find_checkpoint, read_record
from detdistill.store.layout import RunFolder
from detdistill.training.logs import read_rows
from detdistill.training.memory import needing_memory
from detdistill.training.optimizer import build_optimizer
from detdistill.training.state import TrainingState
from detdistill.types import Clock

_SIZES = {"APs": "small objects", "APm": "medium objects", "APl": "large objects"}
_COST = "/cost_stride_"
_LEAST_ROWS, _POINTS = 12, 200
_BATCHES, _IMAGES = 3, 4


def of_setup(built: stages.Built, run: Path) -> Evidence:
    """What is known before the first step of a distillation in the folder `run`: of teacher, data and schedule."""
    opened, config = built.opened, built.opened.config
    train, teacher = config.train, opened.teacher
    known = Evidence(
        images=len(opened.data.val),
        planned=train.steps,
        epochs=train.steps * train.batch_size * train.processes / len(opened.data.train),
        mixed=train.precision != "32-true",
        on=_on(built.step.recipe, train.steps) if isinstance(built.step, DistillationStep) else None,
        ends=tuple(_ends(method_tree(config.method), "method")),
        leaked=_leaked(opened.data),
        differing=_differing(built.alone),
        method=method_text(config.method),
        config=str(RunFolder(run).config),
        data=str(config.data.folder if isinstance(config.data.folder, Path) else config.data.sources("val")[0]),
    )
    if teacher is None or config.teacher is None:
        return known
    own, seen = sizes.own_size(teacher), opened.taught_at
    foreign = sizes.other_own_size(teacher, seen, opened.data.val)
    return replace(
        known,
        teacher=config.teacher.text,
        weights=_weights(opened, (), otherwise=False),
        sizes=None if own is None else Sizes((foreign or seen).text(), seen.text()),
        classes=_classes(teacher.class_names, boxes_by_class(opened.data.train)),
    )


def _weights(opened: Opened, drifts: Sequence[NormDrift], *, otherwise: bool) -> Check | None:
    if opened.teacher is None or opened.config.teacher is None:
        return None
    report, source = opened.teacher.report, opened.config.teacher.text
    return checks.weights(len(report.matched), report.wanted, drifts, source=source, shown_otherwise=otherwise)


def with_teacher(known: Evidence, opened: Opened, *, progress: Progress) -> Evidence:
    """The same with what `doctor` looks at in a teacher: whether it sees what it saw in its training.

    Other normalisations are tried only where it is not better than the student alone.
    """
    if opened.teacher is None:
        return known
    detector, at = opened.teacher.detector, opened.taught_at
    if known.headroom is not None and known.headroom.low <= 0:
        few, others = examine.other_pixels(Sample(opened, opened.data.val, progress), detector, at)
        if few is not None:
            known = replace(known, pixels=checks.normalisation("the student's", "the numbers here", few, others))
    size = known.sizes is not None and known.sizes.own != known.sizes.seen
    otherwise = size or (known.pixels is not None and known.pixels.state != checks.OK)
    return replace(known, weights=_weights(opened, examine.drifts_of(opened, detector), otherwise=otherwise))


def _leaked(data: samples.OpenedData) -> int:
    told = {"train": Problems(), "val": Problems()}
    tell_leaks({"train": data.train, "val": data.val}, told)
    return len(told["val"])


def _differing(alone: Comparison | None) -> tuple[str, ...] | None:
    if alone is None or alone.twin:
        return None if alone is None else ()
    return tuple(one.text() for one in alone.differences) or ("how is not recorded",)


def _classes(known: Sequence[str], boxes: Mapping[str, int]) -> Classes:
    missing = tuple(name for name in boxes if name not in known)
    share = sum(boxes[name] for name in missing) / max(1, sum(boxes.values()))
    both = [name for name in known if name in boxes]
    ordered = both == [name for name in boxes if name in known]
    return Classes(missing, tuple(known) if len(both) == len(known) else (), share, ordered)


def _on(recipe: Recipe, steps: int) -> float:
    """Mean factor of warm-up and fades of the recipe's terms over the run."""
    clocks = [Clock(step=at * steps // _POINTS, total_steps=steps) for at in range(_POINTS)]
    lit = ((one, clock) for one in recipe.terms if one.gain for clock in clocks if one.window.within(clock))
    factors = [one.gain_at(clock) / one.gain for one, clock in lit]
    return statistics.fmean(factors) if factors else 1.0


def _ends(tree: Any, key: str) -> Iterator[str]:
    """The keys of a method's tree that switch something off before the end."""
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if name == "until" and value < 1:
            yield f"{key}.{name}"
        yield from _ends(value, f"{key}.{name}")


def of_run(folder: Path, written: Mapping[str, Any], *, alone: Path | None) -> Evidence:
    """What the figures say that a distillation left in its folder; what is not there stays unknown.

    Args:
        written: what its ``results.json`` holds.
        alone: the folder of the student alone.

    Raises:
        DistillError: they cannot be read.
    """
    run, theirs = RunFolder(folder), {} if alone is None else results_of(alone)
    rows = read_rows(run.metrics)
    with used_as(run.results, "a run's results"):
        climb = written.get("climb", {}).get(DISTILLED, {})
        rise, noise = climb.get("rise"), climb.get("noise")
        clip = [_share(one.get("clipping")) for one in (written, theirs)]
        return Evidence(
            rise=None if rise is None else Span(rise, rise - noise, rise + noise),
            steps=written.get("steps"),
            left_out=len(written.get("left_out", ())) if "steps" in written else None,
            clip=None if clip[0] is None or clip[1] is None else (clip[0], clip[1]),
            falls=_falls(rows),
            pulls=_first_pulls(rows, written.get("strength", {})),
            slower=_slower(folder, alone),
        )


def averages(results: Sequence[Mapping[str, Any]], name: str) -> CocoMetrics:
    """The mean over runs of the figures in their ``results.json`` of one detector; what one of them lacks is None."""
    every = [CocoMetrics.from_dict(one.get(name) or {}) for one in results]
    figures = {key: _mean([one.figures()[key] for one in every]) for key in every[0].figures()}
    classes = dict.fromkeys(key for one in every for key in one.per_class)
    per_class = {key: _mean([one.per_class.get(key) for one in every]) for key in classes}
    return CocoMetrics.from_dict({**figures, "per_class": per_class})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def results_of(folder: Path) -> dict[str, Any]:
    """What a run's ``results.json`` holds; nothing where there is none."""
    path = RunFolder(folder).results
    with used_as(path, "a run's results"):
        return dict(read_json(path)) if path.is_file() else {}


def _share(clipping: Mapping[str, Any] | None) -> float | None:
    return None if clipping is None else clipping["clipped"] / max(1, clipping["steps"])


def _slower(folder: Path, alone: Path | None) -> float | None:
    records = [None if one is None else read_record(one) for one in (folder, alone)]
    took = [one.seconds / one.step for one in records if one is not None and one.step]
    return took[0] / took[1] if len(took) == len(records) and took[1] else None


def _falls(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """By what share each term's cost fell from the first tenth of its rows to the last quarter."""
    columns = [name for name in (rows[0] if rows else ()) if _COST in name]
    found = {}
    for term in dict.fromkeys(name.partition(_COST)[0] for name in columns):
        own = [name for name in columns if name.startswith(f"{term}{_COST}")]
        costs = [
            sum(row[name] or 0.0 for name in own) for row in rows if all(row.get(name) is not None for name in own)
        ]
        first = statistics.fmean(costs[: max(3, len(costs) // 10)]) if costs else 0.0
        if len(costs) >= _LEAST_ROWS and first > 0:
            found[term] = 1.0 - statistics.fmean(costs[-(len(costs) // 4) :]) / first
    return found


def _first_pulls(rows: Sequence[Mapping[str, float | None]], strength: Mapping[str, Any]) -> dict[str, Pull]:
    """How methods that are calibrated pulled in their first steps, as the first row has it."""
    found = {}
    for name, asked in strength.items():
        keys = [f"{name}/{kind}" for kind in ("ratio", "scale", "cosine")]
        first = next((row for row in rows if all(row.get(key) is not None for key in keys)), None)
        ratio, scale, cosine = (None, None, None) if first is None else (first[key] for key in keys)
        pull = None if ratio is None or scale is None else ratio * scale
        found[name] = Pull(asked["strength"], first=pull, first_cosine=cosine)
    return found


def with_end(known: Evidence, built: stages.Built, run: Path) -> Evidence:
    """The same with how the methods pull in the end, measured with the last checkpoint of `run` on training images.

    Where that cannot be measured it stays unknown: it ends nothing.
    """
    try:
        last = _last_pulls(built, run)
    except DistillError:
        return known
    pulls = {name: known.pulls.get(name, Pull()) for name in {**known.pulls, **last}}
    for name, (ratio, cosine) in last.items():
        pulls[name] = replace(pulls[name], last=ratio, last_cosine=cosine)
    return replace(known, pulls=pulls)


def as_it_ended(built: stages.Built, run: Path) -> DistillationStep | None:
    """The step of a distillation as its last checkpoint has it, in train mode; None where there is none."""
    step = built.step
    checkpoint, _ = find_checkpoint(run)
    if checkpoint is None or not isinstance(step, DistillationStep):
        return None
    step.to(built.opened.first_device).train()
    optimizer = build_optimizer(step, built.opened.config.train)
    TrainingState(step, optimizer, ema=None, scaler=None).restore(checkpoint)
    step.calibration.restore(checkpoint.snapshot.counters.get("calibration"))
    return step


def _last_pulls(built: stages.Built, run: Path) -> Mapping[str, tuple[float, float]]:
    opened, step = built.opened, as_it_ended(built, run)
    settings, device = opened.config.train, opened.first_device
    if step is None:
        return {}
    # The teacher may have to look itself, which loader workers cannot.
    few = replace(settings, batch_size=_IMAGES, accumulate=1, workers=0)
    batches = islice(samples.batches_for(opened, built.changes, few)(0, 0, 1), _BATCHES)
    with needing_memory(f"{_IMAGES} images to measure gradients", remedy="Free memory"):
        return measured_pulls(step, (batch.to(device) for batch in batches))


def of_figures(
    same_steps: Differences,
    *,
    teacher: CocoMetrics | None,
    alone: CocoMetrics | None,
    distilled: CocoMetrics | None,
    worth: float,
    same_time: Differences | None = None,
) -> Evidence:
    """What the figures say: the gain, all and by class and size. The headroom is not among it."""
    gain = same_steps.figures.get("AP")
    sides = [one or CocoMetrics.from_dict({}) for one in (teacher, alone, distilled)]
    rows = [("class", name, name, one) for name, one in same_steps.classes.items()]
    rows += [("size", key, _SIZES[key], one) for key, one in same_steps.figures.items() if key in _SIZES]
    parts = []
    for kind, key, name, difference in rows:
        figures = [(one.per_class if kind == "class" else one.figures()).get(key) for one in sides]
        if figures[1] is not None and figures[2] is not None:
            parts.append(Part(kind, name, figures[0], figures[1], figures[2], difference))  # type: ignore[arg-type]
    return Evidence(
        gain=gain,
        same_time=None if same_time is None else same_time.figures.get("AP"),
        worth=worth,
        images=same_steps.images,
        seeds=len(same_steps.seeds),
        settle=to_settle(gain, images=same_steps.images, width=worth)
        if gain and gain.high - gain.low > 2 * worth
        else "",
        teacher_ap=sides[0].ap,
        alone_ap=sides[1].ap,
        parts=tuple(parts),
    )
