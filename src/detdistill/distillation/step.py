"""The step: student, teacher and recipe in, one report out. DDP and compile wrap it; EMA averages its student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detdistill.detectors.base import Detector
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.detectors.united import joined
from detdistill.distillation.calibration import Calibration, inner_products
from detdistill.distillation.found import as_found, each_alone
from detdistill.distillation.pair import Heads, Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.replay import Replay
from detdistill.distillation.several import alike, even_shares
from detdistill.distillation.sizes import enlarged, in_students_frame, with_students_twins
from detdistill.distillation.view import CLEAN, View
from detdistill.distillation.weigh import Choice, Features, MeanOf, SpreadTo, Weigh
from detdistill.errors import CapabilityError
from detdistill.types import Batch, Clock, Cost, Knowledge, Need, Observation, StepReport, sent


@dataclass(frozen=True, slots=True)
class Seen:
    """What both detectors saw of one batch.

    Attributes:
        batch: with the twins that its views look at.
        students: by view; gradients flow. The clean one holds the task loss.
        teachers: by view.
        judged: what the teacher's heads saw on the student's features, where a weight reads that.
        heads: the teacher's, for terms that let them read the student's maps.
        others: the same student beside each further teacher.
    """

    batch: Batch
    students: Mapping[View, Observation]
    teachers: Mapping[View, Observation]
    judged: Observation | None = None
    heads: Heads | None = None
    others: tuple[Seen, ...] = ()

    def pairs(self) -> dict[View, Pair]:
        """Student and teacher side by side, by view: what terms see. Make them once a step."""
        return {
            view: Pair(self.students[view], one, view(self.batch), heads=self.heads)
            for view, one in self.teachers.items()
        }

    def by_teacher(self) -> list[tuple[Seen, dict[View, Pair]]]:
        """The same of each teacher, with its pairs. Make them once a step."""
        return [(one, one.pairs()) for one in (self, *self.others)]

    def weight(self, weigh: Weigh, strides: Sequence[int | None], knowledge: Knowledge) -> Float[Tensor, "b l"]:
        """What a weight says of the clean view."""
        judged = self.judged if weigh.features is Features.STUDENT else None
        return weigh(self.teachers[CLEAN] if judged is None else judged, strides, knowledge=knowledge).detach()


def products(
    task: Tensor, terms: Mapping[str, Sequence[tuple[float, Cost]]], sights: Sequence[Seen]
) -> Float[Tensor, "m m"]:
    """Inner products of gradients at the student's pyramids, on all views: of the task, then of sums of terms.

    Args:
        task: its loss.
        terms: gains and unweighted costs of each sum.
        sights: all that the losses are of.
    """
    zero = task.new_zeros(())
    sums = [sum((gain * cost.values.sum(1).mean() for gain, cost in some), zero) for some in terms.values()]
    levels = [level for seen in sights for student in seen.students.values() for level in student.maps.levels]
    return inner_products([task, *sums], levels)


def task_loss(observation: Observation) -> Tensor:
    """The detector's own training loss of an observation.

    Raises:
        CapabilityError: the observation was made without it.
    """
    if observation.task_loss is None:
        raise CapabilityError(
            "The student's observation must hold its task loss, got none. Answer Need.TASK_LOSS in observe()."
        )
    return observation.task_loss.total


class SupervisedStep(nn.Module):
    """A step of the detector alone: its own training loss, nothing else.

    Args:
        student: the detector to train.
    """

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        """The report of one batch; gradients flow from `total` to the student's parameters."""
        del clock
        total = task_loss(self.student(batch, frozenset({Need.TASK_LOSS})))
        return StepReport(total=total, parts={"task": total.detach()}, diagnostics={})


