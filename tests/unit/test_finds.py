"""What a teacher found, on disk: looked for once, found again by content, and never taken where it is not true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.errors import DataError
from detdistill.jobs import finds as looking
from detdistill.store import cache
from detdistill.store import finds as module
from detdistill.store.cache import INDEX
from detdistill.store.finds import alike, kept_finds
from detdistill.types import Detections
from twins_by_hand import SIZES, Recorder, five_images
from watched_jobs import Watcher

ME = {"teacher": "a", "score_threshold": 0.05}


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return five_images(tmp_path)


class Teacher:
    """Finds as many boxes in an image as its number says, and says how probable each class is."""

    def __init__(self, *, shift: float = 0.0, stop_after: int | None = None, says: bool = True) -> None:
        self.shift, self.stop_after, self.says, self.asked = shift, stop_after, says, list[tuple[int, ...]]()

    def __call__(self, indices: Sequence[int]) -> list[Detections]:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(tuple(indices))
        found = []
        for index in indices:
            boxes = torch.tensor([[2.0, 2, 12, 14]]).repeat(index, 1) + self.shift
            scores = torch.linspace(0.9, 0.3, index)
            classes = torch.full((index, 3), 1 / 3) if self.says else None
            found.append(Detections(boxes, scores, torch.arange(index) % 3, classes))
        return found


def found(
    folder: Path, annotations: Annotations, look: Teacher, *, said: Recorder | None = None, **identity: object
) -> list[Detections]:
    told, whose = said or Recorder(), ME | identity
    return kept_finds(folder, identity=whose, annotations=annotations, look=look, batch_size=2, progress=told)


def same(one: Sequence[Detections], other: Sequence[Detections]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(alike(a, b) for a, b in pairs) and all(
        torch.equal(a.probabilities, b.probabilities)
        for a, b in pairs
        if a.probabilities is not None and b.probabilities is not None
    )


@pytest.mark.parametrize("says", [True, False])
def test_a_teacher_looks_once_and_again_at_a_hundredth_at_least_one(
    tmp_path: Path, annotations: Annotations, says: bool
) -> None:
    first, again, said = Teacher(says=says), Teacher(says=says), Recorder()
    once = found(tmp_path / "finds", annotations, first)
    assert first.asked == [(0, 1), (2, 3), (4,)]
    assert [len(one.scores) for one in once] == [0, 1, 2, 3, 4]
    assert [one.probabilities is not None for one in once] == [says] * len(SIZES)
    assert same(found(tmp_path / "finds", annotations, again, said=said), once)
    assert len(again.asked) == 1
    assert again.asked[0] in first.asked
    assert ("check them by the teacher", 1, 0) in said.stages
    (shard,) = (tmp_path / "finds").glob("*/*.safetensors")
    assert cache.hexed(shard.read_bytes()) == shard.stem


def test_an_interrupted_build_goes_on(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = found(tmp_path / "whole", annotations, Teacher())
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "finds", annotations, Teacher(stop_after=2))
    rest = Teacher()
    assert same(found(tmp_path / "finds", annotations, rest), whole)
    assert rest.asked[-1] == (4,)
    assert len(rest.asked) == 2  # one of them to check
    # Killed outright, what was written on the way is there.
    monkeypatch.setattr(cache, "_SECONDS_BETWEEN_WRITES", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module._Finds, "write", written_once(module._Finds.write))
        with pytest.raises(KeyboardInterrupt):
            found(tmp_path / "killed", annotations, Teacher(stop_after=2))
    rest = Teacher()
    assert same(found(tmp_path / "killed", annotations, rest), whole)
    assert set(rest.asked) == {(0, 1), (2, 3), (4,)}


def written_once(write: object) -> object:
    """As a process that is gone after its first write."""
    count = []

    def wrapped(*given: object) -> None:
        count.append(1)
        if len(count) == 1:
            write(*given)  # type: ignore[operator]

    return wrapped


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "no safetensors"])
def test_damage_is_said_and_mended(tmp_path: Path, annotations: Annotations, damage: str) -> None:
    before = found(tmp_path / "finds", annotations, Teacher())
    (shard,) = (tmp_path / "finds").glob("*/*.safetensors")
    content = shard.read_bytes()
    changed = {
        "flipped bit": content[:-20] + bytes([content[-20] ^ 4]) + content[-19:],
        "cut short": content[:-5],
        "no safetensors": b"nothing of the kind",
    }[damage]
    shard.unlink()
    place = shard if damage != "no safetensors" else shard.with_stem(cache.hexed(changed))
    place.write_bytes(changed)
    teacher, said = Teacher(), Recorder()
    assert same(found(tmp_path / "finds", annotations, teacher, said=said), before)
    assert said.lines[0] == (f"damaged in the cache of the teacher's finds: {place}; it looks at those images anew")
    assert teacher.asked == [(0, 1), (2, 3), (4,)]


def test_a_changed_image_is_said_and_looked_at_anew(tmp_path: Path, annotations: Annotations) -> None:
    found(tmp_path / "finds", annotations, Teacher())
    pixels = np.array(Image.open(annotations.path(4)))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(annotations.path(4))
    teacher, said = Teacher(), Recorder()
    found(tmp_path / "finds", annotations, teacher, said=said)
    assert said.lines[0] == (
        "the teacher's finds: 1 of 5 images are new, or were changed since it looked at them: it looks at them anew"
    )
    assert teacher.asked[-1] == (4,)


def test_another_teacher_and_other_thresholds_are_others_and_said(tmp_path: Path, annotations: Annotations) -> None:
    found(tmp_path / "finds", annotations, Teacher())
    for number, other in enumerate(({"teacher": "b"}, {"score_threshold": 0.5}), start=1):
        teacher, said = Teacher(shift=3.0), Recorder()
        found(tmp_path / "finds", annotations, teacher, said=said, **other)
        assert len(teacher.asked) == 3
        others = f"{number} other{'s' if number > 1 else ''}"
        assert said.lines[0] == (
            f"the cache {tmp_path / 'finds'} holds what {others} found, and nothing of this teacher as it sees images "
            "now: it looks at them anew"
        )
    assert len(list((tmp_path / "finds").glob(f"*/{INDEX}"))) == 3


def test_a_teacher_that_finds_other_things_is_no_longer_the_one(tmp_path: Path, annotations: Annotations) -> None:
    """As a function whose content nobody can know; an empty find agrees with itself."""
    full = annotations.of(np.array([3, 4]))
    many = replace(full, image_ids=np.array([13, 14]))

    class Moved(Teacher):
        def __call__(self, indices: Sequence[int]) -> list[Detections]:
            return super().__call__([3, 4][: len(indices)])

    found(tmp_path / "finds", many, Moved())
    said = (
        r"^What the teacher finds in image 1[34] must be what the cache .* holds, got \d boxes of score 0.2 or more, "
    )
    with pytest.raises(DataError, match=said):
        found(tmp_path / "finds", many, Moved(shift=3.0))
    found(tmp_path / "finds", many, Moved(shift=0.05))  # another device rounds otherwise


def test_likes_are_of_one_class_as_near_and_as_sure() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [40, 0, 60, 20]])
    one = Detections(boxes, torch.tensor([0.9, 0.21]), torch.tensor([0, 1]))
    assert alike(one, replace(one, boxes=boxes + 0.2))
    assert alike(one, replace(one, scores=torch.tensor([0.88, 0.19])))
    assert not alike(one, replace(one, labels=torch.tensor([1, 1])))
    assert not alike(one, replace(one, labels=torch.tensor([1, 1]), boxes=boxes + 0.2))
    assert not alike(one, replace(one, boxes=boxes + 2))
    assert not alike(one, replace(one, scores=torch.tensor([0.5, 0.21])))
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert alike(none, none)
    assert not alike(one, none)
    assert not alike(none, one)


@pytest.mark.parametrize("count", [0, 1])
def test_a_teacher_that_finds_nothing_at_all_is_told(
    annotations: Annotations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(looking, "kept_finds", lambda *_, **__: [*Teacher()([0] * 4), *Teacher()([count])])
    config = SimpleNamespace(teacher=SimpleNamespace(cache_folder=tmp_path), evaluate=SimpleNamespace(batch_size=2))
    opened: Any = SimpleNamespace(config=config, teacher=None)
    said = Watcher()
    looking.finds(opened, annotations, teacher="a", label="training images", progress=said)
    assert ("the teacher finds nothing in any of them" in said.text()) == (count == 0)
