"""The page of a run: gathers what its folder holds, and the images that a reader wants to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detdistill.data.annotations import Annotations
from detdistill.errors import ConfigError, DataError, DistillError
from detdistill.evaluation.coco import ImageDetections
from detdistill.evaluation.matches import match
from detdistill.files import require_own, write_text
from detdistill.jobs.config import read_run_config
from detdistill.jobs.found import Found, read_found
from detdistill.jobs.inputs import open_data_sets
from detdistill.jobs.looks import looks_of
from detdistill.jobs.pictures import found_by
from detdistill.progress import Progress, Silence, counted, in_bytes
from detdistill.proof.differences import Differences, Twins, differences
from detdistill.proof.verdict import judge
from detdistill.report.page import sections
from detdistill.report.page.content import Looks, Page, Pictures, Section, named
from detdistill.report.page.figures import difference_rows, figures
from detdistill.report.page.gather import ALONE, DISTILLED, EQUAL_TIME, STUDENT, TEACHER, Gathered, gather
from detdistill.report.page.pictures import Shown, choose, pictures
from detdistill.report.page.render import MADE, render
from detdistill.report.qualitative import Pick
from detdistill.settings.calls import NAME
from detdistill.store.layout import RunFolder, StudyFolder

IMAGES = 20
_MOST_IMAGES = 200


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """The page that was written.

    Attributes:
        sentence: the verdict on it.
        pictures: how many images are on it.
        size: of the file, in bytes.
    """

    out: Path
    sentence: str
    pictures: int
    size: int

    def table(self) -> list[str]:
        """The verdict, and where the page is."""
        told = f"{counted(self.pictures, 'image')}, {in_bytes(self.size)}"
        return [self.sentence, "", f"the page is {self.out} ({told}); it opens in any browser, without a network"]

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON."""
        return {"out": str(self.out), "sentence": self.sentence, "pictures": self.pictures, "bytes": self.size}


def report_job(
    path: Path,
    *,
    out: Path | None = None,
    images: int = IMAGES,
    looked_at: bool = False,
    progress: Progress | None = None,
) -> ReportOutcome:
    """Writes the page of a folder; the words are those of `detdistill.write_report`."""
    watcher = progress or Silence()
    if not 0 <= images <= _MOST_IMAGES:
        raise ConfigError(f"--images must be 0 to {_MOST_IMAGES} images, got {images}. Give {IMAGES}.")
    place = RunFolder(path).page if out is None else out
    if place.suffix.lower() not in (".html", ".htm"):
        name = place.with_suffix(".html") if place.stem else Path("report.html")
        raise ConfigError(f"--out must be a file name that ends in .html, got {place}. Write --out {name}.")
    found = gather(path)
    require_own(place, "--out" if out is not None else f"{place.name} of {path}", MADE)
    shown = _shown(found, watcher) if images or looked_at else None
    return _written(found, shown, out=place, images=images, looked_at=looked_at, progress=watcher)


