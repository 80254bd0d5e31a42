from __future__ import annotations

import itertools
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from detdistill.distillation.step import SupervisedStep
from detdistill.errors import ConfigError, DataError, DistillError
from detdistill.store.layout import WEIGHTS
from detdistill.training.launch import device_kind, make_fabric, require_precision
from detdistill.training.logs import read_rows
from detdistill.training.optimizer import learning_rate
from detdistill.training.settings import OptimizerName, TrainSettings
from detdistill.training.signals import Interrupted
from detdistill.types import Clock
from scenes_in_memory import scene_batch, tiny_student
from tiny_training import (
    TinyStep,
    TinyStudent,
    checkpoint_tensors,
    differing,
    fork,
    run_tiny,
    save_tiny,
    tiny_batch,
    tiny_loader,
    tiny_settings,
)


class Recorder:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int]] = []
        self.done: list[int] = []
        self.notes: list[str] = []
        self.lines: list[str] = []
        self.ended = 0

    def start(self, what: str, total: int, *, unit: str = "step", done: int = 0) -> None:
        self.begun.append((what, total, done))

    def advance(self, done: int, note: str = "") -> None:
        self.done.append(done)
        self.notes.append(note)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def finish(self) -> None:
        self.ended += 1


def test_the_loop_equals_plain_pytorch(tmp_path: Path) -> None:
    """An oracle without Fabric: SGD by torch, clipping by torch, no average."""
    settings = tiny_settings(ema_decay=0.0, weight_decay=0.01)
    step = TinyStep(drop=0.0)
    run_tiny(tmp_path, settings, step=step)
    plain = TinyStep(drop=0.0)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    free = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    for index in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(index, settings)
        optimizer.zero_grad()
        plain(tiny_batch(index, 4), Clock(step=index, total_steps=12)).total.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(step.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    progress = Recorder()
    result = run_tiny(tmp_path, tiny_settings(), progress=progress, label="student")
    assert result.steps == 12
    assert result.checkpoint == tmp_path / "checkpoints" / "step_0000012"
    assert result.images_per_second == pytest.approx(48 / result.seconds)
    assert (result.resumed_from, result.metrics, result.warnings) == (0, {}, ())
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == [
        "latest.json",
        "step_0000010",
        "step_0000012",
    ]
    assert progress.begun == [("student", 12, 0)]
    assert progress.done == list(range(1, 13))
    assert all("images/s, loss " in note for note in progress.notes)
    assert progress.ended == 1
    rows = read_rows(tmp_path / "metrics.csv")
    assert list(rows[0]) == ["step", "seconds", "lr", "total", "task", "hint", "seen", "gradient_norm"]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for row in rows:
        assert row["total"] == pytest.approx(row["task"] + row["hint"], rel=1e-5)
        assert row["lr"] == pytest.approx(learning_rate(int(row["step"]) - 1, tiny_settings()))
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_backbone_held_by_its_rate_keeps_its_weights_alone(tmp_path: Path, optimizer: OptimizerName) -> None:
    """Its batch-norm statistics follow the images; the rate that is logged stays the run's."""
    settings = tiny_settings(steps=2, batch_size=3, optimizer=optimizer, backbone_lr_factor=0.0, log_every=1)
    student = tiny_student("fcos")
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    batches = [scene_batch()] * settings.steps
    result = run_tiny(tmp_path, settings, step=SupervisedStep(student), loader=lambda start, *_: batches[start:])
    rates = [float(row["lr"]) for row in read_rows(tmp_path / "metrics.csv")]
    assert rates == pytest.approx([learning_rate(step, settings) for step in range(2)])
    average = load_file(result.checkpoint / WEIGHTS)
    for after in (student.state_dict(), average):
        moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        backbone = {name for name in moved if ".body." in name}
        assert backbone
        assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in backbone)
        assert "model.head.classification_head.cls_logits.weight" in moved


def test_the_plain_student_is_the_average(tmp_path: Path) -> None:
    step = TinyStep()
    seen: list[nn.Module] = []
    result = run_tiny(
        tmp_path, tiny_settings(evaluate_every=12), step=step, evaluate=lambda student: seen.append(student) or {}
    )
    tensors = checkpoint_tensors(tmp_path, 12)
    saved = {name: tensors[name] for name in TinyStudent().state_dict()}
    assert not differing(saved, dict(seen[0].state_dict()))
    raw = {name: tensors[f"step_module.student.{name}"] for name in saved}
    assert not differing(raw, dict(step.student.state_dict()))
    assert differing(saved, raw)
    assert (result.checkpoint / WEIGHTS).exists()


def test_without_an_average_the_student_is_written_once(tmp_path: Path) -> None:
    step = TinyStep()
    run_tiny(tmp_path, tiny_settings(ema_decay=0.0), step=step)
    tensors = checkpoint_tensors(tmp_path, 12)
    assert not any(name.startswith("step_module.student.") for name in tensors)
    assert torch.equal(tensors["first.weight"], step.student.first.weight)
    assert step.student.training


