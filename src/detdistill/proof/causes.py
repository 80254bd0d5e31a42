"""Causes for which a distillation gains nothing: each rule is a pure function from what is known of a run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from detdistill.errors import typed as as_list
from detdistill.progress import counted
from detdistill.proof.checks import OK
from detdistill.proof.evidence import Evidence, shown
from detdistill.proof.thresholds import (
    CLIPPED,
    CLOSED,
    CONFLICT,
    FEW_EPOCHS,
    LEAKED,
    LEAST_FALL,
    MOSTLY_OFF,
    OFF,
    SKIPPED,
    STRONG,
    pull_fault,
)
from detdistill.settings.calls import written

Weight = Literal[1, 2, 3]
_USUAL, _LOWER, _ENOUGH = 3.0, 3.0, 10.0
_LEVEL = 1.0
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a distillation may have gained nothing.

    Attributes:
        weight: 3 where it explains that by itself, 2 where it explains much of it, 1 where it may have cost something.
        evidence: the figures that say so; a clause.
        action: what to do about it; a sentence that holds `typed`.
        typed: a command, or words of `distill`.
        name: of its rule.
    """

    weight: Weight
    evidence: str
    action: str
    typed: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A cause to look for.

    Attributes:
        name: of the cause.
        known: whether the evidence is there.
        find: the cause where it is one; asked only where `known`.
    """

    name: str
    known: Callable[[Evidence], bool]
    find: Callable[[Evidence], Cause | None]


def headroom(known: Evidence) -> Cause | None:
    """The teacher is not better than the student alone, or by too little for a third of it to be seen or worth it."""
    lead, gain = known.headroom, known.gain
    if lead is None:
        return None
    seen, closed = known.worth if gain is None else max(known.worth, (gain.high - gain.low) / 2), CLOSED * lead.mean
    if lead.low > 0 and closed >= seen:
        return None
    little = (
        f"; closing a third of that, as students did elsewhere, gains {closed:.1f} AP, and less than {seen:.1f} would "
        "not be seen, or worth it"
    )
    teacher, alone = f"{known.teacher_ap or 0:.1f}", f"{known.alone_ap or 0:.1f}"
    typed = f"detdistill evaluate {_quoted(known.teacher)} --data {_quoted(known.data)} --interval"
    return Cause(
        3 if lead.mean <= known.worth and lead.low <= 0 else 2,
        f"the teacher has {teacher} AP on these images, the student alone {alone}: {shown(lead)}"
        f"{little if lead.low > 0 else ''}",
        f"Train a larger teacher, or this one for longer, until {typed} prints clearly more than {alone}.",
        typed,
    )


def weights(known: Evidence) -> Cause | None:
    """Some of the teacher's tensors are random, or others than it was trained with."""
    if known.weights is None or known.weights.state == OK:
        return None
    typed = f"detdistill doctor {_quoted(known.config)} out=runs/again"
    return Cause(3, known.weights.said, f"{known.weights.remedy} See whether that helped by {typed}.", typed)


def pixels(known: Evidence) -> Cause | None:
    """The teacher was trained on pixels that are normalised otherwise than here."""
    if known.pixels is None or known.pixels.state == OK:
        return None
    typed = known.pixels.remedy.removeprefix("Set ").removesuffix(".")
    return Cause(3, known.pixels.said, known.pixels.remedy, typed)


def classes(known: Evidence) -> Cause | None:
    """The teacher does not know all the classes, or knows them by other numbers."""
    found = known.classes
    if found is None or (not found.missing and found.ordered):
        return None
    if found.missing:
        weight: Weight = 3 if found.boxes >= 0.5 else 2
        said = f"the teacher does not know {_listed(found.missing)}, {found.boxes:.0%} of the training boxes"
    else:
        weight, said = 2, "the teacher has the classes in another order, and none of them teaches its own"
    typed = f"detdistill train {_quoted(known.config)} student=fcos/resnet50 out=runs/teacher"
    action = f"Train a teacher on these classes, such as by {typed}."
    if found.known:
        typed = _quoted(f"data.classes={as_list(map(written, found.known))}")
        action = f"Learn the teacher's classes alone, in its order, by {typed}, or train a teacher on these."
    return Cause(weight, said, action, typed)


