"""Does a detector do what its spec says? Each mistake that others have made has its sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detdistill.detectors.base import Detector, DetectorSpec, evaluating
from detdistill.detectors.boxes_checking import check_boxes, wrong
from detdistill.detectors.onnx_detector import OnnxDetector
from detdistill.detectors.onnx_readings import check_readings
from detdistill.errors import CapabilityError, DataError, DistillError, either
from detdistill.outside import place_of
from detdistill.types import Batch, Need, Observation, Pyramid, Targets, TaskLoss

_LOSSES = frozenset({Need.TASK_LOSS, Need.IMAGE_LOSSES})
_NARROW = "Expected more than 1 value per channel"  # batch-norm's, of one image and one cell


@dataclass(frozen=True, slots=True)
class DetectorCheck:
    """What `check_detector` found: a sentence for each mistake, and lines on what the detector shows."""

    problems: tuple[str, ...]
    shows: tuple[str, ...]

    def table(self) -> list[str]:
        """What it shows, and what is wrong."""
        return [*self.shows, *(self.problems or ("nothing is wrong with it",))]

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON."""
        return {"problems": list(self.problems), "shows": list(self.shows)}

    def require(self) -> None:
        """Refuses a detector with a mistake.

        Raises:
            CapabilityError: the first.
        """
        if self.problems:
            raise CapabilityError(self.problems[0])


def check_detector(detector: Detector, batch: Batch, *, name: str | None = None) -> DetectorCheck:
    """Looks at a detector of one's own on one image and on a part of it, as training, teaching and measuring will.

    A copy is looked at: weights, statistics and random states are as before afterwards.

    Args:
        detector: in any mode, with weights that learn.
        batch: with an image that has a box; on the detector's device.
        name: what the sentences call it; what its spec says by default.

    Raises:
        DataError: no image has a box.

    Example:
        >>> detector = detdistill.build_detector("fcos/tiny", ("car", "truck"))
        >>> batch = next(iter(detdistill.open_data("my_data", class_names=("car", "truck")).batches(2)))
        >>> detdistill.check_detector(detector, batch).problems
        ()
    """
    shown = _two_images(batch)
    spec = getattr(detector, "spec", None)
    if not isinstance(spec, DetectorSpec):
        called = f"{name or type(detector).__name__}.spec"
        return DetectorCheck((wrong(called, "be a DetectorSpec", type(spec).__name__, "Set it in __init__."),), ())
    devices = [] if batch.images.device.type == "cpu" else [batch.images.device]
    with torch.random.fork_rng(devices=devices):
        found = tuple(_found(detector, spec, shown, name or spec.name, batch))
    return DetectorCheck(found, tuple(_shows(spec)))


def _found(detector: Detector, spec: DetectorSpec, batch: Batch, name: str, whole: Batch) -> Iterator[str]:
    """At most one sentence of each kind; what cannot be looked at behind a mistake is left out.

    `whole` is what the two images of the batch are made of.
    """
    try:
        # The gradients that it holds are no part of it.
        like = copy.deepcopy(detector).requires_grad_(True) if _frozen(detector) else copy.deepcopy(detector)
    except Exception as error:  # noqa: BLE001 - whatever somebody's code raises
        yield wrong(name, "be copyable, as a moving average copies it", place_of(error), "Keep no such thing in it.")
        return
    if isinstance(like, OnnxDetector) and (problem := _first(check_readings, like, whole, name, "detect")) is not None:
        yield problem
        return
    first, rest = (_FIRST, _REST) if spec.pyramid is not None else ((), _REST[-1:])
    for what, look in first:
        if (problem := _first(look, like, batch, name, what)) is not None:
            yield problem
            return
    yield from filter(None, (_first(look, like, batch, name, what) for what, look in rest))


def _first(look: Callable[..., Iterator[str]], detector: Detector, batch: Batch, name: str, what: str) -> str | None:
    try:
        return next(look(detector, batch, name), None)
    except DistillError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever somebody's code raises
        return wrong(name, f"{what} for a batch of two images", place_of(error), "Repair it.")


