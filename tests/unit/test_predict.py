"""`predict` on files as people have them, with a detector that finds nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from detdistill.cli.app import main
from detdistill.data.listing import IMAGE_SUFFIXES
from detdistill.errors import ConfigError, DataError
from detdistill.evaluation.coco import ImageDetections
from detdistill.jobs import predict
from folders_by_hand import picture, write


@pytest.fixture(autouse=True)
def blind_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = SimpleNamespace(detector=None, image=None, class_names=("Car",))
    monkeypatch.setattr(predict, "open_detector", lambda *_, **__: loaded)
    monkeypatch.setattr(predict, "seen_size", lambda *_, **__: None)
    monkeypatch.setattr(
        predict,
        "detect",
        lambda _, annotations, *__, **___: [ImageDetections.none(own) for own in annotations.image_ids.tolist()],
    )


def test_a_folder_says_what_it_passes_over(tmp_path, capsys):
    folder = tmp_path / "d"
    for name in ("a.JPG", "b.png", "c.ppm", "e.jfif", "f.jpe", "sub/g.jpg"):
        path = folder / name
        picture(path.with_suffix(".png")).rename(path)
    write(folder / "note.txt", "hello")
    (folder / "._b.png").write_bytes(b"\0\5")
    outcome = predict.predict_job("x", [folder], out=tmp_path / "out")
    assert [path.name for path in outcome.images] == ["a.JPG", "b.png", "c.ppm", "e.jfif", "f.jpe"]
    assert outcome.problems.counts == {"passed over": 3}
    assert {item.where.rpartition("/")[2] for item in outcome.problems} == {"._b.png", "note.txt", "sub"}
    assert "passed over: 3 kept" in "\n".join(outcome.table())
    assert outcome.failure is None
    assert main(["predict", "x", str(folder), "--out", str(tmp_path / "again")]) == 0


def test_it_goes_on_past_files_that_are_no_images(tmp_path, capsys):
    good, bad = picture(tmp_path / "d" / "a.png"), tmp_path / "d" / "b.png"
    bad.write_bytes(b"no image")
    cut = picture(tmp_path / "d" / "c.png", width=400, height=300)
    cut.write_bytes(cut.read_bytes()[:60])
    arguments = ["predict", "x", str(tmp_path / "d"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json", str(tmp_path / "found.json")]) == 2
    said = capsys.readouterr()
    assert f"error: {bad} must be an image that can be decoded, got: " in said.err
    assert "(and 1 more of 3 files)" in said.err
    assert str(good) in said.out
    assert "image file unreadable: 2 skipped" in said.out
    assert list(json.loads((tmp_path / "out" / "predictions.json").read_text())) == [str(good)]
    assert (tmp_path / "out" / "a.png").is_file()
    assert list(json.loads((tmp_path / "found.json").read_text())) == ["written_by", str(good)]
    with pytest.raises(DataError, match=r"b\.png must be an image that can be decoded"):
        predict.predict_job("x", [bad], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_photos_are_drawn_upright(tmp_path):
    upright = np.zeros((30, 20, 3), dtype=np.uint8)
    upright[:15] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "a.jpg", exif=exif.tobytes(), quality=95)
    outcome = predict.predict_job("x", [tmp_path / "a.jpg"], out=tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png").convert("L"))
    assert drawn.shape[0] > drawn.shape[1]
    assert drawn[5:10].mean() > 200
    assert outcome.problems.counts == {"photo with an EXIF orientation flag": 1}


def test_a_folder_without_images_is_refused(tmp_path):
    write(tmp_path / "note.txt", "hello")
    with pytest.raises(ConfigError, match="must hold images or videos to predict on"):
        predict.predict_job("x", [tmp_path], out=tmp_path / "out")


@pytest.mark.parametrize("names", [("a.png",), ("a.jpg", "a.png"), ("a/b.png", "b.png")])
def test_no_drawing_replaces_an_image_that_was_given(tmp_path, names):
    """Beside it, where it is broken, and where it has the name of another."""
    images = [picture(tmp_path / name) for name in names]
    if names[0] == "a.jpg":
        images[1].write_bytes(b"no image")
    before = [path.read_bytes() for path in images]
    with pytest.raises(
        ConfigError, match=r"--out must be a folder whose images are not predicted on, .*another folder"
    ):
        predict.predict_job("x", images, out=tmp_path)
    assert [path.read_bytes() for path in images] == before
    predict.predict_job("x", images, out=tmp_path / "out")


def test_every_image_has_a_drawing_of_its_own(tmp_path):
    images = [picture(tmp_path / name) for name in ("1/a.png", "2/a.png", "3/a_2.png")]
    predict.predict_job("x", images, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "a_2.png", "a_2_2.png"}


def test_the_endings_are_those_of_data_sets():
    assert predict.IMAGE_SUFFIXES is IMAGE_SUFFIXES