def twins(known: Evidence) -> Cause | None:
    """The student alone was trained otherwise: the difference is not that of the teaching."""
    if not known.differing:
        return None
    typed = f"detdistill train {_quoted(known.config)} out=runs/alone"
    return Cause(
        3,
        f"the student alone was trained otherwise: {'; '.join(known.differing)}",
        f"Train it as this run, {typed}, and compare with that by --alone runs/alone.",
        typed,
    )


def leaked(known: Evidence) -> Cause | None:
    """Validation images are training images: a student alone that learned them by heart cannot be beaten there."""
    if known.leaked is None or not known.images or known.leaked < LEAKED * known.images:
        return None
    typed = f"detdistill data check {_quoted(known.data)}"
    return Cause(
        3 if known.leaked >= 0.5 * known.images else 1,
        f"{known.leaked} of {known.images} validation images are training images too",
        f"Take them out of one split; {typed} lists them.",
        typed,
    )


def strength(known: Evidence) -> Cause | None:
    """A method is too weak to teach, drowns the labels, or became far stronger than was asked for.

    That it becomes weaker is no fault: what is imitated well has a small gradient.
    """
    for name, pull in known.pulls.items():
        begun = pull.asked if pull.first is None else pull.first
        if begun is not None and (fault := pull_fault(begun)):
            said = f"{name}'s gradient was {begun:.3g} times the task's in the first steps, {fault}"
        elif pull.last is not None and (fault := pull_fault(pull.last)) and (begun is None or pull.last > begun):
            said = f"{name}'s gradient is {pull.last:.3g} times the task's at the end of the run, {fault}"
        elif pull.asked and pull.last is not None and pull.last > OFF * pull.asked:
            said = f"{name}'s gradient is {pull.last:.3g} times the task's at the end of the run, far from "
            typed = "method.calibration=running"
            return Cause(2, f"{said}the strength asked for, {pull.asked:g}", f"Let it follow the run: {typed}.", typed)
        else:
            continue
        typed = f"method.strength={_USUAL:g}"
        return Cause(3, said, f"Set what is usual: {typed}.", typed)
    return None


def off(known: Evidence) -> Cause | None:
    """Warm-up and fades left a method off for most of the run."""
    if known.on is None or known.on >= MOSTLY_OFF:
        return None
    typed = " ".join(f"{key}=1" for key in known.ends) or _both(known, f"train.steps={_doubled(known)}")
    action = f"Leave it on to the end: {typed}." if known.ends else f"Train both for longer than it warms up: {typed}."
    said = f"by warm-up and fades {known.method} counted {known.on:.0%} of what it does when it is on"
    return Cause(2, said, action, typed)


def sizes(known: Evidence) -> Cause | None:
    """The teacher sees images of another size than it was trained at."""
    found = known.sizes
    if found is None or found.own == found.seen:
        return None
    said = f"the teacher was trained at {found.own} and sees {found.seen}"
    weight: Weight = 1
    if found.own_ap is not None and found.seen_ap is not None:
        lost = found.own_ap - found.seen_ap
        if lost < known.worth:
            return None
        said += f", where it has {found.seen_ap:.1f} AP instead of {found.own_ap:.1f}"
        weight = 2
    typed = "teacher.image=own"
    return Cause(weight, said, f"Show it its own size: {typed}.", typed)


def conflict(known: Evidence) -> Cause | None:
    """A method's gradient pulls against the task's, from the first steps to the last."""
    against = {
        name: pull
        for name, pull in known.pulls.items()
        if (pull.last_cosine is not None and pull.last_cosine < CONFLICT)
        and (pull.first_cosine is None or pull.first_cosine < CONFLICT)
    }
    if not against:
        return None
    name, pull = min(against.items(), key=lambda one: one[1].last_cosine or 0.0)
    first = "" if pull.first_cosine is None else f"{pull.first_cosine:.2f} in the first steps and "
    typed = _lowered(known)
    return Cause(
        2,
        f"the cosine of {name}'s gradient to the task's is {first}{pull.last_cosine:.2f} at the end",
        f"Lower it to a third: {typed}.",
        typed,
    )


