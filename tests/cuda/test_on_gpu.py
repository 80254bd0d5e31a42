"""Everything on a CUDA device: the CPU's values and gradients, bfloat16, resume, and a step that waits for nothing.

`benchmarks/on_gpu.py` runs these tests and keeps what they record.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS is then deterministic

import pytest
import torch
from torch import Tensor, nn

from detdistill.detectors.frozen import digest
from detdistill.distillation.constant import with_constant_weights
from detdistill.distillation.step import DistillationStep, SupervisedStep
from detdistill.methods.catalogue import build_recipe
from detdistill.methods.ikd import ADVERSARIAL
from detdistill.training.logs import read_rows
from detdistill.types import Batch, Clock
from every_method import METHODS, awake, families_of
from scenes_in_memory import FAMILIES, scene_batch, tiny_student, tiny_teacher
from tiny_training import checkpoint_tensors, run_tiny, tiny_settings

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]

CLOCK = Clock(step=500, total_steps=1000)
CASES = [
    *((None, family) for family in FAMILIES),
    *((method, family) for method in METHODS for family in families_of(method)),
]
SHARE = 1e-4
Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def plain_arithmetic() -> Iterator[None]:
    """No TF32, no algorithm chosen by its speed."""
    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = backends.cudnn.benchmark = False
    yield
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark = before


def made(method: str | None, family: str, *, autocast: torch.dtype | None = None) -> tuple[nn.Module, Batch]:
    """A step of a method on the CPU, everything in it awake, and its batch."""
    student, batch = tiny_student(family), scene_batch()
    if method is None:
        return SupervisedStep(student).train(), batch
    teacher = tiny_teacher(family)
    recipe = with_constant_weights(build_recipe(method, student.spec, teacher.spec), teacher, [batch])
    if ADVERSARIAL in {view.twin for view in recipe.views()}:
        # The attack follows the sign of a gradient, which rounding turns where it is near 0: both see the same twins.
        batch = replace(batch, twins={ADVERSARIAL: recipe.twins[ADVERSARIAL](teacher, batch)})
    teacher._autocast = autocast
    return DistillationStep(student, teacher, awake(recipe)).train(), batch


def taken(step: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of one step, on the CPU."""
    report = step(batch, CLOCK)
    report.total.backward()
    gradients = {name: p.grad.cpu() for name, p in step.named_parameters() if p.grad is not None}
    step.zero_grad()
    return report.total.detach().cpu(), gradients


@pytest.mark.parametrize(("method", "family"), CASES)
def test_a_step_is_the_cpus(method: str | None, family: str, record_property: Record) -> None:
    step, batch = made(method, family)
    total, gradients = taken(step, batch)
    there, found = taken(step.to("cuda"), batch.to("cuda"))
    assert found.keys() == gradients.keys()
    whole = torch.stack([one.double().square().sum() for one in gradients.values()]).sum().sqrt()
    off = torch.stack([(found[name] - one).double().square().sum() for name, one in gradients.items()]).sum().sqrt()
    parts = {
        name: float((found[name] - one).double().norm() / (one.double().norm() + 1e-3 * whole))
        for name, one in gradients.items()
    }
    loss, gradient, part = float((there - total).abs() / total), float(off / whole), max(parts.values())
    record_property("deviation", {"loss": loss, "gradient": gradient, "worst tensor": part})
    assert max(loss, gradient) <= SHARE
    assert part <= 10 * SHARE, max(parts, key=lambda name: parts[name])


def test_twins_are_made_there() -> None:
    student, teacher, batch = tiny_student("fcos"), tiny_teacher("fcos"), scene_batch()
    twins = build_recipe("ikd(hint)", student.spec, teacher.spec).twins[ADVERSARIAL]
    here = twins(teacher, batch)
    teacher.to("cuda")
    there = twins(teacher, batch.to("cuda")).cpu()
    moved = (here - there).abs()
    assert (moved < 1e-5).float().mean() > 0.98
    assert (there - batch.images).abs().max() <= 8 / 255 + 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_the_cpus(family: str) -> None:
    detector, batch = tiny_student(family).eval(), scene_batch()
    with torch.no_grad():
        here = detector.detect(batch)
        there = detector.to("cuda").detect(batch.to("cuda"))
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(theirs.scores.cpu(), ours.scores, rtol=1e-3, atol=1e-4)


def test_a_frozen_teacher_moves_along() -> None:
    student, teacher, batch = tiny_student("fcos"), tiny_teacher("fcos"), scene_batch()
    before = digest(teacher._detector)
    step = DistillationStep(student, teacher, build_recipe("frs", student.spec, teacher.spec)).to("cuda")
    assert teacher.device.type == "cuda"
    assert step(batch.to("cuda"), CLOCK).total.device.type == "cuda"
    assert digest(teacher._detector) == before
    step.to("cpu")
    assert teacher.device.type == "cpu"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_trains(family: str, precision: str, tmp_path: Path, record_property: Record) -> None:
    """On one batch over and over the loss falls, and stays finite."""
    half = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
    step, batch = made("hint + frs", family, autocast=half)
    settings = tiny_settings(device="cuda", precision=precision, steps=40, log_every=1, checkpoint_every=40, lr=0.02)
    run_tiny(tmp_path, settings, step=step, loader=repeated(batch, settings.steps))
    losses = [row["total"] for row in read_rows(tmp_path / "metrics.csv")]
    first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
    record_property("losses", {"first": first, "last": last})
    assert last < 0.9 * first


