"""What a teacher showed, on disk: looked at once, read through memory maps, and never taken where it is not true."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw, Stored
from detdistill.data.loader import collate
from detdistill.data.transforms import Augmentation, AugmentSettings, ImageSettings
from detdistill.errors import DataError
from detdistill.jobs.maps import Flips, replayed_share
from detdistill.store import cache
from detdistill.store import maps as module
from detdistill.store.cache import INDEX, image_name
from detdistill.store.maps import KeptMaps, Shown, kept_maps
from tiny_training import KILLED, fork
from twins_by_hand import SIZES, Recorder, five_images

ME = {"teacher": "a", "precision": "32-true"}
GRIDS = [(32, 32) if size == (24, 32) else (-(-size[0] // 16) * 16, -(-size[1] // 16) * 16) for size in SIZES]


IMAGE = ImageSettings(24, 32, 16)


@pytest.mark.parametrize(
    ("drawn", "entry"),
    [
        (None, 6),
        (Augmentation(crop_x=0.3, crop_y=0.9), 6),
        (Augmentation(flip=True), 7),
        (Augmentation(flip=True, short_side=24), 7),
        (Augmentation(flip_vertical=True), -1),
        (Augmentation(short_side=25), -1),
        (Augmentation(scale=0.9), -1),
        (Augmentation(window=(0, 0, 20, 20)), -1),
        (Augmentation(blur=0.01), -1),
        (Augmentation(saturation=0.0), -1),
        (Augmentation(brightness=1.1), -1),
        (Augmentation(hue=0.01), -1),
    ],
)
def test_an_image_that_changes_otherwise_than_it_is_kept_is_none_that_is_kept(
    drawn: Augmentation | None, entry: int
) -> None:
    assert Flips.of(AugmentSettings(), IMAGE)(3, drawn) == entry


def test_a_run_keeps_an_image_as_it_can_draw_it() -> None:
    settings = AugmentSettings(flip=1.0, flip_vertical=0.5)
    flips = Flips.of(settings, IMAGE)
    assert flips.ways == ((True, False), (True, True))
    assert flips(1, Augmentation(flip=True, flip_vertical=True)) == 3
    assert Flips.of(AugmentSettings(flip=0.0), IMAGE).ways == ((False, False),)
    assert replayed_share(settings, IMAGE) == 1
    assert replayed_share(AugmentSettings(grey=0.1, blur=0.2, crop=0.5), IMAGE) == pytest.approx(0.36)
    assert replayed_share(AugmentSettings(short_sides=(20, 24)), IMAGE) == pytest.approx(0.2)
    for none in (
        AugmentSettings(colour=0.1),
        AugmentSettings(scale_jitter=(0.9, 1)),
        AugmentSettings(short_sides=(1, 9)),
    ):
        assert replayed_share(none, IMAGE) == 0


def test_samples_and_batches_say_which_of_them_are_kept(annotations: Annotations) -> None:
    """One that a recipe changes is none of them; in a part of a batch every image keeps its number."""

    def dark(stored: Stored, generator: torch.Generator) -> Stored:
        return replace(stored, image=stored.image // 2) if stored.image.shape[1] == 16 else stored

    augment = AugmentSettings(flip=1.0)
    data = DetectionDataset(
        annotations, image=IMAGE, augment=augment, sample_transform=dark, kept=Flips.of(augment, IMAGE, 10)
    )
    samples = [data[Draw(epoch=0, index=index)] for index in range(5)]
    assert [one.kept for one in samples] == [10, 11, 12, -1, 14]
    batch = collate(samples, pad_multiple=16)
    assert batch.kept == (10, 11, 12, -1, 14)
    assert batch.part(2, 4).kept == (12, -1)
    some = batch.only([4, 1])
    assert some.kept == (14, 11)
    assert torch.equal(some.images[1], batch.images[1])
    assert some.image_ids == (14, 11)
    assert DetectionDataset(annotations, image=IMAGE)[Draw(epoch=0, index=0)].kept is None


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return five_images(tmp_path)


class Teacher:
    """Shows maps of two levels, boxes in pixels and queries, of numbers that an image's own number seeds."""

    def __init__(self, *, shift: float = 0.0, stop_after: int | None = None) -> None:
        self.shift, self.stop_after, self.asked = shift, stop_after, list[tuple[int, ...]]()

    def __call__(self, entries: Sequence[int]) -> list[Shown]:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(tuple(entries))
        return [Shown(GRIDS[entry], self.shows(entry)) for entry in entries]

    def shows(self, entry: int) -> dict[str, torch.Tensor]:
        draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(entry))
        rows, columns = (side // 8 for side in GRIDS[entry])
        return {
            "pyramid.0": draw(3, rows, columns) + self.shift,
            "pyramid.1": draw(2, rows // 2, columns // 2),
            "boxes.0": 1000 + draw(1, 4, rows, columns),
            "queries.logits": draw(5, 2),
            "queries.boxes": 1000 + draw(5, 4),
        }


class Killed(Teacher):
    """Its process is gone at once where another one stops."""

    def __call__(self, entries: Sequence[int]) -> list[Shown]:
        if len(self.asked) == self.stop_after:
            os._exit(KILLED)
        return super().__call__(entries)


def kept(
    folder: Path, annotations: Annotations, look: Teacher, *, said: Recorder | None = None, **identity: object
) -> KeptMaps:
    return kept_maps(
        folder,
        identity=ME | identity,
        names=[image_name(annotations, index) for index in range(len(annotations))],
        called=lambda entry: f"image {annotations.image_ids[entry]}",
        look=look,
        batch_size=2,
        progress=said or Recorder(),
    )


def require_rounded(reader: KeptMaps) -> None:
    """Every entry is what the teacher shows, in half precision, and in single what is in pixels."""
    assert len(reader) == len(SIZES)
    for entry in range(len(SIZES)):
        found = reader([entry], GRIDS[entry], half=False)
        assert found is not None
        for name, shown in Teacher().shows(entry).items():
            exact = shown if "boxes" in name else shown.half().float()
            assert torch.equal(found[name][0], exact), name


def test_a_teacher_looks_once_and_again_at_a_hundredth_at_least_one(tmp_path: Path, annotations: Annotations) -> None:
    first, again, said = Teacher(), Teacher(), Recorder()
    require_rounded(kept(tmp_path / "maps", annotations, first, said=said))
    assert first.asked == [(0, 1), (2, 3), (4,)]
    assert said.lines[0].startswith("5 maps of the teacher to make: about 0.0 MB in")
    require_rounded(kept(tmp_path / "maps", annotations, again, said=said))
    assert [len(one) for one in again.asked] == [1]
    assert ("check them by the teacher", 1, 0) in said.stages
    shards = list((tmp_path / "maps").glob("*/*.safetensors"))
    assert len(shards) == len(set(GRIDS))
    assert all(cache.hexed(shard.read_bytes()) == shard.stem for shard in shards)


def test_a_batch_is_padded_by_zeros_to_its_grid(tmp_path: Path, annotations: Annotations) -> None:
    """A level has as many cells as on any image's grid of that height and width; of another grid nothing is kept."""
    reader = kept(tmp_path / "maps", annotations, Teacher())
    found = reader([3, -1, 1], (32, 32), half=True)
    assert found is not None
    assert found["pyramid.0"].dtype == torch.float16
    assert found["boxes.0"].dtype == torch.float32
    whole = found["pyramid.0"]
    assert whole.shape == (3, 3, 4, 4)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole[0, :, :2, :2], Teacher().shows(3)["pyramid.0"].half())
    assert not whole[0, :, 2:].any()
    assert not whole[0, :, :, 2:].any()
    assert not whole[1].any()
    assert torch.equal(whole[2], Teacher().shows(1)["pyramid.0"].half())
    assert reader([3, 1], (48, 32), half=True) is None


def test_what_is_read_lies_in_the_files_and_not_in_the_process(tmp_path: Path, annotations: Annotations) -> None:
    reader = kept(tmp_path / "maps", annotations, Teacher())
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for file in reader._files:
        for part in (file.halves, file.singles):
            inside = (line for line in mapped if in_range(part.data_ptr(), line[0]))
            assert next(inside)[-1].endswith(".safetensors")


def in_range(address: int, span: str) -> bool:
    first, last = (int(edge, 16) for edge in span.split("-"))
    return first <= address < last


def test_an_interrupted_build_goes_on(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "maps", annotations, Teacher(stop_after=2))
    rest = Teacher()
    require_rounded(kept(tmp_path / "maps", annotations, rest))
    assert rest.asked[-1] == (4,)
    assert len(rest.asked) == 2  # one of them to check
    # Killed outright, what was written on the way is there: a file is written when it is large enough.
    monkeypatch.setattr(module, "_FILE", 1)
    process = fork(lambda: kept(tmp_path / "killed", annotations, Killed(stop_after=2)))
    process.join()
    assert process.exitcode == KILLED
    rest = Teacher()
    require_rounded(kept(tmp_path / "killed", annotations, rest))
    assert rest.asked[-1] == (4,)
    assert len(rest.asked) == 2


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "no safetensors", "others' safetensors"])
def test_damage_is_said_and_mended(tmp_path: Path, annotations: Annotations, damage: str) -> None:
    kept(tmp_path / "maps", annotations, Teacher())
    shard = max((tmp_path / "maps").glob("*/*.safetensors"), key=lambda one: one.stat().st_size)
    content = shard.read_bytes()
    changed = {
        "flipped bit": content[:-20] + bytes([content[-20] ^ 4]) + content[-19:],
        "cut short": content[:-5],
        "no safetensors": b"nothing of the kind",
        "others' safetensors": module.save({"other": torch.zeros(3)}),
    }[damage]
    shard.unlink()
    place = shard if "safetensors" not in damage else shard.with_stem(cache.hexed(changed))
    place.write_bytes(changed)
    teacher, said = Teacher(), Recorder()
    require_rounded(kept(tmp_path / "maps", annotations, teacher, said=said))
    assert said.lines[0] == f"damaged in the cache of the teacher's maps: {place}; it looks at those images anew"
    assert 1 < len(teacher.asked) <= 4


