"""The stages of a run, each a function to call: open_inputs → build → prove → fit → measure → report.

    opened = open_inputs(config)
    fitted = fit(prove(build(opened)))
    measured = measure(opened, {"student": fitted.student})

A run without a teacher goes the same way. Every stage tells its `progress` what it does, and only `fit`, `report`,
`draw_pictures` and `count_confusion` write into the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import TwinReader
from detdistill.data.loader import Beside
from detdistill.detectors.base import Detector, require_agnostic
from detdistill.detectors.catalogue import build_detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.inherit import InheritReport, inherit
from detdistill.detectors.load_report import LoadReport
from detdistill.detectors.mapped import bare
from detdistill.detectors.preprocess import pixel_notes
from detdistill.detectors.torchvision_parts import set_image_size
from detdistill.distillation.several import together
from detdistill.distillation.startup import TermProof
from detdistill.distillation.startup import prove as prove_terms
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.distillation.term import pairing_note
from detdistill.errors import ConfigError
from detdistill.files import write_json, write_text
from detdistill.jobs import samples, sizes
from detdistill.jobs.alone import Comparison, compare_alone
from detdistill.jobs.decoded import keep_images, say_scale
from detdistill.jobs.finds import Learned, Looking, finds, finds_identity
from detdistill.jobs.grids import require_grids
from detdistill.jobs.identity import brought_up, outermost, own_identity
from detdistill.jobs.inputs import open_inputs
from detdistill.jobs.maps import maps_identity, open_maps, require_maps
from detdistill.jobs.measuring import Measured, count_confusion, draw_pictures, evaluation, measure, report
from detdistill.jobs.own import check_own
from detdistill.jobs.paths import written_from
from detdistill.jobs.samples import Opened
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.several import windows
from detdistill.jobs.unlabelled import (
    beside,
    pseudo_gain,
    require_pseudo,
    require_whole,
    unlabelled_identity,
    with_teachers_boxes,
)
from detdistill.methods.catalogue import MethodSettings, build_recipe, method_tree
from detdistill.methods.parts.choose import build_choice
from detdistill.progress import Progress, counted
from detdistill.settings.strict_yaml import dump_yaml
from detdistill.store.layout import RunFolder
from detdistill.store.lock import hold
from detdistill.store.students import load_detector, save_detector
from detdistill.training.callbacks import Callbacks
from detdistill.training.loop import TrainResult, require_resumable, train
from detdistill.training.memory import needing_memory
from detdistill.training.world import by_leader, first_on_machine, watched_by_leader
from detdistill.types import Detections

__all__ = ["Measured", "build", "count_confusion", "draw_pictures", "fit", "held", "measure", "open_inputs", "prove"]
__all__ += ["report", "require_method", "require_same_run"]

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, slots=True)
class Built:
    """What a run trains.

    Attributes:
        step: holds the student, and the teacher and the recipe where there is a teacher.
        method: the recipe's name, such as ``"aid(frs)"``; empty without a teacher.
        changes: what happens to training samples beside augmentation; twins are opened by `fit`.
        shares: of the training images that sample-specific augmentation reaches; None where it is off.
        inherited: what the student took over from the teacher; None where that was not asked for.
        started: what it took over from the detector that the run starts from; None where that was not asked for, or
            the run goes on from a checkpoint.
        alone: how the student alone differs from this one but for the teaching; None where none was given.
    """

    opened: Opened
    step: DistillationStep | SupervisedStep
    method: str
    changes: samples.SampleChanges
    shares: Mapping[str, float] | None
    inherited: InheritReport | None
    started: LoadReport | None = None
    alone: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Proved:
    """A step whose every term was seen to teach the student; without a teacher there are no proofs."""

    built: Built
    proofs: tuple[TermProof, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training, and how it went."""

    training: TrainResult

    @property
    def student(self) -> Detector:
        """The detector that counts, as the settings have it. It lies on the leader's disk."""
        return load_detector(self.training.student).detector


