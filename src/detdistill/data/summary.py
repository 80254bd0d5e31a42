"""What is in a split, at a glance: counts, class balance, box and image sizes, problems."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations, find_regions
from detdistill.data.problems import Problems
from detdistill.progress import counted

SMALL_PX2, MEDIUM_PX2 = 32.0**2, 96.0**2


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One class: its boxes (ignored ones left out), their share of all in percent, and the images that show it."""

    name: str
    boxes: int
    percent: float
    images: int

    def text(self) -> str:
        """The figures in words."""
        return f"{self.boxes} ({self.percent:.1f} %) in {counted(self.images, 'image')}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest of something, in pixels."""

    smallest: float
    median: float
    largest: float

    def text(self) -> str:
        """The figures in whole pixels."""
        return f"{self.smallest:.0f} to {self.largest:.0f}, median {self.median:.0f}"


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """A split in figures.

    Attributes:
        images: images that can be used; the others are skipped.
        images_without_boxes: how many of them have none (ignored boxes do not count).
        boxes: boxes to learn, without the ignored ones.
        ignored: boxes that one class ignores, such as crowds and difficult ones.
        regions: places that every class ignores, such as KITTI's DontCare.
        classes: in label order.
        small: boxes below 32x32 square pixels of area, as COCO counts; medium ones go to 96x96.
        box_side: square root of width times height; None without boxes.
        image_width: None without images, as `image_height`.
        problems: how many of each kind.
    """

    images: int
    images_without_boxes: int
    boxes: int
    ignored: int
    regions: int
    classes: tuple[ClassCount, ...]
    small: int
    medium: int
    large: int
    box_side: Spread | None
    image_width: Spread | None
    image_height: Spread | None
    repaired: int
    skipped: int
    problems: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each line of a table."""
        share = f"{100 * self.images_without_boxes / self.images:.1f} %" if self.images else "-"
        per_image = f"{self.boxes / self.images:.1f} per image" if self.images else "-"
        spreads = {"box side": self.box_side, "image width": self.image_width, "image height": self.image_height}
        rows = [
            ("images", str(self.images)),
            ("images without boxes", f"{self.images_without_boxes} ({share})"),
            ("boxes", f"{self.boxes} ({per_image})"),
            ("ignored boxes", str(self.ignored)),
            ("ignore regions", str(self.regions)),
            ("small / medium / large", f"{self.small} / {self.medium} / {self.large}"),
            *((f"{name}, px", spread.text()) for name, spread in spreads.items() if spread is not None),
            *((f"class {item.name}", item.text()) for item in self.classes),
            *((f"problem: {kind}", str(count)) for kind, count in self.problems.items()),
        ]
        return [*rows, ("repaired / skipped", f"{self.repaired} / {self.skipped}")] if self.problems else rows


def _spread(values: NDArray[Any]) -> Spread | None:
    return Spread(float(values.min()), float(np.median(values)), float(values.max())) if len(values) else None


def summarise(annotations: Annotations, problems: Problems) -> SplitSummary:
    """Counts what is in a split."""
    regions = find_regions(annotations)
    used = ~annotations.ignored
    labels, corners, areas = annotations.labels[used], annotations.boxes[used], annotations.areas[used]
    image_of = annotations.owners()[used]
    classes = len(annotations.class_names)
    counts = np.bincount(labels, minlength=classes).tolist()
    pairs = np.unique(image_of * classes + labels)
    images_of_class = np.bincount(pairs % classes, minlength=classes).tolist() if len(pairs) else [0] * classes
    total, small, large = len(labels), int((areas < SMALL_PX2).sum()), int((areas >= MEDIUM_PX2).sum())
    sides = np.sqrt((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))
    return SplitSummary(
        images=len(annotations),
        images_without_boxes=len(annotations) - len(np.unique(image_of)),
        boxes=total,
        ignored=int((annotations.ignored & ~regions.members).sum()),
        regions=len(regions.images),
        classes=tuple(
            ClassCount(name, count, 100.0 * count / total if total else 0.0, seen)
            for name, count, seen in zip(annotations.class_names, counts, images_of_class, strict=True)
        ),
        small=small,
        medium=total - small - large,
        large=large,
        box_side=_spread(sides),
        image_width=_spread(annotations.sizes[:, 1]),
        image_height=_spread(annotations.sizes[:, 0]),
        repaired=problems.repaired,
        skipped=problems.skipped,
        problems=dict(problems.counts),
    )
