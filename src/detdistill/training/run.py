"""One rank's run through the steps: compute, agree, step, average, log, save, evaluate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import torch
from torch import Tensor, nn

from detdistill.distillation.calibration import Calibration
from detdistill.errors import DataError, DistillError
from detdistill.outside import telling
from detdistill.progress import Progress
from detdistill.random import draw_seed
from detdistill.store.checkpoints import (
    Checkpoint,
    Snapshot,
    find_checkpoint,
    remove_leftovers,
    remove_surplus,
    require_same,
    write_checkpoint,
)
from detdistill.store.layout import RunFolder
from detdistill.store.lock import displaced, saved_beside
from detdistill.training.callbacks import Callbacks, Listening
from detdistill.training.clipping import Clipping
from detdistill.training.evaluations import Evaluations, require_readable
from detdistill.training.finite import LeftOut
from detdistill.training.forward import Parcel, PlainStep
from detdistill.training.gradients import added_gradients, mean_norm
from detdistill.training.joined import set_up
from detdistill.training.loggers import Loggers
from detdistill.training.memory import explaining
from detdistill.training.optimizer import build_optimizer, learning_rate
from detdistill.training.pace import Pace
from detdistill.training.result import BringUp, Evaluate, Loader, SaveStudent, TrainResult
from detdistill.training.settings import TrainSettings
from detdistill.training.signals import StopFlag
from detdistill.training.state import Ema, TrainingState, plain
from detdistill.training.trackers.base import Ending
from detdistill.training.world import attempted, by_leader, launched_by_torchrun, settled
from detdistill.types import Batch, Clock

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Outcome = TypeVar("Outcome")


@final
@dataclass(eq=False)
class _Run:
    """One rank's run. Rank 0 alone averages, evaluates, reads checkpoints and writes; see `train` for the rest."""

    fabric: Fabric
    step: nn.Module
    settings: TrainSettings
    loader: Loader
    save_student: SaveStudent
    folder: Path
    resume: bool
    evaluate: Evaluate | None
    begin: Callable[[], None]
    progress: Progress
    label: str
    identity: Mapping[str, Any]
    brought_up: BringUp
    until: int
    config: Mapping[str, Any]
    callbacks: Callbacks

    def __post_init__(self) -> None:
        fabric, settings, step = self.fabric, self.settings, self.step
        self.writes = fabric.is_global_zero
        step.to(fabric.device).to(memory_format=torch.channels_last).train()
        self.student = step.get_submodule("student")
        optimizer = build_optimizer(step, settings)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.ema = Ema(self.student, decay=settings.ema_decay) if settings.ema_decay and self.writes else None
        self.scaler: torch.amp.GradScaler | None = (
            fabric.strategy.precision.scaler if settings.precision == "16-mixed" else None  # type: ignore[attr-defined]
        )
        self.seconds, self.pace = 0.0, Pace(settings.steps)
        self.last_metrics: dict[str, float | None] = {}
        self.checkpoint: Path | None = None
        self.calibration: Calibration = getattr(step, "calibration", Calibration())
        warm, adaptive = min(settings.warmup_steps, settings.steps // 2), settings.optimizer == "adamw"
        scaled = bool(self.calibration.members)
        self.clipping = Clipping(settings.clip_norm, start=warm, adaptive=adaptive, calibrated=scaled)
        self.left_out = LeftOut(step, settings)
        self.state = TrainingState(step, optimizer, ema=self.ema, scaler=self.scaler)
        start = self.start = self.done = self._begin()
        if self.writes:
            self.begin()
        self.module, self.optimizer, self.join = set_up(fabric, PlainStep(step), optimizer)
        self.heard = Listening(self.callbacks, self.folder, settings)
        self.loggers: Loggers | None = None
        self.evaluations: Evaluations | None = None
        if self.writes:
            told: dict[str, Any] = {"resume": self.resume, "say": self.progress.say, "heard": self.heard}
            # It reads the tables before rows of later steps are dropped.
            self.loggers = Loggers(self.folder, settings, self.config, step=start, **told)
            self.evaluations = Evaluations(self.folder, settings, step=start)

    def _begin(self) -> int:
        """Restores the latest checkpoint, which rank 0 alone need have on its disk; returns the step to go on from."""
        found, self.warnings = self._by_leader(self._find)
        start = 0
        # Ranks on different devices may have begun with scales that differ in the last bits.
        self.calibration.restore(self.fabric.broadcast(self.calibration.counters()))
        if found is not None:
            self.state.restore(found)
            self.clipping.restore(found.snapshot.counters.get("clipping"))
            self.left_out.restore(found.snapshot.counters.get("left_out"))
            self.calibration.restore(found.snapshot.counters.get("calibration"))
            self.seconds, self.checkpoint, start = found.snapshot.seconds, found.path, found.snapshot.step
        if self.writes:
            remove_leftovers(self.folder)
            remove_surplus(self.folder, step=start, keep=self.settings.keep_checkpoints)
        return start

    def _find(self) -> tuple[Checkpoint | None, tuple[str, ...]]:
        found, warnings = find_checkpoint(self.folder) if self.resume else (None, ())
        if found is not None:
            require_same(self.brought_up(found.snapshot.identity), self.identity, where=found.path)
        require_readable(self.folder, self.settings, step=0 if found is None else found.snapshot.step)
        return found, warnings

    def _by_leader(self, work: Callable[[], Outcome]) -> Outcome:
        outcome: Any = self.fabric.broadcast(attempted(work) if self.writes else None)
        found: Outcome = settled(outcome)
        return found

    def execute(self, stop: StopFlag) -> TrainResult:
        """Trains to the end."""
        where = f"step {{}} of {self.settings.steps}".format
        with explaining(self.settings, where=lambda: where(self.done + 1), kept=lambda: self.kept):
            return self._execute(stop)

    def _execute(self, stop: StopFlag) -> TrainResult:
        settings, start = self.settings, self.start
        images = settings.batch_size * self.fabric.world_size
        if self.writes:
            self.progress.start(self.label, settings.steps, done=start)
            for warning in self.warnings:
                self.progress.say(warning)
        enough = self._evaluate_if_due(start, stop)
        batches = self._batches(stop)
        before, done = self.seconds, start
        for index in range(start, start if enough else self.until):
            began = time.perf_counter()
            batch = next(batches)
            stopping = batch is None
            self.done, done = index, index if batch is None else index + 1
            if batch is not None:
                row, stopping = self._advance(index, batch, stop)
                self.seconds += time.perf_counter() - began
                self._report(done, row, rate=(done - start) * images / max(self.seconds - before, 1e-9))
                stopping |= self.heard.stops and self.fabric.world_size == 1  # several agree in the step after
            if stopping or done == self.until or _due(done, settings.checkpoint_every):
                self._save(done)
            if stopping and self.checkpoint is not None:
                raise self.heard.ending(done, self.checkpoint)
            if enough := self._evaluate_if_due(done, stop):
                break
        if enough:
            self._save(done)
        if self.checkpoint is None:
            raise DistillError("a finished run must have a checkpoint, got none. Report this as a bug.")
        if stop.requested or self.heard.stops:
            raise self.heard.ending(done, self.checkpoint)
        best = self.evaluations.best if self.evaluations is not None and settings.keep == "best" else None
        return TrainResult(
            steps=done,
            seconds=self.seconds,
            images_per_second=done * images / max(self.seconds, 1e-9),
            checkpoint=self.checkpoint,
            student=self.checkpoint if best is None else RunFolder(self.folder).candidate(best.step),
            best=best,
            stopped_early=done < settings.steps,
            resumed_from=start,
            metrics=self.last_metrics,
            warnings=self.warnings,
            clipping=self.clipping.result(),
            left_out=tuple(self.left_out.steps),
            strength=self.calibration.as_dict(),
        )

    def close(self, ending: Ending) -> None:
        """Ends loggers and progress."""
        if self.loggers is not None:
            self.loggers.close(ending)
        if self.writes:
            self.progress.finish()

    def _batches(self, stop: StopFlag) -> Iterator[Batch | None]:
        """The batches from the start step on; None where a Ctrl-C took the loader's processes away."""
        yielded = 0
        if self.start < self.settings.steps:
            iterator = iter(self.loader(self.start, self.fabric.global_rank, self.fabric.world_size))
            while True:
                try:
                    batch = next(iterator, None)
                except RuntimeError:
                    if not stop.requested or self.fabric.world_size > 1:
                        raise
                    yield None
                    return
                if batch is None:
                    break
                yielded += 1
                yield batch.to(self.fabric.device)
        raise DataError(
            f"the training loader must yield {self.settings.steps - self.start} batches from step {self.start} "
            f"on, got {yielded}. Give it an endless order of images."
        )

    def _advance(self, index: int, batch: Batch, stop: StopFlag) -> tuple[dict[str, float | int | None], bool]:
        """One optimiser step; returns its figures, and whether any rank was asked to stop."""
        settings = self.settings
        torch.manual_seed(draw_seed(settings.seed, index, self.fabric.global_rank))
        rate = learning_rate(index, settings)
        for group in self.optimizer.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        clock = Clock(step=index, total_steps=settings.steps)
        self.optimizer.zero_grad()
        buffers = self.left_out.buffers()
        asked = self.scaler is None and self.clipping.asks(index)
        tasks: Sequence[Tensor | None] = [None] * len(self.parameters)
        figures: dict[str, dict[str, Tensor]] = {"total": {}, "parts": {}, "diagnostics": {}}
        edges = [round(len(batch) * number / settings.accumulate) for number in range(settings.accumulate + 1)]
        pieces = [(first, last) for first, last in pairwise(edges) if last > first]
        for first, last in pieces:
            share = (last - first) / len(batch)
            with self.fabric.no_backward_sync(self.module, enabled=last < len(batch)):
                parcel = Parcel(batch.part(first, last) if settings.accumulate > 1 else batch, clock)
                report, aside = self.module(parcel)
                if asked and aside.tensor is not None:
                    tasks = added_gradients(aside.tensor * share, self.parameters, tasks)
                self.fabric.backward(report["total"]["total"] * share)
            for kind, values in report.items():
                for name, value in values.items():
                    figures[kind][name] = figures[kind].get(name, 0.0) + value.detach().float() * share
        raised = self.join(self._signs(figures["total"]["total"], stop))
        norm = self._gradient_norm()
        total, length, what, stopping = self._heed(figures, norm, raised)
        self._say(self.calibration.settle())
        row: dict[str, float | int | None] = {"step": index + 1, "seconds": None, "lr": rate, "total": total}
        if what:
            self._say(self.left_out.add(index + 1, what, buffers=buffers, kept=self.kept))
            if self.scaler is not None and self.settings.clip_norm:
                self.scaler.update()  # it was told of this step's gradient already
            return row | {"total": None}, stopping
        if norm is not None:
            self._say(self.clipping.add(length, task=mean_norm(tasks, ranks=self.fabric.world_size)))
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.student)
        if self._is_logged(index + 1):
            named = figures["parts"] | figures["diagnostics"] | ({} if norm is None else {"gradient_norm": norm})
            row |= dict(zip(named, torch.stack([*named.values()]).tolist(), strict=True)) if named else {}
            row |= self.calibration.figures()
        return row, stopping

    def _say(self, said: str | None) -> None:
        if said is not None and self.writes:
            self.progress.say(said)

    def _gradient_norm(self) -> Tensor | None:
        if self.settings.clip_norm > 0:
            return self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
            )
        if self.scaler is not None:
            return None
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def _signs(self, total: Tensor, stop: StopFlag) -> Tensor:
        """Whether this rank's loss is not finite, and whether it is to stop."""
        ending = stop.requested or self.heard.stops or (self.writes and displaced(self.folder))
        return torch.stack([~total.isfinite(), total.new_full((), ending, dtype=torch.bool)])

    def _heed(
        self, figures: Mapping[str, Mapping[str, Tensor]], norm: Tensor | None, raised: Tensor
    ) -> tuple[float, float, str, bool]:
        """All that the host waits for in a step; what is `raised` is any rank's, and the norm alike on all.

        Returns loss and norm, what of them is not finite (empty for nothing), and whether to save and stop.
        """
        total = figures["total"]["total"]
        length = total.new_zeros(()) if norm is None else norm.detach().to(total.dtype)
        loss, reach, bad_loss, stopping = torch.stack([total, length, *raised.to(total.dtype)]).tolist()
        what = ""
        if bad_loss:
            bad = [name for name, value in figures["parts"].items() if not math.isfinite(float(value))]
            what = f"loss must be finite, got {loss} in {', '.join(bad) or 'the total'}"
        elif self.scaler is None and not math.isfinite(reach):
            what = f"gradient must be finite, got a norm of {reach}"
        return loss, reach, what, bool(stopping)

    @property
    def kept(self) -> str:
        """What there is to go on from, in words."""
        return f"the last checkpoint is {self.checkpoint}" if self.checkpoint else "there is no checkpoint yet"

    def _is_logged(self, done: int) -> bool:
        return _due(done, self.settings.log_every) or done == self.settings.steps

    def _report(self, done: int, row: dict[str, float | int | None], *, rate: float) -> None:
        if not self.writes:
            return
        if said := self.pace.sentence(done, self.seconds):
            self.progress.say(said)
        total = row["total"]
        self.progress.advance(done, f"{rate:.0f} images/s, {'left out' if total is None else f'loss {total:.3f}'}")
        if self.loggers is not None and self._is_logged(done) and not displaced(self.folder):
            self.loggers.log(row | {"seconds": self.seconds})

    def _save(self, done: int) -> Path:
        if self.checkpoint is None or self.checkpoint != RunFolder(self.folder).checkpoint(done):
            self.checkpoint = self._by_leader(lambda: self._write_checkpoint(done))
        return self.checkpoint

    def _write_checkpoint(self, done: int) -> Path:
        self._require_place(done)
        return self._write_into(self.folder, done)

    def _require_place(self, done: int) -> None:
        """Saves beside the run's folder, and ends the run, where that is not the one which it began in any more."""
        if displaced(self.folder):
            raise saved_beside(self.folder, partial(self._write_into, done=done), what=f"step {done}")

    def _write_into(self, folder: Path, done: int) -> Path:
        counters = {
            **self.state.counters(),
            "clipping": self.clipping.counters(),
            "calibration": self.calibration.counters(),
            "left_out": self.left_out.steps,
        }
        tensors = self.state.tensors()
        snapshot = Snapshot(done, self.seconds, self.identity, counters, tensors)
        keep = self.settings.keep_checkpoints
        with plain(self.student, self.ema) as student:
            save = partial(self.save_student, student)
            return write_checkpoint(folder, snapshot, save_student=save, keep=keep)

    def _evaluate_if_due(self, done: int, stop: StopFlag) -> bool:
        """Evaluates the student where it is time to and that was not done yet; returns whether the run is to end."""
        every = self.settings.evaluate_every
        if done == 0 or not every or not (_due(done, every) or done == self.settings.steps):
            return False
        # However long that takes: a collective call of the others would run out of time.
        share = by_leader if launched_by_torchrun() else self._by_leader
        ends = share(lambda: self._evaluated(done, stop))
        if ends is None:
            raise self.heard.ending(done, self._save(done))
        return ends

    def _evaluated(self, done: int, stop: StopFlag) -> bool | None:
        evaluate = self.evaluate
        if evaluate is None or self.evaluations is None:
            return False
        if not self.evaluations.has(done):
            began = time.perf_counter()
            where = f"the evaluation after step {done} of {self.settings.steps}"
            with telling(lambda error: error.during(where, self.kept)), plain(self.student, self.ema) as student:
                if (found := stop.breaking(lambda: dict(evaluate(student)))) is None:
                    return None
                by_class, self.last_metrics = found.pop("per_class", {}), found
                row = {"step": done, "seconds": self.seconds, **found}
                self._require_place(done)
                self.evaluations.add(row, partial(self.save_student, student))
            figures = ", ".join(f"{name} {value:.1f}" for name, value in found.items() if value is not None)
            took = time.perf_counter() - began
            self.progress.say(f"step {done}: {figures or 'no figures'} (evaluated in {took:.1f} s)")
            if self.loggers is not None:
                best = self.evaluations.best
                self.loggers.evaluated(row, by_class, is_best=best is not None and best.step == done)
            if self.heard.stops:
                return None
        if not self.evaluations.exhausted or done == self.settings.steps:
            return False
        metric, patience = self.settings.best_metric, self.settings.patience
        self.progress.say(f"step {done}: stopped early, {metric} was no better in {patience} evaluations")
        return True


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