def _maps(detector: Detector, batch: Batch, name: str) -> Iterator[str]:
    """Strides, order, channels, finite and alive."""
    layout = detector.spec.maps
    if list(layout.strides) != sorted(layout.strides):
        strides = list(layout.strides)
        yield wrong(
            f"The strides in the spec of {name}", "go from fine to coarse", strides, "Sort them and the levels."
        )
    with evaluating(detector):
        pyramid = detector.extract(batch)
        other = detector.extract(replace(batch, images=torch.rand_like(batch.images)))
    if not isinstance(pyramid, Pyramid):
        yield wrong(f"extract of {name}", "return a Pyramid", type(pyramid).__name__, "Write Pyramid(levels, strides).")
    if pyramid.strides != layout.strides or len(pyramid.levels) != len(layout.strides):
        expected = f"give the levels that its spec says, of strides {list(layout.strides)}"
        got = f"{len(pyramid.levels)} of strides {list(pyramid.strides)}"
        yield wrong(f"extract of {name}", expected, got, "Make both say the same.")
    height, width = batch.images.shape[-2:]
    for stride, level in zip(layout.strides, pyramid.levels, strict=True):
        which, cells = f"The level of stride {stride} of {name}", (-(-height // stride), -(-width // stride))
        if tuple(level.shape[-2:]) != cells:
            expected = f"have {cells[0]} x {cells[1]} cells on an image of {height} x {width}"
            got = f"{level.shape[-2]} x {level.shape[-1]}, {height / level.shape[-2]:.3g} pixels a cell"
            yield wrong(which, expected, got, "Give each level its stride in the spec, fine to coarse.")
        if level.shape[1] != layout.at(stride):
            remedy = "Set PyramidLayout's channels: a number for all levels, or a tuple with one for each."
            yield wrong(which, f"have the {layout.at(stride)} channels that its spec says", level.shape[1], remedy)
        if not level.isfinite().all():
            yield wrong(which, "be finite", "NaN or infinity", "Load whole weights.")
    if all(torch.equal(one, another) for one, another in zip(pyramid.levels, other.levels, strict=True)):
        remedy = "Load its trained weights, or take the maps from modules that see the image."
        yield wrong(f"The maps of {name}", "depend on the image", "the same for two different ones", remedy)


def _repeats(detector: Detector, batch: Batch, name: str) -> Iterator[str]:
    """Nothing is left behind, and nothing is drawn outside the seeds."""
    images, hooks = batch.images.clone(), _hooks(detector)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    with evaluating(detector):
        detector.detect(batch)
        if any(part.training for part in detector.modules()):
            yield wrong(
                f"detect of {name}", "leave modes as they are", "train mode behind it", "Take train() out of it."
            )
    if any(not torch.equal(value, before[key]) for key, value in detector.state_dict().items()):
        got = "other weights or statistics behind it"
        yield wrong(f"detect of {name}", "change nothing in eval mode", got, "Keep them as they are.")
    losses = []
    for seed in (1, 2):
        # A copy, lest statistics of the first batch be seen in the second.
        like = copy.deepcopy(detector).train()
        for part in like.modules():
            if "drop" in type(part).__name__.lower():  # training keeps torch's generator in its checkpoints
                part.eval()
        torch.default_generator.manual_seed(seed)
        if batch.images.is_cuda:
            torch.cuda.manual_seed(seed)
        modes = _modes(like)
        losses.append(_loss(like, batch, frozenset({Need.TASK_LOSS}), name).total.detach())
        if _modes(like) != modes:
            yield wrong(f"observe of {name}", "leave modes as they are", "others behind it", "Take eval() out of it.")
        if (more := _hooks(like) - hooks) != 0:
            yield wrong(name, "remove its hooks behind every pass", f"{more} more of them", "Call remove() on each.")
    if not torch.equal(images, batch.images):
        yield wrong(name, "leave the batch's images as they are", "others behind it", "Copy them before changing them.")
    one, another = losses
    if one.isfinite().all() and not torch.allclose(one, another, rtol=1e-4, atol=1e-6):
        got = f"{float(one.sum()):.5g} and {float(another.sum()):.5g}"
        remedy = "Draw from a torch.Generator seeded by batch.seeds."
        yield wrong(f"The task loss of {name}", "be the same for the same batch and seeds", got, remedy)


def _heads(detector: Detector, batch: Batch, name: str) -> Iterator[str]:
    """Logits and distributions as the spec lays them out."""
    classes, boxes = detector.spec.class_logits, detector.spec.box_distributions
    wanted: list[tuple[Need, tuple[int, ...], tuple[int, ...]]] = []
    if classes is not None:
        wanted.append((Need.CLASS_LOGITS, classes.strides, (classes.anchors, len(classes.classes))))
    if boxes is not None:
        wanted.append((Need.BOX_DISTRIBUTIONS, boxes.strides, (boxes.anchors, 4, boxes.bins)))
    for need, strides, axes in wanted:
        which = f"The {need.value} of {name}"
        with evaluating(detector):
            maps = getattr(detector(batch, frozenset({need})), need.value)
        if maps is None:
            remedy = f"Answer Need.{need.name} in observe, or leave {need.value} out of the spec."
            yield wrong(which, "be shown as its spec promises", "none", remedy)
        if maps.strides != strides or len(maps.levels) != len(strides):
            expected = f"have the strides of its spec, {list(strides)}"
            yield wrong(which, expected, list(maps.strides), "Make both say the same.")
        for level in maps.levels:
            if tuple(level.shape[1:-2]) != axes:
                names = "anchors, classes" if need is Need.CLASS_LOGITS else "anchors, 4, bins"
                expected = f"be (image, {names}, h, w), with {axes} as its spec says"
                yield wrong(which, expected, tuple(level.shape[1:-2]), "Reshape them, or change the spec.")
        if need is Need.CLASS_LOGITS and all(0 <= float(one.min()) <= float(one.max()) <= 1 for one in maps.levels):
            got = "values from 0 to 1 alone"
            yield wrong(which, "be logits, as they are before the sigmoid", got, "Return them before the sigmoid.")


def _training(detector: Detector, batch: Batch, name: str) -> Iterator[str]:
    """The task loss, its gradients, and its parts."""
    like, which = copy.deepcopy(detector).train(), f"The task loss of {name}"
    loss = _loss(like, batch, frozenset({Need.TASK_LOSS}), name).total
    if loss.ndim != 0:
        yield wrong(which, "be a scalar", tuple(loss.shape), "Add it up, or take its mean.")
    if not loss.isfinite():
        yield wrong(which, "be finite", loss.item(), "Look for a division by 0, or a log of 0.")
    if not loss.requires_grad:
        yield wrong(which, "carry gradients", "a constant", "Take detach() and no_grad() out of it.")
    torch.autograd.backward(loss)
    without = [key for key, one in like.named_parameters() if one.requires_grad and one.grad is None]
    if without:
        got = f"no gradient at {without[0]}{f' and {len(without) - 1} more' if len(without) > 1 else ''}"
        remedy = "Let it take part in the loss, or call requires_grad_(False) on it."
        yield wrong(which, "reach every parameter that learns", got, remedy)
    bare = replace(batch, targets=tuple(one.only(torch.zeros_like(one.ignored)) for one in batch.targets))
    empty = _loss(copy.deepcopy(detector).train(), bare, frozenset({Need.TASK_LOSS}), name).total
    if not empty.isfinite().all():
        remedy = "Divide by the number of boxes, but by at least 1."
        yield wrong(which, "be finite on images without boxes", empty.sum().item(), remedy)
    yield from _parts(copy.deepcopy(detector).train(), batch.image(0), name)


def _parts(detector: Detector, image: Batch, name: str) -> Iterator[str]:
    try:
        loss = _loss(detector, image, _LOSSES, name)
    except ValueError as error:
        if _NARROW in str(error):
            return
        raise
    names = ("classification", "box", "roi_classification", "roi_box")
    parts = {key: part for key in names if (part := getattr(loss, key)) is not None} | dict(loss.other)
    if not parts:
        return
    for key in ("classification", "box"):
        if key in parts and tuple(parts[key].shape) != (1, len(loss.strides)):
            expected = f"be (images, levels), here (1, {len(loss.strides)}) for its strides {list(loss.strides)}"
            shape, remedy = tuple(parts[key].shape), "Give each image's loss on each level."
            yield wrong(f"The {key} of {name}'s TaskLoss", expected, shape, remedy)
    added = sum((part.sum() for part in parts.values()), torch.zeros_like(loss.total))
    if not torch.allclose(added, loss.total, rtol=1e-3, atol=1e-5):
        expected, got = "add up to its total for one image", f"{added.item():.5g} and {loss.total.item():.5g}"
        remedy = "Weigh both alike, and put what else there is into other."
        yield wrong(f"The parts of {name}'s TaskLoss", expected, got, remedy)


def _padding(detector: Detector, batch: Batch, name: str) -> Iterator[str]:
    """What lies outside an image never matters."""
    noise = batch.images.clone()
    for image, (height, width) in zip(noise, batch.sizes, strict=True):
        outside = torch.ones_like(image, dtype=torch.bool)
        outside[:, :height, :width] = False
        image[outside] = torch.rand_like(image)[outside]
    with evaluating(detector):
        seen, changed = (detector.extract(replace(batch, images=one)) for one in (batch.images, noise))
    for stride, one, another in zip(seen.strides, seen.levels, changed.levels, strict=True):
        if not torch.allclose(one, another, rtol=1e-4, atol=1e-5):
            expected = "not depend on pixels in the padding"
            remedy = "Zero it after normalising, as detdistill.Normaliser does."
            yield wrong(f"The level of stride {stride} of {name}", expected, "other values with others there", remedy)


def _loss(detector: Detector, batch: Batch, needs: frozenset[Need], name: str) -> TaskLoss:
    seen = detector(batch, needs)
    if not isinstance(seen, Observation):
        remedy = "Make one of what it returns."
        raise CapabilityError(wrong(f"observe of {name}", "return an Observation", type(seen).__name__, remedy))
    if not isinstance(seen.task_loss, TaskLoss) or not isinstance(seen.task_loss.total, Tensor):
        got = "none" if seen.task_loss is None else type(seen.task_loss).__name__
        remedy = "Give one to the Observation."
        raise CapabilityError(wrong(f"observe of {name}", "answer Need.TASK_LOSS by a TaskLoss", got, remedy))
    return seen.task_loss


Look = Callable[[Detector, Batch, str], Iterator[str]]
_FIRST: tuple[tuple[str, Look], ...] = (("extract", _maps), ("observe and detect", _repeats))
_REST: tuple[tuple[str, Look], ...] = (("observe", _heads), ("observe its losses", _training))
_REST += (("extract", _padding), ("detect", check_boxes))


def _two_images(batch: Batch) -> Batch:
    """An image with a box, and its upper left part with as much padding around it as it takes."""
    index = next((at for at, one in enumerate(batch.targets) if len(one.taught().boxes)), None)
    if index is None:
        raise DataError("A batch to check a detector on must have an image with a box, got none. Take another one.")
    image, (height, width) = batch.images[index], batch.sizes[index]
    part = max(1, 3 * height // 4), max(1, 3 * width // 4)
    cut = torch.zeros_like(image)
    cut[:, : part[0], : part[1]] = image[:, : part[0], : part[1]]
    target = batch.targets[index]
    boxes = target.boxes.clone()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(max=part[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(max=part[0])
    keep = ((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) > 1).nonzero()[:, 0]
    kept: Targets = target.only(keep, boxes=boxes)
    return Batch(
        images=torch.stack((image, cut)),
        sizes=((height, width), part),
        stored_sizes=((height, width), part),
        targets=(target, kept),
        image_ids=(1, 2),
        seeds=(1, 2),
    )


def _shows(spec: DetectorSpec) -> Iterator[str]:
    if spec.pyramid is not None:
        levels = ", ".join(f"{stride} ({spec.pyramid.at(stride)} channels)" for stride in spec.pyramid.strides)
        yield f"{spec.name} shows maps of stride {levels}"
    shown = [name for name in ("class_logits", "box_distributions", "towers") if getattr(spec, name) is not None]
    if shown:
        yield f"{spec.name} shows {either(shown).replace(' or ', ' and ')}"


def _frozen(detector: Detector) -> bool:
    return not any(one.requires_grad for one in detector.parameters())


def _modes(detector: Detector) -> list[bool]:
    return [part.training for part in detector.modules()]


def _hooks(detector: Detector) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in detector.modules() for kind in kinds)
