"""Images that were decoded once: the same to the bit, shared by workers, never taken for a file that was changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detdistill import files
from detdistill.data import dataset as module
from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw, Sample, Stored
from detdistill.data.decoded import Decoded, InMemory, OnDisk, kept_bytes
from detdistill.data.loader import training_loader
from detdistill.data.transforms import AugmentSettings, ImageSettings
from full_disk import DiskFull

IMAGE, LARGER = ImageSettings(24, 40, pad_multiple=16), ImageSettings(40, 60)
NAMES = ("a.jpg", "b.png", "c.jpg", "d.jpg")
SIZES = ((96, 128), (50, 40), (128, 96), (60, 300))
HOW = ("ram", "disk")


@pytest.fixture
def images(tmp_path: Path) -> Annotations:
    rng = np.random.default_rng(0)
    for name, (height, width) in zip(NAMES, SIZES, strict=True):
        rough = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / name, quality=95)
    labelled = Annotations.without_boxes(tmp_path, dict(zip(NAMES, SIZES, strict=True)), ("thing",))
    boxes = np.array([[4, 4, 30, 38]] * 4, dtype=np.float32)
    columns: dict[str, Any] = {"boxes": boxes, "labels": np.zeros(4, np.int32), "ignored": np.zeros(4, bool)}
    columns |= {"offsets": np.arange(5), "areas": np.full(4, 884, np.float32), "labelled": True}
    return Annotations(**{name: getattr(labelled, name) for name in labelled.__slots__} | columns)


def keeper(how: str, images: Annotations, size: ImageSettings | None) -> Decoded:
    return InMemory(images, size) if how == "ram" else OnDisk(images, size, images.images_dir / f"kept_{size}")


def noised(stored: Stored, generator: torch.Generator) -> Stored:
    """A change to samples that writes to what it is given."""
    stored.image[:, :4] = int(torch.randint(256, (1,), generator=generator))
    return stored


def flat(sample: Sample) -> list[Any]:
    own = [sample.image.tolist(), sample.targets.boxes.tolist(), sample.size, sample.stored_size, sample.seed]
    return own + ([] if sample.teacher is None else flat(sample.teacher))


def without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **_: Any) -> None:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(module, "read_image", read)


VIEWS: dict[str, tuple[dict[str, Any], tuple[ImageSettings | None, ...]]] = {
    "flips": ({"augment": AugmentSettings(flip_vertical=0.5)}, (IMAGE,)),
    "all but size": ({"augment": AugmentSettings(colour=1.0, grey=0.5, blur=1.0)}, (IMAGE,)),
    "evaluated": ({}, (IMAGE,)),
    "two sizes": ({"augment": AugmentSettings(), "teacher_image": LARGER}, (IMAGE, LARGER)),
    "reduced": ({"augment": AugmentSettings(), "teacher_image": LARGER, "reduced": True}, (IMAGE, LARGER)),
    "jitter": ({"augment": AugmentSettings(scale_jitter=(0.5, 1.5), short_sides=(20, 30))}, (None,)),
    "reduced jitter": ({"augment": AugmentSettings(scale_jitter=(0.5, 1.5)), "reduced": True}, (None,)),
    "windows": ({"augment": AugmentSettings(crop=1.0)}, (None,)),
    "written to": ({"augment": AugmentSettings(), "sample_transform": noised}, (None,)),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("view", VIEWS)
def test_samples_are_the_same_to_the_bit_and_nothing_is_decoded_twice(
    images: Annotations, monkeypatch: pytest.MonkeyPatch, view: str, how: str
) -> None:
    words, sizes = VIEWS[view]
    plain = DetectionDataset(images, image=IMAGE, seed=3, **words)
    kept = {size: keeper(how, images, size) for size in sizes}
    other = DetectionDataset(images, image=IMAGE, seed=3, decoded=kept, **words)
    draws = [Draw(epoch, index) for epoch in range(3) for index in range(len(images))]
    expected = [flat(plain[draw]) for draw in draws]
    assert [flat(other[draw]) for draw in draws[:4]] == expected[:4]
    without_decoding(monkeypatch)
    assert [flat(other[draw]) for draw in draws] == expected


@pytest.mark.parametrize("how", HOW)
def test_what_a_worker_decoded_all_others_have(images: Annotations, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    data = DetectionDataset(images, image=IMAGE, augment=AugmentSettings(), decoded={IMAGE: keeper(how, images, IMAGE)})
    plain = DetectionDataset(images, image=IMAGE, augment=AugmentSettings())
    loaded = list(training_loader(data, batch_size=2, steps=4, workers=2))
    for one, other in zip(loaded, training_loader(plain, batch_size=2, steps=4), strict=True):
        assert torch.equal(one.images, other.images)
    without_decoding(monkeypatch)
    assert all(data[Draw(0, index)].size for index in range(len(images)))


@pytest.mark.parametrize("how", HOW)
def test_an_image_that_was_changed_is_decoded_anew(images: Annotations, how: str) -> None:
    data = DetectionDataset(images, image=IMAGE, decoded={IMAGE: keeper(how, images, IMAGE)})
    before = data[Draw(0, 1)].image
    path = images.path(1)
    times = path.stat()
    content = np.zeros((50, 40, 3), np.uint8)
    Image.fromarray(content).save(path, compress_level=0)
    os.truncate(path, max(path.stat().st_size, times.st_size))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as an archive's files have it
    assert before.any()
    assert not data[Draw(0, 1)].image.any()
    path.unlink()
    with pytest.raises(module.DataError, match="must be a readable file"):
        data[Draw(0, 1)]


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [lambda held: held[:-1] + bytes([held[-1] ^ 1]), lambda held: held[:-5], lambda _: b"", lambda _: b"x" * 24],
)
def test_a_file_that_is_not_as_it_was_written_is_mended(
    images: Annotations, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    def fresh() -> DetectionDataset:
        return DetectionDataset(images, image=IMAGE, decoded={IMAGE: OnDisk(images, IMAGE, images.images_dir / "kept")})

    expected = fresh()[Draw(0, 0)].image
    (path,) = (images.images_dir / "kept").iterdir()
    whole = path.read_bytes()
    damage(path, change)
    assert torch.equal(fresh()[Draw(0, 0)].image, expected)
    assert path.read_bytes() == whole
    without_decoding(monkeypatch)
    assert torch.equal(fresh()[Draw(0, 0)].image, expected)


def test_memory_that_another_process_has_half_written_is_not_taken(images: Annotations) -> None:
    kept = InMemory(images, IMAGE)
    data = DetectionDataset(images, image=IMAGE, decoded={IMAGE: kept})
    expected = data[Draw(0, 0)].image.clone()
    kept._seen.clear()  # as a process that sees it for the first time
    kept._pixels[5] ^= 1
    assert torch.equal(data[Draw(0, 0)].image, expected)
    assert torch.equal(data[Draw(0, 0)].image, expected)


@pytest.mark.parametrize("at", [0, 1])
def test_a_disk_that_fills_up_ends_the_keeping_and_no_run(
    images: Annotations, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    home = images.images_dir / "kept"
    data = DetectionDataset(images, image=IMAGE, decoded={IMAGE: OnDisk(images, IMAGE, home)})
    expected = [flat(DetectionDataset(images, image=IMAGE)[Draw(0, index)]) for index in range(4)]
    monkeypatch.setattr(files, "_write", DiskFull(at, stays=True))
    assert [flat(data[Draw(0, index)]) for index in range(4)] == expected
    assert len(list(home.iterdir())) == at
    assert [flat(data[Draw(0, index)]) for index in range(4)] == expected


def test_the_estimate_is_what_is_kept(images: Annotations) -> None:
    for size in (IMAGE, None):
        home = images.images_dir / f"kept_{size}"
        data = DetectionDataset(images, image=IMAGE, decoded={size: OnDisk(images, size, home)})
        for index in range(len(images)):
            data[Draw(0, index)]
        held = sum(path.stat().st_size - 24 for path in home.iterdir())
        assert kept_bytes(images, size).sum() == held
    assert kept_bytes(images, None).tolist() == [3 * height * width for height, width in SIZES]


def test_jpeg_files_are_decoded_at_a_reduced_scale_where_that_is_enough(
    images: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    read = module.read_image

    def watched(path: Path, **words: Any) -> torch.Tensor:
        pixels = read(path, **words)
        seen.append(tuple(pixels.shape[1:]))
        return pixels

    monkeypatch.setattr(module, "read_image", watched)

    def sides(**words: Any) -> list[tuple[int, ...]]:
        seen.clear()
        data = DetectionDataset(images, image=IMAGE, reduced=True, **words)
        full = DetectionDataset(images, image=IMAGE, **words)
        for index in range(len(images)):
            one, other = data[Draw(0, index)], full[Draw(0, index)]
            assert one.size == other.size
            assert torch.equal(one.targets.boxes, other.targets.boxes)
            assert (one.image.float() - other.image.float()).abs().mean() < 3
        return seen[::2]

    assert sides() == [(24, 32), (50, 40), (32, 24), (15, 75)]
    assert sides(teacher_image=LARGER) == [(48, 64), (50, 40), (64, 48), (15, 75)]
    assert sides(augment=AugmentSettings(scale_jitter=(0.5, 1.5))) == [(48, 64), (50, 40), (64, 48), (15, 75)]
    assert sides(augment=AugmentSettings(short_sides=(20, 50))) == [(48, 64), (50, 40), (64, 48), (15, 75)]
    assert sides(augment=AugmentSettings(crop=0.5)) == list(SIZES)
    assert sides(sample_transform=lambda stored, _: stored) == list(SIZES)
    assert sides(twins={"twin": lambda index: torch.zeros(3, *SIZES[index], dtype=torch.uint8)}) == list(SIZES)
