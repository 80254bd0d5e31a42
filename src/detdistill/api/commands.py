"""What the command line does, callable: every command's words, their meaning and their defaults stand here alone.

Nothing imports torch before a function is called. What takes long is silent unless it is given a `progress`, such as
`detdistill.ScreenProgress()`. Whatever cannot be used raises a `DistillError` of one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detdistill.api.checking import doctor
from detdistill.api.pieces import Place, Source, typed
from detdistill.api.proving import prove
from detdistill.api.runs import distill, train
from detdistill.api.showing import export_detector, push, write_report

if TYPE_CHECKING:
    from detdistill.jobs.audit import AuditOutcome
    from detdistill.jobs.data import ConvertOutcome, DataOutcome
    from detdistill.jobs.diagnose import DiagnoseOutcome
    from detdistill.jobs.evaluate import EvaluateOutcome
    from detdistill.jobs.keys import SettingsOutcome
    from detdistill.jobs.methods import MethodsOutcome
    from detdistill.jobs.pairs import PairsOutcome
    from detdistill.jobs.pictures import PicturesOutcome
    from detdistill.jobs.predict import PredictOutcome
    from detdistill.jobs.profile import ProfileOutcome
    from detdistill.progress import Progress


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
    curves: Place | None = None,
    score: float = 0.3,
    interval: bool = False,
    progress: Progress | None = None,
) -> EvaluateOutcome:
    """Measure a detector's average precision as COCO, KITTI, Pascal VOC or AID does.

    Args:
        checkpoint: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS.
        data: Data set folder, COCO JSON, or data.yaml; for kitti and kitti11 a data set in KITTI's own layout.
        split: Which images of the folder; test where the data set has such.
        protocol: By whose rules: coco, kitti, kitti11, voc, voc11, aid, aid_merged, or what a package adds. kitti11 and
            voc11 are the older means over 11 recall points. aid is VOC's AP over Car, Pedestrian and Cyclist, all else
            ignored; aid_merged merges most other types of KITTI into these.
        backend: What computes COCO's figures; all three agree.
        agnostic: Suppress boxes across classes, for classes that look alike and pile up on one object.
        confusion: The PNG to draw the confusion matrix to: which class is taken for which, at IoU 0.5.
        curves: The PNG to draw precision against recall to, of every class, at IoU 0.5.
        score: For the confusion matrix: leave out what the detector is less sure of, 0 to 1.
        interval: Also tell how far COCO's figures may be off for these few images: 95 % intervals by a bootstrap.

    Example:
        >>> outcome = detdistill.evaluate("runs/teacher", data="my_data")
        >>> 0 <= outcome.metrics.ap50 <= 100
        True
    """
    from detdistill.jobs.evaluate import evaluate_job

    return evaluate_job(
        typed(checkpoint),
        Path(data),
        split=split,
        protocol=protocol,
        backend=backend,
        agnostic=agnostic,
        confusion=None if confusion is None else Path(confusion),
        curves=None if curves is None else Path(curves),
        score=score,
        interval=interval,
        progress=progress,
    )


def predict(
    checkpoint: Source,
    /,
    *images: Place,
    data: Place | None = None,
    out: Place | None = None,
    score: float = 0.3,
    agnostic: bool = False,
    coco: Place | None = None,
    class_scores: bool = False,
    frames: bool = False,
    progress: Progress | None = None,
) -> PredictOutcome:
    """Draw what a detector finds on images and videos, and write it as JSON.

    Args:
        checkpoint: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS.
        images: Image and video files, or folders of them.
        data: A data set, all images of whose splits are looked at too.
        out: Folder for the drawings and predictions.json; without it nothing is drawn.
        score: Leave out what the detector is less sure of, 0 to 1.
        agnostic: Suppress boxes across classes, for classes that look alike and pile up on one object.
        coco: Also write what was found as a COCO JSON that --data and --teacher read, in a folder with all images in
            or below it.
        class_scores: Write the score of every class of each box into that JSON too, where the detector says them.
        frames: Draw each frame of a video to a PNG, in a folder of its own, instead of a video.

    Example:
        >>> outcome = detdistill.predict("runs/teacher", "photos", out="drawn")
        >>> [path.name for path in outcome.images]
        ['street.png']
    """
    from detdistill.jobs.predict import predict_job

    folder, labels, whole = (None if one is None else Path(one) for one in (out, coco, data))
    return predict_job(
        typed(checkpoint),
        tuple(map(Path, images)),
        data=whole,
        out=folder,
        score=score,
        agnostic=agnostic,
        coco=labels,
        class_scores=class_scores,
        frames=frames,
        progress=progress,
    )


def describe_methods(
    name: str | None = None,
    /,
    *,
    pair: tuple[str, str] | None = None,
    markdown: bool = False,
    progress: Progress | None = None,
) -> MethodsOutcome | PairsOutcome:
    """List what a student can be distilled by, tell all about one method, or which work between two detectors.

    Args:
        name: The method to tell about: formula, source, needs, settings.
        pair: A teacher and a student, by name or where they lie: whether each method works between them, or why not.
        markdown: Make a page of what works between which detectors.

    Example:
        >>> detdistill.describe_methods("frs").as_dict()["frs"]["defaults"]["warmup_steps"]
        500
    """
    from detdistill.jobs.methods import methods_job

    if pair is not None or markdown:
        from detdistill.jobs.pairs import every_pair, pair_job

        teacher, student = map(typed, pair or ("", ""))
        return every_pair() if markdown else pair_job(teacher, student, progress=progress)
    return methods_job(name)


def describe_settings(*words: str, markdown: bool = False) -> SettingsOutcome:
    """Find the setting for what you want, such as "early stop", "GPU 1" or "more augmentation".

    Args:
        words: What it is about; without any all settings and words of commands are told.
        markdown: Print a page of Markdown, as docs/settings.md is.

    Example:
        >>> [one.key for one in detdistill.describe_settings("learning rate").settings][:1]
        ['train.lr']
    """
    from detdistill.jobs.keys import settings_job

    commands: dict[str, Callable[..., object]] = {
        "train": train,
        "distill": distill,
        "doctor": doctor,
        "prove": prove,
        "evaluate": evaluate,
        "predict": predict,
        "methods": describe_methods,
        "settings": describe_settings,
        "profile": profile,
        "pictures": pictures,
        "report": write_report,
        "push": push,
        "diagnose": diagnose,
        "export": export_detector,
        "data check": check_data,
        "data convert": convert_data,
        "data audit": audit_data,
    }
    return settings_job(" ".join(words) or None, commands=commands, markdown=markdown)


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
        model: FAMILY/BACKBONE or FAMILY/PRESET, run folder, checkpoint, torchvision:NAME, hf:NAME, or MODULE:CLASS.
        size: Height and width of the image in pixels; 224 224 by default.
        classes: How many classes a detector has that is no run; 80 by default.

    Example:
        >>> detdistill.profile("fcos/tiny", size=(64, 64), classes=3).complexity.parameters < 1e6
        True
    """
    from detdistill.jobs.profile import profile_job

    return profile_job(typed(model), size=size, classes=classes, progress=progress)


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
        teacher: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS.
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
    return pictures_job(**places, **drawn, teacher=typed(teacher), progress=progress)


