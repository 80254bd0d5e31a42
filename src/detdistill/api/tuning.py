"""The search for a method and its strength, callable: its words, meaning and defaults stand here alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detdistill.api.pieces import Place, Source, run_config
from detdistill.api.runs import going_on
from detdistill.errors import ConfigError, MissingDependencyError, installing

if TYPE_CHECKING:
    from detdistill.jobs.tune import TuneOutcome
    from detdistill.progress import Progress


def tune(
    *settings: Place,
    teacher: Source | Sequence[Source] | None = None,
    then: Source | Sequence[Source] | None = None,
    student: str | None = None,
    student_args: Sequence[str] = (),
    data: Place | Sequence[Place] | None = None,
    classes_map: str | None = None,
    methods: Sequence[str] = ("hint", "frs", "ssim", "pkd"),
    strengths: Sequence[float] = (3.0, 1.0, 10.0, 0.3),
    budget: float | None = None,
    held_out: float = 0.25,
    folds: int | None = None,
    jobs: int = 1,
    init: Source | None = None,
    out: Place | None = None,
    steps: int | None = None,
    seed: int | None = None,
    allow_problems: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> TuneOutcome:
    """Find the method and the strength that help this student on this data, or that none does.

    Trials are judged on images held out of training, never on validation, beside the student alone, which may win. One
    in four goes on at each rung, the best to all steps.

    Args:
        settings: A config file of the final training, then settings that win over it, such as train.lr=0.01.
        teacher: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS; several teach together.
        then: Teachers that follow, one after the other, each for a part of the steps.
        student: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/resnet18, hf:NAME, or a detector of your own,
            MODULE:CLASS.
        student_args: Arguments of a student of your own, such as width=24.
        data: Data set folder, COCO JSON, or data.yaml; several are one set, with their classes united by name.
        classes_map: What the teacher's classes are here, as "car=vehicle, truck=vehicle"; others go by equal names.
        methods: What to try, each at every strength; `detdistill methods` lists all.
        strengths: How strong each is tried, in that order; the student alone, strength 0, is tried in any case.
        budget: What the search may cost, in trainings of all steps; 4 unless told, and two more for each further fold.
        held_out: Share of the training images to judge by.
        folds: How often the best trial and the student alone are trained, with other images held out each time; unless
            told, as often as makes 30 held-out images.
        jobs: Trials at a time, each in a process of its own.
        init: Start from the weights of a run, a checkpoint or torchvision:NAME; without --student, of the same kind.
        out: Folder of the search, which gets tuned.yaml for `detdistill distill`.
        steps: How many batches the final training has; 2000 by default.
        seed: Decides everything that is drawn at random.
        allow_problems: Train even where most of a split's images or boxes had to be skipped.
        resume: Go on with the search where it was.

    Example:
        >>> outcome = detdistill.tune(
        ...     teacher="runs/teacher", student="fcos/tiny", data="my_data", methods=["frs"], strengths=[3],
        ...     out="runs/tuned", steps=2,
        ... )
        >>> sorted(outcome.ap)
        ['alone', 'frs(strength=3)']
    """
    from detdistill.methods.catalogue import parse_method

    try:
        from detdistill.jobs.tune import Search, tune_job
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("optuna", "sqlalchemy", "alembic"):
            raise
        raise MissingDependencyError(
            f"The search must have {error.name}, got none installed. {installing('detdistill[tune]')}"
        ) from error
    if not methods:
        raise ConfigError(
            "--methods must name at least one method, got none. Leave it out, or write for example --methods frs."
        )
    config = run_config(
        *settings,
        purpose="distill",
        teacher=teacher,
        then=then,
        classes_map=classes_map,
        student=student,
        student_args=student_args,
        data=data,
        method=methods[0],
        init=init,
        out=out,
        steps=steps,
        seed=seed,
        allow_problems=allow_problems,
    )
    search = Search(tuple(map(parse_method, methods)), tuple(strengths), budget, held_out, jobs, folds)
    with going_on():
        return tune_job(config, search, resume=resume, progress=progress)
