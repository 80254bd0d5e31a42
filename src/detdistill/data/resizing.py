"""From an image as stored to the image that both models see: one resize, and augmentation as drawn, boxes alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detdistill.data.transforms import SMALLEST_BOX_PX, Augmentation, ImageSettings, Window, centred
from detdistill.types import Targets

# RGB to luma and chroma; the chroma rows add up to zero, so that grey has none.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)


def _blurred(image: UInt8[Tensor, "3 h w"], deviation: float) -> UInt8[Tensor, "3 h w"]:
    """Blurred by so many pixels, as far as the image is larger than the kernel."""
    reach = min(math.ceil(3 * deviation), min(image.shape[1:]) - 1)
    return F.gaussian_blur(image, [2 * reach + 1] * 2, [deviation] * 2) if deviation > 0 and reach > 0 else image


def _recolour(image: UInt8[Tensor, "3 h w"], drawn: Augmentation) -> UInt8[Tensor, "3 h w"]:
    if (drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue) == (1, 1, 1, 0):
        return image
    # All four changes are linear in a pixel's colour, the hue as a turn in the chroma plane, so they are one
    # matrix and one offset: several times as fast as one after the other, and nothing is cut off in between.
    angle = 2 * math.pi * drawn.hue
    cosine, sine = drawn.saturation * math.cos(angle), drawn.saturation * math.sin(angle)
    turn = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], dtype=torch.float64)
    matrix = drawn.brightness * drawn.contrast * (_TO_YIQ.inverse() @ turn @ _TO_YIQ)
    mean = image.sum(dim=(1, 2), dtype=torch.int64) / image[0].numel()
    offset = drawn.brightness * (1 - drawn.contrast) * float(_TO_YIQ[0] @ mean.to(torch.float64))
    pixels = matrix.to(torch.float32) @ image.flatten(1).to(torch.float32)
    return pixels.add_(offset).round_().clamp_(0, 255).to(torch.uint8).reshape(image.shape)


def transform_sample(
    image: UInt8[Tensor, "3 h w"], targets: Targets, *, settings: ImageSettings, drawn: Augmentation | None = None
) -> tuple[UInt8[Tensor, "3 _h _w"], Targets]:
    """Resizes and augments an image and its boxes.

    In this order: window, resize (with jitter), crop, flips, blur, colour.

    Boxes are clipped to the image; those that end up narrower or lower than one pixel are dropped, flagged
    or not. Without parameters `drawn` by `draw_augmentation` this is the evaluation view, which only resizes.
    A window is resized to fit into what the whole image would be resized to.

    Returns:
        The image (not padded) and its targets, in pixels of that image. Resizing alone scales each axis by
        new size / stored size exactly, so detections map back by the inverse.
    """
    moved = transform_targets(targets, (image.shape[-2], image.shape[-1]), settings=settings, drawn=drawn)
    return transform_image(image, settings=settings, drawn=drawn), moved


def transform_image(
    image: UInt8[Tensor, "3 h w"],
    *,
    settings: ImageSettings,
    drawn: Augmentation | None = None,
    stored: tuple[int, int] | None = None,
) -> UInt8[Tensor, "3 _h _w"]:
    """The pixels alone of `transform_sample`.

    `stored` is the height and width of the image as stored where it was brought to another size already, which goes
    with a window never.
    """
    drawn = drawn or Augmentation()
    cut = stored or (image.shape[-2], image.shape[-1])
    whole = settings.resized(*cut, short_side=drawn.short_side)
    if drawn.window is not None:
        top, left, rows, columns = drawn.window
        image, cut = image[:, top : top + rows, left : left + columns], (rows, columns)
    size, crop = _sizes(cut, whole, drawn)
    image = _placed(F.resize(image, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True), crop, drawn)
    return _recolour(_blurred(image.contiguous(), drawn.blur * min(whole)), drawn)


def transform_targets(
    targets: Targets, stored: tuple[int, int], *, settings: ImageSettings, drawn: Augmentation | None = None
) -> Targets:
    """The boxes alone of an image of this height and width, exactly as `transform_sample` moves them."""
    return transform_several((targets,), stored, settings=settings, drawn=drawn)[0]


def transform_several(
    several: Sequence[Targets], stored: tuple[int, int], *, settings: ImageSettings, drawn: Augmentation | None = None
) -> tuple[Targets, ...]:
    """The same of several targets of one image, at the price of one."""
    drawn = drawn or Augmentation()
    whole = settings.resized(*stored, short_side=drawn.short_side)
    boxes = torch.cat([one.boxes for one in several])
    kept = torch.ones(len(boxes), dtype=torch.bool)
    if drawn.window is not None:
        # The objects whose centre a window holds; what is ignored only has to reach into it.
        kept = centred(boxes, drawn.window) | torch.cat([one.ignored for one in several])
        top, left, rows, columns = drawn.window
        stored = (rows, columns)
        boxes = _clipped(boxes - boxes.new_tensor([left, top, left, top]), rows, columns)
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    clipped = _placed_boxes(boxes, stored, *_sizes(stored, whole, drawn), drawn)
    kept &= (clipped[:, 2:] - clipped[:, :2] >= SMALLEST_BOX_PX).all(dim=1)
    counts = [len(one.labels) for one in several]
    rows_of = zip(several, torch.split(kept, counts), torch.split(clipped, counts), strict=True)
    return tuple(one.only(keep, boxes=own) for one, keep, own in rows_of)


def _placed(resized: UInt8[Tensor, "3 h w"], crop: Window | None, drawn: Augmentation) -> UInt8[Tensor, "3 _h _w"]:
    """The crop and the flips of an image."""
    if crop is not None:
        top, left, rows, columns = crop
        resized = resized[:, top : top + rows, left : left + columns]
    turned = [axis for axis, turn in ((2, drawn.flip), (1, drawn.flip_vertical)) if turn]
    return resized.flip(turned) if turned else resized


def _placed_boxes(
    boxes: Float[Tensor, "n 4"],
    cut: tuple[int, int],
    size: Sequence[int],
    crop: Window | None,
    drawn: Augmentation,
) -> Float[Tensor, "n 4"]:
    """The resize, crop and flips of boxes on what was cut out of an image, clipped to what is left.

    In plain arithmetic, bit for bit that of torchvision's transforms, which take ten times as long for a few boxes.
    """
    height, width = size
    moved = boxes.clone()
    if (height, width) != cut:
        ratios = [width / cut[1], height / cut[0]]
        moved = moved.mul_(moved.new_tensor(ratios * 2))
    if crop is not None:
        top, left, height, width = crop
        moved = _clipped(moved.sub_(moved.new_tensor([left, top] * 2)), height, width)
    if drawn.flip:
        moved[:, 0::2] = moved[:, 0::2].flip(1).sub_(width).neg_()
    if drawn.flip_vertical:
        moved[:, 1::2] = moved[:, 1::2].flip(1).sub_(height).neg_()
    return _clipped(moved, height, width)


def _clipped(boxes: Float[Tensor, "n 4"], height: int, width: int) -> Float[Tensor, "n 4"]:
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    return boxes


def resized_to(stored: tuple[int, int], settings: ImageSettings, drawn: Augmentation) -> tuple[int, int]:
    """To which height and width a stored image is resized, before a crop of that, where it has no window."""
    rows, columns = _sizes(stored, settings.resized(*stored, short_side=drawn.short_side), drawn)[0]
    return rows, columns


def _sizes(cut: tuple[int, int], whole: tuple[int, int], drawn: Augmentation) -> tuple[list[int], Window | None]:
    """To which height and width what was cut out is resized, and the crop of that; None for all of it."""
    nominal: Sequence[int] = whole
    if drawn.window is not None:
        factor = min(limit / side for limit, side in zip(whole, cut, strict=True))
        nominal = [max(round(side * factor), 1) for side in cut]
    size = [max(round(side * drawn.scale), 1) for side in nominal]
    rows, columns = (min(side, limit) for side, limit in zip(size, nominal, strict=True))
    if [rows, columns] == size:
        return size, None
    top, left = int(drawn.crop_y * (size[0] - rows + 1)), int(drawn.crop_x * (size[1] - columns + 1))
    return size, (top, left, rows, columns)
