"""Runs a detector exported by detdistill. Needs numpy, Pillow and onnxruntime alone: copy this file wherever you like.

    python runtime.py model.onnx image.jpg [SCORE]

Prints a line a box: class, score, x1, y1, x2, y2 in pixels of the image as stored, upright.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Found(NamedTuple):
    """What was found in one image, best first: boxes (n, 4) as x1, y1, x2, y2 in pixels, scores (n), labels (n)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detector:
    """An exported detector; `class_names` are in label order.

    Args:
        model: the file, or its content.
        threads: how many an operation may use; 0 for all.
        providers: onnxruntime's names of where to run; None for the best that there is.
    """

    def __init__(self, model: str | Path | bytes, threads: int = 0, providers: Sequence[str] | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, threads
        self.session: Any = onnxruntime.InferenceSession(model, options, providers=providers)
        told = {key: json.loads(text) for key, text in self.session.get_modelmeta().custom_metadata_map.items()}
        self.class_names: list[str] = told["class_names"]
        self.image, self.limits, self.nms = told["image"], told["limits"], told["nms"]
        self.mean, self.std = (np.array(told["outside"][name], dtype=np.float32) for name in ("mean", "std"))

    def __call__(self, image: np.ndarray) -> Found:
        """What is in an RGB image (h, w, 3) of 8 bits, in its own pixels."""
        images, sizes = self.prepare([image])
        return self.stored(self.find(images, sizes)[0], sizes[0], image.shape[:2])

    def prepare(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Images (h, w, 3) resized, and padded at the bottom and right to one grid: (b, 3, h, w) and their sizes."""
        resized = [resize(one, *self.resized(*one.shape[:2])) for one in images]
        sizes = np.array([one.shape[:2] for one in resized], dtype=np.int64)
        grid = sizes.max(axis=0) + -sizes.max(axis=0) % self.image["pad_multiple"]
        height, width = self.image.get("size") or grid.tolist()
        batch = np.zeros((len(resized), 3, height, width), dtype=np.float32)
        for row, one in zip(batch, resized, strict=True):
            pixels = (one.astype(np.float32) / np.float32(255) - self.mean) / self.std
            row[:, : one.shape[0], : one.shape[1]] = pixels.transpose(2, 0, 1)
        return batch, sizes

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize: the largest that no side forbids, nor the grid where that is fixed."""
        ratios = [(self.image["short_side"], min(height, width)), (self.image["long_side"], max(height, width))]
        ratios += zip(self.image.get("size", ()), (height, width), strict=False)
        new, old = min(ratios, key=lambda one: one[0] / one[1])
        return max((2 * height * new + old) // (2 * old), 1), max((2 * width * new + old) // (2 * old), 1)

    def find(self, images: np.ndarray, sizes: np.ndarray) -> list[Found]:
        """What is in prepared images, in pixels of their grid."""
        said = self.session.run(None, {"images": images, "sizes": sizes})
        if self.nms == "inside":
            boxes, scores, labels, counts = said
            return [Found(*(part[row][:count] for part in (boxes, scores, labels))) for row, count in enumerate(counts)]
        return [self.suppress(boxes, scores) for boxes, scores in zip(*said, strict=True)]

    def suppress(self, boxes: np.ndarray, scores: np.ndarray) -> Found:
        """The best of the candidates: boxes (n, 4), or (n, k, 4) with one a class, and scores (n, k)."""
        rows, labels = np.nonzero(scores > self.limits["score"])
        order = np.argsort(-scores[rows, labels], kind="stable")
        rows, labels = rows[order], labels[order]
        places, sure = boxes[rows, labels] if boxes.ndim == 3 else boxes[rows], scores[rows, labels]
        kept: list[int] = []
        left, most = np.arange(len(rows)), self.limits["overlap"] or 1.0
        while len(left) and len(kept) < self.limits["most"]:
            best, left = left[0], left[1:]
            kept.append(best)
            left = left[(labels[left] != labels[best]) | (overlaps(places[best], places[left]) <= most)]
        return Found(places[kept], sure[kept], labels[kept])

    @staticmethod
    def stored(found: Found, size: np.ndarray, stored: tuple[int, ...]) -> Found:
        """What was found in an image of `size`, height and width in pixels, in pixels of the image as stored."""
        seen, limit = (np.array([one[1], one[0]] * 2, dtype=np.float32) for one in (size, stored))
        return found._replace(boxes=(found.boxes * (limit / seen)).clip(0, limit))


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box (4) with others (n, 4)."""
    shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(axis=1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(shared / (areas - shared).clip(1e-12))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (h, w, 3) of 8 bits, bilinear with antialiasing, to the bit as torch does it in training."""
    return _rows(_rows(image.swapaxes(0, 1), width).swapaxes(0, 1), height)


def _rows(image: np.ndarray, count: int) -> np.ndarray:
    if (old := len(image)) == count:
        return image
    reach, centres = max(old / count, 1.0), old / count * (np.arange(count) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    taken = np.minimum((centres + reach + 0.5).astype(np.int64), old) - first
    taps = np.arange(taken.max())
    weights = (1 - np.abs((taps + first[:, None] - centres[:, None] + 0.5) / reach)).clip(0) * (taps < taken[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    bits = next((bits for bits in range(22) if int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15), 22)
    whole = (weights * 2**bits + 0.5).astype(np.int32)[..., None, None]
    total = np.full((count, *image.shape[1:]), 2 ** (bits - 1), dtype=np.int32)
    for tap in taps:
        total += image[np.minimum(first + tap, old - 1)] * whole[:, tap]
    return np.asarray((total >> bits).clip(0, 255).astype(np.uint8))


def read(path: str | Path) -> np.ndarray:
    """An image file as RGB (h, w, 3), upright."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def main(arguments: Sequence[str]) -> None:
    """Prints what is in an image."""
    if len(arguments) < 2:
        sys.exit(__doc__)
    try:
        least, found = float([*arguments, "0.3"][2]), (detector := Detector(arguments[0]))(read(arguments[1]))
    except Exception as error:  # onnxruntime's own have no common base
        said = f"{' '.join(arguments)}: {error}".partition("\n")[0].rstrip(".")
        raise SystemExit(f"A model by detdistill and an image must be given, got {said}. Give such.") from error
    for box, sure, label in zip(*found, strict=True):
        if sure >= least:
            sys.stdout.write(f"{detector.class_names[label]} {sure:.3f} {' '.join(f'{edge:.1f}' for edge in box)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
