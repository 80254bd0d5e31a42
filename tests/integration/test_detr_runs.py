"""A DETR as the student of whole runs: resumed to the bit, on two ranks, distilled and shown by the commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detdistill import build_detector, load_detector, save_detector
from detdistill.cli import main
from detdistill.detectors.catalogue import parse_detector
from detdistill.distillation.step import SupervisedStep
from detdistill.scenes import SCENE_CLASSES, make_scenes
from detdistill.store.layout import RunFolder
from detdistill.training.loop import TrainResult, train
from detdistill.types import Batch
from scenes_in_memory import BOXES, CLASSES, scene_batch
from tiny_training import checkpoint_tensors, differing, tiny_settings

pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "optimizer": "adamw", "lr": 1e-3}


def batches(*, steps: int = 4) -> Callable[[int, int, int], Iterator[Batch]]:
    """Two images of noise a step; those of the second rank have no boxes."""

    def loader(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        for step in range(start, steps):
            yield scene_batch(BOXES[:2] if rank == 0 else ((), ()), seed=step)

    return loader


def fit(folder: Path, *, changes: dict[str, Any] | None = None, **options: Any) -> TrainResult:
    step = SupervisedStep(build_detector(parse_detector("hf:rtdetr_v2_tiny"), CLASSES, seed=0))
    settings = tiny_settings(**(SETTINGS | (changes or {})))
    saved = {"save_student": lambda student, place: save_detector(student, place, image={})}
    return train(step, settings, loader=batches(), folder=folder, **saved, **options)


def test_a_run_that_was_cut_ends_with_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    """Its noisy labels come from the batch's seeds, its averaged weights with the checkpoint."""
    fit(tmp_path / "whole")
    fit(tmp_path / "cut", until=2)
    result = fit(tmp_path / "cut", resume=True)
    assert result.resumed_from == 2
    assert not differing(*(checkpoint_tensors(tmp_path / run, 4) for run in ("whole", "cut")))
    load_detector(result.student)


def test_two_ranks_of_which_one_sees_no_boxes_train_together(tmp_path: Path) -> None:
    """Without boxes nothing is made noisy, and the noisy labels' embedding has no gradient there."""
    result = fit(tmp_path, changes={"processes": 2, "steps": 2, "checkpoint_every": 2})
    fresh = build_detector(parse_detector("hf:rtdetr_v2_tiny"), CLASSES, seed=0).state_dict()
    trained = load_detector(result.student).detector.state_dict()
    assert all(one.isfinite().all() for one in trained.values())
    name = "model.model.denoising_class_embed.weight"
    assert not torch.equal(fresh[name], trained[name])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with drawn scenes, a dense teacher of ours and a DETR as transformers saves it."""
    make_scenes(tmp_path / "my_data", train=6, val=2, seed=0)
    teacher = build_detector("fcos/small", SCENE_CLASSES)
    save_detector(teacher, tmp_path / "runs/teacher", image={"short_side": 96, "long_side": 160})
    theirs: Any = build_detector(parse_detector("hf:d_fine_tiny"), SCENE_CLASSES)
    theirs.model.config.id2label = dict(enumerate(SCENE_CLASSES))
    theirs.model.save_pretrained(tmp_path / "downloads/dfine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(page: str) -> list[str]:
    """The commands of a page, each a line, for two steps of the smallest detector on small images."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(detdistill .*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    small = {r"--steps \d+": "--steps 2", "_small": "_tiny", r"train\.batch_size=\d+": "train.batch_size=2"}
    for old, new in small.items():
        lines = [re.sub(old, new, line) for line in lines]
    return [line for line in lines if line.startswith("detdistill ")]


@pytest.mark.slow
def test_the_pages_commands_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = typed("detr.md")
    assert len(commands) >= 6
    for command in commands:
        words = command.replace('"', "").split()[1:]
        if words[0] in ("train", "distill"):
            words += ["data.image.short_side=96", "data.image.long_side=160", "evaluate.batch_size=2"]
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"
    for run in ("runs/detr", "runs/taught", "runs/detr_taught", "runs/queries"):
        assert RunFolder(Path(run)).results.is_file()
