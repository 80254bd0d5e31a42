"""EXIF's orientation flag: boxes meet the pixels they were drawn on, in every format, and what is done is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill.data.annotations import Reading
from detdistill.data.dataset import read_image
from detdistill.data.sources import find_split, open_split
from detdistill.errors import DataError
from detdistill.jobs.data import check_data_job, convert_data_job
from folders_by_hand import kitti_line, voc_object, voc_xml, write

# The photo as a viewer shows it, height x width, with a bright box at x1, y1, x2, y2.
UPRIGHT, BOX = (48, 32), (4, 8, 14, 28)
KIND = "photo with an EXIF orientation flag"
# How each flag stores an upright picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, 3),
}


def photo(path: Path, flag: int, *, upright: tuple[int, int] = UPRIGHT) -> np.ndarray:
    """Writes a photo, and returns it as it is to be seen."""
    pixels = np.zeros((*upright, 3), dtype=np.uint8)
    x1, y1, x2, y2 = BOX
    pixels[y1:y2, x1:x2] = 255
    exif = Image.Exif()
    exif[0x0112] = flag
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(STORED[flag](pixels))).save(path, exif=exif.tobytes(), quality=95)
    return pixels


def inside(path: Path, size: tuple[int, int], box) -> float:
    """How bright the pixels of a box are beside all others, as training reads them."""
    pixels = read_image(path, image_id=1, size=size).float().mean(0).numpy()
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    within = np.zeros(pixels.shape, dtype=bool)
    within[y1:y2, x1:x2] = True
    return float(pixels[within].mean() - pixels[~within].mean())


@pytest.mark.parametrize("flag", sorted(STORED))
def test_every_flag_is_undone_as_viewers_do(tmp_path, flag):
    expected = photo(tmp_path / "a.jpg", flag)
    pixels = read_image(tmp_path / "a.jpg", image_id=1, size=UPRIGHT)
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 4


def coco(folder: Path, *, size: tuple[int, int] | None, box, flag: int = 6, upright: tuple[int, int] = UPRIGHT) -> Path:
    photo(folder / "a.jpg", flag, upright=upright)
    sides = {} if size is None else {"height": size[0], "width": size[1]}
    x1, y1, x2, y2 = box
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 200}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", **sides}],
        "annotations": [row],
        "categories": [{"id": 1, "name": "Car"}],
    }
    write(folder / "val.json", json.dumps(content))
    return folder


def yolo(folder: Path, *, flag: int = 6) -> Path:
    photo(folder / "images" / "a.jpg", flag)
    x1, y1, x2, y2 = BOX
    height, width = UPRIGHT
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    write(folder / "labels" / "a.txt", f"0 {' '.join(map(str, shares))}\n")
    write(folder / "data.yaml", "val: images\nnames: [Car]\n")
    return folder


def kitti(folder: Path) -> Path:
    photo(folder / "training" / "image_2" / "a.jpg", 6)
    write(folder / "training" / "label_2" / "a.txt", kitti_line("Car", BOX))
    write(folder / "ImageSets" / "train.txt", "")
    write(folder / "ImageSets" / "val.txt", "a\n")
    return folder


def voc(folder: Path) -> Path:
    photo(folder / "JPEGImages" / "a.jpg", 6)
    x1, y1, x2, y2 = BOX
    objects = voc_object("Car", (x1 + 1, y1 + 1, x2, y2))
    write(folder / "Annotations" / "a.xml", voc_xml(objects, name="a.jpg", size=(UPRIGHT[1], UPRIGHT[0])))
    write(folder / "ImageSets" / "Main" / "train.txt", "")
    write(folder / "ImageSets" / "Main" / "val.txt", "a\n")
    return folder


# The same box on the stored pixels of flag 6: np.rot90 brings (x, y) to (y, width - x).
ON_STORED = (BOX[1], UPRIGHT[1] - BOX[2], BOX[3], UPRIGHT[1] - BOX[0])


@pytest.mark.parametrize(
    ("make", "done"),
    [
        (lambda folder: coco(folder, size=UPRIGHT, box=BOX), "turned upright as flag 6 says, to 32x48"),
        (lambda folder: coco(folder, size=None, box=BOX), "turned upright"),
        (lambda folder: coco(folder, size=UPRIGHT[::-1], box=ON_STORED), "flag 6 passed over"),
        (lambda folder: coco(folder, size=UPRIGHT, box=BOX, flag=3), "turned upright as flag 3"),
        (lambda folder: coco(folder, size=(48, 48), box=BOX, upright=(48, 48)), "turned upright as flag 6"),
        (yolo, "turned upright"),
        (kitti, "turned upright"),
        (voc, "turned upright"),
    ],
)
def test_boxes_meet_their_pixels_in_every_format(tmp_path, make, done):
    make(tmp_path)
    for check in (False, True):
        annotations, problems = open_split(tmp_path, "val", check_images=check)
        assert (len(annotations), len(annotations.boxes)) == (1, 1)
        size = tuple(annotations.sizes[0].tolist())
        assert inside(annotations.path(0), size, annotations.boxes[0]) > 200
    # `data check` counts the photo, and says what was done.
    assert problems.counts[KIND] == 1
    assert done in next(item.what for item in problems if item.kind == KIND)
    summary = check_data_job(tmp_path).splits["val"]
    assert summary.problems[KIND] == 1
    assert summary.image_height.smallest == size[0]


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "kitti"])
@pytest.mark.parametrize("stored", [False, True])
def test_conversion_keeps_boxes_on_their_pixels(tmp_path, to, stored):
    size, box = (UPRIGHT[::-1], ON_STORED) if stored else (UPRIGHT, BOX)
    coco(tmp_path / "in", size=size, box=box)
    written = convert_data_job(tmp_path / "in", to=to, out=tmp_path / "out")
    if stored and to in ("yolo", "kitti"):  # no size tells their readers that the flag does not count
        assert written.problems["val"].counts == {"photo annotated as stored": 1}
        return
    annotations, _ = open_split(tmp_path / "out", "val")
    assert inside(annotations.path(0), tuple(annotations.sizes[0].tolist()), annotations.boxes[0]) > 200


def test_swapped_sizes_name_exif(tmp_path):
    coco(tmp_path, size=UPRIGHT[::-1], box=BOX, flag=1)
    _, problems = find_split(tmp_path, "val").read(Reading(check_images=True))
    assert (
        "is 32x48 with width and height swapped, which no EXIF orientation flag explains" in next(iter(problems)).what
    )
    with pytest.raises(DataError, match=r"must be 48x32 .* got 32x48 with width and height swapped, which no EXIF"):
        read_image(tmp_path / "a.jpg", image_id=1, size=(32, 48))


def test_a_flag_that_explains_nothing_is_named(tmp_path):
    photo(tmp_path / "a.jpg", 6)
    with pytest.raises(DataError, match=r"must be 7x5 .* got 32x48, its EXIF orientation flag being 6\."):
        read_image(tmp_path / "a.jpg", image_id=1, size=(5, 7))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, on opening
@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"Exif\0\0nothing", b"Exif\0\0"])
def test_broken_exif_is_no_flag(tmp_path, exif):
    Image.new("RGB", (32, 48)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", image_id=1, size=UPRIGHT).shape == (3, *UPRIGHT)