def test_a_changed_image_is_said_and_looked_at_anew(tmp_path: Path, annotations: Annotations) -> None:
    kept(tmp_path / "maps", annotations, Teacher())
    pixels = np.array(Image.open(annotations.path(4)))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(annotations.path(4))
    teacher, said = Teacher(), Recorder()
    require_rounded(kept(tmp_path / "maps", annotations, teacher, said=said))
    assert said.lines[0] == (
        "the teacher's maps: 1 of 5 are new, or of images that were changed since it looked at them: it looks at them "
        "anew"
    )
    assert teacher.asked[-1] == (4,)


def test_another_teacher_precision_or_need_is_another_and_said(tmp_path: Path, annotations: Annotations) -> None:
    kept(tmp_path / "maps", annotations, Teacher())
    for number, other in enumerate(({"teacher": "b"}, {"precision": "bf16-mixed"}, {"kept": ["pyramid"]}), start=1):
        teacher, said = Teacher(), Recorder()
        kept(tmp_path / "maps", annotations, teacher, said=said, **other)
        assert len(teacher.asked) == 3
        others = f"{number} other{'s' if number > 1 else ''}"
        assert said.lines[0] == (
            f"the cache {tmp_path / 'maps'} holds what {others} showed, and nothing of this teacher as it sees images "
            "now: it looks at them anew"
        )
    assert len(list((tmp_path / "maps").glob(f"*/{INDEX}"))) == 4


def test_a_teacher_that_shows_other_things_is_no_longer_the_one(tmp_path: Path, annotations: Annotations) -> None:
    kept(tmp_path / "maps", annotations, Teacher())
    kept(tmp_path / "maps", annotations, Teacher(shift=0.002))  # another device rounds otherwise
    said = r"^What the teacher shows of image 1\d must be what the cache .* holds, but for 1%, got another pyramid, by "
    with pytest.raises(DataError, match=said):
        kept(tmp_path / "maps", annotations, Teacher(shift=0.1))


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path, annotations: Annotations) -> None:
    with pytest.raises(
        DataError, match=r"^What the teacher shows of image 10 must be numbers of at most 65504 .*7e\+04"
    ):
        kept(tmp_path / "maps", annotations, Teacher(shift=7e4))


def test_a_disk_without_room_is_refused_before_the_bulk(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=100)))
    teacher = Teacher()
    with pytest.raises(DataError, match=r"^The disk of .* must have about .* MB free for the maps of the teacher, got"):
        kept(tmp_path / "maps", annotations, teacher)
    assert teacher.asked == [(0, 1)]
