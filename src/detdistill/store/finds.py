"""What a teacher found in images: kept in safetensors named by their content, checked by sums and by the teacher."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torchvision.ops import box_iou

from detdistill.data.annotations import Annotations
from detdistill.errors import DataError
from detdistill.files import require_regular, write_bytes, write_json
from detdistill.progress import Progress
from detdistill.store.cache import INDEX, Kind, Shelf, hexed, image_name, say_damaged, say_others, watched
from detdistill.types import Detections

# Raise it when what is found changes in a way that neither the teacher's digest nor its settings show.
_FORMAT = 1
# Bytes of an image's name and count.
_ROW = 40
_SUFFIX = ".safetensors"
# How many images of those that are known a teacher looks at again, at least one.
_CHECKED = 0.01
# Boxes of at least this score must be found again, as near and as sure as this: another device rounds otherwise.
_TOLD, _NEAR, _AS_SURE = 0.2, 0.9, 0.05

# What a teacher finds in a whole batch of the images, by their indices, as it sees them without augmentation.
Look = Callable[[Sequence[int]], list[Detections]]


def kept_finds(
    folder: Path,
    *,
    identity: Mapping[str, Any],
    annotations: Annotations,
    look: Look,
    batch_size: int,
    progress: Progress,
) -> list[Detections]:
    """What a teacher finds in every image, in pixels of the images as stored, from disk or made now.

    A find's address is the image file's content and stored size, and `identity`: so any run of the same teacher finds
    it. Every file is checked by its checksum, and a hundredth of the images, at random and at least one, by the teacher
    itself. How it is built, see `Shelf.filled`.

    Args:
        folder: of the cache; whatever has an identity gets a folder of its own in it.
        identity: the teacher's digest, its thresholds, and the size at which it sees images.
        annotations: the images.
        look: what the teacher does with the missing ones.
        batch_size: how many it looks at at a time.
        progress: told what is new, changed or damaged.

    Raises:
        DataError: an image cannot be read, the disk has too little room, or the teacher finds other things now.
    """
    shelf = Shelf.of(folder, {"format": _FORMAT, **identity})
    images = range(len(annotations))
    names = [image_name(annotations, index) for index in watched(images, "look for the teacher's finds", progress)]
    say_others(folder, shelf, "found", progress)
    finds = _Finds(names, annotations.image_ids.tolist(), look, batch_size)
    known = shelf.filled(finds, names, batch_size=batch_size, progress=progress)
    return [known[name] for name in names]


@final
@dataclass(frozen=True)
class _Finds(Kind[Detections, Detections]):
    """Finds in files of many images each; what is known of an image is what was found there."""

    what: ClassVar = "finds"
    names: Sequence[str]
    image_ids: Sequence[int]
    look: Look
    batch_size: int
    waiting: dict[str, Detections] = field(default_factory=dict)

    def make(self, indices: range, wanted: Set[int]) -> dict[str, Detections]:
        """See `Kind.make`."""
        found = zip(indices, self.look(indices), strict=True)
        return {self.names[index]: one for index, one in found if index in wanted}

    def size(self, made: Detections) -> int:
        """See `Kind.size`."""
        columns = (made.boxes, made.scores, made.labels, made.probabilities)
        return _ROW + sum(one.nbytes for one in columns if one is not None)

    def keep(self, home: Path, made: Mapping[str, Detections]) -> dict[str, Detections]:
        """See `Kind.keep`."""
        del home
        self.waiting.update(made)
        return dict(made)

    def write(self, home: Path, identity: Mapping[str, Any], known: Mapping[str, Detections]) -> None:
        """See `Kind.write`: what came since, in a file that bears its checksum."""
        del known
        if not (home / INDEX).is_file():
            write_json(home / INDEX, {"identity": dict(identity)})
        for said in (True, False):  # with probabilities and without
            some = {name: one for name, one in self.waiting.items() if (one.probabilities is not None) is said}
            if some:
                content = _packed(some)
                write_bytes(home / f"{hexed(content)}{_SUFFIX}", content)
        self.waiting.clear()

    def intact(self, home: Path, names: Sequence[str], progress: Progress) -> dict[str, Detections]:
        """See `Kind.intact`; the teacher looks at some of what is known again."""
        known, damaged = dict[str, Detections](), []
        files = sorted(home.glob(f"*{_SUFFIX}"))
        for path in watched(files, "check the teacher's finds", progress) if files else ():
            require_regular(path)
            content = path.read_bytes()
            try:
                if hexed(content) != path.stem:
                    raise ValueError("other content")
                known |= _unpacked(content)
            except (SafetensorError, LookupError, ValueError, RuntimeError):
                path.unlink(missing_ok=True)
                damaged.append(path)
        say_damaged(damaged, "finds", progress)
        there = [index for index, name in enumerate(names) if name in known]
        if not damaged and known and len(there) < len(names):
            progress.say(
                f"the teacher's finds: {len(names) - len(there)} of {len(names)} images are new, or were changed since "
                "it looked at them: it looks at them anew"
            )
        if there:
            self._check(home, known, random.SystemRandom().sample(there, math.ceil(_CHECKED * len(there))), progress)
        return known

    def _check(self, home: Path, known: Mapping[str, Detections], chosen: Sequence[int], progress: Progress) -> None:
        """Refuses a cache that is not what the teacher finds now in some of the images."""
        for index in watched(chosen, "check them by the teacher", progress):
            first = index // self.batch_size * self.batch_size
            batch = range(first, min(first + self.batch_size, len(self.names)))
            now = self.look(batch)[index - first]
            if not alike(known[self.names[index]], now):
                raise DataError(
                    f"What the teacher finds in image {self.image_ids[index]} must be what the cache {home} holds, got "
                    f"{_summary(now)} instead of {_summary(known[self.names[index]])}. Remove that folder."
                )


def _summary(found: Detections) -> str:
    sure = found.scores[found.scores >= _TOLD]
    best = f", the best of {float(sure.max()):.2f}" if len(sure) else ""
    return f"{len(sure)} boxes of score {_TOLD} or more{best}"


def alike(one: Detections, other: Detections) -> bool:
    """Whether two finds in an image are the same but for rounding: every box that is sure has its like."""
    if torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores):
        return torch.equal(one.labels, other.labels)
    return _has_likes(one, other) and _has_likes(other, one)


def _has_likes(first: Detections, second: Detections) -> bool:
    sure = first.scores >= _TOLD + _AS_SURE
    near = box_iou(first.boxes[sure], second.boxes) >= _NEAR
    close = (first.scores[sure, None] - second.scores).abs() <= _AS_SURE
    return bool((near & close & (first.labels[sure, None] == second.labels)).any(dim=1).all())


def _packed(finds: Mapping[str, Detections]) -> bytes:
    """Finds by name as the content of a file."""
    ordered = sorted(finds.items())
    names = torch.frombuffer(bytearray.fromhex("".join(name for name, _ in ordered)), dtype=torch.uint8)
    tensors = {
        "names": names.reshape(-1, 32),
        "counts": torch.tensor([len(one.scores) for _, one in ordered]),
        "boxes": torch.cat([one.boxes for _, one in ordered]),
        "scores": torch.cat([one.scores for _, one in ordered]),
        "labels": torch.cat([one.labels for _, one in ordered]),
    }
    said = [one.probabilities for _, one in ordered if one.probabilities is not None]
    return save(tensors | ({"probabilities": torch.cat(said)} if said else {}))


def _unpacked(content: bytes) -> dict[str, Detections]:
    """What `_packed` made; LookupError, ValueError or RuntimeError where it did not."""
    tensors = load(content)
    counts = tensors["counts"].tolist()
    columns = (tensors["boxes"], tensors["scores"], tensors["labels"], tensors.get("probabilities"))
    parts = ([None] * len(counts) if one is None else torch.split(one, counts) for one in columns)
    rows = zip(tensors["names"], *parts, strict=True)
    return {
        name.numpy().tobytes().hex(): Detections(boxes, scores, labels, classes)
        for name, boxes, scores, labels, classes in rows
    }
