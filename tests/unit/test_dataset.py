from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw, Sample, Stored, read_image
from detdistill.data.image_files import settled_size
from detdistill.data.problems import Problems
from detdistill.data.sample_specific import SampleSpecific, SampleSpecificSettings
from detdistill.data.transforms import AugmentSettings, ImageSettings, draw_augmentation
from detdistill.errors import DataError
from detdistill.random import draw_seed
from detdistill.types import Targets

IMAGE = ImageSettings(32, 64)
AUGMENT = AugmentSettings(flip=0.5, colour=0.8, scale_jitter=(0.7, 1.5))
EVERYTHING = {"flip_vertical": 0.5, "crop": 0.7, "crop_smallest": 0.5, "grey": 0.3, "blur": 0.3}


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Smooth colour noise, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def annotations_of(folder: Path, images: dict[str, tuple[tuple[int, int], list[list[float]]]]) -> Annotations:
    """Annotations built by hand: file name -> ((height, width), boxes)."""
    names = [name.encode() for name in images]
    counts = [len(boxes) for _, boxes in images.values()]
    boxes = np.array([box for _, boxes in images.values() for box in boxes], dtype=np.float32).reshape(-1, 4)
    return Annotations(
        images_dir=folder,
        class_names=("a", "b", "c"),
        category_ids=np.array([1, 2, 3]),
        image_ids=np.arange(len(images)) * 10 + 7,
        sizes=np.array([size for size, _ in images.values()], dtype=np.int32).reshape(-1, 2),
        name_bytes=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, names)]),
        offsets=np.cumsum([0, *counts]),
        boxes=boxes,
        labels=(np.arange(len(boxes)) % 3).astype(np.int32),
        ignored=np.arange(len(boxes)) % 4 == 3,
        areas=np.ones(len(boxes), dtype=np.float32),
    )


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    Image.fromarray(noise(48, 64)).save(tmp_path / "one.jpg", quality=95)
    Image.fromarray(noise(80, 60, seed=1)).save(tmp_path / "two.png")
    boxes = [[4.0, 4, 20, 30], [0, 0, 64, 48], [10, 10, 12, 40], [30, 8, 60, 40]]
    return annotations_of(tmp_path, {"one.jpg": ((48, 64), boxes), "two.png": ((80, 60), [])})


def assert_same(one: Sample, other: Sample) -> None:
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.targets.boxes, other.targets.boxes)
    assert torch.equal(one.targets.labels, other.targets.labels)
    assert torch.equal(one.targets.ignored, other.targets.ignored)
    assert (one.size, one.stored_size, one.image_id, one.seed) == (
        other.size,
        other.stored_size,
        other.image_id,
        other.seed,
    )


def test_draw_seed_is_stable_and_tells_arguments_apart():
    # The value is part of the format: a resumed run must draw as the first one did.
    assert draw_seed(0, 1, 2) == 4529435921577843265
    assert draw_seed(-5) >= 0
    assert draw_seed(2**70) < 2**63
    different = [(0, 1), (1, 0), (0, 1, 0), (), (0,), (1, 10), (0, 110), (11, 0)]
    assert len({draw_seed(*numbers) for numbers in different}) == len(set(different))


def test_sample_of_the_evaluation_view(annotations):
    sample = DetectionDataset(annotations, image=IMAGE)[Draw(0, 0)]
    assert sample.image.shape == (3, 32, 43)
    assert sample.image.dtype == torch.uint8
    assert (sample.size, sample.stored_size, sample.image_id) == ((32, 43), (48, 64), 7)
    assert sample.seed == draw_seed(0, 0, 0)
    assert sample.targets.labels.tolist() == [0, 1, 2, 0]
    assert sample.targets.ignored.tolist() == [False, False, False, True]
    factors = torch.tensor([64 / 43, 48 / 32] * 2)
    torch.testing.assert_close(sample.targets.boxes * factors, torch.from_numpy(annotations.boxes))


def test_image_without_boxes(annotations):
    sample = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT)[Draw(3, 1)]
    assert sample.targets.boxes.shape == (0, 4)
    assert sample.targets.labels.dtype == torch.int64
    assert sample.stored_size == (80, 60)
    assert sample.image_id == 17


def test_length(annotations):
    assert len(DetectionDataset(annotations, image=IMAGE)) == 2


