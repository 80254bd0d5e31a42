"""Videos: read frame by frame, upright, and written anew with what was drawn on them; their sound is left out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from detdistill.errors import DataError, MissingDependencyError, installing
from detdistill.files import byte_stream, require_regular

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".m2ts", ".3gp", ".ogv"}
)
"""By these a file is known as a video."""
_TICKS = 90_000
# In pieces that need no seeking back: what is on the disk is written once. The mark stands in the first one.
_FORM = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# Without frames that wait for later ones, by which such a file would begin late.
_IN_ORDER = {"bf": "0"}

Picture = UInt8[NDArray[np.uint8], "h w 3"]
Timed = tuple[Fraction, Picture]
"""A moment in seconds, and what is seen then, RGB."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video file.

    Attributes:
        path: where it lies.
        frames: how many it says it has.
        rate: frames a second, on average.
        size: height and width in pixels, upright.
    """

    path: Path
    frames: int
    rate: Fraction
    size: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> Video:
        """Reads the header and the first frame.

        Raises:
            DataError: it cannot be decoded, or has no frame.
            MissingDependencyError: PyAV is not installed.
        """
        av = _library()
        require_regular(path)
        with closing(_decoded(path)) as first:
            _, picture = next(first, (Fraction(0), None))
        if picture is None:
            raise _broken(path, "no frame")
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return cls(path, frames, rate, picture.shape[:2])

    def __iter__(self) -> Iterator[Timed]:
        """Every frame; a `DataError` from the first on that cannot be decoded."""
        return _decoded(self.path)


def write_video(path: Path, pictures: Iterable[Timed], *, rate: Fraction, comment: str) -> None:
    """Writes an MP4, whole or not at all.

    Args:
        path: the file.
        pictures: at least one, all of one size; the last row or column of one that is odd is shown twice.
        rate: frames a second, on average.
        comment: stands in its beginning.

    Raises:
        DiskError: the disk refuses.
    """
    av, last = _library(), -1
    coder = "libx264" if "libx264" in av.codec.codecs_available else "mpeg4"
    with byte_stream(path) as add, av.open(_Sink(add), mode="w", format="mp4", options=_FORM) as container:
        container.metadata["comment"] = comment
        stream = container.add_stream(coder, rate=rate, options=_IN_ORDER)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, _TICKS)
        for seconds, picture in pictures:
            even = np.pad(picture, [(0, side % 2) for side in picture.shape[:2]] + [(0, 0)], mode="edge")
            if last < 0:
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts = last = max(round(seconds * _TICKS), last + 1)
            frame.time_base = Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class _Sink:
    """What PyAV writes to."""

    def __init__(self, add: Callable[[bytes], None]) -> None:
        self._add = add

    def write(self, content: bytes) -> int:
        self._add(content)
        return len(content)


def _decoded(path: Path) -> Generator[Timed]:
    av, number, size = _library(), 0, (0, 0)
    try:
        with av.open(f"file:{path}") as container:
            if not container.streams.video:
                return
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                size = size if number else (frame.height, frame.width)
                seconds = Fraction(number) / (stream.average_rate or 25)
                if frame.pts is not None and frame.time_base is not None:
                    seconds = frame.pts * frame.time_base - (stream.start_time or 0) * stream.time_base
                picture = frame.to_ndarray(format="rgb24", height=size[0], width=size[1])
                yield seconds, np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    except av.FFmpegError as error:
        raise _broken(path, f"{error.strerror}{f' after {number} frames' if number else ''}") from error


def _broken(path: Path, what: str) -> DataError:
    return DataError(f"{path} must be a video that can be decoded, got: {what}. Leave it out, or write it anew.")


def _library() -> ModuleType:
    try:
        import av
        import av.logging
    except ImportError as error:
        raise MissingDependencyError(
            f"The package av must be installed to read videos, got an import error. {installing('detdistill[video]')}"
        ) from error
    av.logging.set_level(None)
    return av
