"""One function per command: options in, a job called, its table printed. Imports stand inside: see the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from detdistill.cli.watch import watched
from detdistill.errors import ConfigError

Flag = Annotated[bool, Parameter(negative=())]
Arguments = Annotated[
    str,
    Parameter(
        name="CONFIG.yaml KEY=VALUE",
        help="A config file, then settings that win over it, such as train.lr=0.01 or method.gain=2.",
    ),
]


def demo(*, out: Path = Path("runs/demo"), seed: int = 0, json: Path | None = None) -> None:
    """Draw scenes, train a teacher, a student alone and a distilled one, and compare them.

    Args:
        out: Folder of the run.
        seed: Decides the scenes, the weights and the order of the images.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.demo import demo_job

    show(watched(lambda progress: demo_job(out=out, seed=seed, progress=progress)), json=json)


def train(
    *arguments: Arguments,
    detector: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    resume: Flag = False,
    json: Path | None = None,
) -> None:
    """Train a detector without a teacher.

    Args:
        detector: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/tiny or retinanet/resnet18.
        data: Data set folder, COCO JSON, or data.yaml.
        out: Folder of the run.
        steps: How long to train.
        seed: Decides everything that is drawn at random.
        resume: Go on from the run's last checkpoint; where there is none, start.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.config import read_run_config
    from detdistill.jobs.train import train_job

    file, settings = split_arguments(arguments)
    options = {"student.detector": detector, "data.folder": data, "out": out, "train.steps": steps, "seed": seed}
    config = read_run_config(file, settings, purpose="train", options=options)
    show(watched(lambda progress: train_job(config, resume=resume, progress=progress)), json=json)


def distill(
    *arguments: Arguments,
    teacher: str | None = None,
    student: str | None = None,
    data: Path | None = None,
    method: str | None = None,
    itself: Annotated[bool, Parameter(name="--self", negative=())] = False,
    generations: int = 1,
    inherit: Flag = False,
    out: Path | None = None,
    alone: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    resume: Flag = False,
    json: Path | None = None,
) -> None:
    """Train a student with a teacher's help, and compare both.

    Args:
        teacher: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        student: FAMILY/PRESET or FAMILY/BACKBONE, such as fcos/resnet18.
        data: Data set folder, COCO JSON, or data.yaml.
        method: What to distil by, such as frs, "frs + ssim" or "aid(frs, alpha=0.5)"; `detdistill methods` lists all.
        itself: Self-distillation: the student has its teacher's architecture.
        generations: With --self: how many students, each taught by the one before.
        inherit: Let the student's neck and heads start from the teacher's weights.
        out: Folder of the run.
        alone: Run folder of the same student trained alone, to show it beside.
        steps: How long to train.
        seed: Decides everything that is drawn at random.
        resume: Go on from the run's last checkpoint; where there is none, start.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.config import read_run_config
    from detdistill.jobs.distill import distill_job
    from detdistill.jobs.generations import generations_job

    file, settings = split_arguments(arguments)
    if generations != 1 and not itself:
        raise ConfigError(f"--generations must come with --self, got {generations} generations without it. Add --self.")
    options = {
        "teacher.source": teacher,
        "student.detector": student,
        "data.folder": data,
        "method.name": method,
        "inherit": inherit or None,
        "out": out,
        "alone": alone,
        "train.steps": steps,
        "seed": seed,
    }
    config = read_run_config(file, settings, purpose="distill", options=options, itself=itself)
    if generations == 1:
        show(watched(lambda progress: distill_job(config, resume=resume, progress=progress)), json=json)
        return
    chain = watched(lambda progress: generations_job(config, generations=generations, resume=resume, progress=progress))
    show(chain, json=json)


