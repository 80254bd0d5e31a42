"""queries: each of the student's queries imitates the teacher's query that says the same object (for DETRs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from detdistill.detectors.base import DetectorSpec, QueryLayout
from detdistill.distillation.pair import Pair
from detdistill.distillation.recipe import Recipe, WeightedTerm
from detdistill.distillation.term import Term
from detdistill.errors import CapabilityError
from detdistill.methods.features import full_precision, recipe_of, require_gain
from detdistill.methods.method import Method, ScheduledSettings
from detdistill.methods.parts.sets import Matched, box_distance, box_shares, class_divergence, matched
from detdistill.settings.bounds import Factor, Gain
from detdistill.types import ClassKind, Clock, Cost, Knowledge, Need, Queries


@dataclass(frozen=True, slots=True)
class QueriesSettings(ScheduledSettings):
    """Numbers of the recipe `queries`.

    Attributes:
        class_gain: multiplier of the class term; 0 leaves it out.
        box_gain: multiplier of the box term; 0 leaves it out.
        class_cost: how much the difference of class probabilities counts in the matching.
        l1_cost: how much the L1 distance of boxes counts, in the matching and in the box term.
        giou_cost: how much 1 − GIoU counts, likewise.
        power: a pair counts as the teacher's highest class probability to this power; 0 counts all alike.
    """

    class_gain: Gain = 1.0
    box_gain: Gain = 1.0
    class_cost: Factor = 2.0
    l1_cost: Factor = 5.0
    giou_cost: Factor = 2.0
    power: Factor = 1.0


def build_queries(student: DetectorSpec, teacher: DetectorSpec, settings: QueriesSettings) -> Recipe:
    """Each of the student's queries imitates the one of the teacher's that a Hungarian match gives it.

    Formula:
        σ = the one-to-one match of teacher queries j to student queries that makes Σ_j w_j · C(σ(j), j) least
        C = 2 · Σ_c |p_c − q_c| + 5 · |b − b_T|₁ + 2 · (1 − GIoU(b, b_T)),  w_j = (max_c q_c)^power
        L = a · Σ_j w_j · KL(q_j ‖ p_σ(j)) / max(1, Σ_j w_j)
          + b · Σ_j w_j · (5 · |b_σ(j) − b_T,j|₁ + 2 · (1 − GIoU)) / max(1, Σ_j w_j)
        p, q: student's and teacher's class probabilities; boxes as centre and size in shares of the image
        KL over the classes and no object where both are softmax; else of each class alone, as yes or no
        a, b = 1

    Raises:
        CapabilityError: a side has no queries, or they are of other classes.
        ConfigError: a gain or cost below 0, or no gain above 0.

    Needs:
        A set of queries with class logits and boxes from both detectors: RT-DETR, D-FINE, DETR, Deformable DETR,
        YOLOS. Their number and what their logits mean may differ.

    Source:
        Chang et al., DETRDistill: A Universal Knowledge Distillation Framework for DETR-families, ICCV 2023: its
        Hungarian-matching logits distillation.

    Differs from the source:
        One match by weighted cost over all queries, where the source takes the teacher's confident ones as labels
        and lets the rest imitate at their own places; the teacher's score weighs instead of a threshold. The last
        decoder layer alone; neither its features nor its query assignment are imitated. Class probabilities of
        sigmoid and softmax detectors can be compared with each other.
    """
    for name in ("class_gain", "box_gain", "class_cost", "l1_cost", "giou_cost", "power"):
        require_gain(name, getattr(settings, name))
    ours, theirs = _layout(student), _layout(teacher)
    strange = [name for name in theirs.classes if name not in ours.classes]
    if strange:
        raise CapabilityError(
            f"The queries of a teacher for the recipe 'queries' must say the student's classes, got '{strange[0]}' "
            f"({teacher.name}). Name it by --classes-map."
        )
    columns = tuple(ours.classes.index(name) for name in theirs.classes)
    pairing = _Pairing(columns, ours.kind, settings)
    terms = (
        WeightedTerm("queries.classes", QueryTerm(pairing, Knowledge.CLASSIFICATION), settings.class_gain),
        WeightedTerm("queries.boxes", QueryTerm(pairing, Knowledge.LOCALIZATION), settings.box_gain),
    )
    return recipe_of("queries", terms)


def _layout(spec: DetectorSpec) -> QueryLayout:
    if spec.queries is None:
        raise CapabilityError(
            f"The recipe 'queries' must get a set of queries from both detectors, got none from {spec.name}. Distil by "
            "--method boxes, which needs none."
        )
    return spec.queries


@dataclass(frozen=True, slots=True, eq=False)
class _Pairing:
    """What both terms share: the student's columns of the teacher's classes, and how queries are matched."""

    columns: tuple[int, ...]
    kind: ClassKind
    settings: QueriesSettings

    def known(self, seen: Queries) -> Queries:
        """The student's queries as they speak of the classes that the teacher knows."""
        if seen.labels is not None:  # the pair shows no others
            return seen
        none = [seen.logits.shape[2] - 1] if self.kind is ClassKind.SOFTMAX else []
        columns = [*self.columns, *none]
        whole = columns == list(range(seen.logits.shape[2]))
        return seen if whole else replace(seen, logits=seen.logits[..., columns])

    def matches(self, ours: Queries, theirs: Queries, sizes: Sequence[tuple[int, int]]) -> list[Matched]:
        """The pairs of every image."""
        settings, own, other = self.settings, self.known(ours).shares, theirs.shares
        return [
            matched(
                (own[at], box_shares(ours.boxes[at], size)),
                (other[at], box_shares(theirs.boxes[at], size)),
                class_cost=settings.class_cost,
                l1_cost=settings.l1_cost,
                giou_cost=settings.giou_cost,
                power=settings.power,
            )
            for at, size in enumerate(sizes)
        ]


