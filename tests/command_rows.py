"""The table of commands that tests of all commands go through: what is typed, and what is below its `--out`.

Commands are found from the command line itself; one without a row fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cyclopts import App

from detdistill.cli.app import build_app
from detdistill.cli.commands import Command


@dataclass(frozen=True)
class Row:
    """A command.

    Attributes:
        words: what is typed, with {home} for the folder that the test prepares and {out} for a place to write to.
        shared: whether other people's files may lie in {out}; else it must be new or empty.
        long: whether it takes seconds, so that a test that runs it is a slow one.
    """

    words: str = ""
    shared: bool = True
    long: bool = False


_SMALL = (
    "student.fpn_channels=16 student.head_depth=1 data.image.short_side=32 data.image.long_side=48 train.batch_size=4 "
    "train.log_every=1 train.steps=2 train.checkpoint_every=1 train.device=cpu train.tensorboard=true "
    "train.evaluate_every=1 train.keep=best"
)

ROWS = {
    "report": Row("{home}/taught --images 0 --out {out}/page.html"),
    "push": Row("{home}/taught hf:me/street --to-folder {out}", shared=False),
    "demo": Row("--out {out}", shared=False, long=True),
    "train": Row(f"--detector fcos/test_resnet --data {{home}}/data --out {{out}} {_SMALL}", shared=False, long=True),
    "distill": Row(
        "--student fcos/test_resnet --teacher {home}/teacher --data {home}/data --method ikd(hint,attack_steps=1) "
        f"--out {{out}} {_SMALL}",
        shared=False,
        long=True,
    ),
    "doctor": Row(
        "--student fcos/test_resnet --teacher {home}/teacher --data {home}/data --method hint --out {home}/not_made "
        f"{_SMALL}",
        long=True,
    ),
    "prove": Row(
        "--student fcos/test_resnet --teacher {home}/teacher --data {home}/data --method hint --seeds 1 "
        f"--out {{out}} {_SMALL}",
        shared=False,
        long=True,
    ),
    "tune": Row(
        "--student fcos/test_resnet --teacher {home}/teacher --data {home}/data --methods hint --strengths 3 "
        f"--held-out 0.5 --out {{out}} {_SMALL}",
        shared=False,
        long=True,
    ),
    "evaluate": Row("{home}/teacher --data {home}/data --confusion {out}/confusion.png"),
    "predict": Row("{home}/teacher {home}/photos --out {out}"),
    "methods": Row("frs"),
    "settings": Row("seed"),
    "profile": Row("fcos/tiny --size 64 64 --classes 2"),
    "reproduce": Row("aid --out {out}", long=True),
    "pictures": Row(
        "--alone {home}/teacher --distilled {home}/teacher --teacher {home}/teacher --data {home}/data --images 1 "
        "--out {out}/found.png",
        long=True,
    ),
    "diagnose": Row("{home}/taught --alone {home}/teacher"),
    "export": Row("{home}/teacher --data {home}/data --out {out}/model.onnx", long=True),
    "data make scenes": Row("--out {out} --train 2 --val 1 --kitti", shared=False),
    "data make coco-traffic": Row("--coco {home}/coco --out {out}", shared=False),
    "data check": Row("{home}/data"),
    "data convert": Row("{home}/data --to voc --out {out}", shared=False),
    "data audit": Row("{home}/data --teacher {home}/teacher --out {out} --score 0 --images 1"),
}


def commands(app: App | None = None, before: str = "") -> Iterator[tuple[str, Command]]:
    """Every command of the command line, by what is typed."""
    whole = app or build_app()
    for name in whole:
        one = whole[name]
        if isinstance(one.default_command, Command):
            yield before + name, one.default_command
        elif not name.startswith("-"):
            yield from commands(one, f"{before}{name} ")
