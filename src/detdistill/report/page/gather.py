"""What the folder of a training, a distillation, a chain, a demo or a proof holds, read from its files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from detdistill.errors import ConfigError
from detdistill.evaluation.coco import CocoMetrics
from detdistill.evaluation.error_types import KINDS, ErrorTypes
from detdistill.files import read_json
from detdistill.json_text import used_as
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.layout import ALONE_LONGER, GENERATION, RunFolder, StudyFolder

T = TypeVar("T")
STUDENT, TEACHER, ALONE, DISTILLED, EQUAL_TIME = "student", "teacher", "alone", "distilled", "alone_equal_time"
_LONGER = (EQUAL_TIME, ALONE_LONGER)
# In this order they stand on the page; the students of a chain come between.
_FIRST, _LAST = (TEACHER, "teacher_own_size", ALONE, *_LONGER), (DISTILLED, STUDENT)
_PARITY = ".parity.json"
_MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a folder says, by the names of results; of several seeds one entry each.

    Attributes:
        path: the folder.
        seeds: of a study; empty where it is none.
        figures: of every detector that was measured.
        errors: what kinds of errors they make.
        verdict: as ``verdict.json`` has it; None where nobody judged.
        results: all that the run says beside, of a study that of its first seed.
        runs: the folders of trainings.
        training: steps and seconds of trainings.
        twins: in what students alone differ from the distilled ones but for the teaching.
        parity: figures of exported files, by their names.
    """

    path: Path
    seeds: tuple[int, ...] = ()
    figures: Mapping[str, tuple[CocoMetrics, ...]] = field(default_factory=dict)
    errors: Mapping[str, tuple[ErrorTypes, ...]] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    training: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    twins: tuple[Mapping[str, Any], ...] = ()
    parity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The detector that it is about."""
        return DISTILLED if DISTILLED in self.figures or DISTILLED in self.runs else STUDENT

    @property
    def against(self) -> str | None:
        """The student alone that it is compared with."""
        return next((name for name in (ALONE, *_LONGER) if name in self.figures), None)

    @property
    def config(self) -> Path | None:
        """The settings of the run that it is about."""
        places = (RunFolder(run).config for run in self.runs.get(self.main, ()))
        return next((place for place in places if place.is_file()), None)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The same as they are written; empty where there are none."""
        content = None if self.config is None else load_yaml(self.config)
        return content if isinstance(content, dict) else {}


def gather(path: Path) -> Gathered:
    """What a folder holds.

    Raises:
        ConfigError: it is no folder of ours, or a file in it is another than was written.
    """
    run, study = RunFolder(path), StudyFolder(path)
    if study.verdict.is_file():
        with used_as(study.verdict, "a study's verdict"):
            found = _study(study)
    elif run.results.is_file() and not run.config.is_file() and RunFolder(path / DISTILLED).config.is_file():
        with used_as(run.results, "a demo's results"):
            found = _demo(path)
    elif run.results.is_file() and RunFolder(path / GENERATION.format(1)).config.is_file():
        with used_as(run.results, "a chain's results"):
            found = _chain(path)
    elif run.config.is_file():
        with used_as(run.results if run.results.is_file() else run.config, "a run's"):
            found = _run(path)
    else:
        raise ConfigError(
            f"{path} must be the folder of a training, a distillation, a demo or a proof, got one without "
            f"{run.config.name} and {study.verdict.name}. Give the folder that was passed as --out."
        )
    return replace(found, parity=_parity(path))


def _run(path: Path) -> Gathered:
    results = _results(path)
    settings = load_yaml(RunFolder(path).config)
    main = DISTILLED if DISTILLED in results or settings.get("method") else STUDENT
    names = [name for name in results if isinstance(results[name], dict) and "per_class" in results[name]]
    runs = {name: path / name for name in _LONGER if (path / name).is_dir()}
    alone = results.get("alone_run", {}).get("run") or settings.get(ALONE)
    if alone is not None:
        runs[ALONE] = next((one for one in (Path(alone), path / alone) if one.is_dir()), Path(alone))
    runs[main] = path
    training = dict(_pairs(results.get("training", {})))
    if "steps" in results and "seconds" in results:
        training.setdefault(main, (results["steps"], results["seconds"]))
    if ALONE in runs and (own := _results(runs[ALONE])):
        training.setdefault(ALONE, (own["steps"], own["seconds"]))
    return Gathered(
        path,
        figures=_each({name: CocoMetrics.from_dict(results[name]) for name in names}),
        errors=_each({name: _errors(one) for name, one in results.get("error_types", {}).items()}),
        verdict=results.get("gain"),
        results=results,
        runs=_each(runs),
        training=_each(training),
        twins=tuple([results["alone_run"]] if "alone_run" in results else []),
    )


def _demo(path: Path) -> Gathered:
    results, one = _results(path), _run(path / DISTILLED)
    names = [name for name in (TEACHER, ALONE, EQUAL_TIME, DISTILLED) if isinstance(results.get(name), dict)]
    longer = _results(path / EQUAL_TIME).get("error_types", {}).get(STUDENT)
    errors = {**one.errors, **({} if longer is None else {EQUAL_TIME: (_errors(longer),)})}
    return replace(
        one,
        path=path,
        figures=_each({name: CocoMetrics.from_dict(results[name]) for name in names}),
        errors=_ordered(errors),
        verdict=None,  # of the same time it says nothing
        runs=_each({name: path / name for name in names if name != TEACHER}),
        training=_each(dict(_pairs(results["training"]))),
    )