def test_a_sample_depends_on_seed_epoch_and_index_alone(annotations):
    dataset = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, seed=4)
    first = dataset[Draw(2, 0)]
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    dataset[Draw(5, 1)]
    again = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, seed=4)[Draw(2, 0)]
    assert_same(first, again)


def test_sampling_leaves_the_global_generator_and_threads_alone(annotations):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    DetectionDataset(annotations, image=IMAGE, augment=AUGMENT)[Draw(0, 0)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_sample_is_made_by_one_thread_whatever_the_process_uses(annotations):
    threads = []

    def watch(stored: Stored, _: torch.Generator) -> Stored:
        threads.append(torch.get_num_threads())
        return stored

    dataset = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, sample_transform=watch)
    single = dataset[Draw(0, 0)]
    torch.set_num_threads(2)
    try:
        double = dataset[Draw(0, 0)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert threads == [1, 1]
    assert_same(single, double)


def test_seed_epoch_and_index_each_matter(annotations):
    dataset = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, seed=4)
    other = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, seed=5)
    samples = [dataset[Draw(0, 0)], dataset[Draw(1, 0)], other[Draw(0, 0)]]
    assert len({sample.seed for sample in samples}) == 3
    assert len({sample.image.numpy().tobytes() for sample in samples}) == 3


def test_sample_transform_comes_first_with_a_generator_of_its_own(annotations):
    seen = []

    def halve(stored: Stored, generator: torch.Generator) -> Stored:
        seen.append((tuple(stored.image.shape), generator.initial_seed()))
        targets = stored.targets
        keep = targets.boxes[:, 2] <= 32
        kept = Targets(boxes=targets.boxes[keep], labels=targets.labels[keep], ignored=targets.ignored[keep])
        halves = {name: twin[:, :, :32] for name, twin in stored.twins.items()}
        return Stored(image=stored.image[:, :, :32], targets=kept, twins=halves)

    dataset = DetectionDataset(annotations, image=IMAGE, sample_transform=halve)
    sample = dataset[Draw(0, 0)]
    dataset[Draw(0, 0)]
    dataset[Draw(1, 0)]
    assert seen[0] == seen[1]
    assert seen[0][0] == (3, 48, 64)
    assert seen[0][1] != seen[2][1]
    assert seen[0][1] not in {sample.seed, draw_seed(0, 0, 0, 1)}  # the detectors' and the augmentation's
    assert sample.size == (48, 32)  # 48 x 32 pixels already have the short side
    assert sample.stored_size == (48, 64)
    assert sample.targets.labels.tolist() == [0, 2]


@pytest.mark.parametrize("more", [{}, EVERYTHING])
def test_twins_have_the_drawn_short_side_crop_and_flip_of_their_image(annotations, more):
    stored = read_image(annotations.path(0), image_id=7, size=(48, 64))
    dataset = DetectionDataset(
        annotations,
        image=IMAGE,
        augment=AugmentSettings(flip=0.5, short_sides=(20, 40), **more),
        sample_transform=SampleSpecific(SampleSpecificSettings(small_px=4)),
        twins={"same": lambda _: stored},
    )
    samples = [dataset[Draw(epoch, 0)] for epoch in range(20)]
    assert len({sample.size for sample in samples}) > 10
    assert all(torch.equal(sample.twins["same"], sample.image) for sample in samples)


def test_real_images_are_read(real_data):
    path = sorted(real_data.rglob("*.jpg"))[0]
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    pixels = read_image(path, image_id=1, size=expected.shape[:2])
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


