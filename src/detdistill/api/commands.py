"""What the command line does, callable: every command's words, their meaning and their defaults stand here alone.

Nothing imports torch before a function is called. What takes long is silent unless it is given a `progress`, such as
`detdistill.ScreenProgress()`. Whatever cannot be used raises a `DistillError` of one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detdistill.api.pieces import Place, Source, run_config
from detdistill.errors import ConfigError

if TYPE_CHECKING:
    from detdistill.jobs.data import ConvertOutcome, DataOutcome
    from detdistill.jobs.evaluate import EvaluateOutcome
    from detdistill.jobs.keys import SettingsOutcome
    from detdistill.jobs.methods import MethodsOutcome
    from detdistill.jobs.pictures import PicturesOutcome
    from detdistill.jobs.plan import RunPlan
    from detdistill.jobs.predict import PredictOutcome
    from detdistill.jobs.profile import ProfileOutcome
    from detdistill.jobs.run import GenerationsOutcome, RunOutcome
    from detdistill.progress import Progress


def train(
    *settings: Place,
    detector: str | None = None,
    data: Place | Sequence[Place] | None = None,
    init: Source | None = None,
    out: Place | None = None,
    steps: int | None = None,
    seed: int | None = None,
    allow_problems: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    keys: bool = False,
    progress: Progress | None = None,
) -> RunOutcome | RunPlan | SettingsOutcome:
    """Train a detector without a teacher.

    Args:
        settings: A config file, then settings that win over it, such as train.lr=0.01 or method.gain=2.
        detector: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/tiny or retinanet/resnet18.
        data: Data set folder, COCO JSON, or data.yaml; several are one set, with their classes united by name.
        init: Start from the weights of a run, a checkpoint or torchvision:NAME; without --detector, of the same kind.
        out: Folder of the run.
        steps: How many batches to train on; 2000 by default.
        seed: Decides everything that is drawn at random.
        allow_problems: Train even where most of a split's images or boxes had to be skipped.
        resume: Go on from the run's last checkpoint; where there is none, start.
        dry_run: Check everything, tell where, how long and on what it would train, and write nothing.
        keys: List every word and every KEY=VALUE of this command with its meaning, and stop.

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

    config = run_config(
        *settings,
        purpose="train",
        student=detector,
        data=data,
        init=init,
        out=out,
        steps=steps,
        seed=seed,
        allow_problems=allow_problems,
    )
    if dry_run:
        return plan_job(config.untaught(), resume=resume, progress=progress)
    return train_job(config, resume=resume, progress=progress)


