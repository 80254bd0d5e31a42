"""Files that no split uses are told, in the formats with a label file an image."""

from __future__ import annotations

import pytest

from detdistill.data.sources import open_split
from folders_by_hand import make_kitti, make_voc, picture


@pytest.mark.parametrize(
    ("make", "images", "labels", "ending"),
    [
        (make_voc, "JPEGImages", "Annotations", ".xml"),
        (make_kitti, "training/image_2", "training/label_2", ".txt"),
    ],
)
def test_what_vanishes_is_told(tmp_path, make, images, labels, ending):
    make(tmp_path)
    place = tmp_path / images
    (place / "a.png").rename(place / "a.heic")  # an ending that is not read
    (place / "b.png").unlink()  # a label file without image
    second = picture(place / "c.tif")  # a second image of one label file
    label = tmp_path / labels / f"c{ending}"
    label.rename(label.with_suffix(ending.upper()))
    (place / "._c.png").write_bytes(b"\0\5")
    annotations, problems = open_split(tmp_path, "train")
    assert [annotations.file_name(index) for index in range(len(annotations))] == ["c.png"]
    assert {(item.kind, item.where) for item in problems} == {
        ("image of unknown ending", str(tmp_path / labels / f"a{ending}")),
        ("image file missing", str(tmp_path / labels / f"b{ending}")),
        ("several images of one label file", str(second)),
        ("files of macOS passed over", str(place)),
    }
    assert problems.lost("images") == 3
    heic = next(item.what for item in problems if item.kind == "image of unknown ending")
    assert heic.startswith(f"{place / 'a.heic'} is its image; known endings are .bmp, ")
