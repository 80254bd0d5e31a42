"""The commands of `detdistill data`, as those of `commands`: options in, a job called, its table printed."""

from __future__ import annotations

from pathlib import Path

from detdistill.cli.commands import Flag
from detdistill.cli.watch import watched


def scenes(
    *,
    out: Path,
    train: int = 3000,
    val: int = 300,
    seed: int = 0,
    kitti: Flag = False,
    json: Path | None = None,
) -> None:
    """Draw street scenes with cars, trucks, pedestrians, cyclists and traffic lights.

    Args:
        out: Folder for train.json, val.json and images/.
        train: Training scenes.
        val: Validation scenes.
        seed: Decides every scene.
        kitti: Also write KITTI's layout.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.scenes.job import make_scenes_job

    outcome = watched(
        lambda progress: make_scenes_job(out, train=train, val=val, seed=seed, kitti=kitti, progress=progress)
    )
    show(outcome, json=json)


def coco_traffic(*, coco: Path, out: Path, json: Path | None = None) -> None:
    """Take the part of COCO that shows traffic, with AID's 13 classes; images are linked, not copied.

    Args:
        coco: COCO's folder, with annotations/instances_train2017.json, train2017 and the same of val2017.
        out: A new or empty folder; one made of the same files is left as it is.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.papers.coco_traffic import make_coco_traffic_job

    show(watched(lambda progress: make_coco_traffic_job(coco, out, progress=progress)), json=json)


def convert(
    path: Path,
    /,
    *,
    to: str,
    out: Path,
    split_seed: int | None = None,
    json: Path | None = None,
) -> None:
    """Write a data set in another format, images as hard links where the disk allows it.

    Args:
        path: Folder of a COCO, Pascal VOC, YOLO or KITTI data set, COCO JSON, or data.yaml.
        to: The format to write: coco, voc, yolo or kitti, or one that a package adds.
        out: A new or empty folder.
        split_seed: Divides KITTI or Pascal VOC without split lists 8:2; 0 without it.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.data import convert_data_job

    outcome = watched(lambda progress: convert_data_job(path, to=to, out=out, split_seed=split_seed, progress=progress))
    show(outcome, json=json)


def check(path: Path, /, *, json: Path | None = None) -> None:
    """Read a data set as training would, and tell every problem by file and line.

    Args:
        path: Folder of a COCO, Pascal VOC, YOLO or KITTI data set, COCO JSON, or data.yaml.
        json: Also write the table to this file.
    """
    from detdistill.cli.show import show
    from detdistill.jobs.data import check_data_job

    show(watched(lambda progress: check_data_job(path, progress=progress)), json=json)