def repeated(batch: Batch, steps: int) -> Callable[[int, int, int], Iterator[Batch]]:
    return lambda start, rank, ranks: iter([batch] * (steps - start))


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


class _Cut(BaseException):
    pass


@pytest.mark.parametrize("family", FAMILIES)
def test_resume_is_exact(family: str, tmp_path: Path, record_property: Record) -> None:
    """With deterministic algorithms a run that was cut ends with the bits of one that was not."""
    settings = tiny_settings(device="cuda")
    with deterministic():
        for name in ("whole", "again"):
            step, batch = made("hint + frs", family)
            run_tiny(tmp_path / name, settings, step=step, loader=repeated(batch, settings.steps))
        step, batch = made("hint + frs", family)
        with pytest.raises(_Cut):
            run_tiny(tmp_path / "cut", settings, step=step, loader=cut_short(batch))
        step, _ = made("hint + frs", family)
        result = run_tiny(tmp_path / "cut", settings, step=step, loader=repeated(batch, 12), resume=True)
    assert result.resumed_from == 5
    whole, again, cut = (checkpoint_tensors(tmp_path / name, 12) for name in ("whole", "again", "cut"))
    apart = {name: farthest(whole, other) for name, other in (("again", again), ("resumed", cut))}
    record_property("farthest weight", apart)
    assert apart == {"again": 0.0, "resumed": 0.0}


def cut_short(batch: Batch) -> Callable[[int, int, int], Iterator[Batch]]:
    def batches(start: int, rank: int, ranks: int) -> Iterator[Batch]:
        yield from [batch] * 8
        raise _Cut

    return batches


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two checkpoints, beside the largest value of its tensor."""
    assert one.keys() == other.keys()
    return max(
        float((a.double() - other[name].double()).abs().max() / a.double().abs().max().clamp(min=1e-12))
        for name, a in one.items()
        if a.numel()
    )


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Counts where the host waits for the device within, by file and line."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one in caught:
        if "synchroniz" in str(one.message):
            found[f"{Path(one.filename).name}:{one.lineno}"] += 1


# What cannot be known without looking: Faster R-CNN's proposals after suppression, and which of them are drawn.
WAITING = frozenset({"faster_rcnn"})


@pytest.mark.usefixtures("without_type_checks")  # which look at values
@pytest.mark.parametrize(("method", "family"), CASES)
def test_a_step_waits_for_nothing(method: str | None, family: str, record_property: Record) -> None:
    step, batch = made(method, family)
    step, batch = step.to("cuda"), replace(batch, twins={}).to("cuda")
    optimizer = torch.optim.SGD(step.parameters(), lr=0.0)
    for _ in range(2):  # what is kept from step to step is there at the second
        with waits() as found:
            optimizer.zero_grad()
            step(batch, CLOCK).total.backward()
            optimizer.step()
    record_property("waits", dict(found))
    if family not in WAITING:
        assert not found


@pytest.mark.usefixtures("without_type_checks")  # which look at values
@pytest.mark.parametrize("family", FAMILIES)
def test_the_profiler_sees_no_wait(family: str, record_property: Record) -> None:
    step, batch = made("hint", family)
    step, batch = step.to("cuda"), batch.to("cuda")
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    taken(step, batch)
    with torch.profiler.profile(activities=kinds) as profile:
        with torch.profiler.record_function("the step"):
            step(batch, CLOCK).total.backward()
        torch.cuda.synchronize()
    events: Any = profile.events()
    (span,) = [e.time_range for e in events if e.name == "the step" and e.device_type == torch.autograd.DeviceType.CPU]
    within = Counter(e.name for e in events if "ynchronize" in e.name and span.start <= e.time_range.start <= span.end)
    kernels = sum(e.device_type == torch.autograd.DeviceType.CUDA for e in events)
    record_property("profiler", {"waits": dict(within), "events on the device": kernels})
    assert kernels > 0
    if family not in WAITING:
        assert not within


@pytest.mark.usefixtures("without_type_checks")  # which look at values
def test_training_waits_once_a_step(tmp_path: Path, record_property: Record) -> None:
    """For what is logged of every step: the loss, the norm, and whether both are finite."""
    counted = {}
    for steps in (4, 12):
        step, batch = made("hint + frs", "fcos")
        settings = tiny_settings(device="cuda", steps=steps, log_every=100, checkpoint_every=100, clip_norm=10.0)
        with waits() as found:
            run_tiny(tmp_path / str(steps), settings, step=step, loader=repeated(batch, steps))
        counted[steps] = found
    more = counted[12] - counted[4]
    record_property("waits", {"in 8 more steps": dict(more)})
    assert sum(more.values()) <= 8
