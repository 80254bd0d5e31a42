"""Are what a detector finds boxes as everybody here takes them: pixels, corners, inside, best first, image by image?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from detdistill.detectors.base import Detector, evaluating
from detdistill.types import Batch, Detections

_COMPARED = 5
_SLACK = 1.0  # pixels


def wrong(what: str, expected: str, got: object, remedy: str) -> str:
    """The sentence of a mistake."""
    return f"{what} must {expected}, got {got}. {remedy}"


def check_boxes(detector: Detector, batch: Batch, name: str) -> Iterator[str]:
    """What is wrong with the boxes that a detector finds in a batch, the root of it first.

    Args:
        detector: put into eval mode and back.
        batch: images of different sizes on one padded grid.
        name: what the sentences call the detector.
    """
    with evaluating(detector):
        found = detector.detect(batch)
        alone = [detector.detect(batch.image(index)) for index in range(len(batch))]
    if not isinstance(found, (tuple, list)) or len(found) != len(batch):
        got = str(len(found)) if isinstance(found, (tuple, list)) else type(found).__name__
        expected = f"return one Detections for each of {len(batch)} images"
        yield wrong(f"detect of {name}", expected, got, "Return a tuple of them.")
        return
    for image, one in enumerate(found):
        yield from _of_image(one, batch, image, classes=len(detector.spec.class_names), name=name)
    for (together,), one in zip(alone, found, strict=True):
        if not _same(together, one):
            got = "other boxes or scores"
            remedy = "Take what it computes over the batch, such as a top k or a norm, over each image."
            yield wrong(f"detect of {name}", "find the same in an image alone as beside others", got, remedy)


def _of_image(found: Detections, batch: Batch, image: int, *, classes: int, name: str) -> Iterator[str]:
    if not isinstance(found, Detections):
        remedy = "Return Detections(boxes, scores, labels)."
        yield wrong(f"detect of {name}", "return Detections", type(found).__name__, remedy)
        return
    boxes, scores, labels = found.boxes, found.scores, found.labels
    shapes, count = (tuple(boxes.shape), tuple(scores.shape), tuple(labels.shape)), len(boxes)
    if shapes != ((count, 4), (count,), (count,)):
        expected = "give boxes (n, 4), scores (n) and labels (n)"
        yield wrong(f"detect of {name}", expected, shapes, "Give each box one of both.")
        return
    if labels.dtype != torch.int64:
        yield wrong(f"The labels that {name} finds", "be int64", labels.dtype, "Write labels.long().")
    if not count:
        return
    if not boxes.isfinite().all() or not scores.isfinite().all():
        remedy = "Look for an exp that overflows, or a division by 0."
        yield wrong(f"The boxes and scores that {name} finds", "be finite", "NaN or infinity", remedy)
    first, last = int(labels.min()), int(labels.max())
    if first < 0 or last >= classes:
        expected = f"be 0 to {classes - 1}, in the order of its class names"
        remedy = "Take 1 off: there is no background class." if last == classes else "Give the class's position."
        yield wrong(f"The labels that {name} finds", expected, f"{first} to {last}", remedy)
    low, high = float(scores.min()), float(scores.max())
    if low < 0 or high > 1:
        remedy = "Take the sigmoid, or the softmax, of the logits."
        yield wrong(f"The scores that {name} finds", "lie in 0 to 1", f"{low:.3g} to {high:.3g}", remedy)
    if bool((scores[1:] > scores[:-1]).any()):
        remedy = "Sort them by score, descending."
        yield wrong(f"The boxes that {name} finds", "be the best first", "scores that rise", remedy)
    yield from _corners(boxes, batch, image, name=name)


def _corners(boxes: Tensor, batch: Batch, image: int, *, name: str) -> Iterator[str]:
    (height, width), which = batch.sizes[image], f"The boxes that {name} finds"
    if float(boxes.abs().max()) <= 1.5 and max(height, width) > 8:
        got = f"numbers up to {float(boxes.max()):.3g}, as shares of the image are"
        yield wrong(which, "be in pixels of the batch", got, "Multiply them by the image's width and height.")
        return
    turned = int((boxes[:, 2:] < boxes[:, :2] - 1e-3).any(dim=1).sum())
    if turned:
        got = f"{turned} of {len(boxes)} whose second corner lies before the first, as of a centre with a size"
        yield wrong(which, "be corners x1, y1, x2, y2", got, "Convert them to corners.")
        return
    low, right, below = float(boxes.min()), float(boxes[:, 2].max()), float(boxes[:, 3].max())
    if low < -_SLACK or right > width + _SLACK or below > height + _SLACK:
        got = f"ones from {low:.4g} to x = {right:.4g} and y = {below:.4g}"
        remedy = "Give them in pixels of the batch, not of the stored image, and clip them to batch.sizes."
        yield wrong(which, f"lie inside their image of {width} x {height} pixels", got, remedy)


def _same(one: Detections, other: Detections) -> bool:
    """Whether the best boxes are the same, up to rounding."""
    if min(len(one.boxes), len(other.boxes)) == 0:
        return max(len(one.boxes), len(other.boxes)) <= 1
    some = min(_COMPARED, len(one.boxes), len(other.boxes))
    ours, theirs = (found.scores[:some] for found in (one, other))
    if not torch.allclose(ours, theirs, atol=1e-2):
        return False
    # Boxes of equal scores may change places.
    ahead = ours[:1] - ours[1:2] > 1e-4 if some > 1 else torch.ones(1)
    return not bool(ahead.all()) or torch.allclose(one.boxes[:1], other.boxes[:1], atol=1.0)
