"""The commands that train, callable: their words, meaning and defaults stand here alone; see `api.commands`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from detdistill.api.pieces import Place, Source, run_config
from detdistill.errors import ConfigError, DiskError, OutsideError
from detdistill.outside import telling

if TYPE_CHECKING:
    from detdistill.jobs.keys import SettingsOutcome
    from detdistill.jobs.plan import RunPlan
    from detdistill.jobs.run import GenerationsOutcome, RunOutcome
    from detdistill.progress import Progress
    from detdistill.training.callbacks import EvaluationFigures, StepFigures


def train(
    *settings: Place,
    detector: str | None = None,
    detector_args: Sequence[str] = (),
    data: Place | Sequence[Place] | None = None,
    init: Source | None = None,
    out: Place | None = None,
    steps: int | None = None,
    seed: int | None = None,
    allow_problems: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    keys: bool = False,
    on_step: Callable[[StepFigures], object] | None = None,
    on_evaluation: Callable[[EvaluationFigures], object] | None = None,
    progress: Progress | None = None,
) -> RunOutcome | RunPlan | SettingsOutcome:
    """Train a detector without a teacher.

    Args:
        settings: A config file, then settings that win over it, such as train.lr=0.01 or method.gain=2.
        detector: FAMILY/PRESET or FAMILY/BACKBONE, such as retinanet/resnet18, hf:NAME, or your own, MODULE:CLASS.
        detector_args: Arguments of a detector of your own, such as width=24.
        data: Data set folder, COCO JSON, or data.yaml; several are one set, with their classes united by name.
        init: Start from the weights of a run, a checkpoint or torchvision:NAME; without --detector, of the same kind.
        out: Folder of the run.
        steps: How many batches to train on; 2000 by default.
        seed: Decides everything that is drawn at random.
        allow_problems: Train even where most of a split's images or boxes had to be skipped.
        resume: Go on from the run's last checkpoint; where there is none, start.
        dry_run: Check everything, tell where, how long and on what it would train, and write nothing.
        keys: List every word and every KEY=VALUE of this command with its meaning, and stop.
        on_step: In Python: told every row of metrics.csv (train.log_every); where it returns True, the run stops.
        on_evaluation: In Python: told every row of evaluations.csv (train.evaluate_every), likewise.

    Example:
        >>> outcome = detdistill.train("seed=3", detector="fcos/tiny", data="my_data", out="runs/alone", steps=2)
        >>> outcome.steps
        2
    """
    if keys:
        from detdistill.jobs.keys import command_settings

        return command_settings("train", train, detector=detector)
    from detdistill.jobs.plan import plan_job
    from detdistill.jobs.run import train_job
    from detdistill.training.callbacks import Callbacks

    config = run_config(
        *settings,
        purpose="train",
        student=detector,
        student_args=detector_args,
        data=data,
        init=init,
        out=out,
        steps=steps,
        seed=seed,
        allow_problems=allow_problems,
    )
    callbacks = Callbacks(on_step, on_evaluation)
    callbacks.require(config.train)
    if dry_run:
        return plan_job(config.untaught(), resume=resume, progress=progress)
    with going_on():
        return train_job(config, resume=resume, callbacks=callbacks, progress=progress)


@contextmanager
def going_on() -> Iterator[None]:
    """What the disk refuses a run, or code from outside fails at, ends it, and it goes on by --resume."""
    try:
        with telling(OutsideError.during):
            yield
    except DiskError as error:
        raise error.of_run() from error


def distill(
    *settings: Place,
    teacher: Source | Sequence[Source] | None = None,
    then: Source | Sequence[Source] | None = None,
    student: str | None = None,
    student_args: Sequence[str] = (),
    data: Place | Sequence[Place] | None = None,
    classes_map: str | None = None,
    unlabelled: Place | None = None,
    method: str | None = None,
    strength: float | Literal["published"] | None = None,
    itself: bool = False,
    generations: int = 1,
    inherit: bool = False,
    init: Source | None = None,
    out: Place | None = None,
    alone: Place | None = None,
    alone_differs: bool = False,
    equal_time: bool = False,
    longer: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    allow_problems: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    keys: bool = False,
    on_step: Callable[[StepFigures], object] | None = None,
    on_evaluation: Callable[[EvaluationFigures], object] | None = None,
    progress: Progress | None = None,
) -> RunOutcome | GenerationsOutcome | RunPlan | SettingsOutcome:
    """Train a student with a teacher's help, and compare both.

    Args:
        settings: A config file, then settings that win over it, such as train.lr=0.01 or method.gain=2.
        teacher: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS; several teach together.
        then: Teachers that follow, one after the other, each for a part of the steps.
        student: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/resnet18, hf:NAME, or a detector of your own,
            MODULE:CLASS.
        student_args: Arguments of a student of your own, such as width=24.
        data: Data set folder, COCO JSON, or data.yaml; several are one set, with their classes united by name.
        classes_map: What the teacher's classes are here, as "car=vehicle, truck=vehicle"; others go by equal names.
        unlabelled: Folder of images without labels, or a list of them, which the distillation sees beside the labelled.
        method: What to distil by, such as frs, "frs + ssim" or "aid(frs, alpha=0.5)"; `detdistill methods` lists all.
        strength: How strong the method is beside the labels, 3 by default; published takes its gains as they are.
        itself: Self-distillation: the student has its teacher's architecture.
        generations: With --self: how many students, each taught by the one before.
        inherit: Let the student's neck and heads start from the teacher's weights.
        init: Start from the weights of a run, a checkpoint or torchvision:NAME; without --student, of the same kind.
        out: Folder of the run.
        alone: Run folder of the same student trained alone, to show it beside; another one is refused.
        alone_differs: Take --alone although it was trained otherwise, and say in what beside the figures.
        equal_time: Train the student alone as well, for as long as its distillation took.
        longer: Train the student alone as well, for so many times the steps, such as 2.
        steps: How many batches to train on; 2000 by default.
        seed: Decides everything that is drawn at random.
        allow_problems: Train even where most of a split's images or boxes had to be skipped.
        resume: Go on from the run's last checkpoint; where there is none, start.
        dry_run: Check everything, tell where, how long and on what it would train, and write nothing.
        keys: List every word and every KEY=VALUE of this command with its meaning, and stop.
        on_step: In Python: told every row of metrics.csv (train.log_every); where it returns True, the run stops.
        on_evaluation: In Python: told every row of evaluations.csv (train.evaluate_every), likewise.

    Example:
        >>> outcome = detdistill.distill(
        ...     teacher="runs/teacher", student="fcos/tiny", data="my_data", method="aid(frs)",
        ...     out="runs/distilled", steps=2,
        ... )
        >>> outcome.method, sorted(outcome.results)
        ('aid(frs)', ['alone', 'distilled', 'teacher'])
    """
    if keys:
        from detdistill.jobs.keys import command_settings

        return command_settings("distill", distill, detector=student, method=method)
    from detdistill.jobs.plan import plan_job
    from detdistill.jobs.run import distill_job, generations_job
    from detdistill.training.callbacks import Callbacks

    if generations != 1 and not itself:
        raise ConfigError(f"--generations must come with --self, got {generations} generations without it. Add --self.")
    config = run_config(
        *settings,
        purpose="distill",
        teacher=teacher,
        then=then,
        student=student,
        student_args=student_args,
        data=data,
        classes_map=classes_map,
        unlabelled=unlabelled,
        method=method,
        strength=strength,
        itself=itself,
        inherit=inherit,
        init=init,
        out=out,
        alone=alone,
        alone_differs=alone_differs,
        equal_time=equal_time,
        longer=longer,
        steps=steps,
        seed=seed,
        allow_problems=allow_problems,
    )
    callbacks = Callbacks(on_step, on_evaluation)
    callbacks.require(config.train)
    if dry_run:
        return plan_job(config, resume=resume, generations=generations, progress=progress)
    with going_on():
        if generations == 1:
            return distill_job(config, resume=resume, callbacks=callbacks, progress=progress)
        return generations_job(config, generations=generations, resume=resume, callbacks=callbacks, progress=progress)
