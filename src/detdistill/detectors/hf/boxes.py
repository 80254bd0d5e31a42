"""Detectors of transformers' that are not taken apart here: each runs as a whole, and says boxes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, final

import torch

from detdistill.detectors.boxes_alone import BoxesAlone
from detdistill.detectors.onnx_boxes import detections, fitted
from detdistill.detectors.onnx_settings import OnnxSettings
from detdistill.detectors.preprocess import Channels, Normaliser
from detdistill.types import Batch, Detections

BOXES_ALONE = ("deimv2", "lw_detr", "rf_detr", "pp_doclayout_v2", "pp_doclayout_v3")
"""By transformers' own names: their queries say a sigmoid score for each class, and boxes as shares of the picture."""


@final
class HFBoxes(BoxesAlone):
    """Finds what one of transformers' models finds in each image, stretched to its size as its image processor does.

    Args:
        model: transformers' model, taken over.
        class_names: in label order.
        slots: the model's own class index of every label.
        size: height and width in pixels of what it sees.
        pixels: mean and std, of pixels in [0, 1].
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        *,
        slots: Sequence[int],
        size: tuple[int, int],
        pixels: tuple[Channels, Channels],
    ) -> None:
        super().__init__(f"hf:{model.config.model_type}", tuple(class_names))
        self.model, self.slots, self.pixels = model, list(slots), Normaliser(*pixels)
        said = {"form": "queries", "boxes": "cxcywh", "units": "shares", "activation": "sigmoid"}
        self.reads = OnnxSettings(classes=self.spec.class_names, size=size, resize="stretch", **said)  # type: ignore[arg-type]
        # Part of its digest, as the model's tensors are.
        self.register_buffer("content", torch.tensor([*size, *slots, *map(float, (*pixels[0], *pixels[1]))]))

    @property
    def image(self) -> dict[str, int]:
        """The size to which images are brought before they are stretched, as `data.image` has it."""
        seen = self.reads.seen()
        return {} if seen is None else asdict(seen)

    @torch.no_grad()
    def detect(self, batch: Batch) -> tuple[Detections, ...]:
        """See `Detector.detect`; boxes do not suppress each other."""
        images = [image[:, :rows, :columns] for image, (rows, columns) in zip(batch.images, batch.sizes, strict=True)]
        seen, fits = zip(*(fitted(image, self.reads) for image in images), strict=True)
        said = self.model(pixel_values=(torch.stack(seen) - self.pixels.mean) / self.pixels.std)
        every = zip(said.logits[..., self.slots], said.pred_boxes, fits, strict=True)
        return tuple(detections((logits, boxes), self.reads, fit) for logits, boxes, fit in every)