def diagnose(run: Place, /, *, alone: Place | None = None, progress: Progress | None = None) -> DiagnoseOutcome:
    """Tell why a distilled student is no better than the student alone: likely causes, their figures, what to do.

    Args:
        run: Run folder of the distilled student.
        alone: Run folder of the student alone; without it the one that the distillation was given.

    Example:
        >>> outcome = detdistill.diagnose("runs/distilled", alone="runs/alone")
        >>> "no twin" in [cause.name for cause in outcome.diagnosis.causes]
        True
    """
    from detdistill.jobs.diagnose import diagnose_job

    return diagnose_job(Path(run), alone=None if alone is None else Path(alone), progress=progress)


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


def audit_data(
    path: Place,
    /,
    *,
    teacher: Source,
    out: Place,
    split: Literal["train", "val", "test"] = "train",
    score: float = 0.3,
    images: int = 20,
    progress: Progress | None = None,
) -> AuditOutcome:
    """Find labels that are likely to be wrong: missing boxes, wrong classes, boxes that are off, labels of nothing.

    Args:
        path: Folder of a COCO, Pascal VOC, YOLO or KITTI data set, COCO JSON, or data.yaml; nothing in it is changed.
        teacher: Run folder, checkpoint, torchvision:NAME[=FILE.pth], hf:FOLDER, FILE.onnx, FILE.json, or
            MODULE:CLASS=WEIGHTS; it may have learned from these very labels.
        out: Folder for findings.csv, findings.png and proposals.json, the labels in COCO's form with the proposals.
        split: Which images of the folder; test where the data set has such.
        score: Leave out what is less likely, 0 to 1; the score ranks, and is no probability.
        images: How many findings to draw, the likeliest first.

    Example:
        >>> outcome = detdistill.audit_data("my_data", teacher="runs/teacher", out="audit", score=0)
        >>> sorted(path.name for path in outcome.out.iterdir())
        ['findings.csv', 'findings.png', 'proposals.json']
    """
    from detdistill.jobs.audit import audit_job

    return audit_job(
        Path(path), teacher=typed(teacher), out=Path(out), split=split, score=score, images=images, progress=progress
    )