def build(opened: Opened, *, progress: Progress | None = None) -> Built:
    """The step that is trained: a student with its initial weights, and the terms that teach it.

    The weights are the same for every run with this seed, or that starts from the same detector, distilled or not.

    Raises:
        ConfigError: the student alone was trained otherwise, and that is not allowed for.
        CapabilityError: a detector of one's own does not do what its spec says.
    """
    watcher, config, data = watched_by_leader(progress), opened.config, opened.data
    for note in pixel_notes(config.student.settings):
        watcher.say(note)
    student = build_detector(config.student.settings, data.train.class_names, seed=config.seed)
    set_image_size(student, data.image)
    check_own(opened, student, watcher)
    started = None if opened.start is None else opened.start.initialise(student, watcher)
    if config.evaluate.agnostic:
        for detector in (student, *(one.detector for one in (opened.teacher, opened.alone) if one is not None)):
            require_agnostic(detector)
    if opened.teacher is None or config.teacher is None:
        changes = samples.own_changes(config.data)
        shares = samples.reached(changes, data, watcher)
        return Built(opened, SupervisedStep(student), "", changes, shares=shares, inherited=None, started=started)
    method = require_method(config)
    text = config.teacher.text
    inherited = inherit(student, bare(opened.teacher.detector), source=text) if config.inherit else None
    ratio = sizes.ratio_between(data.image, opened.taught_at, data.train)
    precision = _AUTOCAST.get(config.train.precision)
    seen: dict[str, Any] = {"autocast": precision, "ratio": ratio, "fold": config.teacher.fold}
    teachers = [FrozenTeacher(one.detector, **seen) for one in opened.teachers]
    for teacher in teachers if config.teacher.fold else ():
        watcher.say(f"{teacher.spec.name}: {counted(teacher.folded, 'batch norm')} folded into its convolutions")
    require_maps(opened, teachers)
    recipes = [build_recipe(method, student.spec, one.spec, seed=config.seed) for one in teachers]
    recipe = together(recipes, windows(config.teacher))
    choice = build_choice(config.teacher.choose, student.spec, [one.spec for one in teachers])
    changes = samples.recipe_changes(recipe, config.data)
    alone = None if config.alone is None else compare_alone(config.alone, opened, changes)
    if alone is not None and not config.alone_differs:
        alone.require_twin()
    measured = [samples.weighed(*both, opened, watcher) for both in zip(recipes, teachers, strict=True)]
    recipe = together(measured, windows(config.teacher))
    if recipe.learnable is not None:
        changes = replace(changes, found=Looking(opened, recipe.learnable))
    require_pseudo(student, opened)
    require_whole(opened, recipe.learnable)
    gain = pseudo_gain(opened)
    step = DistillationStep(student, teachers, recipe, pseudo_gain=gain, choice=choice).to(opened.first_device)
    shares = samples.reached(changes, data, watcher)
    return Built(opened, step, recipe.name, changes, shares, inherited=inherited, started=started, alone=alone)


def prove(built: Built, *, progress: Progress | None = None) -> Proved:
    """Says what is inherited, paired and capped, and shows on one batch that every term teaches the student.

    Raises:
        ConfigError: the student's backbone cannot learn from images of this size, or one at a time.
        DataError: no training image has a box.
        DistillError: a term is not finite, or does not reach the student.
    """
    watcher, opened, step = watched_by_leader(progress), built.opened, built.step
    for note in require_grids(step.student, opened, built.changes):
        watcher.say(note)
    if built.started is not None:
        watcher.say(f"init: {opened.config.init}: {built.started.text()}")
    if isinstance(step, SupervisedStep):
        return Proved(built, ())
    if built.inherited is not None:
        watcher.say("\n".join(built.inherited.lines()))
    if opened.taught_at != opened.data.image:
        here = opened.data.image.text()
        watcher.say(f"the teacher sees images of {opened.taught_at.text()}, the student of {here}")
    total = opened.config.train.steps
    for line in _pairing(step, opened):
        watcher.say(line)
    for note in (*step.recipe.notes, *_weighing_notes(step)):
        watcher.say(note)
    for weighted in step.recipe.terms:
        steps = weighted.warm_up.within(total)
        if steps != weighted.warm_up.steps:
            capped = f"capped at {steps} of {counted(total, 'step')}"
            watcher.say(f"{weighted.name}: warm-up of {weighted.warm_up.steps} steps {capped}")
        if weighted.until < 1:
            watcher.say(f"{weighted.name}: off after {round(weighted.until * total)} of {total} steps")
    batch = samples.batch_with_boxes(opened, built.changes)
    with needing_memory(f"{len(batch)} images of the start-up proof", remedy="Choose smaller images, or free memory"):
        proofs = prove_terms(step, batch.to(opened.first_device))
    for proof in proofs:
        watcher.say(f"start-up proof: {proof}")
    for line in step.calibration.lines():
        watcher.say(f"strength: {line}")
    return Proved(built, proofs)


