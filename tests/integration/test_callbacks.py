"""Functions of a Python user that hear a run's figures: those of the tables; they change no weight, and may stop it."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detdistill
from detdistill import EvaluationFigures, Interrupted, StepFigures
from detdistill.cli import main
from detdistill.errors import ConfigError, OutsideError
from detdistill.jobs.keys import command_words
from detdistill.scenes import SCENE_CLASSES, make_scenes
from detdistill.store.layout import ALONE_LONGER, RunFolder
from detdistill.training.callbacks import Callbacks
from detdistill.training.logs import read_rows
from tiny_training import NamedStep, checkpoint_tensors, differing, run_tiny, tiny_evaluate, tiny_settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tiny_settings(evaluate_every=4)


def trained(folder: Path, *, settings: Any = SETTINGS, resume: bool = False, **callbacks: Any) -> None:
    heard = Callbacks(**callbacks)
    run_tiny(folder, settings, step=NamedStep(), evaluate=tiny_evaluate, callbacks=heard, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody hears of."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trained(folder)
    return folder


def test_they_are_told_what_the_tables_have_once_it_is_there_and_change_no_weight(whole: Path, tmp_path: Path) -> None:
    steps, evaluations = list[StepFigures](), list[EvaluationFigures]()
    run = RunFolder(tmp_path)

    def on_step(figures: StepFigures) -> None:
        assert read_rows(run.metrics)[-1]["step"] == figures.step
        steps.append(figures)
        random.seed(5)
        torch.manual_seed(5)
        np.random.seed(5)

    def on_evaluation(figures: EvaluationFigures) -> bool:
        assert read_rows(run.evaluations)[-1]["step"] == figures.step
        evaluations.append(figures)
        torch.manual_seed(6)
        return False

    trained(tmp_path, on_step=on_step, on_evaluation=on_evaluation)
    assert not differing(checkpoint_tensors(whole, 12), checkpoint_tensors(tmp_path, 12))
    told = []
    for one in steps:
        assert (one.run, one.steps, set(one.losses)) == (tmp_path, 12, {"task", "frs.features"})
        assert {"gradient_norm", "frs.features/cost_stride_8"} <= one.figures.keys()
        plain = {name: getattr(one, name) for name in ("step", "seconds", "lr", "total")}
        told.append({**plain, **one.losses, **one.figures})
    assert told == read_rows(run.metrics)
    rows = [{"step": one.step, "seconds": one.seconds, **one.figures} for one in evaluations]
    assert rows == read_rows(run.evaluations)
    best = [max(row["AP"] for row in rows[: index + 1]) == row["AP"] for index, row in enumerate(rows)]
    assert [one.is_best for one in evaluations] == best
    assert evaluations[0].figures["APl"] is None
    assert [{"a": pytest.approx(row["AP"])} for row in rows] == [one.by_class for one in evaluations]


@pytest.mark.parametrize("answer", [True, np.True_])
def test_one_that_returns_true_stops_the_run_which_goes_on_as_if_it_had_not(
    whole: Path, tmp_path: Path, answer: object
) -> None:
    with pytest.raises(Interrupted) as stopped:
        trained(tmp_path, on_step=lambda figures: figures.step == 6 and answer)
    assert (stopped.value.step, stopped.value.checkpoint) == (6, RunFolder(tmp_path).checkpoint(6))
    with pytest.raises(Interrupted) as stopped:
        trained(tmp_path, resume=True, on_evaluation=lambda figures: answer)
    assert stopped.value.step == 8
    # What is no truth value, such as a count of letters that were written, stops nothing.
    trained(tmp_path, resume=True, on_step=lambda figures: 7)
    assert not differing(checkpoint_tensors(whole, 12), checkpoint_tensors(tmp_path, 12))
    found, expected = ([row["AP"] for row in read_rows(one / "evaluations.csv")] for one in (tmp_path, whole))
    assert found == expected


def failing(figures: StepFigures | EvaluationFigures) -> None:
    if figures.step == 8:
        raise ValueError("the plot has no axes")


@pytest.mark.parametrize("name", ["on_step", "on_evaluation"])
def test_one_that_fails_ends_the_run_with_its_own_error_and_nothing_lost(
    whole: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(OutsideError) as told:
        trained(tmp_path, **{name: failing})
    kept = RunFolder(tmp_path).checkpoint(8)
    assert re.fullmatch(
        rf"step 8 of 12: {name} must run without an error, got ValueError: the plot has no axes \(.*test_callbacks"
        rf"\.py, line \d+\)\. Repair it and go on by --resume; the last checkpoint is {kept}\.",
        str(told.value),
    )
    assert isinstance(told.value.__cause__, ValueError)
    trained(tmp_path, resume=True)
    assert not differing(checkpoint_tensors(whole, 12), checkpoint_tensors(tmp_path, 12))


@pytest.mark.parametrize("name", ["on_step", "on_evaluation"])
def test_several_processes_stop_together(tmp_path: Path, name: str) -> None:
    """Those that nobody asked learn of it in the step after."""
    settings = tiny_settings(processes=2, batch_size=2, steps=8, evaluate_every=4)
    at, ends = {"on_step": (2, 3), "on_evaluation": (4, 4)}[name]
    with pytest.raises(Interrupted) as stopped:
        trained(tmp_path, settings=settings, **{name: lambda figures: figures.step == at})
    assert stopped.value.step == ends
    with pytest.raises(OutsideError, match=rf"^step 8 of 8: {name} must run .* last checkpoint is .*_0000008\.$"):
        trained(tmp_path, settings=settings, resume=True, **{name: failing})


def test_what_nobody_would_call_or_hear_is_refused(tmp_path: Path) -> None:
    words: dict[str, Any] = {"detector": "fcos/tiny", "data": tmp_path, "out": tmp_path / "out"}
    for settings, heard, said in (
        ((), {"on_step": 3}, r"^on_step must be a function, got int\. Pass the function itself\.$"),
        (
            ("train.processes=2",),
            {"on_step": print},
            r"^train\.processes must be 1 where on_step .* or set train\.proc",
        ),
        ((), {"on_evaluation": print}, r"^on_evaluation must be left out where .* Set train\.evaluate_every, such as"),
    ):
        with pytest.raises(ConfigError, match=said):
            detdistill.train(*settings, **words, **heard)


def test_the_command_line_does_not_offer_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help"]) == 0
    said = capsys.readouterr().out
    keys = " ".join(one.key for one in command_words({"train": detdistill.train, "distill": detdistill.distill}))
    for text in (said.lower(), keys):
        assert "--steps" in text
        assert not re.search("on.step|on.evaluation", text)
    assert main(["train", "--on-step", "3"]) == 2
    assert "on-step" in capsys.readouterr().err


def test_the_documented_functions_hear_of_every_training_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block of docs/loggers.md, for a few steps."""
    page = (ROOT / "docs/loggers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    make_scenes(tmp_path / "my_data", train=4, val=2, seed=0)
    teacher = detdistill.build_detector("fcos/tiny", SCENE_CLASSES)
    detdistill.save_detector(teacher, tmp_path / "runs/teacher", image={"short_side": 48, "long_side": 80})
    monkeypatch.chdir(tmp_path)
    block = re.sub(r"evaluate_every=\d+", "evaluate_every=1", re.sub(r"steps=\d+", "steps=1, longer=2", block))
    short = ["report=false", "train.batch_size=2", "train.device=cpu"]
    short += ["data.image.short_side=48", "data.image.long_side=80"]
    names: dict[str, Any] = {}
    exec(compile(block.replace("distill(", f"distill(*{short}, "), "loggers.md", "exec"), names)
    heard = [(one.run.name, one.step, one.steps) for one in names["history"]]
    assert heard == [("distilled", 1, 1), (ALONE_LONGER, 1, 2), (ALONE_LONGER, 2, 2)]
    told = capsys.readouterr().out
    assert told.count("AP") == told.count("'traffic light'") == 3