# 200 in every mode; dithering modes (palette of a few colours, black and white) only roughly.
STORED = [
    ("jpg", ["L", "CMYK"]),
    ("png", ["L", "LA", "RGBA", "P", "1", "I;16"]),
    ("webp", ["RGB", "RGBA"]),
    ("gif", ["L", "P"]),
    ("bmp", ["RGB", "L", "1"]),
    ("tif", ["RGB", "RGBA", "CMYK", "I;16", "I"]),
]


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in STORED for mode in modes])
def test_every_kind_of_image_becomes_rgb(tmp_path, suffix, mode):
    path = tmp_path / f"image.{suffix}"
    if mode.startswith("I"):
        kind = np.uint16 if mode == "I;16" else np.int32
        image = Image.fromarray(np.full((20, 30), 200 * 256 + 99, dtype=kind))
    else:
        grey = Image.fromarray(np.full((20, 30), 200, dtype=np.uint8))
        image = (grey if mode in {"LA", "P", "1"} else grey.convert("RGB")).convert(mode)
    assert image.mode == mode
    image.save(path)
    pixels = read_image(path, image_id=1, size=(20, 30))
    assert pixels.shape == (3, 20, 30)
    assert pixels.dtype == torch.uint8
    if mode == "1":
        assert set(pixels.unique().tolist()) == {0, 255}
    else:
        assert (pixels.int() - 200).abs().max() <= 4


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 1000, 4095], np.uint16, [0, 62, 255]),  # 12 bits: a 16th
        ([0, 255, 30], np.uint16, [0, 255, 30]),  # 8 bits
        ([0, 1023, 512], np.uint16, [0, 255, 128]),  # 10 bits: a quarter
        ([0, 32768, 65535], np.uint16, [0, 128, 255]),
        ([0, -5, 65535], np.int32, [0, 0, 255]),
        ([0.0, 0.5, 1.0], np.float32, [0, 127, 255]),
        ([0.0, 100.5, 255.0], np.float32, [0, 100, 255]),
        ([-1.0, np.nan, np.inf], np.float32, [0, 0, 0]),
        ([0.0, 2048.0, 4095.0], np.float32, [0, 128, 255]),
    ],
)
def test_deep_grey_is_scaled_by_the_bits_it_needs(tmp_path, values, kind, expected):
    pixels = np.tile(np.array(values, dtype=kind), (4, 1))
    path = tmp_path / ("deep.tif" if kind in (np.float32, np.int32) else "deep.png")
    Image.fromarray(pixels).save(path)
    assert read_image(path, image_id=1, size=(4, 3))[0, 0].tolist() == expected
    assert settled_size(path, (4, 3), decode=True, problems=Problems(), where="") == (4, 3)


def test_sixteen_bit_colour_png_becomes_rgb(tmp_path):
    row = b"\0" + struct.pack(">HHH", 0x1234, 0x80FF, 0xFF00) * 5
    path = tmp_path / "deep.png"

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b""))
    pixels = read_image(path, image_id=1, size=(4, 5))
    assert pixels.dtype == torch.uint8
    assert pixels[:, 2, 3].tolist() == [0x12, 0x80, 0xFF]


def test_missing_file_is_named_with_its_remedy(annotations, tmp_path):
    (tmp_path / "one.jpg").unlink()
    with pytest.raises(DataError) as caught:
        DetectionDataset(annotations, image=IMAGE)[Draw(0, 0)]
    assert str(caught.value) == (
        f"Image 7 ({tmp_path}/one.jpg) must be a readable file, got: No such file or directory."
        " Run `detdistill data check DATA` to list all such images."
    )


def broken_files() -> dict[str, bytes]:
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise(48, 64)).save(jpeg, "JPEG")
    Image.fromarray(noise(48, 64)).save(png, "PNG")
    return {
        "jpeg cut in half": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "png cut in half": png.getvalue()[: len(png.getvalue()) // 2],
        "png with a broken checksum": png.getvalue().replace(b"IDAT", b"IDAU", 1),
        "jpeg header alone": jpeg.getvalue()[:200],
        "text": b"this is no image",
        "empty": b"",
    }


@pytest.mark.parametrize("kind", list(broken_files()))
def test_broken_files_are_refused(annotations, tmp_path, kind):
    (tmp_path / "one.jpg").write_bytes(broken_files()[kind])
    with pytest.raises(DataError) as caught:
        DetectionDataset(annotations, image=IMAGE)[Draw(0, 0)]
    message = str(caught.value)
    assert message.startswith(
        f"Image 7 ({tmp_path}/one.jpg) must be an image that can be decoded, got a broken or unknown one ("
    )
    assert message.endswith("). Replace the file, or take it out of the annotations.")
    assert "\n" not in message


def test_an_image_of_another_size_is_refused(annotations, tmp_path):
    Image.fromarray(noise(64, 48)).save(tmp_path / "one.jpg")
    with pytest.raises(DataError) as caught:
        DetectionDataset(annotations, image=IMAGE)[Draw(0, 0)]
    assert str(caught.value) == (
        f"Image 7 ({tmp_path}/one.jpg) must be 64x48 pixels (width x height) as annotated, got 48x64 with"
        " width and height swapped, which no EXIF orientation flag explains."
        " Run `detdistill data check DATA` to list all such images."
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (9_460, 18_920)])
def test_decompression_bombs_are_refused_by_their_header(tmp_path, monkeypatch, width, height):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None if width < 10_000 else Image.MAX_IMAGE_PIXELS)
    content = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + content + struct.pack(">I", zlib.crc32(b"IHDR" + content))
    end = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + end)
    with pytest.raises(DataError, match=r"must have at most 178956970 pixels, got a header that says more \("):
        read_image(tmp_path / "bomb.png", image_id=3, size=(height, width))


