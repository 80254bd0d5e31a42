from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coco_rows import box, image, write
from detdistill.data import dataset
from detdistill.data.annotations import Reading
from detdistill.data.formats.coco import read_coco
from detdistill.data.transforms import AugmentSettings
from tiny_training import images_on_disk

# File names and image files.


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "is absolute"),
        ("C:\\a.png", "is absolute"),
        ("\\\\host\\a.png", "is absolute"),
        ("../a.png", "leads out of the images' folder"),
        ("a/../../b.png", "leads out of the images' folder"),
        ("a\\..\\..\\b.png", "leads out of the images' folder"),
        ("..", "leads out of the images' folder"),
        ("a\0.png", "holds characters that no file name has"),
        ("a\ud800.png", "holds characters that no file name has"),
        ("", "is not a text"),
        (None, "is not a text"),
    ],
)
def test_unusable_file_names_are_skipped_with_their_boxes(tmp_path, name, why):
    images = [image(1), image(2, file_name=name, ignore_regions=[[1, 1, 2, 2]]), image(3)]
    rows = [box(1, 2, [1, 1, 2, 2]), box(2, 3, [1, 1, 2, 2])]
    annotations, problems = read_coco(write(tmp_path, images=images, annotations=rows))
    assert annotations.image_ids.tolist() == [1, 3]
    assert [annotations.file_name(index) for index in range(2)] == ["1.png", "3.png"]
    assert annotations.offsets.tolist() == [0, 0, 1]
    assert problems.counts == {"unusable file name": 1, "box of a skipped image": 1}
    problem = next(iter(problems))
    assert problem.where.endswith("image 2")
    assert why in problem.what


@pytest.mark.parametrize("name", ["a/b/c.png", "a/../b.png", "./b.png", "a..b.png", "...png", "a\u202fb.png"])
def test_file_names_that_stay_inside_are_fine(tmp_path, name):
    annotations, problems = read_coco(write(tmp_path, images=[image(1, file_name=name)]))
    assert annotations.file_name(0) == name
    assert len(problems) == 0


@pytest.mark.parametrize("bad", [{"width": None}, {"height": 0}, {"width": "40"}, {"height": 2**40}])
def test_missing_size_is_read_from_the_header(tmp_path, bad):
    Image.new("RGB", (50, 20)).save(tmp_path / "1.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (40, 30)).save(tmp_path / "3.png")
    images = [image(1, **bad), image(2, file_name="broken.png", **bad), image(3)]
    rows = [box(1, 1, [45, 1, 2, 2]), box(2, 2, [1, 1, 2, 2]), box(3, 3, [1, 1, 2, 2])]
    annotations, problems = read_coco(write(tmp_path, images=images, annotations=rows))
    assert annotations.image_ids.tolist() == [1, 3]
    assert annotations.sizes.tolist() == [[20, 50], [30, 40]]
    assert annotations.boxes.tolist() == [[45, 1, 47, 3], [1, 1, 3, 3]]
    assert problems.counts == {"image without size": 1, "image file unreadable": 1, "box of a skipped image": 1}
    assert [problem.action for problem in problems] == ["repaired", "skipped", "skipped"]
    assert next(iter(problems)).what == "no width and height; the file is 50x20"


def test_images_are_checked_only_where_asked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.png")
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "3.png").write_bytes(b"no image at all")
    Image.new("RGB", (30, 40)).save(tmp_path / "4.png")
    (tmp_path / "5.png").write_bytes(b"")
    images = [image(own) for own in range(1, 7)]
    rows = [box(own, own, [1, 1, 2, 2]) for own in range(1, 7)]
    path = write(tmp_path, images=images, annotations=rows)
    plain, problems = read_coco(path, images_dir=tmp_path)
    assert plain.image_ids.tolist() == [1, 2, 3, 4, 5]
    assert problems.counts == {"image file missing": 1, "box of a skipped image": 1}
    assert (problems.lost("images"), problems.lost("boxes")) == (1, 1)
    seen = []
    checked, problems = read_coco(
        path,
        Reading(check_images=True, progress=lambda done, all_: seen.append((done, all_))),
        images_dir=tmp_path,
    )
    assert checked.image_ids.tolist() == [1]
    assert len(checked.boxes) == 1
    assert problems.counts == {
        "image file unreadable": 3,
        "image of another size": 1,
        "image file missing": 1,
        "box of a skipped image": 5,
    }
    by_place = {problem.where.rsplit(" ", 1)[1]: problem.what for problem in problems if ", image " in problem.where}
    swapped = "with width and height swapped, which no EXIF orientation flag explains"
    assert by_place["4"] == f"{tmp_path / '4.png'} is 30x40 {swapped}, the annotations say 40x30"
    assert by_place["6"] == f"{tmp_path / '6.png'} does not exist"
    assert seen[-1] == (6, 6)


def test_decoded_images_are_kept_and_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_decoded", {})
    images = images_on_disk(tmp_path / "set")
    images.augment = AugmentSettings(flip=0.5, colour=0.8, scale_jitter=(0.7, 1.5), blur=0.5, grey=0.3, crop=0.5)
    draws = [dataset.Draw(epoch, index) for epoch in range(3) for index in range(len(images))]
    before = [images[draw] for draw in draws]
    files = sorted((tmp_path / "set").iterdir())
    assert dataset.keep_decoded(files) == len(files) * 3 * 12 * 16
    for file in files:
        file.unlink()
    assert all(torch.equal(images[draw].image, one.image) for one, draw in zip(before, draws, strict=True))