def write_page(
    path: Path,
    *,
    truth: Annotations | None = None,
    looks: Mapping[str, Found] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes the page of a run that has just ended; what stands in the way is said, and ends nothing.

    Args:
        truth: its validation images; None for those that its settings name.
        looks: what its detectors found in them, by the names of results; None where its folder has that.
    """
    watcher = progress or Silence()
    try:
        found, place = gather(path), RunFolder(path).page
        require_own(place, f"{place.name} of {path}", MADE)
        images = _truth(found, Silence()) if truth is None else truth
        shown = _kept(found, images) if looks is None else Shown(images, {k: one.images for k, one in looks.items()})
        _written(found, _in_order(shown), out=place, images=IMAGES, progress=watcher)
    except (DistillError, OSError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        watcher.say(f"{RunFolder(path).page.name} is not written: {error}")


def _written(
    found: Gathered, shown: Shown | None, *, out: Path, images: int, looked_at: bool = False, progress: Progress
) -> ReportOutcome:
    if shown is not None and found.verdict is None:
        found = replace(found, verdict=_judged(found, shown, progress))
    drawn: Pictures | None = None
    looks, rows = tuple[Looks, ...](), list[int]()
    if shown is not None and shown.found and images:
        picks, score = _picks(found, shown, images)
        rows = [pick.index for pick in picks]
        chosen = f"At first boxes are drawn from score {score:.2f}, where the {_student(found.main)}'s F1 is best."
        drawn = pictures(shown, picks, score=score, chosen=chosen)
    if looked_at:
        looks = looks_of(found, rows=rows, progress=progress)
    page = _page(found, shown, drawn, looks)
    text = render(page)
    write_text(out, text)
    return ReportOutcome(out, page.sentence, 0 if drawn is None else len(drawn.pictures), len(text.encode()))


def _page(found: Gathered, shown: Shown | None, drawn: Pictures | None, looks: Sequence[Looks]) -> Page:
    verdict, settings = found.verdict or {}, found.settings
    parts: list[Section | None] = []
    if found.figures:
        parts.append(figures(found))
    parts.append(sections.why(found))
    curves = [*sections.learning(found)]
    parts += [one for one in curves if one.anchor == "curves"]
    if drawn is not None and drawn.pictures:
        two = DISTILLED in drawn.models and len(drawn.models) > 1
        lead = "The images that distillation fixed most and broke most, and a few at random." if two else ""
        parts.append(Section("images", "Images", "Images fixed and broken" if two else "Images", (drawn,), lead))
    if looks:
        parts.append(Section("looked-at", "Looked at", "What the method looked at", tuple(looks), _LOOKED))
    elif settings.get("method"):
        told = f"detdistill report {found.path} --looked-at draws it here, for a few validation images."
        parts.append(Section("looked-at", "Looked at", "What the method looked at", (), told))
    parts += [one for one in curves if one.anchor != "curves"]
    parts.append(sections.cost(found))
    val = "" if shown is None else _digest(shown.annotations)
    parts.append(sections.provenance(found, version=version("detdistill"), val=val))
    return Page(
        _title(found, settings),
        str(verdict.get("verdict", "measured" if found.figures else "not measured")),
        _sentence(found, shown),
        limits=sections.limits(found),
        figure=difference_rows(verdict) if verdict else None,
        models=tuple(found.figures),
        sections=tuple(one for one in parts if one is not None),
    )


_LOOKED = (
    "Over each image, level by level: the mask of a term that has one, and where the term pulls the student, which is "
    "as large as its gradient at the student's maps. Yellow is strong; "
    "the levels of a row share one scale."
)


def _digest(annotations: Annotations) -> str:
    boxes = int((~annotations.ignored).sum())
    return f"{counted(len(annotations), 'image')}, {counted(boxes, 'box')}, digest {annotations.digest()}"


def _title(found: Gathered, settings: Mapping[str, Any]) -> str:
    name = found.path.resolve().name
    try:
        student = str(settings["student"]["detector"])
        if found.main != DISTILLED:
            return f"{name}: {student}"
        source = settings["teacher"]["source"]
        teachers = " and ".join(Path(one).name for one in ([source] if isinstance(source, str) else source))
        method = found.results.get("method") or settings["method"][NAME]
        return f"{name}: {student}, taught by {teachers} with {method}"
    except (KeyError, TypeError):
        return name


def _sentence(found: Gathered, shown: Shown | None) -> str:
    if found.verdict is not None:
        said = str(found.verdict["sentence"])
        return said[:1].upper() + said[1:] + "."
    own = found.figures.get(found.main)
    if own is None or own[0].ap is None:
        return "Nothing is measured yet: the run is not over, or its validation images show no object."
    images = "the validation images" if shown is None else counted(len(shown.annotations), "validation image")
    against = None if found.against is None else found.figures[found.against][0].ap
    said = f"The {_student(found.main)} has {own[0].ap:.1f} AP on {images}"
    if found.main == DISTILLED and against is not None:
        return f"{said}, {own[0].ap - against:+.1f} against the {_student(str(found.against))}.".replace("-", "−")
    return f"{said}."


def _student(model: str) -> str:
    return (
        "student"
        if model == STUDENT
        else f"{named(model)} student"
        if model == DISTILLED
        else f"student {named(model)}"
    )


def _judged(found: Gathered, shown: Shown, progress: Progress) -> Mapping[str, Any] | None:
    """The verdict of a run on what its detectors found; None where nobody can tell."""
    looks, against = shown.found, found.against
    if DISTILLED not in looks or against is None or against not in looks:
        return None
    matched = {name: match(shown.annotations, looks[name]) for name in {DISTILLED, against, EQUAL_TIME} & looks.keys()}

    def minus(alone: str) -> Differences:
        return differences([Twins(0, matched[alone], matched[DISTILLED])], progress=progress)

    try:
        time = minus(EQUAL_TIME) if EQUAL_TIME in matched and against != EQUAL_TIME else None
        return judge(minus(against), time).as_dict()
    except DataError:  # there is too little to measure
        return None


def _picks(found: Gathered, shown: Shown, images: int) -> tuple[list[Pick], float]:
    """So many images, and the score from which on boxes are drawn at first."""
    models = [name for name in shown.found if name in (ALONE, DISTILLED, found.main, found.against)]
    main = found.main if found.main in shown.found else next(iter(shown.found))
    alone = next((name for name in models if name != main), main)
    score = shown.working_score(main)
    return choose(shown, alone=alone, distilled=main, images=images, score=score), score


def _in_order(shown: Shown) -> Shown:
    """What students of the page found, then the others': the comparison first."""
    order = {name: at for at, name in enumerate((ALONE, DISTILLED, TEACHER))}
    return Shown(shown.annotations, dict(sorted(shown.found.items(), key=lambda one: order.get(one[0], 9))))


def _shown(found: Gathered, progress: Progress) -> Shown | None:
    """What detectors of a folder find in its validation images: kept there by a study, else looked for anew."""
    if found.config is None:
        progress.say("images are left out of the page: no settings in the folder name them")
        return None
    try:
        truth = _truth(found, progress)
        shown = _kept(found, truth) if found.seeds else _looked(found, truth, progress)
    except DistillError as error:
        progress.say(f"images are left out of the page: {error}")
        return None
    return _in_order(shown)


def _truth(found: Gathered, progress: Progress) -> Annotations:
    """The validation images that a run's settings name."""
    if found.config is None:
        raise ConfigError(
            f"{found.path} must hold a run's settings, which name its images, got none. Give the folder as it was made."
        )
    return open_data_sets(read_run_config(found.config, purpose="train").data, progress=progress)[2]


def _kept(found: Gathered, truth: Annotations) -> Shown:
    """What the first seed's detectors of a study found."""
    study, seed = StudyFolder(found.path), found.seeds[0]
    agnostic = bool(found.results.get("agnostic", False))
    looks = dict[str, Sequence[ImageDetections]]()
    for name in (TEACHER, *found.figures):
        if (place := study.found(seed, name)).is_file():
            looks[name] = read_found(place, truth, agnostic=agnostic)
    return Shown(truth, looks)


def _looked(found: Gathered, truth: Annotations, progress: Progress) -> Shown:
    sources = {name: str(places[-1]) for name, places in found.runs.items() if name in found.figures}
    teacher = found.settings.get("teacher")
    if TEACHER in found.figures and found.config is not None and teacher is not None:
        taught = read_run_config(found.config, purpose="distill").teacher
        sources |= {} if taught is None or len(taught.sources) > 1 else {TEACHER: taught.sources[0]}
    looks = dict[str, Sequence[ImageDetections]]()
    for name, source in sources.items():
        try:
            looks[name] = found_by(source, truth, bool(found.results.get("agnostic", False)), progress)
        except DistillError as error:
            progress.say(f"{named(name)} is left out of the images: {error}")
    return Shown(truth, looks)