def _pairing(step: DistillationStep, opened: Opened) -> Iterator[str]:
    """Which levels are paired, and of several teachers who teaches when."""
    choice = opened.config.teacher
    if choice is None or not opened.several:
        yield pairing_note(step.student.spec, step.teacher.spec)
        return
    total = opened.config.train.steps
    for source, one, window in zip(choice.sources, step.teachers, windows(choice), strict=True):
        first, last = (round(edge * total) for edge in (window.start, window.end))
        when = "" if len(choice.parts) == 1 else f" teaches from step {first} to {last}"
        yield f"{source}{when}: {pairing_note(step.student.spec, one.spec)}"
    if len(choice.parts) > 1:
        yield f"the teacher that is measured is the last: {' and '.join(choice.parts[-1])}"


def _weighing_notes(step: DistillationStep) -> Iterator[str]:
    """Says where a student learns the teacher's boxes by a loss that cannot weigh them."""
    learnable = step.recipe.learnable
    if learnable is not None and learnable.weighed and not step.student.weighs_objects:
        yield f"boxes: the loss of {step.student.spec.name} weighs no object by its score: each counts fully"


def fit(
    proved: Proved, *, until: int | None = None, callbacks: Callbacks | None = None, progress: Progress | None = None
) -> Fitted:
    """Trains into the run's folder, which gets ``config.yaml``, checkpoints and ``metrics.csv``.

    Whoever has more to do there afterwards keeps the folder to itself by `held`.

    Args:
        until: end with a checkpoint after so many steps, to go on later; None for all steps.
        callbacks: functions that hear its figures; None for none.

    Raises:
        ConfigError: other settings than those of the run that is resumed.
        DataError: an image cannot be read, or the disk has too little room for twins.
        DistillError: the loss is not finite.
        Interrupted: stopped by a signal, with the checkpoint saved.
    """
    watcher, built, step = watched_by_leader(progress), proved.built, proved.built.step
    opened, changes = built.opened, built.changes
    config, data = opened.config, opened.data
    settings, image, identity = config.train, asdict(data.image), require_same_run(proved)
    unlabelled: Beside | None = None
    if isinstance(step, SupervisedStep):
        label = f"train {config.student.detector}"
    else:
        label = f"distil {config.student.detector} by {built.method}"
        images, teacher, learnable = opened.unlabelled, identity["teacher"], step.recipe.learnable

        def found_in(images: Annotations, label: str) -> list[Detections]:
            return first_on_machine(lambda: finds(opened, images, teacher=teacher, label=label, progress=watcher))

        if learnable is not None:
            found = found_in(data.train, "training images")
            changes = replace(changes, found=Learned.of(data.train, learnable, found))
        theirs = None
        if images is not None:
            found, plain = found_in(images, "unlabelled images"), images
            theirs = None if learnable is None else Learned.of(plain, learnable, found)
            images = first_on_machine(lambda: with_teachers_boxes(opened, found, teacher=teacher, progress=watcher))

        def twins_of(images: Annotations) -> dict[str, TwinReader]:
            return first_on_machine(lambda: samples.open_twins(step.recipe, step.teacher, opened, images, watcher))

        twins = twins_of(data.train)
        kept = first_on_machine(lambda: open_maps(opened, step, teacher=teacher, progress=watcher))
        if kept is not None:
            step.replays, changes = kept.replays, replace(changes, kept=kept.labelled)
        changes = replace(changes, twins=twins)
        if images is not None:
            others, size = twins_of(images), settings.batch_size
            places = None if kept is None else kept.unlabelled
            decoded = keep_images(opened, changes, images)
            unlabelled = beside(
                opened, images, changes, twins=others, found=theirs, kept=places, decoded=decoded, batch_size=size
            )
    changes = replace(changes, decoded=keep_images(opened, changes, data.train))
    say_scale(opened, changes, watcher)
    result = train(
        step,
        settings,
        loader=samples.batches_for(opened, changes, settings, beside=unlabelled),
        save_student=lambda student, place: save_detector(student, place, image=image),
        folder=config.out,
        resume=opened.resume,
        begin=lambda: _describe(built),
        progress=watcher,
        label=label,
        identity=identity,
        evaluate=evaluation(opened) if settings.evaluate_every else None,
        brought_up=brought_up,
        until=until,
        config=_as_run(opened).as_dict(),
        callbacks=callbacks,
    )
    return Fitted(training=result)