class DistillationStep(nn.Module):
    """A step of the student under a recipe: its own training loss plus what the recipe adds.

    The module's parameters are exactly the student's and what the terms train. The teacher is held, not
    registered: train(), parameters(), state_dict(), DDP and EMA never reach it, and it follows the step to
    another device (never to another dtype).

    Args:
        student: the detector to train.
        teacher: a frozen teacher, or several.
        recipe: built for the specs of these, its constant weights measured; see `several.together`.
        pseudo_gain: multiplier of the student's own loss on unlabelled images, against what the teacher found there;
            0 leaves these to the terms.
        choice: which of several teachers is followed where; None takes all alike, see `several.even_shares`.

    Raises:
        CapabilityError: a constant weight was not measured.
    """

    def __init__(
        self,
        student: Detector,
        teacher: FrozenTeacher | Sequence[FrozenTeacher],
        recipe: Recipe,
        *,
        pseudo_gain: float = 0.0,
        choice: Choice | None = None,
    ) -> None:
        super().__init__()
        waiting = [weighted.name for weighted in recipe.terms if isinstance(weighted.weigh, MeanOf | SpreadTo)]
        if waiting:
            raise CapabilityError(
                f"A weight's plan must be measured before it is used, got one that was not on {', '.join(waiting)}. "
                "Pass the recipe through with_spread_weights(recipe, teacher, batches), then with_constant_weights."
            )
        self.student = student
        self.teachers = tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
        self.recipe = recipe
        # What is read in the place of a teacher's looking, by its number.
        self.replays: Mapping[int, Replay] = {}
        self.choice = choice
        self.pseudo_gain = pseudo_gain
        self.terms = nn.ModuleDict({_key(weighted): weighted.term for weighted in recipe.terms})
        self.calibration = Calibration(recipe.terms)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationStep:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self.teachers:
            teacher.to(next(self.student.parameters()).device)
        return self

    @property
    def teacher(self) -> FrozenTeacher:
        """The first teacher."""
        return self.teachers[0]

    def digest(self) -> str:
        """The digests of all teachers in a row."""
        return " ".join(teacher.digest() for teacher in self.teachers)

    def see(self, batch: Batch, recipe: Recipe, *, task: bool = True) -> Seen:
        """What student and teacher see of the batch on every view of a recipe.

        On a twin the student's batch-norm layers normalise by the twin's own statistics, as on any batch in
        training, and leave their running statistics alone: those stay the clean images'.

        Args:
            batch: on the step's device; twins that it lacks are made where the recipe knows how.
            recipe: the step's own, or some of its terms alone.
            task: whether the student's own loss is asked for.

        Raises:
            CapabilityError: a twin is missing that the recipe cannot make.
        """
        spec = self.teacher.spec  # all see the images at one size
        if batch.teacher is None and spec.ratio != 1.0:
            raise CapabilityError(
                f"The batch must hold the images as {spec.name} sees them, {spec.ratio:g} "
                "times the student's size, got the student's alone. Give teacher_image where the batches are made."
            )
        batch = self._with_found(self._with_twins(batch, recipe), recipe)
        own = frozenset({Need.TASK_LOSS}) if task else frozenset[Need]()
        students = {CLEAN: self._seen(batch, own | recipe.student_needs(CLEAN))}
        for view in recipe.views():
            if view != CLEAN:
                with running_statistics_kept(self.student):
                    students[view] = self._seen(view(batch), recipe.student_needs(view))
        first, *others = (self._beside(index, batch, students, recipe) for index in range(len(self.teachers)))
        return replace(first, others=tuple(others))

    def _beside(self, index: int, batch: Batch, students: Mapping[View, Observation], recipe: Recipe) -> Seen:
        """What a teacher sees beside what the student saw; nothing where no term looks at it."""
        teacher, views = self.teachers[index], [*students] if any(one.teacher == index for one in recipe.terms) else []
        teachers = {}
        for view in views:
            needs = recipe.teacher_needs(view, index)
            if view == CLEAN and self.choice is not None:
                needs |= self.choice.needs
            looks = bool(needs) or recipe.looks(view, index)  # not where nobody reads it
            theirs = self._shown(index, view, batch, needs) if looks else Observation()
            if looks and batch.teacher is not None:
                theirs = in_students_frame(theirs, students[view], batch, factor=teacher.spec.factor)
            teachers[view] = theirs
        judged, asked = None, recipe.weight_needs(Features.STUDENT, index)
        if asked:  # the student's features lie on the student's grid
            judged = teacher.observe_pyramid(students[CLEAN].maps, enlarged(batch, teacher.spec.factor), asked)
        return Seen(batch, students, teachers, judged=judged, heads=teacher.observe_towers)

    def _shown(self, index: int, view: View, batch: Batch, needs: frozenset[Need]) -> Observation:
        """What a teacher sees on a view, or showed before where that is kept."""
        teacher, seen, replay = self.teachers[index], view(batch.for_teacher), self.replays.get(index)
        if replay is None or batch.kept is None or view != CLEAN:
            return teacher.observe(seen, needs)
        return replay.observe(teacher, seen, batch.kept, needs)

    def _sights(self, batch: Batch, recipe: Recipe) -> list[Seen]:
        """What both see of the labelled images and, apart, of the unlabelled ones, where these teach something.

        On the unlabelled ones the student's batch-norm layers normalise by their own statistics and leave their
        running statistics alone: whatever those images show, the task's path is the labelled images' own.
        """
        sights, pseudo = [self.see(batch, recipe)], self.pseudo_gain > 0
        if batch.unlabelled is not None and (recipe.terms or pseudo):
            with running_statistics_kept(self.student):
                sights.append(self.see(batch.unlabelled, recipe, task=pseudo))
        return sights

    def _with_twins(self, batch: Batch, recipe: Recipe) -> Batch:
        """The batch with all twins that the recipe looks at and can make, where the teacher sees it, and from there."""
        theirs = batch.for_teacher
        wanted = {view.twin for view in recipe.views()} & recipe.twins.keys() - theirs.twins.keys()
        if not wanted:
            return batch
        made = {name: recipe.twins[name](self.teacher, theirs) for name in sorted(map(str, wanted))}
        seen = replace(theirs, twins={**theirs.twins, **made})
        return seen if batch.teacher is None else with_students_twins(replace(batch, teacher=seen))

    def _with_found(self, batch: Batch, recipe: Recipe) -> Batch:
        """The batch with what the teachers find in it, where the recipe learns that and nobody brought it along."""
        if batch.found is not None or recipe.learnable is None:
            return batch
        seen, classes = batch.for_teacher, len(self.student.spec.class_names)
        on = sorted({one.teacher for one in recipe.terms})
        each = zip(*(self.teachers[index].detect(seen) for index in on), strict=True)
        return as_found(list(map(joined, each)), batch, recipe.learnable, classes=classes, seen=seen)

    def _seen(self, batch: Batch, needs: Set[Need]) -> Observation:
        """What the student sees. Its heads look at the maps once more where it does not know of `Need.FOUND_LOSS`."""
        ours: Observation = self.student(batch, needs)
        if Need.FOUND_LOSS not in needs or ours.found_loss is not None:
            return ours
        with running_statistics_kept(self.student):
            return replace(ours, found_loss=each_alone(self.student, ours.maps, batch.against_found))

    def forward(self, batch: Batch, clock: Clock) -> StepReport:
        """The report of one batch.

        Args:
            batch: images, targets and seeds, on the step's device.
            clock: where the run is; warm-ups and schedules read it.

        Returns:
            `total` = task + Σ gain · scale · warm-up · fades · mean over images of Σ over levels of weight · cost, the
            cost of one of several teachers times its share. The task is the labelled images' alone, the mean is over
            the unlabelled ones too. A term that is off at this step adds nothing and reports 0; a teacher looks only
            where a term of its is on. A step that the calibration asks for is measured on the way.
        """
        self.calibration.settle(before=clock.step)
        sights = self._sights(batch, self.recipe.at(clock))
        task = task_loss(sights[0].students[CLEAN])
        parts = {"task": task.detach()}
        if self.pseudo_gain > 0 and len(sights) > 1:
            pseudo = self.pseudo_gain * task_loss(sights[1].students[CLEAN])
            task, parts["pseudo"] = task + pseudo, pseudo.detach()
        total = task
        diagnostics: dict[str, Tensor] = {}
        shown = [seen.by_teacher() for seen in sights]
        on = [weighted for weighted in self.recipe.terms if weighted.active(clock)]
        costs = {one.name: _joined([_cost(one, by_teacher, clock) for by_teacher in shown]) for one in on}
        costs = self._shared(costs, on, shown)
        if costs and self.calibration.asks(clock):
            found = products(task, self._members(costs), sights)
            self.calibration.gather(found, images=len(batch), clock=clock)
        for weighted in self.recipe.terms:
            if weighted.name not in costs:
                parts[weighted.name] = total.new_zeros(())
                continue
            cost = costs[weighted.name]
            values = cost.values
            if isinstance(weighted.weigh, Weigh):
                key = (weighted.weigh, cost.strides, weighted.term.knowledge)
                beside = [by_teacher[weighted.teacher] for by_teacher in shown]
                weight = torch.cat([pairs[CLEAN].once(key, partial(seen.weight, *key)) for seen, pairs in beside])
                values = values * weight
                diagnostics |= _told(weighted.name, weight, cost.strides)
            loss = weighted.gain_at(clock) * self.calibration.scale(weighted) * values.sum(1).mean()
            total = total + loss
            parts[weighted.name] = loss.detach()
            for stride, mean in zip(cost.strides, cost.values.detach().mean(0).unbind(), strict=True):
                diagnostics[f"{weighted.name}/cost_stride_{stride}"] = mean
        return StepReport(total=total, parts=parts, diagnostics=diagnostics, task=task)

    def _shared(
        self,
        costs: Mapping[str, Cost],
        on: Sequence[WeightedTerm],
        shown: Sequence[Sequence[tuple[Seen, Mapping[View, Pair]]]],
    ) -> dict[str, Cost]:
        """The costs, those of several teachers that are on together times their shares."""
        found = dict(costs)
        for group in alike(on) if len(self.teachers) > 1 else ():
            names = [one.name for one in group]
            rows = even_shares(group, costs, [teacher.spec for teacher in self.teachers])
            shares = [sent(torch.tensor(rows[name]), costs[name].values.device) for name in names]
            if self.choice is not None and len(group) > 1:
                labelled, *others = shown
                teachers = [labelled[one.teacher][0].teachers[CLEAN] for one in group]
                strides = [costs[name].strides for name in names]
                chosen = self.choice(teachers, strides, knowledge=group[0].term.knowledge)
                # Where nobody labelled there is nothing to err by.
                even = sum(len(by_teacher[0][0].batch) for by_teacher in others)
                shares = [torch.cat([one, row.expand(even, -1)]) for one, row in zip(chosen, shares, strict=True)]
            for name, share in zip(names, shares, strict=True):
                found[name] = replace(costs[name], values=costs[name].values * share)
        return found

    def _members(self, costs: Mapping[str, Cost]) -> dict[str, list[tuple[float, Cost]]]:
        """Gains and costs of the terms of each method that is calibrated."""
        found: dict[str, list[tuple[float, Cost]]] = {name: [] for name in self.calibration.members}
        for one in self.recipe.terms:
            if one.member in found and one.name in costs:
                found[one.member].append((one.gain, costs[one.name]))
        return found


def _joined(costs: Sequence[Cost]) -> Cost:
    """The costs of labelled and unlabelled images as those of one batch."""
    return costs[0] if len(costs) == 1 else Cost(torch.cat([cost.values for cost in costs]), costs[0].strides)


def _cost(one: WeightedTerm, by_teacher: Sequence[tuple[Seen, Mapping[View, Pair]]], clock: Clock) -> Cost:
    _, pairs = by_teacher[one.teacher]
    cost: Cost = one.term(pairs[one.view], one.window.within(clock) or clock)
    return cost


def _told(name: str, weight: Tensor, strides: Sequence[int | None]) -> dict[str, Tensor]:
    """Mean, spread over images and levels, and each level's mean of a term's weight."""
    levels = {f"{name}/weight_stride_{stride}": level for stride, level in zip(strides, weight.mean(0), strict=True)}
    return {f"{name}/weight": weight.mean(), f"{name}/weight_sd": weight.std(correction=0), **levels}


@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch-norm layers within neither change their running statistics nor count the batch."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracking = [norm for norm in norms if norm.training and norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


def _key(weighted: WeightedTerm) -> str:
    return weighted.name.replace(".", "_")
