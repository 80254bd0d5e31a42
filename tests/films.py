"""Short videos, made here: the seconds of every frame, and a bar that moves from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def film(
    path: Path, *, frames: int = 4, size: tuple[int, int] = (48, 64), at: Sequence[Fraction] | None = None
) -> Path:
    """A video of noise-free pictures: dark, with a white column block at `8 * frame`, and a red top half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 48, 64
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.qmax = 2
        for number in range(frames):
            picture = np.zeros((*size, 3), dtype=np.uint8)
            picture[: size[0] // 2, :, 0] = 200
            picture[:, 8 * number : 8 * number + 8] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = round(1000 * (Fraction(number, 10) if at is None else at[number]))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seen(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """The moment and the picture of every frame, without anything of ours."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
