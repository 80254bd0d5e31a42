"""What is looked at before a distillation: a pure function for each check, from figures to a line with a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from detdistill.detectors.drift import NormDrift
from detdistill.progress import counted, duration, in_bytes
from detdistill.proof.thresholds import CONFLICT, LEAKED, STRONG, WEAK, WORTH, pull_fault

State = Literal["ok", "look at this", "will fail"]
OK: State = "ok"
LOOK: State = "look at this"
FAIL: State = "will fail"

SHIFT, SCALE = 0.5, 1.75
"""How far a batch-norm layer's mean, in standard deviations, and its width, as a factor, lie at most where all is well.

Healthy teachers were below 0.22 and 1.2 on their own images, those with 5 % of their tensors random above 0.57 or 1.85.
"""
LEAST_AP = 5.0
"""AP in percent below which a teacher finds next to nothing."""
BETTER = 2.0
_LOST = 0.01
_MEMORY = 0.9


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found.

    Attributes:
        name: what was looked at.
        said: what was found.
        remedy: what helps, where something is wrong.
        figures: the same as numbers.
    """

    name: str
    state: State
    said: str
    remedy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """In one line."""
        said = f"{self.state:<{len(LOOK)}}  {self.name}: {self.said}"
        return f"{said}. {self.remedy}" if self.remedy else said

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measure:
    """AP in percent on some images, with its 95 % interval over images, None where they are too few for one."""

    ap: float
    low: float | None
    high: float | None
    images: int

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or AP itself."""
        return (self.ap if self.low is None else self.low, self.ap if self.high is None else self.high)

    def text(self) -> str:
        """In words."""
        told = f"{self.ap:.1f} AP"
        return told if self.low is None else f"{told} [{self.low:.1f}, {self.high:.1f}]"


def refused(name: str, sentence: str) -> Check:
    """What the run itself would be refused for: its sentence, whose last part is the remedy."""
    parts = re.split(r"(?<=[\w)\]'\"])\. (?=[A-Z])", sentence, maxsplit=0)
    said, remedy = ". ".join(parts[:-1]), parts[-1]
    return Check(name, FAIL, said or remedy, remedy if said else "")


def weights(matched: int, wanted: int, drifts: Sequence[NormDrift], *, source: str, shown_otherwise: bool) -> Check:
    """Whether the teacher's tensors are all there, and whether what they compute is what it learned with.

    Args:
        matched: tensors that its file held.
        wanted: that it has.
        drifts: of its batch-norm layers on training images, first to last.
        shown_otherwise: whether the images are known to come to it otherwise than in its training.
    """
    name, figures = "teacher's weights", {"matched": matched, "tensors": wanted, "drifts": [*map(asdict, drifts)]}
    told = f"{matched} of {wanted} tensors matched"
    if matched < wanted:
        return Check(name, LOOK, f"{told}, the others are random", "Leave teacher.allow out to be told which.", figures)
    strange = [one for one in drifts if one.shift > SHIFT or one.scale > SCALE]
    if strange and not shown_otherwise:
        first = strange[0]
        said = (
            f"{len(strange)} of {counted(len(drifts), 'batch-norm layer')} see what they never saw in training, the "
            f"first {first.layer} (means off by {first.shift:.2g} standard deviations, widths by a factor "
            f"{first.scale:.2g}): a tensor before it, or its statistics, are not those that it was trained with"
        )
        remedy = f"Copy {source} anew from where it was trained, or give an earlier checkpoint as --teacher."
        return Check(name, LOOK, f"{told}, but {said}", remedy, figures)
    if not drifts:
        return Check(name, OK, f"{told}; without batch-norm layers, only its AP tells random ones", figures=figures)
    layers = counted(len(drifts), "batch-norm layer")
    seen = "" if strange else f"; {layers} see what they saw in training"
    return Check(name, OK, f"{told}{seen}", figures=figures)


def teachers_ap(found: Measure | None, *, total: int, recorded: float | None, train: str) -> Check:
    """How good the teacher is on the validation images of this run.

    Args:
        found: on a sample of them; None where that holds nothing to find.
        total: validation images.
        recorded: what the teacher's own run measured on the same images; None where that is not known.
        train: the command that trains a teacher.
    """
    name = "teacher's AP"
    if found is None:
        remedy = "Look at the labels by `detdistill data check DATA`."
        return Check(name, LOOK, "the validation images hold nothing to find", remedy)
    said = f"{found.text()} on {found.images} of {counted(total, 'validation image')}"
    figures = {**asdict(found), "recorded": recorded}
    if recorded is not None and recorded > found.ends[1] + 1.0:
        remedy = "Give the checkpoint that those figures are of, or train the teacher anew."
        return Check(name, LOOK, f"{said}, where its own run measured {recorded:.1f}", remedy, figures)
    if found.ends[1] < LEAST_AP:
        return Check(name, LOOK, f"{said}: it finds next to nothing here", f"Train it on this data: {train}.", figures)
    return Check(name, OK, said, figures=figures)


def headroom(
    gap: float, ends: tuple[float, float] | None = None, *, against: str, bound: bool = False, train: str
) -> Check:
    """How much better the teacher is than the student.

    Args:
        gap: AP of the teacher minus the student's, in points.
        ends: of its 95 % interval; None where nobody measured that.
        against: which student, in words.
        bound: whether the student will get better still.
        train: the command that trains the student alone.
    """
    low, high = ends or (gap, gap)
    name, figures = "headroom", {"mean": gap, "low": low, "high": high, "against": against, "bound": bound}
    interval = "" if ends is None else f" [{low:+.1f}, {high:+.1f}]"
    said = f"{'at most ' if bound else ''}{gap:+.1f} AP{interval} over {against}"
    if gap <= 0 or high < WORTH:
        worse = "is worse than the student" if gap < 0 else "knows no more than the student"
        remedy = f"Take a better teacher, or train the student alone: {train}."
        return Check(name, LOOK, f"the teacher {worse}: {said}", remedy, figures)
    if low <= 0:
        few = "no more than these images can tell"
        return Check(name, LOOK, f"{said}, {few}", "Take a better teacher, or more validation images.", figures)
    return Check(name, OK, said, figures=figures)


def classes(
    names: Sequence[str], *, same: bool, found: float, order: Sequence[int], reordered: float, mapped: str = ""
) -> Check:
    """Whether the teacher's classes are the data's, by name and by what it finds.

    Args:
        names: the data's classes in label order.
        same: whether the teacher knows all of them.
        found: its AP in percent.
        order: which of the labels fits each of the teacher's best.
        reordered: its AP with labels so exchanged.
        mapped: which of them its own are, in words; empty where both are the same.
    """
    name, figures = "classes", {"names": [*names], "order": [*order], "ap": found, "ap_reordered": reordered}
    if mapped and not same:
        return Check(name, OK, f"{mapped}: its AP on all of them says nothing", "", figures)
    if not same:
        return Check(name, OK, "the teacher's are others than the data's, as allowed: its AP says nothing", "", figures)
    if reordered > 2 * found + BETTER:
        swaps = ", ".join(f"'{names[a]}' is labelled '{names[b]}'" for a, b in enumerate(order) if a != b)
        said = f"labels of teacher and data are in another order: what the teacher calls {swaps}; with that exchanged "
        said += f"it has {reordered:.1f} AP instead of {found:.1f}"
        remedy = "Put the names of the data's classes into the order that its labels have, or train the teacher anew."
        return Check(name, LOOK, said, remedy, figures)
    said = f"{counted(len(names), 'class')}, {mapped or 'the same names in the same order'}"
    return Check(name, OK, said, figures=figures)


def sizes(student: str, teacher: str, own: str | None, *, own_ap: float | None, seen: Measure | None) -> Check:
    """At what size both see the images.

    Args:
        student: at which it sees them, in words.
        teacher: at which the teacher does.
        own: at which it was trained, where that is another one.
        own_ap: its AP there, on the images of `seen`; None where nobody measured.
        seen: its AP as it sees the images here.
    """
    name, said = "image size", f"the student sees {student}, the teacher {teacher}"
    figures = {"student": student, "teacher": teacher, "own": own, "own_ap": own_ap, "seen_ap": seen and seen.ap}
    if own is None:
        return Check(name, OK, said, figures=figures)
    said += f", which was trained at {own}"
    told = "" if own_ap is None or seen is None else f" ({seen.ap:.1f} AP here, {own_ap:.1f} there)"
    if own_ap is not None and seen is not None and own_ap <= max(seen.ends[1], seen.ap + BETTER):
        return Check(name, OK, f"{said}{told}", figures=figures)
    return Check(name, LOOK, f"{said}{told}", "Set teacher.image=own to show it its own size.", figures)


def levels(note: str, *, paired: int) -> Check:
    """Which levels are compared; `note` says it in words."""
    return Check("levels", OK, note.removeprefix("levels "), figures={"paired": paired})


@dataclass(frozen=True, slots=True)
class TermFigures:
    """What a term shows on real batches, before it is scaled.

    Attributes:
        loss: the mean.
        gradient: length to the student's parameters.
        ratio: of its gradient to the task's at the student's pyramids; None where that says nothing.
        cosine: to the task's gradient there.
    """

    name: str
    loss: float
    gradient: float
    ratio: float | None
    cosine: float | None


def term(one: TermFigures, *, batches: int) -> Check:
    """Whether a term teaches the student, and does not pull against the labels."""
    said = f"loss {one.loss:.3g}, gradient to the student {one.gradient:.3g}"
    said += "" if one.ratio is None else f", {one.ratio:.3g} times the task's at its gain"
    said += "" if one.cosine is None else f", cosine to the task's {one.cosine:+.2f}"
    said += f" (over {counted(batches, 'batch')})"
    if one.cosine is not None and one.cosine < CONFLICT:
        remedy = "Let it end half-way by until=0.5 in the method, or find a method by `detdistill tune`."
        return Check(f"term {one.name}", LOOK, f"pulls against the labels: {said}", remedy, asdict(one))
    return Check(f"term {one.name}", OK, said, figures=asdict(one))


def strength(asked: Mapping[str, float | None], ratios: Mapping[str, float]) -> Check:
    """Whether methods are as strong beside the labels as makes sense.

    Args:
        asked: the strength of each; None where its gains are taken as they are.
        ratios: of each one's gradient to the task's, as it counts; where its gains are taken as they are.
    """
    name, figures = "strength", {"asked": dict(asked), "ratios": dict(ratios)}
    faults = {
        method: f"{method} at {pull:.3g} times the task is {fault}"
        for method, value in asked.items()
        if (pull := ratios.get(method) if value is None else value) is not None and (fault := pull_fault(pull))
    }
    said = ", ".join(
        f"{method} {'at its published gains' if value is None else f'at {value:g} times the task'}"
        for method, value in asked.items()
    )
    if faults:
        remedy = f"Leave it out for 3, or give {WEAK:g} to {STRONG:g}, such as --strength 3."
        return Check(name, LOOK, "; ".join(faults.values()), remedy, figures)
    return Check(name, OK, said, figures=figures)


def numbers(precision: str, *, steps: int, skipped: int) -> Check:
    """Whether steps in the precision that the run has are finite; one that is not ends the run, or is skipped."""
    figures = {"precision": precision, "steps": steps, "skipped": skipped}
    if skipped:
        said = f"{skipped} of {counted(steps, 'step')} in {precision} were not finite and skipped"
        return Check("precision", LOOK, said, "Set train.precision=32-true.", figures)
    return Check("precision", OK, f"{counted(steps, 'step')} in {precision} without NaN or infinity", figures=figures)


def memory(peak: int | None, total: int | None) -> Check:
    """The most memory that steps took, of all that there is; both in bytes, None where nobody can say."""
    name, figures = "memory", {"peak": peak, "total": total}
    if peak is None or total is None:
        return Check(name, OK, "not measured: the processes have a device each", figures=figures)
    said = f"at most {in_bytes(peak)} of {in_bytes(total)}"
    if peak > _MEMORY * total:
        return Check(name, LOOK, said, "Raise train.accumulate to 2, or choose smaller images.", figures)
    return Check(name, OK, said, figures=figures)


def disk(needed: int, free: int) -> Check:
    """Whether the disk has room for what a run keeps, in bytes; a run without it is refused."""
    said = f"at most {in_bytes(needed)} are needed, {in_bytes(free)} are free"
    return Check("disk", OK, said, figures={"needed": needed, "free": free})


def time(step_seconds: float, *, steps: int, evaluations: float, then: Sequence[str] = ()) -> Check:
    """How long the run takes, from measured steps; `evaluations` are seconds beside, `then` what is trained after."""
    seconds = step_seconds * steps + evaluations
    said = f"about {duration(seconds)}: {counted(steps, 'step')} of {step_seconds:.3g} s"
    said += f", evaluations {duration(evaluations)}" if evaluations else ""
    said += "".join(f"; then {one}" for one in then)
    return Check("time", OK, said, figures={"seconds": seconds, "step_seconds": step_seconds, "steps": steps})


def validation(half: float | None, *, images: int) -> Check:
    """What differences so few images can show.

    Args:
        half: half the width of the interval of AP on all validation images; None where there is none.
        images: of them.
    """
    name, said = "validation images", counted(images, "image")
    figures = {"images": images, "half_width": half}
    if half is None:
        return Check(name, LOOK, f"{said}: too few for an interval", "Give more by data.val=FOLDER.", figures)
    if not half:
        return Check(name, OK, f"{said}: what they can show is not told by a teacher of that AP", figures=figures)
    said += f": differences below {half:.1f} AP cannot be seen"
    if half > 10 * WORTH:
        return Check(name, LOOK, said, "Give more by data.val=FOLDER.", figures)
    return Check(name, OK, said, figures=figures)


def unlabelled(images: int, count: int) -> Check:
    """Images that nobody labelled, and how many of them a step sees."""
    said = f"{counted(images, 'image')}, {count} in a step beside the labelled ones"
    return Check("unlabelled", OK, said, figures={"images": images, "count": count})


def labels(lost: Mapping[str, int], kept: Mapping[str, int], *, check: str) -> Check:
    """What of the labels is left out, as it cannot be used; both by what it is, such as "train boxes"."""
    name, figures = "labels", {"lost": dict(lost), "kept": dict(kept)}
    told = [f"{count:,} of {count + kept[what]:,} {what}" for what, count in lost.items() if count]
    if not told:
        return Check(name, OK, "nothing is left out", figures=figures)
    said = f"left out, as they cannot be used: {', '.join(told)}"
    much = any(count > _LOST * (count + kept[what]) for what, count in lost.items())
    return Check(name, LOOK, said, f"See which by `{check}`.", figures) if much else Check(name, OK, said, "", figures)


def splits(shared: int, *, images: int) -> Check:
    """Whether validation images are training images too: then AP is of what was learned by heart."""
    name, figures = "splits", {"shared": shared, "images": images}
    if not shared:
        return Check(name, OK, "no validation image is a training image too", figures=figures)
    said = f"{shared} of {counted(images, 'validation image')} are training images too"
    if shared < LEAKED * images:
        return Check(name, OK, said, figures=figures)
    return Check(name, LOOK, f"{said}: AP is of what was learned by heart", "Give others by data.val=FOLDER.", figures)


@dataclass(frozen=True, slots=True)
class Pixels:
    """A way to normalise pixels, with the teacher's AP so; mean and std are of pixels in [0, 1]."""

    what: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    ap: float


def normalisation(student: str, own: str, found: Measure, others: Sequence[Pixels]) -> Check:
    """Whether the teacher is shown pixels as in its training.

    Args:
        student: by what the student's pixels are normalised, in words.
        own: likewise the teacher's.
        found: its AP with that.
        others: its AP on the same images with other numbers.
    """
    name, said = "normalisation", f"the student by {student}, the teacher by {own}"
    figures = {"student": student, "teacher": own, "ap": found.ap, "others": [*map(asdict, others)]}
    best = max(others, key=lambda one: one.ap, default=None)
    if best is not None and best.ap > max(found.ends[1], found.ap + BETTER):
        typed = " ".join(
            f"teacher.{key}=[{','.join(f'{value:.6g}' for value in getattr(best, key))}]" for key in ("mean", "std")
        )
        said = f"the teacher was trained on other pixels: {found.ap:.1f} AP by {own}, {best.ap:.1f} by {best.what}"
        return Check(name, LOOK, said, f"Set {typed}.", figures)
    return Check(name, OK, said, figures=figures)
