"""Whether a student alone was trained as the one that is distilled, but for the teaching."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detdistill.errors import ConfigError
from detdistill.jobs.identity import OWN_KEYS, brought_up, own_identity
from detdistill.jobs.samples import Opened, SampleChanges
from detdistill.json_text import used_as
from detdistill.settings.calls import NAME
from detdistill.settings.strict_yaml import load_yaml
from detdistill.store.checkpoints import Record, differences, read_record
from detdistill.store.layout import RunFolder
from detdistill.training.loop import fixed_settings
from detdistill.training.settings import as_recorded

# What the parts of an identity are called in settings, and what has no setting.
_CALLED = {"image": "data.image", "augment": "data.augment", "sample_specific": "data.sample_specific"}
_CALLED |= {"decode": "data.decode"}
_CALLED |= {"train.seed": "seed", "images": "the training images", "boxes": "the training boxes"}
_CALLED |= {"annotations": "the digest of the training annotations", "init": "the digest of the weights of --init"}
# How a step is computed; which images it learns from is their product, and what is left is rounding and statistics.
_COMPUTED = ("processes", "accumulate", "threads", "device")
_STEP = "images of a step (train.batch_size of all processes)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting in which a student alone is no twin of a distilled one: its value `here` and `there`, None for none."""

    setting: str
    here: Any
    there: Any

    def text(self) -> str:
        """In words, from the view of the distilled one's run."""
        here, there = ("nothing" if value is None else value for value in (self.here, self.there))
        return f"{self.setting} {there} (here {here})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a student alone is the twin of the one that a run distils.

    Attributes:
        alone: the student alone.
        recorded: whether how it was trained is known; without that it counts as no twin.
        differences: in what it was trained otherwise, the teaching aside.
    """

    alone: Path
    recorded: bool
    differences: tuple[Difference, ...] = ()

    @property
    def twin(self) -> bool:
        """Whether the teaching is all that differs."""
        return self.recorded and not self.differences

    def text(self) -> str:
        """In words, for a table."""
        if self.twin:
            return "alone: the same run but for the teacher"
        if not self.recorded:
            return "alone: not known to be the same run but for the teacher: there is no record of how it was trained"
        return f"alone: NOT the same run but for the teacher: {self._found()}"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "run": str(self.alone),
            "twin": self.twin,
            "recorded": self.recorded,
            "differences": [asdict(one) for one in self.differences],
        }

    def require_twin(self) -> None:
        """Refuses a student alone that is no twin."""
        if not self.twin:
            raise ConfigError(
                f"The student alone in {self.alone} must be trained as this run's student is but for the teacher, got "
                f"{self._found()}. Train it with the same settings, or pass --alone-differs to have that said beside "
                "the figures."
            )

    def _found(self) -> str:
        if not self.recorded:
            return "a checkpoint without a record of how it was trained"
        return "; ".join(one.text() for one in self.differences)


def compare_alone(alone: Path, opened: Opened, changes: SampleChanges) -> Comparison:
    """Compares a student alone with the student of a distillation, but for what the teaching does.

    Args:
        alone: what `load_detector` reads.
        changes: to the samples, by the method or the data section: a student alone may have the same, as the method's
            control, or what the data section says.
    """
    record = read_record(alone)
    if record is None:
        return Comparison(alone, recorded=False)
    with used_as(alone, "a run whose record says how it was trained"):
        return _compared(alone, record, opened, changes)


def compare_records(alone: Path, distilled: Path) -> Comparison:
    """The same of two runs by what their records say, wherever they were trained."""
    record, other = read_record(alone), read_record(distilled)
    if record is None or other is None:
        return Comparison(alone, recorded=False)
    with used_as(distilled, "a run whose record says how it was trained"):
        ours = brought_up(as_recorded(other.identity, json.loads(json.dumps(record.identity))))
        own = {key: value for key, value in ours.items() if key == "train" or key in OWN_KEYS}
    changed = own.get("sample_specific")
    if not _asked_for(RunFolder(distilled).config, "sample_specific"):  # it came with the method
        own.pop("sample_specific", None)
    with used_as(alone, "a run whose record says how it was trained"):
        found = _found(alone, record, own, changed=changed)
    if _finished(other, own["train"]):
        return found
    unfinished = Difference("steps done", here=other.step, there=own["train"]["steps"])
    return replace(found, differences=(*found.differences, unfinished))


def _asked_for(config: Path, key: str) -> bool:
    """Whether a run's data section has a key that the defaults have not."""
    if not config.is_file():
        return True
    with used_as(config, "a run's settings"):
        return load_yaml(config)["data"].get(key) is not None


def _compared(alone: Path, record: Record, opened: Opened, changes: SampleChanges) -> Comparison:
    ours = json.loads(json.dumps({"train": fixed_settings(opened.config.train), **own_identity(opened)}))
    changed = json.loads(json.dumps(changes.identity())).get("sample_specific")
    return _found(alone, record, ours, changed=changed)


def _found(alone: Path, record: Record, ours: dict[str, Any], *, changed: Any) -> Comparison:
    """Compares a record with the identity of a distilled student without its teaching.

    Args:
        changed: how the distilled one's samples are, by its method or otherwise; a student alone may have the same.
    """
    theirs = brought_up(as_recorded(record.identity, ours))
    method = theirs.pop("method", None)
    if method is not None:  # what else its teaching recorded is no difference of its own
        theirs = {key: value for key, value in theirs.items() if key in ours}
    if theirs.get("sample_specific") == changed:
        ours["sample_specific"] = theirs.get("sample_specific")
    found = [
        Difference(_called(key), here=here, there=there)
        for key, there, here in differences(_by_step(theirs), _by_step(ours))
    ]
    if any(ours.get(key) != theirs.get(key) for key in ("images", "boxes")):
        found = [one for one in found if one.setting != _CALLED["annotations"]]
    if method is not None:
        found.insert(0, Difference("method", here=None, there=method.get(NAME)))
    if not _finished(record, theirs["train"]):
        found.append(Difference("steps done", here=ours["train"]["steps"], there=record.step))
    return Comparison(alone, recorded=True, differences=tuple(found))


def _by_step(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity by what a step learns from, however it is computed."""
    train = dict(identity["train"])
    images = train.pop("batch_size") * train["processes"]
    return {**identity, "train": {k: v for k, v in train.items() if k not in _COMPUTED}, _STEP: images}


def _finished(record: Record, train: Mapping[str, Any]) -> bool:
    return record.step == train["steps"] or (train["patience"] > 0 and record.step == record.finished)


def _called(key: str) -> str:
    first, _, rest = key.partition(".")
    if key in _CALLED or first not in _CALLED:
        return _CALLED.get(key, key)
    return f"{_CALLED[first]}.{rest}"