def require_same_run(proved: Proved) -> dict[str, Any]:
    """What must stay the same of a run beside its training settings; nothing is written.

    Raises:
        ConfigError: it is to be resumed, and began as another one.
    """
    built, step = proved.built, proved.built.step
    opened, config = built.opened, built.opened.config
    identity = own_identity(opened)
    if isinstance(step, SupervisedStep):
        identity |= {"method": None}
    else:
        identity |= {
            "method": outermost(method_tree(require_method(config))),
            "teacher": step.digest(),
            **({"fold": True} if config.teacher is not None and config.teacher.fold else {}),
            **_class_identity(opened),
            **built.changes.identity(),
            **unlabelled_identity(opened),
            **({"teacher_image": asdict(theirs)} if (theirs := opened.found_at or opened.teacher_image) else {}),
            **({"twins": sorted(samples.kept_twins(step.recipe, opened))} if step.recipe.twins else {}),
            **({} if step.recipe.learnable is None else {"finds": finds_identity(opened)}),
            **maps_identity(opened, step),
        }
    if opened.resume:
        by_leader(lambda: require_resumable(config.out, config.train, identity=identity, brought_up=brought_up))
    return identity


def _class_identity(opened: Opened) -> dict[str, Any]:
    """What teachers are in the data's classes, and how several of them share the run."""
    maps = [None if one.report.classes is None else one.report.classes.as_dict() for one in opened.teachers]
    found: dict[str, Any] = {"classes_map": maps if opened.several else maps[0]} if any(maps) else {}
    choice = opened.config.teacher
    if choice is not None and opened.several:
        found |= {"teachers": {"choose": choice.choose, "parts": [asdict(one) for one in windows(choice)]}}
    return found


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder, on the machine of the process that leads.

    Raises:
        ConfigError: another one is at work there.
    """
    with ExitStack() as stack:
        by_leader(lambda: stack.enter_context(hold(folder)))
        yield


def _describe(built: Built) -> None:
    """Writes what a run is into its folder, before its first step."""
    opened, folder = built.opened, RunFolder(built.opened.config.out)
    write_text(folder.config, dump_yaml(written_from(_as_run(opened).as_dict(), folder.path)))
    if opened.start is not None and built.started is not None:
        opened.start.write(folder, built.started)
    if built.inherited is not None:
        write_json(folder.inherited, built.inherited.as_dict())


def _as_run(opened: Opened) -> RunConfig:
    """The settings with every size of images as it turned out."""
    config, teacher = opened.config, opened.config.teacher
    if teacher is not None and teacher.image is not None:
        teacher = replace(teacher, image=opened.taught_at)
    return replace(config, data=replace(config.data, image=opened.data.image), teacher=teacher)


def require_method(config: RunConfig) -> MethodSettings:
    """The method of a distillation; refused where the run has none, or no teacher."""
    if config.teacher is None or config.method is None:
        missing = "teacher" if config.teacher is None else "method"
        raise ConfigError(f"A distillation must have a {missing}, got none. Pass --{missing}.")
    return config.method