def test_evaluation_sees_eval_mode_and_leaves_no_trace(tmp_path: Path) -> None:
    modes: list[bool] = []

    def evaluate(student: nn.Module) -> dict[str, float | None]:
        modes.extend(module.training for module in student.modules())
        torch.rand(5)
        return {"AP": 12.5, "AP50": None}

    for decay in (0.0, 0.9):
        base = {"ema_decay": decay, "clip_norm": 0.0}
        quiet, loud = tmp_path / f"quiet{decay}", tmp_path / f"loud{decay}"
        run_tiny(quiet, tiny_settings(**base))
        result = run_tiny(loud, tiny_settings(evaluate_every=4, **base), evaluate=evaluate)
        assert result.metrics == {"AP": 12.5, "AP50": None}
        assert not differing(checkpoint_tensors(quiet, 12), checkpoint_tensors(loud, 12))
        rows = read_rows(loud / "evaluations.csv")
        assert [(row["step"], row["AP"], row["AP50"]) for row in rows] == [(s, 12.5, None) for s in (4, 8, 12)]
    assert modes
    assert not any(modes)


def test_frozen_modes_of_the_student_survive_an_evaluation(tmp_path: Path) -> None:
    class Frozen(TinyStep):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.student.norm.eval()
            return self

    step = Frozen()
    run_tiny(tmp_path, tiny_settings(ema_decay=0.0, evaluate_every=2), step=step, evaluate=lambda student: {})
    assert step.student.training
    assert not step.student.norm.training
    assert step.student.norm.num_batches_tracked.item() == 0


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    whole, split = TinyStep(norm=False, drop=0.0), TinyStep(norm=False, drop=0.0)
    run_tiny(tmp_path / "whole", tiny_settings(), step=whole)
    run_tiny(tmp_path / "split", tiny_settings(accumulate=4), step=split)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    rows = zip(
        read_rows(tmp_path / "whole" / "metrics.csv"), read_rows(tmp_path / "split" / "metrics.csv"), strict=True
    )
    for one, other in rows:
        assert other["hint"] == pytest.approx(one["hint"], rel=1e-4)


def test_two_ranks_equal_one_process_that_accumulates_their_halves(tmp_path: Path) -> None:
    joint, alone = tmp_path / "joint", tmp_path / "alone"
    result = run_tiny(joint, tiny_settings(batch_size=2, processes=2), step=TinyStep(drop=0.0))
    assert result.images_per_second == pytest.approx(48 / result.seconds)
    run_tiny(alone, tiny_settings(batch_size=4, accumulate=2), step=TinyStep(drop=0.0))
    one, other = checkpoint_tensors(joint, 12), checkpoint_tensors(alone, 12)
    compared = [name for name in one if "running_" not in name and "num_batches" not in name]
    assert len(compared) == 5 + 7 + 7  # average, raw, momentum
    for name in compared:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5)


def test_two_ranks_resume_exactly(tmp_path: Path) -> None:
    settings = tiny_settings(batch_size=2, processes=2)
    run_tiny(tmp_path / "whole", settings)

    def until_eight(start: int, rank: int, ranks: int) -> object:
        return itertools.islice(tiny_loader(settings)(start, rank, ranks), 8 - start)

    with pytest.raises(DataError, match="must yield 12 batches from step 0 on, got 8"):
        run_tiny(tmp_path / "cut", settings, loader=until_eight)
    result = run_tiny(tmp_path / "cut", settings, resume=True)
    assert result.resumed_from == 5
    assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / "cut", 12))


def test_an_error_of_any_rank_reaches_the_caller(tmp_path: Path) -> None:
    settings = tiny_settings(batch_size=2, processes=2)

    def second_rank_runs_dry(start: int, rank: int, ranks: int) -> object:
        return itertools.islice(tiny_loader(settings)(start, rank, ranks), None if rank == 0 else 7)

    with pytest.raises(DataError, match="must yield 12 batches from step 0 on, got 7"):
        run_tiny(tmp_path, settings, loader=second_rank_runs_dry)


def test_two_ranks_are_interrupted_together(tmp_path: Path) -> None:
    """Only the parent gets the signal; its ranks stop at the same step and save."""
    settings = tiny_settings(steps=400, batch_size=2, processes=2)
    process = fork(lambda: run_tiny(tmp_path, settings, loader=tiny_loader(settings, wait=0.02)))
    try:
        wait_for(tmp_path / "checkpoints" / "latest.json", seconds=60)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(30)
        assert process.exitcode == 130
    finally:
        process.kill()
    done = max(int(entry.name[5:]) for entry in (tmp_path / "checkpoints").glob("step_*"))
    assert 5 <= done < 400


