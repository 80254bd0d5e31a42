"""What looks at a distillation before it begins, callable: its words, meaning and defaults stand here alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detdistill.api.pieces import Place, Source, run_config, typed
from detdistill.errors import ConfigError

if TYPE_CHECKING:
    from detdistill.jobs.doctor import DoctorOutcome
    from detdistill.jobs.teachers import TeachersOutcome
    from detdistill.progress import Progress


def doctor(
    *settings: Place,
    teacher: Source | Sequence[Source] | None = None,
    then: Source | Sequence[Source] | None = None,
    teachers: Sequence[str] = (),
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
    progress: Progress | None = None,
) -> DoctorOutcome | TeachersOutcome:
    """Look at a distillation for two minutes before it begins: what is wrong with it, and what helps.

    Words as for distill. A line for each check says ok, look at this or will fail; nothing is written. With several
    teachers it tells by short trainings which of them helps this student most.

    Args:
        settings: A config file, then settings that win over it, such as train.lr=0.01 or method.gain=2.
        teacher: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS; several teach together.
        then: Teachers that follow, one after the other, each for a part of the steps.
        teachers: Instead of --teacher: those to rank, each by a short training, several minutes in all.
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
        out: Folder that the run would have.
        alone: Run folder of the same student trained alone, to show it beside; another one is refused.
        alone_differs: Take --alone although it was trained otherwise, and say in what beside the figures.
        equal_time: Train the student alone as well, for as long as its distillation took.
        longer: Train the student alone as well, for so many times the steps, such as 2.
        steps: How many batches to train on; 2000 by default.
        seed: Decides everything that is drawn at random.
        allow_problems: Train even where most of a split's images or boxes had to be skipped.
        resume: Look at the run as it would go on from its last checkpoint.

    Example:
        >>> outcome = detdistill.doctor(
        ...     teacher="runs/teacher", student="fcos/tiny", data="my_data", method="frs", out="runs/new", steps=2
        ... )
        >>> outcome.failure is None, next(one.state for one in outcome.checks if one.name == "levels")
        (True, 'ok')
    """
    from detdistill.jobs.doctor import doctor_job
    from detdistill.jobs.teachers import teachers_job

    if teacher is not None and teachers:
        raise ConfigError(f"--teacher must be left out where --teachers are given, got {teacher}. Leave it out.")
    several = [typed(place) for word in teachers for place in _places(str(word))]
    config = run_config(
        *settings,
        purpose="distill",
        teacher=several[0] if several else teacher,
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
    if several:
        return teachers_job(config, several, progress=progress)
    return doctor_job(config, resume=resume, generations=generations, progress=progress)


def _places(word: str) -> list[str]:
    """Several places with commas between them, or one whose name has some."""
    return [word] if Path(word).exists() else [place for place in word.split(",") if place]