@pytest.mark.parametrize("more", [{}, EVERYTHING])
def test_a_teacher_of_its_own_size_sees_the_same_crop_flip_and_colours(
    annotations: Annotations, more: dict[str, float]
) -> None:
    """Both sizes are made from the stored image by one draw: each is what a data set of that size alone would give."""
    large = ImageSettings(64, 128)
    augment = AugmentSettings(flip=0.5, colour=0.8, scale_jitter=(0.7, 1.5), short_sides=(24, 40), **more)
    doubled = AugmentSettings(flip=0.5, colour=0.8, scale_jitter=(0.7, 1.5), short_sides=(48, 80), **more)
    change = SampleSpecific(SampleSpecificSettings(small_px=4))
    options = {"seed": 5, "sample_transform": change, "twins": {"dark": lambda index: torch.zeros(
        (3, *annotations.sizes[index]), dtype=torch.uint8)}}  # fmt: skip
    both = DetectionDataset(annotations, image=IMAGE, teacher_image=large, augment=augment, **options)
    small = DetectionDataset(annotations, image=IMAGE, augment=augment, **options)
    for epoch in range(6):
        for index in (0, 1):
            draw = Draw(epoch=epoch, index=index)
            ours, theirs = both[draw], both[draw].teacher
            assert theirs is not None
            require_same(ours, small[draw])
            side = draw_augmentation(augment, both._generator(draw, 1)).short_side
            assert side is not None
            fixed = replace(doubled, short_sides=(2 * side, 2 * side))
            require_same(theirs, DetectionDataset(annotations, image=large, augment=fixed, **options)[draw])
            assert max(abs(2 * a - b) for a, b in zip(ours.size, theirs.size, strict=True)) <= 4
            assert theirs.twins["dark"].shape == theirs.image.shape
            assert theirs.teacher is None
            if len(ours.targets.boxes) == len(theirs.targets.boxes):
                torch.testing.assert_close(2 * ours.targets.boxes, theirs.targets.boxes, rtol=0, atol=4)
    plain = DetectionDataset(annotations, image=IMAGE, teacher_image=large)[Draw(epoch=0, index=0)]
    assert plain.teacher is not None
    assert plain.teacher.size == (64, 85)
    assert (plain.size, plain.stored_size) == ((32, 43), (48, 64))


@pytest.mark.parametrize("more", [{}, EVERYTHING])
def test_both_sizes_show_one_picture_with_its_boxes(annotations: Annotations, more: dict[str, float]) -> None:
    """Whatever is drawn: the teacher's view at the student's size is the student's, but for a pixel of the crop."""
    image, large, augment = ImageSettings(48, 96), ImageSettings(96, 192), replace(AUGMENT, **more)
    change = SampleSpecific(SampleSpecificSettings(small_px=4))
    both = DetectionDataset(
        annotations, image=image, teacher_image=large, augment=augment, seed=2, sample_transform=change
    )
    flat = DetectionDataset(annotations, image=image, augment=augment, seed=3, sample_transform=change)
    for epoch in range(8):
        draw = Draw(epoch=epoch, index=epoch % 2)
        ours, other, theirs = both[draw], flat[draw], both[draw].teacher
        assert theirs is not None
        seen = resize(theirs.image, list(ours.size), antialias=True).float()
        apart = (seen - ours.image.float()).abs().mean()
        strangers = (resize(other.image, list(ours.size), antialias=True).float() - ours.image.float()).abs().mean()
        assert apart < 8
        assert apart < strangers / 2
        scale = theirs.targets.boxes.new_tensor([size / own for own, size in zip(ours.size, theirs.size, strict=True)])
        expected = ours.targets.boxes * scale.flip(0).repeat(2)
        for box in expected:
            assert ((theirs.targets.boxes - box).abs().amax(1) <= 4).any()


def require_same(one: Sample, other: Sample) -> None:
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.targets.boxes, other.targets.boxes)
    assert (one.size, one.stored_size, one.seed) == (other.size, other.stored_size, other.seed)