def wait_for(path: Path, *, seconds: int = 20) -> None:
    for _ in range(100 * seconds):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{path} never came")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainSettings, Path]:
    """A run of 60 steps that no signal reached, and its settings."""
    settings, folder = tiny_settings(steps=60, checkpoint_every=25), tmp_path_factory.mktemp("whole")
    run_tiny(folder, settings)
    return settings, folder


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_step_and_saves(
    tmp_path: Path, number: signal.Signals, undisturbed: tuple[TrainSettings, Path]
) -> None:
    settings, whole = undisturbed
    process = fork(lambda: run_tiny(tmp_path / "cut", settings, loader=tiny_loader(settings, wait=0.01)))
    wait_for(tmp_path / "cut" / "metrics.csv")
    os.kill(process.pid or 0, number)
    process.join(20)
    assert process.exitcode == 130
    result = run_tiny(tmp_path / "cut", settings, resume=True)
    assert 0 < result.resumed_from < 60
    assert not differing(checkpoint_tensors(whole, 60), checkpoint_tensors(tmp_path / "cut", 60))


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("changes", [{}, {"batch_size": 2, "processes": 2}])
def test_a_stop_breaks_off_an_evaluation_and_saves(tmp_path: Path, changes: dict[str, int]) -> None:
    settings = tiny_settings(evaluate_every=4, **changes)
    run_tiny(tmp_path / "whole", settings, evaluate=lambda student: {"AP": 1.0})

    def stopped(student: nn.Module) -> dict[str, float | None]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return {}

    with pytest.raises(Interrupted, match=r"interrupted after step 4; .*step_0000004"):
        run_tiny(tmp_path / "cut", settings, evaluate=stopped)
    result = run_tiny(tmp_path / "cut", settings, resume=True, evaluate=lambda student: {"AP": 1.0})
    assert result.resumed_from == 4
    assert [row["step"] for row in read_rows(tmp_path / "cut" / "evaluations.csv")] == [4, 8, 12]
    assert not differing(checkpoint_tensors(tmp_path / "whole", 12), checkpoint_tensors(tmp_path / "cut", 12))


def test_signal_handlers_and_the_global_generator_are_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    run_tiny(tmp_path, tiny_settings())
    assert torch.equal(torch.rand(3), expected)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    message = r"step 8 of 12: the loss must be finite, got nan in hint\. Lower train\.lr .*step_0000005\."
    with pytest.raises(DistillError, match=message):
        run_tiny(tmp_path, tiny_settings(), step=TinyStep(poison=7))
    assert run_tiny(tmp_path, tiny_settings(), resume=True).resumed_from == 5


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path: Path, clip_norm: float) -> None:
    step = TinyStep()
    step.terms["hint"].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DistillError, match=r"step 1 of 12: the gradient must be finite, .* no checkpoint yet\."):
        run_tiny(tmp_path, tiny_settings(clip_norm=clip_norm), step=step)
    assert not any(parameter.isnan().any() for parameter in step.parameters())


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"precision": "bf16-mixed"}, {"momentum": 0.0}])
def test_variants_learn(tmp_path: Path, changes: dict[str, object]) -> None:
    run_tiny(tmp_path, tiny_settings(steps=30, lr=0.02, **changes))
    rows = read_rows(tmp_path / "metrics.csv")
    assert rows[-1]["total"] < rows[0]["total"]


def test_precision_must_be_one_that_the_hardware_has() -> None:
    with pytest.raises(ConfigError, match=r"must be 32-true or bf16-mixed on a CPU, got 16-mixed\."):
        make_fabric(tiny_settings(precision="16-mixed"))
    require_precision("bf16-mixed", "cpu")


def test_bfloat16_on_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ConfigError, match=r"must be 32-true or 16-mixed on a CUDA device .*, got bf16-mixed\."):
        require_precision("bf16-mixed", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none() -> None:
    assert device_kind(tiny_settings(device="auto")) == "cpu"
    for device in ("cuda", "cuda:7"):
        with pytest.raises(ConfigError, match=rf"must be auto or cpu .* no CUDA device, got {device}\..*device=auto\."):
            device_kind(tiny_settings(device=device))


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    run_tiny(tmp_path, tiny_settings())
    message = re.escape(f"{tmp_path} must not hold checkpoints of another run, got some. Go on with it (--resume)")
    with pytest.raises(ConfigError, match=message):
        run_tiny(tmp_path, tiny_settings())


def test_a_step_without_a_student(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must have a submodule named student, got none\."):
        run_tiny(tmp_path, tiny_settings(), step=nn.Linear(1, 1))


def test_save_tiny_gets_a_folder(tmp_path: Path) -> None:
    save_tiny(TinyStudent().eval(), tmp_path)
    assert (tmp_path / WEIGHTS).exists()
