"""The runtime that goes with an exported file: numpy, Pillow and onnxruntime, and to the bit what the library does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms

from detdistill.data.dataset import read_image
from detdistill.data.resizing import transform_sample
from detdistill.data.transforms import ImageSettings
from detdistill.export import runtime
from plain_images import targets_of

RANDOM = np.random.default_rng(0)
SIZES = [((480, 640), (320, 427)), ((60, 90), (240, 312)), ((5, 5), (1, 1)), ((900, 700), (30, 20)), ((7, 90), (7, 91))]
SIZES += [((int(a), int(b)), (int(c), int(d))) for a, b, c, d in RANDOM.integers(1, 200, (30, 4))]


def bare(**told: object) -> runtime.Detector:
    """A detector without a graph."""
    detector = runtime.Detector.__new__(runtime.Detector)
    plain = {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32), "nms": "outside"}
    detector.__dict__.update(plain | told)
    return detector


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="elsewhere torch resizes in floats"
)
@pytest.mark.parametrize(("stored", "wanted"), SIZES)
def test_the_resize_is_the_librarys_to_the_bit(stored: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = RANDOM.integers(0, 256, (*stored, 3), dtype=np.uint8)
    short, long = min(wanted), max(wanted)
    settings = ImageSettings(short, long, 1)
    resized, _ = transform_sample(torch.from_numpy(image).permute(2, 0, 1), targets_of(), settings=settings)
    size = bare(image={"short_side": short, "long_side": long}).resized(*stored)
    assert size == tuple(resized.shape[1:])
    assert np.array_equal(runtime.resize(image, *size), resized.permute(1, 2, 0).numpy())


def test_images_are_padded_to_one_grid_and_normalised_as_told() -> None:
    mean, std = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    detector = bare(image={"short_side": 20, "long_side": 40, "pad_multiple": 16}, mean=mean, std=std)
    images = [np.full(size, 255, np.uint8) for size in ((20, 30, 3), (40, 20, 3))]
    batch, sizes = detector.prepare(images)
    assert batch.shape == (2, 3, 48, 32)
    assert sizes.tolist() == [[20, 30], [40, 20]]
    assert batch[0, :, 19, 29] == pytest.approx((1 - mean) / std)
    assert not batch[0, :, 20:].any()
    assert not batch[1, :, :, 20:].any()


def test_a_fixed_grid_makes_what_does_not_fit_smaller_and_nothing_larger() -> None:
    told = {"short_side": 96, "long_side": 160, "pad_multiple": 32, "size": [96, 128]}
    fixed, free = bare(image=told), bare(image={key: told[key] for key in ("short_side", "long_side", "pad_multiple")})
    for stored, wanted in (
        ((100, 100), (96, 96)),
        ((200, 100), (96, 48)),
        ((100, 200), (64, 128)),
        ((90, 120), (96, 128)),
    ):
        assert fixed.resized(*stored) == wanted
        assert all(one <= other for one, other in zip(wanted, free.resized(*stored), strict=True))
    batch, sizes = fixed.prepare([np.full((200, 100, 3), 255, np.uint8), np.full((30, 40, 3), 255, np.uint8)])
    assert batch.shape == (2, 3, 96, 128)
    assert sizes.tolist() == [[96, 48], [96, 128]]
    assert batch[0].sum() == 3 * 96 * 48
    assert fixed.prepare([np.zeros((10, 50, 3), np.uint8)])[0].shape == (1, 3, 96, 128)


@pytest.mark.parametrize("own", [False, True])
def test_suppression_is_torchvisions(own: bool) -> None:
    corners = RANDOM.uniform(0, 60, (300, 3, 2) if own else (300, 2)).astype(np.float32)
    boxes = np.concatenate((corners, corners + RANDOM.uniform(5, 40, corners.shape).astype(np.float32)), axis=-1)
    scores = RANDOM.uniform(0, 1, (300, 3)).astype(np.float32)
    found = bare(limits={"score": 0.4, "overlap": 0.5, "most": 40}).suppress(boxes, scores)
    rows, labels = np.nonzero(scores > 0.4)
    places, sure = torch.from_numpy(boxes[rows, labels] if own else boxes[rows]), torch.from_numpy(scores[rows, labels])
    kept = batched_nms(places, sure, torch.from_numpy(labels), 0.5)[:40]
    assert np.array_equal(found.boxes, places[kept].numpy())
    assert np.array_equal(found.scores, sure[kept].numpy())
    assert np.array_equal(found.labels, labels[kept.numpy()])
    everything = bare(limits={"score": 0.4, "overlap": None, "most": 1000}).suppress(boxes, scores)
    assert len(everything.labels) == len(rows)
    assert not len(bare(limits={"score": 1.0, "overlap": 0.5, "most": 9}).suppress(boxes, scores).labels)


def test_boxes_come_back_to_the_stored_image() -> None:
    found = runtime.Found(np.array([[10, 5, 50, 25.5]], np.float32), np.ones(1), np.zeros(1, np.int64))
    assert runtime.Detector.stored(found, np.array([25, 50]), (50, 200)).boxes.tolist() == [[40, 10, 200, 50]]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_files_are_read_as_the_library_reads_them(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png", image_id=0, size=(30, 20))
    assert np.array_equal(runtime.read(tmp_path / "a.png"), read.permute(1, 2, 0).numpy())