def falls(known: Evidence) -> Cause | None:
    """Terms cost as much at the end as at the beginning: the student does not imitate."""
    stuck = [name for name, fall in known.falls.items() if fall < LEAST_FALL]
    if not stuck:
        return None
    pull = max((one.last or one.first or 0.0 for one in known.pulls.values()), default=0.0)
    raised = min((pull or _USUAL) * _LOWER, STRONG)
    typed = f"method.strength={raised:.2g}"
    action = f"Make it stronger: {typed}."
    if pull >= _ENOUGH:
        typed = f"detdistill tune {_quoted(known.config)} out=runs/tuned"
        action = f"It is strong enough: let your data choose another method by {typed}."
    told = ", ".join(f"{name} {-100 * known.falls[name]:+.1f} %" for name in stuck[:_NAMED])
    everything = len(stuck) == len(known.falls)
    which = (
        "no term's cost fell" if everything else f"the cost of {len(stuck)} of {len(known.falls)} terms did not fall"
    )
    said = f"{which} over the run ({told})"
    return Cause(2 if everything else 1, said, action, typed)


def wrong_teacher(known: Evidence) -> Cause | None:
    """Where distillation hurts, the teacher is worse than the student alone."""
    hurt = [one for one in known.parts if one.teacher is not None and one.teacher < one.alone and one.hurts]
    costs = {kind: sum(one.change for one in hurt if one.kind == kind) for kind in ("class", "size")}
    costs["class"] /= max(1, sum(one.kind == "class" for one in known.parts))
    worse = sorted((one for one in hurt if costs[one.kind] <= -known.worth / 2), key=lambda one: one.change)
    if not worse:
        return None
    told = "; ".join(
        f"{one.name}: teacher {one.teacher:.1f}, alone {one.alone:.1f}, distilled {one.distilled:.1f}"
        for one in worse[:_NAMED]
    )
    more = f" and {len(worse) - _NAMED} more" if len(worse) > _NAMED else ""
    typed = f"detdistill evaluate {_quoted(known.teacher)} --data {_quoted(known.data)} --confusion teacher.png"
    action = f"Teach it these: see what it takes them for by {typed}, and train it on more of them."
    if not known.method.startswith("aid("):
        typed = f"--method {_quoted(f'aid({known.method})')}"
        action = f"Learn less from it where it is wrong: {typed}."
    return Cause(2, f"AP of {told}{more}", action, typed)


def climbing(known: Evidence) -> Cause | None:
    """The student was still getting better when its training ended."""
    rise = known.rise
    if rise is None or rise.low <= 0:
        return None
    typed = _both(known, f"train.steps={_doubled(known)}")
    said = f"over the last quarter of its steps the distilled student went on by {shown(rise)}"
    weight: Weight = 2 if rise.mean >= known.worth else 1
    return Cause(weight, said, f"Train both for twice as long: {typed}.", typed)


def falling(known: Evidence) -> Cause | None:
    """The student was getting worse when its training ended."""
    rise = known.rise
    if rise is None or rise.high >= 0:
        return None
    typed = _both(known, f"train.keep=best train.evaluate_every={max(1, (known.steps or 20) // 20)}")
    said = f"over the last quarter of its steps the distilled student changed by {shown(rise)}"
    return Cause(2, said, f"Keep the best student of both runs: {typed}.", typed)


def short(known: Evidence) -> Cause | None:
    """The schedule shows each image a few times alone, and nobody knows that the student was done."""
    level = known.rise is not None and known.rise.low <= 0 and known.rise.high < _LEVEL
    if known.epochs is None or known.epochs >= FEW_EPOCHS or level or _stopped_early(known):
        return None
    typed = _both(known, f"train.steps={math.ceil((known.steps or 1) * 2 * FEW_EPOCHS / max(known.epochs, 1e-9))}")
    said = f"the run saw each training image {known.epochs:.2g} times"
    return Cause(2, said, f"Train both for longer: {typed}.", typed)


def stopped(known: Evidence) -> Cause | None:
    """The run ended before its steps were done."""
    if not _stopped_early(known):
        return None
    said = f"it was stopped early, after {known.steps:,} of {known.planned:,} steps"
    typed = _both(known, "train.patience=0")
    return Cause(2, said, f"Let both go on to the end: {typed}.", typed)


def skipped(known: Evidence) -> Cause | None:
    """Steps were left out, as they were not finite."""
    if not known.left_out or known.left_out < SKIPPED * (known.steps or 1):
        return None
    said = f"{known.left_out} of {known.steps:,} steps were left out, not finite"
    weight: Weight = 2 if known.left_out >= 10 * SKIPPED * (known.steps or 1) else 1
    typed = _both(known, "train.precision=32-true" if known.mixed else "train.clip_norm=1")
    action = f"Compute both in 32 bits: {typed}." if known.mixed else f"Clip the gradient of both shorter: {typed}."
    return Cause(weight, said, action, typed)


