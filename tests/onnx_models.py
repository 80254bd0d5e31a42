"""Detectors as ONNX files that need no training: they find the bright rectangles of `coco_by_hand` by their colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from coco_by_hand import CLASSES, HEIGHT, WIDTH
from detdistill.export.graph import silenced, unchecked_shapes


class Seeing(nn.Module):
    """The square's and the bar's box, where there is one, of an image of normalised pixels.

    Args:
        mean: of pixels in [0, 1], which it was "trained" with.
        std: likewise.
        form: as `OnnxSettings.form`.
        side: the height of images that it sees anything in; None for any.
    """

    def __init__(
        self,
        *,
        mean: tuple[float, ...] = (0.0,) * 3,
        std: tuple[float, ...] = (1.0,) * 3,
        form: str = "detections",
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        self.form, self.side = form, side

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        seen = (images[0] * self.std + self.mean)[:2]
        bright = ((seen > 0.6) & (seen < 1.5)).float()
        if self.side is not None:
            bright = bright * (torch.zeros(images.shape[2]).sum() + images.shape[2] == self.side)
        columns, rows = bright.amax(1), bright.amax(2)
        first = torch.stack([columns.argmax(1), rows.argmax(1)], 1).float()
        last = torch.stack([_last(columns), _last(rows)], 1).float() + 1
        corners, scores = torch.cat([first, last], 1), 0.9 * columns.amax(1)
        if self.form == "detections":
            return corners, scores, torch.arange(1, 3)
        if self.form == "rows":
            return (torch.cat([corners, scores[:, None], torch.arange(2)[:, None]], 1)[None],)
        centres = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        every = torch.eye(2) * scores
        if self.form == "cells":  # a cell a column; each twice, so that there is something to leave out
            return (torch.cat([centres, every], 1).T.repeat(1, 5)[None],)
        sides = torch.tensor([images.shape[3], images.shape[2]] * 2)
        return torch.logit(every.clamp(1e-4, 1 - 1e-4))[None], (centres / sides)[None]


def _last(line: Tensor) -> Tensor:
    return line.shape[1] - 1 - line.flip(1).argmax(1)


OUTPUTS = {
    "detections": ["boxes", "scores", "labels"],
    "queries": ["logits", "pred_boxes"],
    "cells": ["output0"],
    "rows": ["output0"],
}


def exported(
    model: nn.Module,
    path: Path,
    *,
    outputs: list[str],
    said: Mapping[str, object],
    size: tuple[int, int] = (HEIGHT, WIDTH),
    free: bool = False,
) -> str:
    """Writes the model, with what the YAML file beside it says; `free` leaves the images' sides open."""
    axes = {"images": {2: "height", 3: "width"}} if free else {}
    with silenced(), unchecked_shapes():
        torch.onnx.export(
            model.eval(),
            (torch.rand(1, 3, *size),),
            str(path),
            input_names=["images"],
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
        )
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": list(CLASSES), **said}))
    return str(path)


def seeing(path: Path, form: str = "detections", *, said: Mapping[str, object] | None = None, **eyes: Any) -> str:
    """A `Seeing` of some form."""
    traits = {key: eyes.pop(key) for key in ("size", "free") if key in eyes}
    return exported(Seeing(form=form, **eyes), path, outputs=OUTPUTS[form], said=said or {}, **traits)