def _chain(path: Path) -> Gathered:
    results = _results(path)
    count = len(results["generations"])
    folders = [path / GENERATION.format(number) for number in range(1, count + 1)]
    last, before = _run(folders[-1]), folders[:-1]
    figures = {name: CocoMetrics.from_dict(results[name]) for name in (TEACHER, ALONE) if results.get(name)}
    between = {
        one.name: CocoMetrics.from_dict(of_one) for one, of_one in zip(before, results["generations"], strict=False)
    }
    every = {**figures, **between, DISTILLED: CocoMetrics.from_dict(results["generations"][-1])}
    runs = {**{one.name: (one,) for one in before}, **last.runs}
    kept = {name: one for name, one in last.errors.items() if name != TEACHER}
    return replace(last, path=path, figures=_each(every), errors=_ordered(kept), runs=_ordered(runs))


def _study(study: StudyFolder) -> Gathered:
    verdict = read_json(study.verdict)
    seeds = tuple(int(seed) for seed in verdict["students"])[:_MOST_SEEDS]
    of_seeds = [_of_seed(study, seed, verdict) for seed in seeds]
    runs: dict[str, list[Path]] = {}
    for seed in seeds:
        taught = study.run(seed, DISTILLED)
        places = {ALONE: study.run(seed, ALONE), DISTILLED: taught, EQUAL_TIME: taught / EQUAL_TIME}
        for name, place in places.items():
            if RunFolder(place).config.is_file():
                runs.setdefault(name, []).append(place)
    errors = [verdict.get("error_types", {}).get(str(seed), {}) for seed in seeds]
    training = [dict(_pairs(verdict.get("training", {}).get(str(seed), {}))) for seed in seeds]
    told = [verdict["twins"][str(seed)] for seed in seeds if str(seed) in verdict.get("twins", {})]
    first = _results(study.run(seeds[0], DISTILLED)) if seeds else {}
    diagnosis = {"diagnosis": verdict["diagnosis"]} if "diagnosis" in verdict else {}
    rest = {key: value for key, value in first.items() if key != "diagnosis"}
    return Gathered(
        study.path,
        seeds,
        figures=_joined(of_seeds),
        errors=_joined([{name: _errors(one) for name, one in of_seed.items()} for of_seed in errors]),
        verdict=verdict,
        results={**rest, **diagnosis},
        runs=_ordered({name: tuple(places) for name, places in runs.items()}),
        training=_joined(training),
        twins=tuple(told),
    )


def _of_seed(study: StudyFolder, seed: int, verdict: Mapping[str, Any]) -> dict[str, CocoMetrics]:
    """Figures of one seed's detectors, by class too where their runs are there; the teacher's, which every seed has."""
    own, found = verdict["students"][str(seed)], dict[str, CocoMetrics]()
    taught = study.run(seed, DISTILLED)
    runs = {ALONE: study.run(seed, ALONE), EQUAL_TIME: taught / EQUAL_TIME, DISTILLED: taught}
    for name, figures in own.items():
        results = _results(runs[name]) if name in runs else {}
        whole = results.get(DISTILLED if name == DISTILLED else STUDENT) or {}
        found[name] = CocoMetrics.from_dict({**figures, "per_class": whole.get("per_class")})
    teacher = _results(taught).get(TEACHER)
    return {**({TEACHER: CocoMetrics.from_dict(teacher)} if teacher else {}), **found}


def _results(path: Path) -> dict[str, Any]:
    file = RunFolder(path).results
    if not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must be a run's results, got another content. Restore the file, or make it anew.")
    return content


def _parity(path: Path) -> dict[str, Mapping[str, Any]]:
    """What exported files beside the run, or in a folder of it, are proved to find; none that cannot be read."""
    found = {}
    for file in sorted([*path.glob(f"*{_PARITY}"), *path.glob(f"*/*{_PARITY}")])[:20]:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if {"file", "pytorch", "exported", "agreement"} <= content.keys():
                found[str(file.relative_to(path))] = content
        except (OSError, ValueError, AttributeError):
            continue
    return found


def _errors(content: Mapping[str, Any]) -> ErrorTypes:
    counts = {kind: content[kind]["count"] for kind in KINDS}
    return ErrorTypes(content["AP50"], counts, {kind: content[kind]["dAP"] for kind in KINDS})


def _pairs(training: Mapping[str, Any]) -> Sequence[tuple[str, tuple[int, float]]]:
    return [(name, (one["steps"], one["seconds"])) for name, one in training.items()]


def _each(one: Mapping[str, T]) -> dict[str, tuple[T, ...]]:
    return _ordered({name: (value,) for name, value in one.items()})


def _joined(of_seeds: Sequence[Mapping[str, T]]) -> dict[str, tuple[T, ...]]:
    names = dict.fromkeys(name for one in of_seeds for name in one)
    return _ordered({name: tuple(one[name] for one in of_seeds if name in one) for name in names})


def _ordered(found: Mapping[str, T]) -> dict[str, T]:
    between = [name for name in found if name not in (*_FIRST, *_LAST)]
    return {name: found[name] for name in (*_FIRST, *between, *_LAST) if name in found}
