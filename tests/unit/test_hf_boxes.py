"""transformers' losses against objects that a teacher found: the model's own loss, weighed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detdistill.detectors.catalogue import build_detector, parse_detector
from detdistill.detectors.hf.detector import HFDetector
from detdistill.distillation.found import cost_of
from detdistill.types import Batch, Need, Targets
from scenes_in_memory import CLASSES, scene_batch

pytestmark = pytest.mark.covering("detector")

pytest.importorskip("transformers")

KINDS = ("rtdetr_v2_tiny", "d_fine_tiny", "detr_tiny", "deformable_detr_tiny", "conditional_detr_tiny")
FOUND = frozenset({Need.FOUND_LOSS})


@pytest.fixture(scope="module", params=KINDS)
def detector(request: pytest.FixtureRequest) -> HFDetector:
    """In eval mode, its queries told apart; tests leave it as it is."""
    made = build_detector(parse_detector(f"hf:{request.param}"), CLASSES, seed=0)
    assert isinstance(made, HFDetector)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in made.parameters():
            one.add_(0.02 * torch.randn(one.shape, generator=generator))
        made.train()(scene_batch(), FOUND)
    return made.eval()


def certain(targets: Targets, *, score: float = 1.0, ignored: bool = False) -> Targets:
    """The labels as a teacher says them that knows them."""
    count = len(targets.labels)
    classes = functional.one_hot(targets.labels, len(CLASSES)).float()
    flags = torch.full((count,), ignored)
    return replace(targets, scores=torch.full((count,), score), probabilities=classes, ignored=flags)


def cost(detector: HFDetector, batch: Batch, *found: Targets) -> Tensor:
    with torch.no_grad():
        loss = detector(replace(batch, found=found), FOUND).found_loss
    assert loss is not None
    return cost_of(loss).values.sum()


def test_certain_objects_cost_what_transformers_own_loss_says(detector: HFDetector) -> None:
    """The whole, the last layer's class and box losses and all gradients, of a batch with an image without objects."""
    batch = scene_batch()
    said = detector._said(detector.extract(batch), batch, None)
    leaves = {name: one.detach().requires_grad_() for name, one in said.loss.items() if isinstance(one, Tensor)}
    batch = replace(batch, targets=tuple(certain(one) for one in batch.targets))
    both = []
    for objects in (detector._labels(batch), detector._objects(batch)):
        figures = detector._loss({**said.loss, **leaves}, objects)
        gradients = torch.autograd.grad(figures[0], list(leaves.values()), allow_unused=True)
        both.append((torch.stack(figures), [torch.zeros(()) if one is None else one for one in gradients]))
    (theirs, their_gradients), (ours, our_gradients) = both
    assert theirs[0] > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for own, other in zip(our_gradients, their_gradients, strict=True):
        assert own.isfinite().all()
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_an_object_counts_as_much_as_its_score(detector: HFDetector) -> None:
    """One object alone is matched alike whatever it counts: its own cost is in proportion to its weight."""
    batch = scene_batch((((4.0, 6.0, 60.0, 60.0),),))
    quarter, half, whole = (cost(detector, batch, certain(batch.targets[0], score=one)) for one in (0.25, 0.5, 1.0))
    assert quarter < half < whole
    torch.testing.assert_close(half - quarter, (whole - half) / 2, rtol=1e-4, atol=1e-4)


def test_an_object_of_no_weight_is_none(detector: HFDetector) -> None:
    batch = scene_batch().image(0)
    target = certain(batch.targets[0])
    weightless = replace(target, scores=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(cost(detector, batch, weightless), cost(detector, batch, target.only(torch.tensor([0, 2]))))
    nothing = target.only(torch.tensor([], dtype=torch.int64))
    assert torch.equal(cost(detector, batch, certain(target, score=0.0)), cost(detector, batch, nothing))


def test_a_class_in_doubt_costs_the_mean_over_the_classes(detector: HFDetector) -> None:
    batch = scene_batch((((4.0, 6.0, 60.0, 60.0),),))
    target = certain(batch.targets[0])

    def as_classes(shares: list[float]) -> Tensor:
        return cost(detector, batch, replace(target, probabilities=torch.tensor([shares])))

    # The match may change with the class, between queries that say the like: the same one is the test's.
    one, other, both = (as_classes(shares) for shares in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5]))
    torch.testing.assert_close(both, (one + other) / 2, rtol=2e-3, atol=2e-3)
    assert not torch.equal(one, other)


def test_where_a_teacher_doubts_nothing_is_learned(detector: HFDetector) -> None:
    batch = scene_batch(((),))
    none = batch.targets[0]
    everywhere = replace(scene_batch((((0.0, 0.0, 128.0, 96.0),),)).targets[0], ignored=torch.tensor([True]))
    plain, doubted = cost(detector, batch, certain(none)), cost(detector, batch, certain(everywhere, ignored=True))
    assert doubted < 0.05 * plain


def test_an_image_costs_the_same_in_any_batch(detector: HFDetector) -> None:
    batch = scene_batch()
    found = [certain(target, score=0.6) for target in batch.targets]
    with torch.no_grad():
        together = cost_of(detector(replace(batch, found=tuple(found)), FOUND).found_loss)
    for index, one in enumerate(found):
        alone = cost(detector, batch.image(index), one)
        torch.testing.assert_close(alone, together.values[index].sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["rtdetr_v2_tiny", "detr_tiny"])
def test_the_decoder_runs_once_for_labels_and_what_was_found(kind: str) -> None:
    """Noisy copies are made of labels alone: what is found costs the same beside them."""
    made = build_detector(parse_detector(f"hf:{kind}"), CLASSES, seed=0)
    batch, passes = scene_batch(), list[int]()
    found = replace(batch, found=tuple(certain(one, score=0.7) for one in batch.targets))
    made.model.model.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    seen = made(found, FOUND | {Need.TASK_LOSS, Need.IMAGE_LOSSES})
    assert len(passes) == 1
    assert seen.task_loss is not None
    assert seen.found_loss is not None
    alone = made(found, FOUND).found_loss
    torch.testing.assert_close(alone.total, seen.found_loss.total, rtol=1e-4, atol=1e-4)
    (seen.found_loss.total + seen.task_loss.total).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in made.parameters())
