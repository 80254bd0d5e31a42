"""Adversarial twins: images changed by a few grey levels so that the teacher classifies them worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.pair import inside_cells
from detdistill.distillation.twins import RepeatableMaker
from detdistill.errors import ConfigError
from detdistill.random import draw_seed
from detdistill.types import Batch, Targets, sent

Images = Float[Tensor, "b 3 h w"]
Inside = Bool[Tensor, "b 1 h w"]

# (images, iteration) → gradient of the loss that is to grow by the images.
GradientOf = Callable[[Tensor, int], Tensor]

# The attack's own stream of random numbers, beside those that a sample draws from.
_ATTACK_STREAM = 3
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class AttackSettings:
    """Numbers of the attack.

    Attributes:
        eps_255: how far a pixel may move at most, in 1/255 of the range.
        step_255: how far it moves in one iteration, in 1/255 of the range.
        steps: iterations.
        decay: how much of the direction so far is kept (momentum).
        diversity: probability that an iteration looks at a shrunk copy of the image.
        smallest_scale: the least factor on height and width of that copy.
        bounds: ``"pixel"``: pixels stay in [0, 1]; ``"source"``: `eps_255` and `step_255` are multiplied by the
            image's own range (the widest of its channels), and every channel stays within its own range.

    Raises:
        ConfigError: a number is out of its range.
    """

    eps_255: float = 8.0
    step_255: float = 2.0
    steps: int = 5
    decay: float = 1.0
    diversity: float = 0.5
    smallest_scale: float = 0.9
    bounds: Literal["pixel", "source"] = "pixel"

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("eps_255", self.eps_255, 0 <= self.eps_255 <= 255, "between 0 and 255"),
            ("step_255", self.step_255, 0 <= self.step_255 <= 255, "between 0 and 255"),
            ("steps (ikd's attack_steps)", self.steps, self.steps >= 1, "at least 1"),
            ("decay", self.decay, 0 <= self.decay < math.inf, "a finite number of at least 0"),
            ("diversity", self.diversity, 0 <= self.diversity <= 1, "between 0 and 1"),
            ("smallest_scale", self.smallest_scale, 0 < self.smallest_scale <= 1, "more than 0 and at most 1"),
            ("bounds", self.bounds, self.bounds in ("pixel", "source"), "pixel or source"),
        ):
            if not fits:
                raise ConfigError(f"The attack's {name} must be {expected}, got {value}. Give such a value.")


def momentum_attack(images: Images, gradient_of: GradientOf, *, inside: Inside, settings: AttackSettings) -> Images:
    """Moves every pixel by sign steps towards a larger loss, within a small distance of where it was.

    g ← gradient / ‖gradient‖₁ + decay · g;  x ← x + step · sign(g);  x ← into [x₀ − eps, x₀ + eps] and the bounds

    Args:
        images: x₀; each image is moved by its own gradient alone.
        gradient_of: (images, iteration) → gradient of the loss by the images.
        inside: pixels of the image itself; the padding neither moves nor counts in the norm.
        settings: distances, iterations and bounds.

    Returns:
        The moved images; exactly x₀ in the padding, and everywhere if eps is 0. No gradient flows.

    Source:
        Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, as Liang et al. use it (IKD, ACM MM 2023).

    Differs from the source:
        `bounds: pixel` measures on images in [0, 1]; `bounds: source` is IKD's rule, but on images in [0, 1] too,
        which is the same where all channels are divided by one standard deviation.
    """
    start = images.detach()
    eps, step, lowest, highest = _limits(start, inside, settings)
    lowest, highest = torch.maximum(start - eps, lowest), torch.minimum(start + eps, highest)
    moved, direction = start, torch.zeros_like(start)
    for iteration in range(settings.steps):
        gradient = torch.where(inside, gradient_of(moved, iteration).detach().to(start.dtype), 0.0)
        norm = gradient.abs().sum((1, 2, 3), keepdim=True).clamp(min=_TINY)
        direction = gradient / norm + settings.decay * direction
        moved = torch.minimum(torch.maximum(moved + step * direction.sign(), lowest), highest)
        moved = torch.where(inside, moved, start)
    return moved


def _limits(images: Tensor, inside: Tensor, settings: AttackSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance, step, lowest and highest value, each broadcast over the images."""
    eps, step = (images.new_full((), value / 255) for value in (settings.eps_255, settings.step_255))
    if settings.bounds == "pixel":
        return eps, step, images.new_zeros(()), images.new_ones(())
    lowest = images.masked_fill(~inside, torch.inf).amin((2, 3), keepdim=True)
    highest = images.masked_fill(~inside, -torch.inf).amax((2, 3), keepdim=True)
    reach = (highest - lowest).amax(1, keepdim=True)
    return eps * reach, step * reach, lowest, highest


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the shrunk copy of an image lies inside the image's own frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_placement(size: tuple[int, int], settings: AttackSettings, generator: torch.Generator) -> Placement | None:
    """Whether and where an iteration looks at a shrunk copy; one factor for height and width.

    Args:
        size: height and width of the image in pixels.
        settings: probability and the least factor.
        generator: four numbers are taken from it, whatever comes out.

    Returns:
        None for the image as it is.
    """
    chance, scale, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    if chance >= settings.diversity:
        return None
    factor = settings.smallest_scale + (1 - settings.smallest_scale) * scale
    height, width = (max(1, round(side * factor)) for side in size)
    return Placement(
        top=int(down * (size[0] - height + 1)),
        left=int(right * (size[1] - width + 1)),
        height=height,
        width=width,
    )