@final
class QueryTerm(Term):
    """What matched queries cost: by their classes, or by their boxes.

    Args:
        pairing: shared by both terms, which match once.
        knowledge: of classes or of boxes.
    """

    def __init__(self, pairing: _Pairing, knowledge: Knowledge) -> None:
        super().__init__()
        self.pairing = pairing
        self.knowledge = knowledge
        self.student_needs = self.teacher_needs = frozenset({Need.QUERIES})

    def forward(self, pair: Pair, clock: Clock) -> Cost:
        """The cost per image; see `Term.forward`.

        Raises:
            CapabilityError: an observation lacks its queries.
        """
        del clock
        ours, theirs = pair.student.queries, pair.teacher.queries
        if ours is None or theirs is None:
            raise CapabilityError("Both observations must hold queries, got none. Answer Need.QUERIES in observe().")
        sizes = pair.batch.sizes
        with full_precision(ours.boxes):
            found = pair.once((self.pairing, "matches"), partial(self.pairing.matches, ours, theirs, sizes))
            costs = [self._cost(at, one, ours, theirs, sizes[at]) for at, one in enumerate(found)]
        return Cost(torch.stack(costs)[:, None], strides=(None,))

    def _cost(
        self, at: int, found: Matched, ours: Queries, theirs: Queries, size: tuple[int, int]
    ) -> Float[Tensor, ""]:
        own, other = found.student, found.teacher
        if self.knowledge is Knowledge.CLASSIFICATION:
            said, wanted = self.pairing.known(ours).logits[at][own], theirs.logits[at][other]
            return found.mean(class_divergence(said, wanted, ours_are=ours.kind, theirs_are=theirs.kind))
        boxes = (box_shares(one, size) for one in (ours.boxes[at][own].float(), theirs.boxes[at][other].float()))
        settings = self.pairing.settings
        return found.mean(box_distance(*boxes, l1_cost=settings.l1_cost, giou_cost=settings.giou_cost))


METHOD = Method(name="queries", settings=QueriesSettings, build=build_queries)
