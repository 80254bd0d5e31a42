"""The verdict on students that were trained elsewhere: run folders, or what other programs found in the same images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import ImageDetections
from detdistill.jobs import stages
from detdistill.jobs.alone import Comparison, compare_records
from detdistill.jobs.config import read_run_config
from detdistill.jobs.found import Found, read_results
from detdistill.jobs.inputs import open_data_sets, require_free
from detdistill.jobs.opening import detect, open_detector, read_split, seen_size
from detdistill.jobs.outcomes import ALONE, DISTILLED
from detdistill.jobs.page import write_page
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.verdicts import ProveOutcome, judged, require_measurable
from detdistill.progress import Progress, Silence
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import RunFolder, StudyFolder

_RESULTS = ".json"


def compare_job(
    runs: Sequence[Path],
    against: Sequence[Path],
    *,
    out: Path,
    data: Path | None = None,
    worth: float = 0.5,
    allow_problems: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> ProveOutcome:
    """Measures pairs of students on the same validation images, and leaves the verdict in a folder.

    Args:
        runs: of distilled students: run folders, checkpoints, or COCO results JSON files.
        against: of students alone, each the twin of the one at its place in `runs`.
        data: whose validation images they are measured on; None for those of the first run folder's settings.
        worth: the gain in points of AP that makes distillation worth it.
        resume: judge anew where there is a verdict.

    Raises:
        ConfigError: they are no pairs, or of other classes than the data.
        DataError: results of other images, or no verdict can be found on these.
    """
    watcher, place = progress or Silence(), StudyFolder(out)
    given = [*runs, *against]
    if not runs or len(runs) != len(against) or len({path.resolve() for path in given}) < len(given):
        raise ConfigError(
            f"--runs and --against must be as many students each, all of them different, got {len(runs)} and "
            f"{len(against)}. Write for example --runs distilled_0 distilled_1 --against alone_0 alone_1."
        )
    require_free(out, resume=resume, owns=place.owns)
    settings = next((one for path in (*runs, *against) if (one := _settings(path)) is not None), None)
    truth = _truth(settings, data, allow_problems=allow_problems, progress=watcher)
    require_measurable(truth, worth)
    agnostic = settings is not None and settings.evaluate.agnostic
    seeds = _seeds(runs)
    sides = ((ALONE, against), (DISTILLED, runs))
    twins = {seed: _compared(*pair) for seed, *pair in zip(seeds, against, runs, strict=True)}
    # What other programs wrote may be refused: it is read before anything is detected or written.
    paths = {(seed, name): path for name, those in sides for seed, path in zip(seeds, those, strict=True)}
    order = sorted(paths, key=lambda key: not _is_results(paths[key]))
    found = {key: _found(paths[key], truth, agnostic=agnostic, progress=watcher) for key in order}
    with stages.held(out):
        for (seed, name), images in found.items():
            images.write(place.found(seed, name))
        looks = {seed: {name: partial(_images, found[seed, name]) for name, _ in sides} for seed in seeds}
        pairs = [*zip(against, runs, strict=True)]
        outcome = judged(out, truth, looks, worth=worth, twins=twins, places=pairs, progress=watcher)
        outcome.write()
        write_page(out, truth=truth, progress=watcher)
        return outcome


def _images(found: Found) -> Sequence[ImageDetections]:
    return found.images


def _is_results(path: Path) -> bool:
    return path.suffix.lower() == _RESULTS and path.is_file()


def _settings(path: Path) -> RunConfig | None:
    """What a run was, where its folder says so."""
    file = RunFolder(path).config
    return None if _is_results(path) or not file.is_file() else read_run_config(file, purpose="train")


def _truth(settings: RunConfig | None, data: Path | None, *, allow_problems: bool, progress: Progress) -> Annotations:
    if data is not None:
        exact = data.is_file()
        return read_split(data, "val", exact=exact, allow_problems=allow_problems, progress=progress)
    if settings is None:
        raise ConfigError(
            "prove --runs must be told the validation images where no run folder names them, got no data. Pass --data "
            "FOLDER."
        )
    return open_data_sets(settings.data, progress=progress)[2]


def _seeds(runs: Sequence[Path]) -> list[int]:
    """The seed of every distilled student where they are known and differ, else numbers from 0."""
    records = [None if _is_results(path) else read_record(path) for path in runs]
    known = [None if one is None else one.identity.get("train", {}).get("seed") for one in records]
    seeds = [one for one in known if isinstance(one, int)]
    return seeds if len({*seeds}) == len(runs) else list(range(len(runs)))


def _compared(alone: Path, distilled: Path) -> Comparison:
    if _is_results(alone) or _is_results(distilled):
        return Comparison(alone, recorded=False)
    return compare_records(alone, distilled)


def _found(path: Path, truth: Annotations, *, agnostic: bool, progress: Progress) -> Found:
    if _is_results(path):
        return Found(truth.digest(), agnostic, read_results(path, truth))
    loaded = open_detector(str(path), progress=progress)
    if loaded.class_names != truth.class_names:
        raise ConfigError(
            f"The student in {path} must have the data's classes {', '.join(truth.class_names)} in that order, got "
            f"{', '.join(loaded.class_names)}. Give the data that it was trained for."
        )
    size = seen_size(loaded, truth, source=str(path), progress=progress)
    found = detect(loaded.detector, truth, size, label=f"detect with {path}", agnostic=agnostic, progress=progress)
    return Found(truth.digest(), agnostic, found)