def placed(
    images: Images, placements: Sequence[Placement | None], *, sizes: Sequence[tuple[int, int]], fill: Tensor
) -> Images:
    """The images with their shrunk copies in their place, on the same grid.

    Args:
        images: gradients flow, through the bilinear resize too.
        placements: one per image; None leaves it as it is.
        sizes: height and width of each image inside the grid.
        fill: colour around the copy, (b, 3, 1, 1).
    """
    shown = images.clone()
    for index, (placement, (height, width)) in enumerate(zip(placements, sizes, strict=True)):
        if placement is None:
            continue
        copy = F.interpolate(
            images[index : index + 1, :, :height, :width],
            (placement.height, placement.width),
            mode="bilinear",
            align_corners=False,
        )[0]
        shown[index, :, :height, :width] = fill[index]
        rows = slice(placement.top, placement.top + placement.height)
        shown[index, :, rows, placement.left : placement.left + placement.width] = copy
    return shown


def moved_targets(targets: Targets, placement: Placement | None, *, size: tuple[int, int]) -> Targets:
    """The boxes of an image in the frame of its shrunk copy."""
    if placement is None:
        return targets
    across, down = placement.width / size[1], placement.height / size[0]
    boxes = targets.boxes
    factor, corner = [across, down] * 2, [placement.left, placement.top] * 2
    by, to = (sent(torch.tensor(numbers, dtype=boxes.dtype), boxes.device) for numbers in (factor, corner))
    return replace(targets, boxes=boxes * by + to)


@final
@dataclass(frozen=True)
class AdversarialTwins(RepeatableMaker):
    """Makes the adversarial twin of every image of a batch; a recipe's `TwinMaker`.

    The attack raises the teacher's class loss against the image's own targets (dense detectors: summed over the
    levels; two-stage: the RoI head's). Every image is attacked alone: its twin is the same in any batch on the same
    grid, up to float error. What it draws depends on the seed, the image id and the iteration. The teacher and its
    gradients are as before afterwards.

    Args:
        settings: the numbers.
        seed: of the random placements.

    Source:
        Liang et al., Inconsistent Knowledge Distillation, ACM MM 2023: adversarial feature augmentation; the input
        diversity of Xie et al., Improving Transferability of Adversarial Examples with Input Diversity, CVPR 2019.

    Differs from the source:
        The shrunk copy keeps the image's ratio and its boxes move along, where the source squeezes it into a square
        and leaves the boxes; the frame around it has the image's mean colour, where the source's is the data set's.
    """

    settings: AttackSettings = AttackSettings()
    seed: int = 0

    def identity(self) -> Mapping[str, str | int | float]:
        """What a twin depends on beside image and teacher, for a cache's address."""
        return {"twin": "adversarial", "seed": self.seed, **asdict(self.settings)}

    def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Images:
        """The twins of a batch, on its own grid, in [0, 1].

        Args:
            teacher: attacked, on the batch's device.
            batch: images in [0, 1], with targets.

        Raises:
            CapabilityError: the teacher reports no class loss per image.
        """
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            grid = (batch.images.shape[-2], batch.images.shape[-1])
            inside = inside_cells(batch.sizes, 1, grid=grid, device=batch.images.device)
            pixels = inside.sum((2, 3), keepdim=True)
            fill = (batch.images * inside).sum((2, 3), keepdim=True) / pixels

            def gradient_of(images: Tensor, iteration: int) -> Tensor:
                return self._gradient(teacher, batch, images, iteration=iteration, fill=fill)

            return momentum_attack(batch.images, gradient_of, inside=inside, settings=self.settings)

    def _gradient(
        self, teacher: FrozenTeacher, batch: Batch, images: Tensor, *, iteration: int, fill: Tensor
    ) -> Tensor:
        placements = [
            draw_placement(size, self.settings, self._generator(image_id, iteration))
            for size, image_id in zip(batch.sizes, batch.image_ids, strict=True)
        ]
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            shown = placed(leaf, placements, sizes=batch.sizes, fill=fill)
        targets = tuple(
            moved_targets(target, placement, size=size)
            for target, placement, size in zip(batch.targets, placements, batch.sizes, strict=True)
        )
        gradient, _ = teacher.input_gradient(replace(batch, images=shown.detach(), targets=targets))
        (back,) = torch.autograd.grad(shown, leaf, gradient)
        return back

    def _generator(self, image_id: int, iteration: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self.seed, image_id, iteration, _ATTACK_STREAM))