def clipped(known: Evidence) -> Cause | None:
    """The terms fill a gradient that is clipped, and leave the task a fraction of its own."""
    if known.clip is None or known.clip[0] < CLIPPED or known.clip[0] < 2 * known.clip[1]:
        return None
    said = f"the gradient was clipped in {known.clip[0]:.0%} of the steps, that of the student alone in "
    typed = _lowered(known)
    return Cause(1, f"{said}{known.clip[1]:.0%}", f"Lower the method to a third: {typed}.", typed)


def unseen(known: Evidence) -> Cause | None:
    """Too few images, or seeds, to see a difference that would be worth it."""
    gain = known.gain
    if gain is None or gain.low > 0 or gain.high < known.worth or not known.images:
        return None
    typed = _both(known, f"--seeds {max(5, 2 * known.seeds)}")
    settle = f" ({known.settle})" if known.settle else ""
    said = f"{known.images} images and {counted(known.seeds, 'seed')} leave it at {shown(gain)}"
    said += f", and {known.worth:g} AP would be worth it"
    action = f"Measure on more images, or train further pairs of both{settle}: {typed}."
    return Cause(2, said, action, typed)


def slower(known: Evidence) -> Cause | None:
    """It gains over the same steps, and nothing over the time that it took."""
    if known.gain is None or known.gain.low <= 0 or known.same_time is None or known.same_time.low > 0:
        return None
    said = f"over the same time the difference is {shown(known.same_time)}"
    said += "" if known.slower is None else f"; a step took {known.slower:.2g} times as long as alone"
    typed = "method.until=0.5"
    return Cause(3, said, f"Switch the method off half way: {typed}.", typed)


RULES = (
    Rule("teacher not whole", lambda e: e.weights is not None, weights),
    Rule("no twin", lambda e: e.differing is not None, twins),
    Rule("teacher's normalisation", lambda e: e.pixels is not None, pixels),
    Rule("no headroom", lambda e: e.headroom is not None, headroom),
    Rule("class map partial", lambda e: e.classes is not None, classes),
    Rule("gain paid for by time", lambda e: e.same_time is not None, slower),
    Rule("strength", lambda e: bool(e.pulls), strength),
    Rule("teacher's image size", lambda e: e.sizes is not None, sizes),
    Rule("method mostly off", lambda e: e.on is not None, off),
    Rule("still climbing", lambda e: e.rise is not None, climbing),
    Rule("falling at the end", lambda e: e.rise is not None, falling),
    Rule("schedule too short", lambda e: e.epochs is not None, short),
    Rule("stopped early", lambda e: e.planned is not None, stopped),
    Rule("gradients in conflict", lambda e: any(one.last_cosine is not None for one in e.pulls.values()), conflict),
    Rule("terms did not fall", lambda e: bool(e.falls), falls),
    Rule("teacher wrong where it hurts", lambda e: bool(e.parts), wrong_teacher),
    Rule("too few images to see it", lambda e: e.gain is not None, unseen),
    Rule("validation images learned", lambda e: e.leaked is not None, leaked),
    Rule("steps not finite", lambda e: e.left_out is not None, skipped),
    Rule("gradient clipped", lambda e: e.clip is not None, clipped),
)
"""All of them, the first of equal weight first."""


def _stopped_early(known: Evidence) -> bool:
    return known.steps is not None and known.planned is not None and known.steps < known.planned


def _both(known: Evidence, words: str) -> str:
    """The command that trains further pairs, alone and distilled, otherwise than here."""
    out = _quoted(known.study)
    return f"detdistill prove {_quoted(known.config)} alone=null alone_differs=false longer=null {words} out={out}"


def _lowered(known: Evidence) -> str:
    """A third of the strength that the method was asked to have, or had."""
    found = [one.asked or one.last or one.first for one in known.pulls.values()]
    return f"method.strength={min(max((one for one in found if one), default=_USUAL), STRONG) / _LOWER:.2g}"


def _doubled(known: Evidence) -> int:
    return 2 * max(known.planned or 0, known.steps or 0, 1)


def _quoted(words: str) -> str:
    return shlex.quote(words)


def _listed(names: Iterable[str]) -> str:
    every = [*names]
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return f"{', '.join(every[:_NAMED])}{more}"
