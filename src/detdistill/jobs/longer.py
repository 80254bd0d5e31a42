"""The student alone for longer: for as long as its distillation took, or for several times its steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.settings import RunConfig
from detdistill.jobs.trial import tried
from detdistill.json_text import used_as
from detdistill.progress import Progress
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.checkpoints import read_record
from detdistill.store.layout import ALONE_LONGER, RunFolder
from detdistill.training.world import by_leader, launched_by_torchrun

__all__ = ["ALONE_EQUAL_TIME", "ALONE_LONGER", "equal_time_config", "longer_configs", "require_measurable"]

ALONE_EQUAL_TIME = "alone_equal_time"
_MEASURED = 20


def longer_configs(built: stages.Built, *, seconds: float, progress: Progress) -> dict[str, RunConfig]:
    """The runs of the student alone that a distillation is to be compared with as well, by name.

    Args:
        built: the distillation.
        seconds: that its training took.
        progress: hears how many steps fit into that time.
    """
    opened = built.opened
    config, found = opened.config, {}
    base = replace(config, data=replace(config.data, image=opened.data.image)).untaught()
    if config.equal_time:
        steps = by_leader(lambda: _equal_time_steps(built, base, seconds, progress))
        found[ALONE_EQUAL_TIME] = _with_steps(base, config.out / ALONE_EQUAL_TIME, steps)
    if config.longer is not None:
        found[ALONE_LONGER] = _with_steps(base, config.out / ALONE_LONGER, round(config.longer * config.train.steps))
    return found


def equal_time_config(config: RunConfig, *, out: Path, alone: float, distilled: float) -> RunConfig:
    """The student alone again, with as many steps as fit into the distilled student's training time, in seconds.

    Args:
        config: the student alone.
        out: the folder that holds the run's.
        alone: seconds that all steps of `config` take.
        distilled: seconds that the distillation took.
    """
    steps = max(config.train.steps, round(config.train.steps * distilled / alone))
    return _with_steps(config, out / ALONE_EQUAL_TIME, steps)


def require_measurable(config: RunConfig) -> None:
    """Refuses to train for equal time where nobody knows what a step of the student alone takes."""
    if config.equal_time and launched_by_torchrun() and (config.alone is None or read_record(config.alone) is None):
        raise ConfigError(
            "equal_time must come with a run of the student alone where torchrun starts the processes, got none with "
            "a record of its time. Pass --alone RUN."
        )


def _equal_time_steps(built: stages.Built, base: RunConfig, seconds: float, progress: Progress) -> int:
    config, folder = built.opened.config, RunFolder(base.out / ALONE_EQUAL_TIME)
    if folder.config.is_file():  # it was begun already
        with used_as(folder.config, "a run's settings"):
            return int(load_yaml(folder.config)["train"]["steps"])
    record = None if config.alone is None or built.alone is None or not built.alone.twin else read_record(config.alone)
    if record is not None:
        step, source = record.seconds / record.step, f"as {config.alone} took"
    else:
        measured = stages.prove(stages.build(stages.open_inputs(replace(base, out=folder.path))))
        step, source = tried(measured, _MEASURED).step_seconds, "measured now"
    whole = step * base.train.steps
    steps = equal_time_config(base, out=base.out, alone=whole, distilled=seconds).train.steps
    progress.say(f"equal time: the student alone at {step:.3g} s a step ({source}): {steps:,} steps in {seconds:.0f} s")
    return steps


def _with_steps(config: RunConfig, out: Path, steps: int) -> RunConfig:
    return replace(config, train=replace(config.train, steps=steps), out=out)
