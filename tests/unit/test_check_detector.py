"""What others get wrong in a detector of their own: each mistake has its one sentence, and what is right has none."""

from __future__ import annotations

import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import detdistill as dd
from detdistill.errors import CapabilityError, DataError
from scenes_in_memory import CLASSES, scene_batch

FILE = Path(__file__).resolve().parents[2] / "examples" / "own_detector.py"
_SPEC = importlib.util.spec_from_file_location("own_detector", FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(MODULE)
CenterNet: Any = MODULE.CenterNet
BATCH = scene_batch(sizes=((96, 128), (70, 101), (64, 33)))
Make = Callable[[], Any]


def right() -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return CenterNet(CLASSES, width=8)


def giving(name: str, change: Callable[..., Any]) -> Make:
    """A detector whose method gives `change` of what is right, of itself and of the batch."""

    def wrong(self: Any, *arguments: Any) -> Any:
        return change(getattr(CenterNet, name)(self, *arguments), self, *arguments)

    def make() -> Any:
        one = right()
        one.__class__ = type("CenterNet", (CenterNet,), {name: wrong})
        return one

    return make


def specified(**changes: Any) -> Make:
    def make() -> Any:
        one = right()
        one.spec = replace(one.spec, **changes)
        return one

    return make


def finding(change: Callable[[Any, tuple[int, int]], dict[str, Any]]) -> Make:
    """A detector that finds something else in each image, of its height and width."""

    def detect(found: Any, _self: Any, batch: Any) -> Any:
        return tuple(replace(one, **change(one, size)) for one, size in zip(found, batch.sizes, strict=True))

    return giving("detect", detect)


def losing(change: Callable[[Any], Any]) -> Make:
    """A detector with another task loss."""

    def observe(seen: Any, *_: Any) -> Any:
        return seen if seen.task_loss is None else replace(seen, task_loss=change(seen.task_loss))

    return giving("observe", observe)


def mapping(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """A detector with other feature maps."""
    return giving("extract", lambda seen, *_: dd.Pyramid(tuple(map(change, seen.levels)), seen.strides))


def logits(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    def observe(seen: Any, *_: Any) -> Any:
        maps = replace(seen.class_logits, levels=tuple(map(change, seen.class_logits.levels)))
        return replace(seen, class_logits=maps)

    return giving("observe", observe)


def with_part(name: str, part: Any) -> Make:
    def make() -> Any:
        one = right()
        setattr(one, name, part)
        return one

    return make


class Unzeroed(nn.Module):
    def forward(self, batch: dd.Batch) -> torch.Tensor:
        return (batch.images - 0.5) / 0.2


def in_centres(found: Any, _size: Any) -> dict[str, Any]:
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return {"boxes": torch.cat((found.boxes[:, :2] + sides / 2, sides), 1)}


def with_sides(found: Any, _size: Any) -> dict[str, Any]:
    return {"boxes": torch.cat((found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]), 1)}


def as_shares(found: Any, size: tuple[int, int]) -> dict[str, Any]:
    return {"boxes": found.boxes / torch.tensor((size[1], size[0], size[1], size[0]))}


def leaving_a_hook(seen: Any, self: Any, *_: Any) -> Any:
    self.heat.register_forward_hook(lambda *_: None)
    return seen


def shuffled(loss: Any) -> Any:
    return replace(loss, total=loss.total * torch.rand(()))


def in_place(seen: Any, _self: Any, batch: Any) -> Any:
    batch.images.mul_(0.9)
    return seen


def over_the_batch(found: Any, *_: Any) -> Any:
    best = max(float(one.scores.max()) for one in found)
    return tuple(replace(one, scores=one.scores / best * (0.5 + 0.1 * len(found))) for one in found)


def switching(mode: bool) -> Callable[..., Any]:
    def switch(seen: Any, self: Any, *_: Any) -> Any:
        self.train(mode)
        return seen

    return switch


PYRAMID = dd.PyramidLayout((8,), 8)
MISTAKES: dict[str, tuple[Make, str]] = {
    "no spec": (with_part("spec", None), r"spec must be a DetectorSpec, got NoneType\. Set it in"),
    "coarse to fine": (specified(pyramid=dd.PyramidLayout((16, 8), 8)), r"strides .* fine to coarse, got \[16, 8\]"),
    "another stride": (
        giving("extract", lambda seen, *_: dd.Pyramid(tuple(one[..., ::2, ::2] for one in seen.levels), seen.strides)),
        r"stride 8 .* have 12 x 16 cells on an image of 96 x 128, got 6 x 8, 16 pixels a cell\. Give each",
    ),
    "other channels": (
        specified(pyramid=dd.PyramidLayout((8,), 24)),
        r"have the 24 channels .*, got 8",
    ),
    "a level too few": (
        specified(pyramid=dd.PyramidLayout((8, 16), 8)),
        r"\[8, 16\], got 1 of strides \[8\]",
    ),
    "no pyramid": (
        giving("extract", lambda seen, *_: list(seen.levels)),
        r"extract of .* return a Pyramid, got list\. Write Pyramid",
    ),
    "not finite": (mapping(lambda level: level / 0), r"stride 8 .* be finite, got NaN or infinity\. Load whole"),
    "dead": (mapping(lambda level: level * 0 + 1), r"maps .* depend on the image, got the same for two different ones"),
    "an error": (
        mapping(lambda level: level[:, 99]),
        r"must extract for .*, got IndexError: .*py, line",
    ),
    "padding is read": (with_part("pixels", Unzeroed()), r"must not depend on pixels in the padding, .* Zero it after"),
    "probabilities": (
        logits(torch.sigmoid),
        r"be logits, .*, got values from 0 to 1 alone\. Return them",
    ),
    "no anchors' axis": (logits(lambda level: level[:, 0]), r"\(1, 3\) as its spec says, got \(3,\)\. Reshape them"),
    "no logits": (
        giving("observe", lambda seen, *_: replace(seen, class_logits=None)),
        r"class_logits .* be shown as its spec promises, got none\. Answer Need\.CLASS_LOGITS",
    ),
    "no loss": (
        giving("observe", lambda seen, *_: replace(seen, task_loss=None)),
        r"observe .* must answer Need\.TASK_LOSS by a TaskLoss, got none\. Give one to the",
    ),
    "a loss an image": (
        losing(lambda loss: replace(loss, total=loss.total.expand(2))),
        r"task loss .* must be a scalar, got \(2,\)\. Add it up",
    ),
    "loss not finite": (
        losing(lambda loss: replace(loss, total=loss.total / 0)),
        r"be finite, got inf\. Look for a",
    ),
    "loss detached": (
        losing(lambda loss: replace(loss, total=loss.total.detach())),
        r"must carry gradients, got a constant\. Take detach",
    ),
    "weights unreached": (
        with_part("spare", nn.Linear(2, 2)),
        r"must reach every parameter that learns, got no gradient at spare\.weight and 1 more\. Let it",
    ),
    "backbone detached": (mapping(torch.Tensor.detach), r"got no gradient at body\.0\.weight and 7 more\. Let it take"),
    "divided by no boxes": (
        giving(
            "loss",
            lambda loss, _self, _heat, _size, batch: replace(
                loss, total=loss.total / sum(len(one.boxes) for one in batch.targets)
            ),
        ),
        r"must be finite on images without boxes, got (nan|inf)\. Divide by the number of boxes, but by at least 1",
    ),
    "parts do not add up": (
        losing(lambda loss: loss if loss.box is None else replace(loss, box=loss.box * 3)),
        r"parts of .* TaskLoss must add up to its total for one image, got .* Weigh both alike",
    ),
    "drawn outside the seeds": (losing(shuffled), r"be the same for the same batch and seeds, got .* torch\.Generator"),
    "eval in observe": (
        giving("observe", switching(False)),
        r"observe .* leave modes .* Take eval\(\) out",
    ),
    "train in detect": (
        giving("detect", switching(True)),
        r"detect .* leave modes .*, got train mode.* Take train",
    ),
    "hooks stay": (giving("observe", leaving_a_hook), r"must remove its hooks behind every pass, got 1 more of them"),
    "images changed": (giving("extract", in_place), r"must leave the batch's images as they are, got others behind it"),
    "boxes as shares": (finding(as_shares), r"be in pixels of the batch, got numbers up to .* shares of the image are"),
    "boxes by centre": (finding(in_centres), r"be corners x1, y1, x2, y2, got \d+ of \d+ whose second corner lies"),
    "boxes by sides": (finding(with_sides), r"be corners x1, y1, x2, y2, got \d+ of \d+ whose second corner lies"),
    "pixels of the stored image": (
        finding(lambda one, _: {"boxes": one.boxes * 3}),
        r"lie inside their image of 128 x 96 pixels, got ones from .* not of the stored image",
    ),
    "labels from 1": (finding(lambda one, _: {"labels": one.labels + 1}), r"labels .* be 0 to 2, .* to 3\. Take 1 off"),
    "labels that are floats": (finding(lambda one, _: {"labels": one.labels.float()}), r"be int64, got torch\.float32"),
    "scores as logits": (
        finding(lambda one, _: {"scores": one.scores * 20}),
        r"scores .* lie in 0 to 1, got .* Take the sigmoid",
    ),
    "worst first": (
        finding(lambda one, _: {key: getattr(one, key).flip(0) for key in ("boxes", "scores", "labels")}),
        r"be the best first, got scores that rise\. Sort",
    ),
    "one for all images": (
        giving("detect", lambda found, *_: found[:1]),
        r"Detections for each of 2 images, got 1",
    ),
    "over the batch": (
        giving("detect", over_the_batch),
        r"the same in an image alone as beside others, got other",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_its_sentence(name: str) -> None:
    make, pattern = MISTAKES[name]
    found = dd.check_detector(make(), BATCH)
    assert len(found.problems) == 1, found.problems
    with pytest.raises(CapabilityError, match=pattern) as caught:
        found.require()
    (sentence,) = found.problems
    assert str(caught.value) == sentence
    assert " must " in sentence
    assert ", got " in sentence
    assert sentence.endswith(".")


def test_what_is_right_has_none_and_is_left_as_it_was() -> None:
    one = right().train()
    before, drawn = {key: value.clone() for key, value in one.state_dict().items()}, torch.get_rng_state()
    found = dd.check_detector(one, BATCH)
    assert found.problems == ()
    assert found.table() == [
        "centernet shows maps of stride 8 (8 channels)",
        "centernet shows class_logits",
        "nothing is wrong with it",
    ]
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert one.training
    assert all(parameter.grad is None for parameter in one.parameters())


@pytest.mark.parametrize("family", ["fcos", "gfl"])
def test_families_of_ours_have_no_mistake(family: str) -> None:
    assert dd.check_detector(dd.build_detector(f"{family}/tiny", CLASSES), BATCH).problems == ()


def test_a_batch_needs_a_box() -> None:
    with pytest.raises(DataError, match=r"must have an image with a box, got none\. Take another one"):
        dd.check_detector(right(), scene_batch(((), ())))


def named_in(hint: Any) -> Iterator[type]:
    """The classes of ours that an annotation names."""
    if isinstance(hint, type) and hint.__module__.startswith("detdistill."):
        yield hint
    for part in typing.get_args(hint):
        yield from [one for each in part for one in named_in(each)] if isinstance(part, list) else named_in(part)


def test_every_name_that_a_detector_takes_is_public() -> None:
    """What its methods take and give, what these consist of, and so on."""
    methods = [
        one for one in vars(dd.Detector).values() if inspect.isfunction(one) and not one.__name__.startswith("_")
    ]
    left, seen = [dd.DetectorSpec, dd.wrap, *methods], set[Any]()
    while left:
        one = left.pop()
        hints = typing.get_type_hints(one).values()
        new = {kind for hint in hints for kind in named_in(hint)} - seen
        seen |= new
        left += [kind for kind in new if is_dataclass(kind)]
    assert {dd.Observation, dd.Queries, dd.TowerLayout} <= seen
    assert sorted(one.__name__ for one in seen if getattr(dd, one.__name__, None) is not one) == []
