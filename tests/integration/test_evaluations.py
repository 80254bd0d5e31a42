"""Evaluations during a run: the best student is kept, patience ends, and no kill changes either."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from safetensors.torch import load_file
from torch import Tensor, nn

from coco_by_hand import CLASSES, HEIGHT, WIDTH, draw_data
from detdistill.errors import ConfigError, DataError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.evaluate import evaluate_job
from detdistill.jobs.run import RunOutcome, distill_job, train_job
from detdistill.jobs.settings import RunConfig
from detdistill.store.best import Best, best_of, chosen_as
from detdistill.store.layout import RunFolder
from detdistill.store.students import find_weights, save_detector
from detdistill.training.logs import read_rows
from detdistill.training.trackers import mlflow_tracker
from scenes_in_memory import tiny_teacher
from tiny_training import KILLED, checkpoint_tensors, die_before, differing, fork, run_tiny, tiny_settings
from watched_jobs import Watcher

CURVES = True
Evaluate = Callable[[nn.Module], dict[str, float | None]]


def scripted(*figures: float | None, seen: list[dict[str, Tensor]] | None = None) -> Evaluate:
    """Finds these figures, evaluation by evaluation, and notes what it was shown."""
    left = iter(figures)

    def evaluate(student: nn.Module) -> dict[str, float | None]:
        if seen is not None:
            seen.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
        return {"AP": next(left), "AP50": 1.0}

    return evaluate


def of_the_weights(student: nn.Module) -> dict[str, float | None]:
    """A figure that jumps up and down from step to step, and is decided by the weights."""
    return {"AP": float(student.first.weight.sum() * 1e5) % 100}


def rows_of(folder: Path) -> list[tuple[float | None, float | None]]:
    return [(row["step"], row["AP"]) for row in read_rows(RunFolder(folder).evaluations)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((10.0, 30.0, 20.0), (2, 30.0)),
        ((30.0, 30.0, 10.0), (1, 30.0)),
        ((None, 5.0, None), (2, 5.0)),
        ((None, None), (1, None)),
        ((0.0, None), (1, 0.0)),
    ],
)
def test_the_best_is_the_first_of_the_highest(
    values: Sequence[float | None], expected: tuple[int, float | None]
) -> None:
    rows = [{"step": float(step), "AP": value} for step, value in enumerate(values, 1)]
    assert best_of(rows, "AP") == Best(expected[0], "AP", expected[1], len(values))
    assert best_of([], "AP") is None


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_run_ends_with_the_student_of_its_best_evaluation(tmp_path: Path, decay: float) -> None:
    seen: list[dict[str, Tensor]] = []
    settings = tiny_settings(evaluate_every=3, keep="best", keep_checkpoints=1, ema_decay=decay)
    result = run_tiny(tmp_path, settings, evaluate=scripted(10.0, 30.0, 20.0, 30.0, seen=seen))
    assert result.best == Best(step=6, metric="AP", value=30.0, evaluations=4)
    assert result.best.text() == "best of 4 evaluations on the validation images, by AP, step 6"
    assert chosen_as(tmp_path) == chosen_as(result.student) == result.best
    for place in (tmp_path, result.student, tmp_path / "best"):
        assert find_weights(place) == tmp_path / "best/step_0000006/student.safetensors"
    assert not differing(load_file(find_weights(tmp_path)), seen[1])
    assert differing(seen[1], seen[3])
    # Training goes on from the last one.
    assert [entry.name for entry in (tmp_path / "checkpoints").glob("step_*")] == ["step_0000012"]
    assert result.checkpoint == tmp_path / "checkpoints/step_0000012"
    last = tmp_path / "checkpoints/step_0000012"
    assert find_weights(last).parent == last
    assert chosen_as(last) is None


def test_by_default_the_last_is_kept_and_evaluation_changes_no_weight(tmp_path: Path) -> None:
    result = run_tiny(tmp_path / "seen", tiny_settings(evaluate_every=5), evaluate=scripted(3.0, 2.0, 1.0))
    run_tiny(tmp_path / "unseen", tiny_settings())
    assert (result.best, result.student, result.stopped_early) == (None, result.checkpoint, False)
    assert rows_of(tmp_path / "seen") == [(5, 3.0), (10, 2.0), (12, 1.0)]
    assert not (tmp_path / "seen/best").exists()
    assert not differing(checkpoint_tensors(tmp_path / "seen", 12), checkpoint_tensors(tmp_path / "unseen", 12))


def test_patience_ends_a_run_whose_resume_changes_nothing(tmp_path: Path) -> None:
    settings = tiny_settings(evaluate_every=2, patience=2, keep="best")
    result = run_tiny(tmp_path, settings, evaluate=scripted(10.0, 30.0, 20.0, 30.0))
    assert (result.steps, result.stopped_early) == (8, True)
    assert result.checkpoint.name == "step_0000008"
    assert result.best == Best(step=4, metric="AP", value=30.0, evaluations=4)
    assert read_rows(tmp_path / "metrics.csv")[-1]["step"] == 8
    again = run_tiny(tmp_path, settings, evaluate=scripted(), resume=True)
    assert (again.steps, again.stopped_early, again.best) == (8, True, result.best)
    assert again.student == result.student


def test_an_end_out_of_patience_at_the_last_step_is_not_early(tmp_path: Path) -> None:
    result = run_tiny(tmp_path, tiny_settings(evaluate_every=4, patience=2), evaluate=scripted(3.0, 2.0, 1.0))
    assert (result.steps, result.stopped_early, result.best) == (12, False, None)


def test_two_ranks_stop_together(tmp_path: Path) -> None:
    settings = tiny_settings(batch_size=2, processes=2, evaluate_every=2, patience=1, keep="best")
    result = run_tiny(tmp_path, settings, evaluate=scripted(10.0, 30.0, 20.0))
    assert (result.steps, result.stopped_early) == (6, True)
    assert chosen_as(tmp_path) == Best(step=4, metric="AP", value=30.0, evaluations=3)


@pytest.mark.slow
def test_a_death_before_any_file_operation_leaves_the_best_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before every eleventh operation on the run's files, and the run is resumed."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    settings = tiny_settings(steps=6, checkpoint_every=2, evaluate_every=1, keep="best", warmup_steps=1)

    def run(folder: Path, *, resume: bool = False) -> None:
        run_tiny(folder, settings, evaluate=of_the_weights, resume=resume)

    run(tmp_path / "whole")
    whole = rows_of(tmp_path / "whole")
    values = [value or 0.0 for _, value in whole]
    assert [values.index(max(values[:until])) for until in range(1, 7)] != [0] * 6
    deaths = 0
    while True:
        folder = tmp_path / f"cut{deaths}"
        process = fork(lambda folder=folder, operation=deaths: die_before(lambda: run(folder), folder, operation))
        process.join(30)
        if process.exitcode == 0:
            break
        assert process.exitcode == KILLED
        run(folder, resume=True)
        assert rows_of(folder) == whole, f"operation {deaths}"
        assert chosen_as(folder) == chosen_as(tmp_path / "whole")
        ours, theirs = (load_file(find_weights(one)) for one in (folder, tmp_path / "whole"))
        assert not differing(ours, theirs), f"operation {deaths}"
        names = [sorted(entry.name for entry in (one / "best").iterdir()) for one in (folder, tmp_path / "whole")]
        assert names[0] == names[1]
        deaths += 11
    assert deaths > 100


def test_a_best_student_that_is_gone_is_missed(tmp_path: Path) -> None:
    settings = tiny_settings(evaluate_every=3, keep="best")
    run_tiny(tmp_path, settings, evaluate=scripted(10.0, 30.0, 20.0, 30.0))
    (tmp_path / "best/step_0000006").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"best/step_0000006 must hold the student of the best evaluation, got nothing"):
        run_tiny(tmp_path, settings, evaluate=scripted(), resume=True)


def test_what_decides_the_student_must_stay_on_resume_and_what_does_not_may_change(tmp_path: Path) -> None:
    run_tiny(tmp_path / "last", tiny_settings())
    run_tiny(tmp_path / "last", tiny_settings(evaluate_every=4), evaluate=scripted(1.0), resume=True)
    with pytest.raises(ConfigError, match=r"train\.keep must be 'last' to resume from .*, got 'best'\. Set it back"):
        run_tiny(tmp_path / "last", tiny_settings(evaluate_every=4, keep="best"), evaluate=scripted(), resume=True)
    settings = {"keep": "best", "patience": 3}
    run_tiny(tmp_path / "best", tiny_settings(evaluate_every=6, **settings), evaluate=scripted(1.0, 2.0))
    for changes in ({"evaluate_every": 4}, {"patience": 1}, {"best_metric": "AP50"}):
        (name,) = changes
        with pytest.raises(ConfigError, match=rf"train\.{name} must be .* to resume from"):
            run_tiny(
                tmp_path / "best",
                tiny_settings(**{"evaluate_every": 6, **settings, **changes}),
                evaluate=scripted(),
                resume=True,
            )


def test_a_checkpoint_from_before_these_settings_goes_on(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_settings())
    for counters in (tmp_path / "checkpoints").glob("step_*/training.json"):
        content = json.loads(counters.read_text()) | {"format": 1}
        del content["checksum"]
        for name in ("keep", "best_metric", "patience"):
            del content["identity"]["train"][name]
        counters.write_text(json.dumps(content))
    assert run_tiny(tmp_path, tiny_settings(), resume=True).resumed_from == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keep": "best"},
            r"train\.keep must be last where train\.evaluate_every is 0.*got best\. Set train\.evaluate_",
        ),
        ({"patience": 2}, r"train\.patience must be 0 where train\.evaluate_every is 0.*got 2\. Set train\.evaluate_"),
        ({"best_metric": "AP50"}, r"train\.best_metric must be AP where neither .*got AP50\. Set train\.keep to best"),
        ({"best_metric": "mAP", "keep": "best", "evaluate_every": 1}, r"train\.best_metric must be one of AP, AP50"),
        ({"patience": -1}, r"train\.patience must be at least 0, got -1"),
    ],
)
def test_what_could_have_no_effect_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_settings(**changes)


def test_evaluations_without_anything_that_evaluates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.evaluate_every must be 0 where no function evaluates, got 4\."):
        run_tiny(tmp_path, tiny_settings(evaluate_every=4))


@dataclass(frozen=True)
class Lab:
    """A student alone that was never evaluated in training, and a distilled one that was; both by the jobs."""

    folder: Path
    outcome: RunOutcome
    watcher: Watcher
    levels: list[float]


def run_of(folder: Path, out: str, *changes: str, **options: object) -> RunConfig:
    small = ["student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "seed=4"]
    small += [
        "train.batch_size=2",
        "train.steps=4",
        "train.warmup_steps=1",
        "train.checkpoint_every=3",
        "train.lr=0.01",
    ]
    chosen = {"data": folder / "data", "student": "fcos/test_resnet", "out": folder / out} | options
    purpose = "distill" if "teacher" in chosen else "train"
    return read_run_config(None, [*small, "train.device=cpu", *changes], purpose=purpose, options=chosen)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    draw_data(folder / "data")
    teacher = tiny_teacher("fcos", classes=CLASSES)._detector
    save_detector(teacher, folder / "teacher", image={"short_side": HEIGHT, "long_side": WIDTH})
    watcher, levels, across = Watcher(), [], Axes.axhline
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "axhline", lambda axes, y, **more: (levels.append(y), across(axes, y, **more)))
        train_job(run_of(folder, "alone"))
        settings = ("train.evaluate_every=2", "train.keep=best", "train.tensorboard=true", "alone_differs=true")
        settings += ("train.loggers=[mlflow]",)
        options = {"teacher": folder / "teacher", "method": "hint", "alone": folder / "alone"}
        outcome = distill_job(run_of(folder, "distilled", *settings, **options), progress=watcher)
    return Lab(folder, outcome, watcher, levels)


def test_a_run_of_a_job_is_evaluated_on_its_validation_images(lab: Lab) -> None:
    run = RunFolder(lab.folder / "distilled")
    rows = read_rows(run.evaluations)
    assert [row["step"] for row in rows] == [2, 4]
    best = lab.outcome.best["distilled"]
    for row in rows:
        assert f"step {row['step']:.0f}: AP {row['AP']:.1f}, AP50 " in lab.watcher.text()
    # The detector that the run is read as has the figure of its evaluation.
    measured = evaluate_job(str(run.path), lab.folder / "data")
    assert measured.metrics.ap == pytest.approx(best.value, abs=1e-6)
    assert measured.metrics.ap == lab.outcome.results["distilled"].ap
    assert f"{run.path}: {best.text()}" in measured.table()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("AP")] == [
        (row["step"], pytest.approx(row["AP"])) for row in rows
    ]


def test_loggers_hear_the_verdict_and_see_the_pictures(lab: Lab) -> None:
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(lab.folder / "distilled")
    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert sorted(events.Tags()["images"]) == ["confusion", "curves", "pictures"]
    assert events.Images("curves")[0].encoded_image_string == run.curves.read_bytes()
    with mlflow_tracker._allowing_files():
        client = MlflowClient(tracking_uri=(run.loggers / "mlflow").as_uri())
        told = client.get_run(json.loads((run.loggers / "mlflow.json").read_text())["identity"])
    *figures, page = lab.outcome.table()  # the page is made when loggers have been told
    assert page.startswith(str(run.page))
    assert told.data.tags["mlflow.note.content"] == "\n".join(figures)
    assert told.data.params["train.steps"] == "4"
    assert told.data.metrics["results/distilled/AP"] == lab.outcome.results["distilled"].ap
    assert {one.path for one in client.list_artifacts(told.info.run_id)} == {
        "confusion.png",
        "curves.png",
        "pictures.png",
    }


def test_what_suppresses_boxes_decides_which_student_is_kept(lab: Lab) -> None:
    settings = ("train.evaluate_every=2", "train.keep=best", "train.tensorboard=true", "alone_differs=true")
    options = {"teacher": lab.folder / "teacher", "method": "hint", "alone": lab.folder / "alone"}
    config = run_of(lab.folder, "distilled", *settings, "evaluate.agnostic=true", **options)
    with pytest.raises(ConfigError, match=r"^agnostic must be left out to resume from .*, got True\."):
        distill_job(config, resume=True)


def test_the_table_and_the_results_say_what_was_chosen(lab: Lab) -> None:
    best = lab.outcome.best["distilled"]
    assert f"distilled: {best.text()}" in lab.outcome.table()
    results = json.loads((lab.folder / "distilled/results.json").read_text())
    assert results["best"] == {"distilled": best.as_dict()}
    assert results["steps"] == 4
    assert "best" not in json.loads((lab.folder / "alone/results.json").read_text())


def test_the_curves_have_ap_and_a_line_for_whom_was_measured_once(lab: Lab) -> None:
    results = lab.outcome.results
    assert lab.levels == [results["teacher"].ap, results["alone"].ap]


def test_evaluation_in_training_changes_no_weight_of_a_run(lab: Lab) -> None:
    train_job(run_of(lab.folder, "evaluated", "train.evaluate_every=1", "train.patience=4"))
    ours, theirs = (checkpoint_tensors(lab.folder / name, 4) for name in ("evaluated", "alone"))
    assert not differing(ours, theirs)
    assert len(read_rows(RunFolder(lab.folder / "evaluated").evaluations)) == 4


def test_a_figure_that_the_validation_images_lack_cannot_choose(lab: Lab) -> None:
    choice = ("train.evaluate_every=2", "train.keep=best", "train.best_metric=APl")
    with pytest.raises(ConfigError, match=r"train\.best_metric must be a figure that .* got APl, .*Choose AP\."):
        train_job(run_of(lab.folder, "unused", *choice))
    assert not (lab.folder / "unused").exists()
