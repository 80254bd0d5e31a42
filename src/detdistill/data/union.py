"""Several data sets as one: classes united by name, image ids made unique, and what the sets share or lack told."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detdistill.data.annotations import Annotations
from detdistill.data.classes import boxes_by_class, with_classes


def united_names(sets: Sequence[Annotations]) -> tuple[str, ...]:
    """Every class of the sets once: the first set's in their order, then what each next one adds."""
    return tuple(dict.fromkeys(name for one in sets for name in one.class_names))


def unite(sets: Sequence[Annotations], names: Sequence[str]) -> Annotations:
    """The images of all sets one after the other, with the classes `names`; see `with_classes`.

    Ids of images that an earlier set has too are moved past all before them, a whole set at once; category ids are
    1, 2, 3 and so on. A set alone keeps its own.
    """
    chosen = [with_classes(one, names) for one in sets]
    if len(chosen) == 1:
        return chosen[0]
    folders = [str(one.images_dir.absolute()) for one in chosen]
    home = os.path.commonpath(folders)
    named = [_renamed(one, folder[len(home) :].strip(os.sep)) for one, folder in zip(chosen, folders, strict=True)]
    lengths = np.concatenate([[0], *(np.diff(offsets) for _, offsets in named)])
    objects = np.concatenate([[0], *(np.diff(one.offsets) for one in chosen)])
    return Annotations(
        images_dir=Path(home),
        class_names=tuple(names),
        category_ids=np.arange(1, len(names) + 1, dtype=np.int64),
        image_ids=_unique_ids(chosen),
        sizes=np.concatenate([one.sizes for one in chosen]),
        name_bytes=np.frombuffer(b"".join(text for text, _ in named), dtype=np.uint8),
        name_offsets=np.cumsum(lengths, dtype=np.int64),
        offsets=np.cumsum(objects, dtype=np.int64),
        boxes=np.concatenate([one.boxes for one in chosen]),
        labels=np.concatenate([one.labels for one in chosen]),
        ignored=np.concatenate([one.ignored for one in chosen]),
        areas=np.concatenate([one.areas for one in chosen]),
    )


def _renamed(annotations: Annotations, folder: str) -> tuple[bytes, NDArray[np.int64]]:
    """All names with a folder before them, one after the other, and where each begins."""
    ahead, text, ends = (
        folder.encode() + b"/" if folder else b"",
        annotations.name_bytes.tobytes(),
        annotations.name_offsets,
    )
    if not ahead:
        return text, ends
    names = [ahead + text[first:last] for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    return b"".join(names), ends + len(ahead) * np.arange(len(ends))


def _unique_ids(sets: Sequence[Annotations]) -> NDArray[np.int64]:
    found = sets[0].image_ids
    for one in sets[1:]:
        own = one.image_ids
        if np.isin(own, found).any():
            own = own - own.min() + found.max() + 1
        found = np.concatenate([found, own])
    return found


def one_sided(names: Sequence[str], sets: Mapping[str, Annotations]) -> list[str]:
    """What to know of classes that not every set, by its name, annotates: a line for all that the same sets have."""
    by_sets: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        by_sets.setdefault(tuple(title for title, one in sets.items() if name in one.class_names), []).append(name)
    lines = []
    for having, own in by_sets.items():
        if lacking := [title for title in sets if title not in having]:
            of = f"class {own[0]} is" if len(own) == 1 else f"classes {', '.join(own)} are"
            lines.append(
                f"{of} annotated in {' and '.join(having)} alone: "
                f"in the images of {' and '.join(lacking)} such objects count as background"
            )
    return lines


def counted(title: str, annotations: Annotations, names: Sequence[str]) -> str:
    """A set in a line: its images, and its boxes of every class among `names` that it annotates."""
    counts = boxes_by_class(annotations)
    boxes = ", ".join(f"{name} {counts[name]}" for name in names if name in counts)
    return f"{title}: {len(annotations)} images; {boxes}"


def shared_images(train: Mapping[str, Annotations], val: Mapping[str, Annotations]) -> list[str]:
    """Which sets, and which splits of a set, have the same image files, links followed, in words."""
    owners: dict[tuple[int, int], tuple[str, str]] = {}
    pairs: Counter[tuple[str, str, str, str]] = Counter()
    examples: dict[tuple[str, str, str, str], Path] = {}
    for split, sets in (("train", train), ("val", val)):
        for title, one in sets.items():
            for index in range(len(one)):
                path = one.path(index)
                try:
                    found = path.stat()
                except OSError:
                    continue  # told by name when it is read
                before = owners.setdefault((found.st_dev, found.st_ino), (split, title))
                if before != (split, title):
                    pair = (*before, split, title)
                    pairs[pair] += 1
                    examples.setdefault(pair, path)
    lines = []
    for (first_split, first, second_split, second), count in pairs.items():
        learned = ": AP says little about new ones" if first_split != second_split else ""
        lines.append(
            f"{count} images of the {second_split} data of {second} are in the {first_split} data of {first} too, "
            f"such as {examples[first_split, first, second_split, second]}{learned}"
        )
    return lines
