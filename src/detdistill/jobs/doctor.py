"""Looks at a distillation before it begins: everything that can be known of it in about two minutes, in a line each."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from shlex import quote
from typing import Any

from detdistill.data.leaks import tell_leaks
from detdistill.data.problems import Problems
from detdistill.detectors.base import Detector
from detdistill.detectors.drift import NormDrift
from detdistill.detectors.preprocess import normaliser_of, shown_pixels
from detdistill.distillation.startup import TermProof
from detdistill.distillation.startup import prove as prove_terms
from detdistill.distillation.step import DistillationStep
from detdistill.distillation.term import paired_strides, pairing_note
from detdistill.errors import DiskError, DistillError
from detdistill.evaluation.coco import CocoMetrics, ImageDetections
from detdistill.jobs import examine, samples, sizes, stages
from detdistill.jobs.examine import Sample
from detdistill.jobs.plan import MEASURED, plan_of
from detdistill.jobs.readings import other_readings
from detdistill.jobs.samples import Opened
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.trial import Bars, probed, tried
from detdistill.progress import Progress, counted, duration
from detdistill.proof import box_checks, checks
from detdistill.proof.checks import FAIL, LOOK, OK, Check, Measure, TermFigures
from detdistill.store.layout import GENERATION
from detdistill.training.world import by_leader, launched_by_torchrun, watched_by_leader
from detdistill.types import Batch

_BATCHES = 3
_PROBE_SECONDS, _LEAST_PROBE, _MOST_PROBE = 30.0, 20, 300


@dataclass(frozen=True, slots=True)
class DoctorOutcome:
    """What was found, in the order of a run, and the seconds that it took."""

    checks: tuple[Check, ...]
    seconds: float

    @property
    def failure(self) -> str | None:
        """What the run would be refused for, or fail by; None where nothing is known against it."""
        bad = next((one for one in self.checks if one.state == FAIL), None)
        return None if bad is None else f"{bad.said}. {bad.remedy}".strip()

    def table(self) -> list[str]:
        """A line for each check, and one for all."""
        states = [one.state for one in self.checks]
        odd = [f"{count} {state}" for state in (LOOK, FAIL) if (count := states.count(state))]
        told = f"{counted(len(states), 'check')} in {duration(self.seconds)}: {', '.join(odd) or 'all ok'}"
        return [*(one.text() for one in self.checks), "", told]

    def as_dict(self) -> Mapping[str, Any]:
        """Every check with its figures."""
        failing = self.failure is not None
        return {"checks": [one.as_dict() for one in self.checks], "fails": failing, "seconds": round(self.seconds, 2)}


def doctor_job(
    config: RunConfig, *, resume: bool = False, generations: int = 1, progress: Progress | None = None
) -> DoctorOutcome:
    """Opens, builds and proves a run as it would begin, looks at everything on the way, and leaves no trace of it.

    What the run would be refused for is one of the checks; those that come after it in a run are then left out.
    """
    began = time.monotonic()
    found = tuple(_found(config, resume=resume, generations=generations, progress=Bars(progress)))
    return DoctorOutcome(found, time.monotonic() - began)


def early_checks(proved: stages.Proved) -> list[Check]:
    """What of it a run says at its start, which costs nothing beside the start-up proof."""
    step, teacher = proved.built.step, proved.built.opened.teacher
    if not isinstance(step, DistillationStep) or teacher is None:
        return []
    terms = [_figures([proof]) for proof in proved.proofs]
    return [_weights(proved.built.opened, (), shown_otherwise=False), _strength(step, terms)]


def measured_checks(opened: Opened, teacher: CocoMetrics | None, alone: CocoMetrics | None) -> list[Check]:
    """What a run says of its teacher once it is measured, and of the student alone where that is known."""
    if teacher is None or teacher.ap is None:
        return []
    found = [_teachers_ap(opened, Measure(teacher.ap, None, None, len(opened.data.val)))]
    if alone is not None and alone.ap is not None:
        gap = teacher.ap - alone.ap
        found.append(checks.headroom(gap, against="the student alone", train=_train(opened.config)))
    return found


def tell(found: Sequence[Check], progress: Progress | None) -> None:
    """Says what of it is not ok."""
    watcher = watched_by_leader(progress)
    for one in found:
        if one.state != OK:
            watcher.say(one.text())


def _found(config: RunConfig, *, resume: bool, generations: int, progress: Progress) -> Iterator[Check]:
    first = config if generations == 1 else replace(config, out=config.out / GENERATION.format(1))
    try:
        opened = stages.open_inputs(first, resume=resume, progress=progress)
    except DistillError as error:
        yield checks.refused("data and teacher", str(error))
        return
    yield from _of_data(opened)
    built, failed = None, None
    try:
        built = stages.build(opened, progress=progress)
    except DistillError as error:
        failed = checks.refused("student and method", str(error))
    student = None if built is None else built.step.student
    try:
        sample, teachers = yield from _of_teacher(opened, student, progress)
    except DistillError as error:
        yield checks.refused("teacher's AP", str(error))
        return
    if built is None or not isinstance(built.step, DistillationStep):
        if failed is not None:
            yield failed
        return
    step = built.step
    for one in step.teachers:
        specs = step.student.spec, one.spec
        yield checks.levels(pairing_note(*specs), paired=len(paired_strides(*specs)))
    try:
        proved = stages.prove(built, progress=progress)
        stages.require_same_run(proved)
    except DistillError as error:
        yield checks.refused("terms", str(error))
        return
    yield from _of_run(proved, sample, teachers, generations=generations, progress=progress)


def _of_data(opened: Opened) -> Iterator[Check]:
    data = opened.data
    lost, kept = dict[str, int](), dict[str, int]()
    for split, images in (("train", data.train), ("val", data.val)):
        told = data.told.get(split, Problems())
        lost |= {f"{split} images": told.lost("images"), f"{split} boxes": told.lost("boxes")}
        kept |= {f"{split} images": len(images), f"{split} boxes": int((~images.ignored).sum())}
    folder = opened.config.data.sources("train")[0]
    yield checks.labels(lost, kept, check=f"detdistill data check {quote(str(folder))}")
    leaks = {"train": Problems(), "val": Problems()}
    tell_leaks({"train": data.train, "val": data.val}, leaks)
    yield checks.splits(len(leaks["val"]), images=len(data.val))


def _of_teacher(
    opened: Opened, student: Detector | None, progress: Progress
) -> Generator[Check, None, tuple[Sample | None, list[ImageDetections]]]:
    """The checks of the teacher; returns the sample it was measured on, and what it found there."""
    teacher, data = opened.teacher, opened.data
    if teacher is None:
        return None, []
    at, detector = opened.taught_at, teacher.detector
    own = sizes.other_own_size(teacher, at, data.train)
    drifts = examine.drifts_of(opened, detector)
    names, report = data.train.class_names, teacher.report
    mapped = "" if report.classes is None else report.classes.text().removeprefix("classes: ")
    if not opened.same_classes:
        yield _weights(opened, drifts, shown_otherwise=own is not None)
        yield checks.classes(names, same=False, found=0.0, order=(), reordered=0.0, mapped=mapped)
        return None, []
    if not opened.teacher_measures:
        yield _weights(opened, drifts, shown_otherwise=False)
        yield box_checks.unseen(_source(opened.config), images=len(data.val))
        return None, []
    sample = examine.sample_of(opened, detector, progress=progress)
    found = sample.found_by(detector, at, label="what the teacher finds")
    measure = sample.measured(found)
    few, others = examine.other_pixels(sample, detector, at)
    pixels = None
    if few is not None and student is not None:
        pixels = checks.normalisation(_pixels(student), _pixels(detector), few, others)
    own_ap = None
    if own is not None:
        own_ap = sample.ap(sample.found_by(detector, own, label="what it finds at its own size"))
    size = checks.sizes(data.image.text(), at.text(), None if own is None else own.text(), own_ap=own_ap, seen=measure)
    otherwise = own is not None or (pixels is not None and pixels.state != OK)
    yield _weights(opened, drifts, shown_otherwise=otherwise)
    yield _teachers_ap(opened, measure)
    if measure is not None:
        order, reordered = examine.fitting_order(sample, found)
        again = reordered or 0.0
        yield checks.classes(names, same=True, found=measure.ap, order=order, reordered=again, mapped=mapped)
    yield size
    if pixels is not None:
        yield pixels
    read = other_readings(sample, detector, at)
    if read is not None:
        yield box_checks.readings(*read)
    half = None
    if measure is not None and measure.low is not None and measure.high is not None:
        half = (measure.high - measure.low) / 2 * math.sqrt(measure.images / len(data.val))
    yield checks.validation(half, images=len(data.val))
    return sample, found


def _weights(opened: Opened, drifts: Sequence[NormDrift], *, shown_otherwise: bool) -> Check:
    assert opened.teacher is not None
    report, source = opened.teacher.report, _source(opened.config)
    if report.known:
        return box_checks.boxes_alone(report.known)
    return checks.weights(len(report.matched), report.wanted, drifts, source=source, shown_otherwise=shown_otherwise)


def _teachers_ap(opened: Opened, measure: Measure | None) -> Check:
    source = _source(opened.config)
    recorded = examine.recorded_ap(source, opened)  # a distillation's leader alone comes here: no meeting
    if opened.teacher is not None and sizes.other_own_size(opened.teacher, opened.taught_at, opened.data.val):
        recorded = None  # it was at another size
    return checks.teachers_ap(measure, total=len(opened.data.val), recorded=recorded, train=_train(opened.config))


def _of_run(
    proved: stages.Proved,
    sample: Sample | None,
    teachers: Sequence[ImageDetections],
    *,
    generations: int,
    progress: Progress,
) -> Iterator[Check]:
    built, step = proved.built, proved.built.step
    assert isinstance(step, DistillationStep)
    opened, train = built.opened, built.opened.config.train
    proofs = [proved.proofs, *_further(step, proved)]
    terms = [_figures(of_one) for of_one in zip(*proofs, strict=True)]
    for one in terms:
        yield checks.term(one, batches=len(proofs))
    yield _strength(step, terms)
    plan = plan_of(proved)
    if plan.unlabelled is not None:
        yield checks.unlabelled(*plan.unlabelled)
    try:
        by_leader(lambda: plan.require_room(generations))
        kept = plan.checkpoints * plan.checkpoint_bytes + plan.twin_bytes
        yield checks.disk(kept, plan.free_bytes)
    except DistillError as error:
        yield checks.refused("disk", str(error))
    if launched_by_torchrun():  # as in a dry run
        return
    progress.start("try a few steps", MEASURED)
    try:
        trial = tried(proved, MEASURED)
        progress.advance(MEASURED)
    except DiskError:  # of the folder for what passes, not the run's
        raise
    except DistillError as error:
        yield checks.refused("steps", str(error))
        return
    finally:
        progress.finish()
    yield checks.numbers(train.precision, steps=len(trial.rows), skipped=trial.skipped)
    yield checks.memory(trial.peak, trial.memory)
    left, looked = plan.steps - plan.start, 0.0
    if sample is not None:
        began = time.perf_counter()
        sample.some(_BATCHES * 8).found_by(step.student, opened.data.image, label="what the student finds")
        looked = (time.perf_counter() - began) / len(sample.some(_BATCHES * 8).images)
    evaluations = looked * len(opened.data.val) * (plan.evaluations + 1)
    yield checks.time(
        trial.step_seconds, steps=left + (generations - 1) * plan.steps, evaluations=evaluations, then=plan.then
    )
    if sample is not None:
        yield from _headroom(built, sample, teachers, seconds=trial.step_seconds, progress=progress)


def _further(step: DistillationStep, proved: stages.Proved) -> Iterator[tuple[TermProof, ...]]:
    """The proofs of further batches that have something to teach; what cannot be proved there proves nothing."""
    opened = proved.built.opened
    few = replace(opened.config.train, workers=0)
    twins = samples.standing_in(step.recipe, opened, opened.data.train)
    loader = samples.batches_for(opened, replace(proved.built.changes, twins=twins), few)
    for batch in islice(filter(_teaches, islice(loader(0, 0, 1), 4 * _BATCHES)), _BATCHES - 1):
        try:
            yield prove_terms(step, batch.part(0, min(len(batch), 4)).to(opened.first_device))
        except DistillError:
            continue


def _teaches(batch: Batch) -> bool:
    return any(len(targets.taught().labels) for targets in batch.targets[:4])


def _figures(proofs: Sequence[TermProof]) -> TermFigures:
    """What a term showed on all batches: means, of ratios the geometric one."""
    ratios = [one.ratio for one in proofs if one.ratio is not None and one.ratio > 0]
    cosines = [one.cosine for one in proofs if one.cosine is not None]
    return TermFigures(
        proofs[0].name,
        sum(one.loss for one in proofs) / len(proofs),
        sum(one.gradient_norm for one in proofs) / len(proofs),
        math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None,
        sum(cosines) / len(cosines) if cosines else None,
    )


def _strength(step: DistillationStep, terms: Sequence[TermFigures]) -> Check:
    asked: dict[str, float | None] = {}
    for one in step.recipe.terms:
        name = one.name if one.strength is None else one.strength.of
        asked[name] = None if one.strength is None else one.strength.value
    return checks.strength(asked, {one.name: one.ratio for one in terms if one.ratio is not None})


def _headroom(
    built: stages.Built, sample: Sample, teachers: Sequence[ImageDetections], *, seconds: float, progress: Progress
) -> Iterator[Check]:
    """Teacher minus the student alone; where there is none, minus the student after as many steps as time allows."""
    opened, train = built.opened, _train(built.opened.config)
    size, config = opened.data.image, opened.config
    if opened.alone is not None:
        at = sizes.other_own_size(opened.alone, size, opened.data.val) or size
        known = {f"the student alone in {config.alone}": sample.found_by(opened.alone.detector, at, label="alone")}
    else:
        known = {}
        if opened.start is not None and opened.start.detector is not None:
            start = sample.found_by(built.step.student, size, label="the student at its start")
            known["the student as it starts"] = start
        steps = min(config.train.steps, _MOST_PROBE, int(_PROBE_SECONDS / max(seconds, 1e-9)))
        if steps >= min(_LEAST_PROBE, config.train.steps):
            bare = opened.untaught()
            try:
                student, _ = probed(bare, steps, label="train the student alone a little", progress=progress)
            except DiskError:
                raise
            except DistillError as error:
                yield replace(checks.refused("headroom", str(error)), state=LOOK)
                return
            against = f"the student alone after {steps} of {counted(config.train.steps, 'step')}"
            known[against] = sample.found_by(student, size, label="what it finds then")
    if not known:
        yield Check("headroom", OK, "not measured: steps take too long here; give the student alone by --alone RUN")
        return
    against = max(known, key=lambda name: sample.ap(known[name]) or 0.0)
    gap = sample.gap(teachers, known[against])
    if gap is None:
        difference = (sample.ap(teachers) or 0.0) - (sample.ap(known[against]) or 0.0)
        yield checks.headroom(difference, against=against, bound=opened.alone is None, train=train)
        return
    ends = gap.low, gap.high
    yield checks.headroom(gap.mean, ends, against=against, bound=opened.alone is None, train=train)


def _pixels(detector: Detector) -> str:
    part = normaliser_of(detector)
    return "a way of its own" if part is None else shown_pixels(*part.numbers())


def _source(config: RunConfig) -> str:
    return "TEACHER" if config.teacher is None else config.teacher.text


def _train(config: RunConfig) -> str:
    """The command that trains the student alone."""
    folder = config.data.sources("train")[0]
    return f"`detdistill train --detector {config.student.detector} --data {quote(str(folder))} --out RUN`"
