"""The proof of gain, callable: its words, meaning and defaults stand here alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detdistill.api.pieces import Place, Source, run_config
from detdistill.api.runs import going_on
from detdistill.errors import ConfigError

if TYPE_CHECKING:
    from detdistill.jobs.keys import SettingsOutcome
    from detdistill.jobs.prove import StudyPlan
    from detdistill.jobs.verdicts import ProveOutcome
    from detdistill.progress import Progress


def prove(
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
    inherit: bool = False,
    init: Source | None = None,
    seeds: int = 3,
    equal_time: bool = False,
    worth: float = 0.5,
    jobs: int = 1,
    runs: Sequence[Place] | None = None,
    against: Sequence[Place] | None = None,
    out: Place | None = None,
    steps: int | None = None,
    seed: int | None = None,
    allow_problems: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    keys: bool = False,
    progress: Progress | None = None,
) -> ProveOutcome | StudyPlan | SettingsOutcome:
    """Tell whether distillation helps: train students alone and distilled, and judge by a rule fixed beforehand.

    Twins have the same initial weights, images, order and schedule. The interval is over other seeds and other images.

    Args:
        settings: A config file of the distillation, then settings that win over it, such as train.lr=0.01.
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
        inherit: Let the distilled student's neck and heads start from the teacher's weights.
        init: Start from the weights of a run, a checkpoint or torchvision:NAME; without --student, of the same kind.
        seeds: How many pairs of students, from --seed on.
        equal_time: Train each student alone a second time, for as long as its distillation took, and judge that too.
        worth: The gain in points of AP that makes distillation worth it.
        jobs: Trainings at a time, each in a process of its own.
        runs: Train nothing: distilled students that were trained elsewhere, as run folders or COCO results JSON.
        against: With --runs: their twins alone, in the same order.
        out: Folder of the study, with verdict.json, verdict.png and the runs of every seed.
        steps: How many batches to train on; 2000 by default.
        seed: The first seed.
        allow_problems: Train even where most of a split's images or boxes had to be skipped.
        resume: Go on with the study where it was, also with more seeds.
        dry_run: Check everything, tell what all runs would do and how long they take, and write nothing.
        keys: List every word and every KEY=VALUE of this command with its meaning, and stop.

    Example:
        >>> outcome = detdistill.prove(
        ...     teacher="runs/teacher", student="fcos/tiny", data="my_data", method="hint", seeds=1, out="runs/study",
        ...     steps=2,
        ... )
        >>> outcome.verdict.kind in ("gains", "hurts", "no measurable effect")
        True
    """
    if keys:
        from detdistill.jobs.keys import command_settings

        return command_settings("prove", prove, detector=student, method=method)
    training: dict[str, Any] = {
        "teacher": teacher,
        "then": then,
        "classes_map": classes_map,
        "student": student,
        "student_args": student_args,
        "unlabelled": unlabelled,
        "method": method,
        "strength": strength,
        "itself": itself,
        "inherit": inherit,
        "init": init,
        "equal_time": equal_time,
        "steps": steps,
        "seed": seed,
    }
    if runs is not None or against is not None:
        from detdistill.jobs.given_runs import compare_job

        needless = {**training, "settings": settings, "dry_run": dry_run}
        if named := [name for name, value in needless.items() if value not in (None, False, ())]:
            raise ConfigError(
                f"--runs and --against must come without what trains students, got {named[0]} as well. Leave that out."
            )
        places = [] if data is None else [data] if isinstance(data, (str, Path)) else list(data)
        if out is None or len(places) > 1:
            missing = "--out FOLDER" if out is None else "one --data FOLDER"
            raise ConfigError(f"--runs must come with {missing}, got {len(places) or 'none'}. Pass {missing}.")
        return compare_job(
            tuple(map(Path, runs or ())),
            tuple(map(Path, against or ())),
            out=Path(out),
            data=Path(places[0]) if places else None,
            worth=worth,
            allow_problems=allow_problems,
            resume=resume,
            progress=progress,
        )
    from detdistill.jobs.prove import Study, prove_job, prove_plan

    study = Study(seeds=seeds, worth=worth, jobs=jobs)
    config = run_config(*settings, purpose="distill", data=data, out=out, allow_problems=allow_problems, **training)
    if dry_run:
        return prove_plan(config, study, resume=resume, progress=progress)
    with going_on():
        return prove_job(config, study, resume=resume, progress=progress)