def distill(
    *settings: Place,
    teacher: Source | None = None,
    student: str | None = None,
    data: Place | Sequence[Place] | None = None,
    method: str | None = None,
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
    progress: Progress | None = None,
) -> RunOutcome | GenerationsOutcome | RunPlan | SettingsOutcome:
    """Train a student with a teacher's help, and compare both.

    Args:
        settings: A config file, then settings that win over it, such as train.lr=0.01 or method.gain=2.
        teacher: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        student: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/resnet18.
        data: Data set folder, COCO JSON, or data.yaml; several are one set, with their classes united by name.
        method: What to distil by, such as frs, "frs + ssim" or "aid(frs, alpha=0.5)"; `detdistill methods` lists all.
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

    if generations != 1 and not itself:
        raise ConfigError(f"--generations must come with --self, got {generations} generations without it. Add --self.")
    config = run_config(
        *settings,
        purpose="distill",
        teacher=teacher,
        student=student,
        data=data,
        method=method,
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
    if dry_run:
        return plan_job(config, resume=resume, generations=generations, progress=progress)
    if generations == 1:
        return distill_job(config, resume=resume, progress=progress)
    return generations_job(config, generations=generations, resume=resume, progress=progress)


def evaluate(
    checkpoint: Source,
    /,
    *,
    data: Place,
    split: Literal["train", "val", "test"] = "val",
    protocol: str = "coco",
    backend: Literal["hotcoco", "faster", "pycocotools"] = "hotcoco",
    agnostic: bool = False,
    confusion: Place | None = None,
    score: float = 0.3,
    progress: Progress | None = None,
) -> EvaluateOutcome:
    """Measure a detector's average precision as COCO, KITTI, Pascal VOC or AID does.

    Args:
        checkpoint: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        data: Data set folder, COCO JSON, or data.yaml; for kitti and kitti11 a data set in KITTI's own layout.
        split: Which images of the folder; test where the data set has such.
        protocol: By whose rules: coco, kitti, kitti11, voc, voc11, aid, aid_merged, or what a package adds. kitti11 and
            voc11 are the older means over 11 recall points. aid is VOC's AP over Car, Pedestrian and Cyclist, all else
            ignored; aid_merged merges most other types of KITTI into these.
        backend: What computes COCO's figures; all three agree.
        agnostic: Suppress boxes across classes, for classes that look alike and pile up on one object.
        confusion: The PNG to draw the confusion matrix to: which class is taken for which, at IoU 0.5.
        score: For the confusion matrix: leave out what the detector is less sure of, 0 to 1.

    Example:
        >>> outcome = detdistill.evaluate("runs/teacher", data="my_data")
        >>> 0 <= outcome.metrics.ap50 <= 100
        True
    """
    from detdistill.jobs.evaluate import evaluate_job

    return evaluate_job(
        str(checkpoint),
        Path(data),
        split=split,
        protocol=protocol,
        backend=backend,
        agnostic=agnostic,
        confusion=None if confusion is None else Path(confusion),
        score=score,
        progress=progress,
    )


def predict(
    checkpoint: Source,
    /,
    *images: Place,
    out: Place,
    score: float = 0.3,
    agnostic: bool = False,
    progress: Progress | None = None,
) -> PredictOutcome:
    """Draw what a detector finds on images, and write it as JSON.

    Args:
        checkpoint: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        images: Image files, or folders of them.
        out: Folder for the drawings and predictions.json.
        score: Leave out what the detector is less sure of, 0 to 1.
        agnostic: Suppress boxes across classes, for classes that look alike and pile up on one object.

    Example:
        >>> outcome = detdistill.predict("runs/teacher", "photos", out="drawn")
        >>> [path.name for path in outcome.images]
        ['street.png']
    """
    from detdistill.jobs.predict import predict_job

    places = tuple(map(Path, images))
    return predict_job(str(checkpoint), places, out=Path(out), score=score, agnostic=agnostic, progress=progress)


def describe_methods(name: str | None = None, /) -> MethodsOutcome:
    """List what a student can be distilled by, or tell all about one method.

    Args:
        name: The method to tell about: formula, source, needs, settings.

    Example:
        >>> detdistill.describe_methods("frs").as_dict()["frs"]["defaults"]["warmup_steps"]
        500
    """
    from detdistill.jobs.methods import methods_job

    return methods_job(name)


def describe_settings(word: str | None = None, /, *, markdown: bool = False) -> SettingsOutcome:
    """Find the setting for what you want, such as "early stop", "GPU 1" or "more augmentation".

    Args:
        word: What it is about; without it all settings and words of commands are told.
        markdown: Print a page of Markdown, as docs/settings.md is.

    Example:
        >>> [one.key for one in detdistill.describe_settings("learning rate").settings][:1]
        ['train.lr']
    """
    from detdistill.jobs.keys import settings_job

    names = ("train", "distill", "evaluate", "predict", "methods", "settings", "profile", "pictures")
    functions = (train, distill, evaluate, predict, describe_methods, describe_settings, profile, pictures)
    commands: dict[str, Callable[..., object]] = dict(zip(names, functions, strict=True))
    commands |= {"data check": check_data, "data convert": convert_data}
    return settings_job(word, commands=commands, markdown=markdown)


def profile(
    model: Source,
    /,
    *,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    progress: Progress | None = None,
) -> ProfileOutcome:
    """Tell what a detector costs: parameters, multiply-adds, and time an image.

    Args:
        model: FAMILY/BACKBONE or FAMILY/PRESET, run folder, checkpoint, or torchvision:NAME.
        size: Height and width of the image in pixels; 224 224 by default.
        classes: How many classes a detector has that is no run; 80 by default.

    Example:
        >>> detdistill.profile("fcos/tiny", size=(64, 64), classes=3).complexity.parameters < 1e6
        True
    """
    from detdistill.jobs.profile import profile_job

    return profile_job(str(model), size=size, classes=classes, progress=progress)


def pictures(
    *,
    alone: Place,
    distilled: Place,
    teacher: Source,
    data: Place,
    out: Place,
    seed: int = 0,
    images: int = 6,
    score: float = 0.4,
    agnostic: bool = False,
    progress: Progress | None = None,
) -> PicturesOutcome:
    """Draw what student alone, distilled student and teacher find on the same images.

    Args:
        alone: Run folder of the student alone.
        distilled: Run folder of the distilled student.
        teacher: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        data: Data set folder, COCO JSON, or data.yaml; its validation images are drawn.
        out: The PNG to write.
        seed: Decides which images are drawn at random.
        images: How many of these; those where distillation changed most come on top.
        score: Leave out what a detector is less sure of, 0 to 1.
        agnostic: Suppress boxes across classes, for classes that look alike and pile up on one object.

    Example:
        >>> outcome = detdistill.pictures(
        ...     alone="runs/alone", distilled="runs/distilled", teacher="runs/teacher", data="my_data", out="found.png"
        ... )
        >>> outcome.out.is_file()
        True
    """
    from detdistill.jobs.pictures import pictures_job

    places: dict[str, Any] = {"alone": Path(alone), "distilled": Path(distilled), "data": Path(data), "out": Path(out)}
    drawn: dict[str, Any] = {"seed": seed, "images": images, "score": score, "agnostic": agnostic}
    return pictures_job(**places, **drawn, teacher=str(teacher), progress=progress)


def check_data(path: Place, /, *, progress: Progress | None = None) -> DataOutcome:
    """Read a data set as training would, and tell every problem by file and line.

    Args:
        path: Folder of a COCO, Pascal VOC, YOLO or KITTI data set, COCO JSON, or data.yaml.

    Example:
        >>> sorted(detdistill.check_data("my_data").splits)
        ['train', 'val']
    """
    from detdistill.jobs.data import check_data_job

    return check_data_job(Path(path), progress=progress)


def convert_data(
    path: Place,
    /,
    *,
    to: str,
    out: Place,
    split_seed: int | None = None,
    progress: Progress | None = None,
) -> ConvertOutcome:
    """Write a data set in another format, images as hard links where the disk allows it.

    Args:
        path: Folder of a COCO, Pascal VOC, YOLO or KITTI data set, COCO JSON, or data.yaml.
        to: The format to write: coco, voc, yolo, kitti, or one that another package adds.
        out: A new or empty folder.
        split_seed: Divides KITTI or Pascal VOC without split lists 8:2; 0 without it.

    Example:
        >>> sorted(detdistill.convert_data("my_data", to="yolo", out="as_yolo").images)
        ['train', 'val']
    """
    from detdistill.jobs.data import convert_data_job

    return convert_data_job(Path(path), to=to, out=Path(out), split_seed=split_seed, progress=progress)