def evaluate(
    checkpoint: str,
    /,
    *,
    data: Path,
    split: Literal["train", "val"] = "val",
    protocol: Literal["coco", "kitti", "kitti11", "voc", "voc11", "aid", "aid_merged"] = "coco",
    backend: Literal["hotcoco", "faster", "pycocotools"] = "hotcoco",
    json: Path | None = None,
) -> None:
    """Measure a detector's average precision as COCO, KITTI, Pascal VOC or AID does.

    Args:
        checkpoint: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        data: Data set folder, COCO JSON, or data.yaml; for kitti and kitti11 a data set in KITTI's own layout.
        split: Which images of the folder.
        protocol: By whose rules. kitti11 and voc11 are the older means over 11 recall points. aid is VOC's AP over
            Car, Pedestrian and Cyclist, all else ignored; aid_merged merges most other types of KITTI into these.
        backend: What computes COCO's figures; all three agree.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.evaluate import evaluate_job

    outcome = watched(
        lambda progress: evaluate_job(
            checkpoint, data, split=split, protocol=protocol, backend=backend, progress=progress
        )
    )
    show(outcome, json=json)


def predict(checkpoint: str, /, *images: Path, out: Path, score: float = 0.3, json: Path | None = None) -> None:
    """Draw what a detector finds on images, and write it as JSON.

    Args:
        checkpoint: Run folder, checkpoint, or torchvision:NAME[=FILE.pth].
        images: Image files, or folders of them.
        out: Folder for the drawings and predictions.json.
        score: Leave out what the detector is less sure of, 0 to 1.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.predict import predict_job

    if not images:
        raise ConfigError(
            "predict must be given an image or a folder of images, got none. "
            "Write detdistill predict CHECKPOINT IMAGE --out DIR."
        )
    show(watched(lambda progress: predict_job(checkpoint, images, out=out, score=score, progress=progress)), json=json)


def methods(name: str | None = None, /, *, json: Path | None = None) -> None:
    """List what a student can be distilled by, or tell all about one method.

    Args:
        name: The method to tell about: formula, source, needs, settings.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.methods import methods_job

    show(methods_job(name), json=json)


def profile(
    model: str,
    /,
    *,
    size: Annotated[tuple[int, int] | None, Parameter(negative=())] = None,
    classes: int | None = None,
    json: Path | None = None,
) -> None:
    """Tell what a detector costs: parameters, multiply-adds, and time an image.

    Args:
        model: FAMILY/BACKBONE or FAMILY/PRESET, run folder, checkpoint, or torchvision:NAME.
        size: Height and width of the image in pixels; 224 224 by default.
        classes: How many classes a detector has that is no run; 80 by default.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.profile import profile_job

    show(watched(lambda progress: profile_job(model, size=size, classes=classes, progress=progress)), json=json)


def reproduce(
    paper: Literal["aid", "frs", "ssim", "ikd"],
    /,
    *,
    row: str | None = None,
    data: Path | None = None,
    scale: Literal["smoke", "full"] = "smoke",
    plan: Flag = False,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Train a paper's rows and print our figures beside the published ones.

    Args:
        paper: Whose tables.
        row: One row alone, and the one it is measured against; without it all rows.
        data: Folder of the data sets: kitti and coco at full scale, small ones at smoke scale.
        scale: smoke tests the code in minutes; full is the paper's own size and needs its data and a GPU.
        plan: At full scale: check the data, estimate time and disk, and stop.
        out: Folder of runs and table; runs/reproduce-SCALE by default. What is finished there is not trained again.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.papers.reproduce import reproduce_job

    outcome = watched(
        lambda progress: reproduce_job(
            paper, row=row, data=data, scale=scale, out=out, plan_only=plan, progress=progress
        )
    )
    show(outcome, json=json)


def pictures(
    *,
    alone: Path,
    distilled: Path,
    teacher: str,
    data: Path,
    out: Path,
    seed: int = 0,
    images: int = 6,
    score: float = 0.4,
    json: Path | None = None,
) -> None:
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
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.pictures import pictures_job

    outcome = watched(
        lambda progress: pictures_job(
            alone=alone,
            distilled=distilled,
            teacher=teacher,
            data=data,
            out=out,
            seed=seed,
            images=images,
            score=score,
            progress=progress,
        )
    )
    show(outcome, json=json)


def split_arguments(arguments: tuple[str, ...]) -> tuple[Path | None, tuple[str, ...]]:
    """The config file, where the first argument is one, and the ``key=value`` settings.

    Args:
        arguments: what stands after a command besides options.
    """
    if arguments and ("=" not in arguments[0] or Path(arguments[0]).is_file()):
        return Path(arguments[0]), arguments[1:]
    return None, arguments
