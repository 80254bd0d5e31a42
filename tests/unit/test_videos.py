"""`predict` on videos, with a detector that finds the same box in every frame."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from detdistill import files
from detdistill.cli.app import main
from detdistill.data.videos import Video, write_video
from detdistill.errors import ConfigError, DataError, DiskError, MissingDependencyError
from detdistill.evaluation.coco import ImageDetections
from detdistill.jobs import films, predict
from detdistill.report.palette import class_colour
from films import film, seen
from folders_by_hand import picture
from full_disk import DiskFull
from watched_jobs import Watcher


@pytest.fixture(autouse=True)
def same_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds a van in every picture, and a car below the score."""
    loaded = SimpleNamespace(detector=torch.nn.Identity(), image=None, class_names=("car", "van"))
    monkeypatch.setattr(predict, "open_detector", lambda *_, **__: loaded)

    def found(_detector, batches, **_):
        (batch,) = batches
        boxes = np.array([[8, 8, 40, 40], [0, 0, 4, 4]], np.float32)
        return [
            ImageDetections(own, boxes, np.array([0.9, 0.2], np.float32), np.array([1, 0])) for own in batch.image_ids
        ]

    monkeypatch.setattr(films, "detect_split", found)
    monkeypatch.setattr(
        predict, "detect", lambda _, rows, *__, **___: [ImageDetections.none(own) for own in rows.image_ids]
    )


def test_a_video_comes_back_with_boxes_and_its_own_times(tmp_path):
    at = [Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(3, 5)]
    clip, watched = film(tmp_path / "in" / "clip.mov", at=at), Watcher()
    before = clip.read_bytes()
    still = picture(tmp_path / "in" / "still.png")
    outcome = predict.predict_job("x", [tmp_path / "in"], out=tmp_path / "out", progress=watched)
    drawn = seen(tmp_path / "out" / "clip.mp4")
    assert [pytest.approx(float(moment), abs=1e-3) for moment, _ in drawn] == [float(moment) for moment in at]
    colour = np.array(class_colour(1))
    top = [
        np.abs(one[8 * one.shape[1] // 64 + 1, 20 * one.shape[1] // 64].astype(int) - colour).max() for _, one in drawn
    ]
    assert max(top) < 60, "the box's upper edge has its class's colour in every frame"
    assert clip.read_bytes() == before
    (told,) = outcome.films
    assert [(one.image_id, one.labels.tolist()) for one in told.found] == [(number, [1]) for number in range(4)]
    assert f"{clip}, 4 frames" in "\n".join(outcome.table())
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(content) == [str(still), *(f"{clip}#{number}" for number in range(4))]
    assert content[f"{clip}#3"] == [{"box": [8, 8, 40, 40], "score": pytest.approx(0.9), "class": "van"}]
    # Again over what it wrote itself.
    predict.predict_job("x", [clip], out=tmp_path / "out")


def test_one_bar_counts_the_frames_of_all_videos(tmp_path, monkeypatch):
    told = []
    watcher = SimpleNamespace(
        say=lambda _: None,
        start=lambda what, total, *, unit="step", done=0: told.append((total, unit)),
        advance=lambda done, note="": told.append(done),
        finish=lambda: told.append("end"),
    )
    monkeypatch.setattr(films, "_AT_ONCE", 2)
    clips = [film(tmp_path / "a.mp4", frames=3), film(tmp_path / "b.mp4", frames=2)]
    predict.predict_job("x", clips, out=tmp_path / "out", progress=watcher)
    assert told == [(5, "frame"), 2, 3, 5, "end"]


def test_frames_are_pictures_in_a_folder_of_each_video(tmp_path):
    clips = [film(tmp_path / "1" / "a.mp4", frames=3), film(tmp_path / "2" / "a.avi", frames=1)]
    predict.predict_job("x", clips, out=tmp_path / "out", frames=True)
    assert sorted(str(one.relative_to(tmp_path / "out")) for one in (tmp_path / "out").rglob("*.png")) == [
        "a/000000.png",
        "a/000001.png",
        "a/000002.png",
        "a_2/000000.png",
    ]
    film(clips[0], frames=2)
    predict.predict_job("x", clips[:1], out=tmp_path / "out", frames=True)
    assert len(list((tmp_path / "out" / "a").iterdir())) == 2, "no frame of before stays"
    (tmp_path / "out" / "a" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"must be a new file, or one that this command wrote, got .*mine\.txt"):
        predict.predict_job("x", clips[:1], out=tmp_path / "out", frames=True)


def test_the_same_class_has_the_same_colour_whatever_else_is_there(tmp_path, monkeypatch):
    """It is the class's own: not that of the order in which classes are found."""
    boxes = np.array([[2, 2, 30, 30], [34, 34, 60, 44]], np.float32)
    edges = []
    for labels, scores in (([1, 0], [0.9, 0.8]), ([1, 0], [0.8, 0.9]), ([1, 1], [0.9, 0.8])):
        one = ImageDetections(0, boxes, np.array(scores, np.float32), np.array(labels))
        shown = np.asarray(films._drawn(Image.new("RGB", (480, 360)), one, ("car", "van"), 0.3))
        edges.append(shown[20, 2].tolist())
    assert edges == [list(class_colour(1))] * 3


def test_upright_as_players_show_it(tmp_path):
    """A phone's video, whose pixels lie on their side, by the matrix in its track's header."""
    path = film(tmp_path / "clip.mp4", frames=2)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 36
    one = (1 << 16).to_bytes(4, "big")
    back = (-(1 << 16)).to_bytes(4, "big", signed=True)
    content[at : at + 20] = b"".join([bytes(4), one, bytes(4), back, bytes(4)])  # a quarter turn clockwise
    path.write_bytes(content)
    video = Video.of(path)
    (_, picture), *_ = video
    assert video.size == picture.shape[:2] == (64, 48)
    # The red top half is on the right after a quarter turn clockwise; the white block of the first columns on top.
    assert picture[40, 40].tolist() == pytest.approx([200, 0, 0], abs=40)
    assert picture[40, 8].max() < 40
    assert picture[3, 8].min() > 200


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov"])
def test_no_drawing_replaces_a_video_that_was_given(tmp_path, name):
    clips = [film(tmp_path / "clip.mp4"), *([film(tmp_path / name)] if name != "clip.mp4" else [])]
    before = clips[0].read_bytes()
    with pytest.raises(ConfigError, match=r"--out must be a folder whose videos are not predicted on"):
        predict.predict_job("x", clips, out=tmp_path)
    assert clips[0].read_bytes() == before
    with pytest.raises(ConfigError, match="must be a new file, or one that this command wrote"):
        predict.predict_job("x", [film(tmp_path / "there" / "clip.avi")], out=tmp_path)
    assert clips[0].read_bytes() == before


def test_what_is_no_video_is_said_before_anything_is_done(tmp_path, capsys):
    bad, cut = tmp_path / "bad.mp4", film(tmp_path / "cut.avi", frames=12)
    bad.write_bytes(b"no video at all" * 20)
    words = ["predict", "x", str(bad), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"error: {bad} must be a video that can be decoded, got: " in said
    assert said.endswith("Leave it out, or write it anew.\n")
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut\.avi must be a video that can be decoded"):
        Video.of(cut)
    assert not (tmp_path / "out").exists()


def test_words_that_do_not_go_together(tmp_path):
    clip, still = film(tmp_path / "clip.mp4"), picture(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"--coco must come with images alone, got the video .*clip\.mp4"):
        predict.predict_job("x", [still, clip], coco=tmp_path / "found.json")
    with pytest.raises(ConfigError, match=r"--frames must come with a video, got none\. Leave it out\."):
        predict.predict_job("x", [still], out=tmp_path / "out", frames=True)


def test_without_the_package_it_is_one_sentence(tmp_path, monkeypatch):
    clip = film(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        MissingDependencyError, match=r"package av must be installed .* -m pip install 'detdistill\[video\]'\.$"
    ):
        Video.of(clip)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    video = Video.of(film(tmp_path / "clip.mp4"))
    for at in range(3):
        monkeypatch.setattr(files, "_write", DiskFull(at, stays=True, code=errno.ENOSPC))
        with pytest.raises(DiskError, match=r"drawn\.mp4 must be written, which takes .*: No space left on device"):
            write_video(tmp_path / "out" / "drawn.mp4", iter(video), rate=video.rate, comment="x")
        monkeypatch.undo()
        assert not list((tmp_path / "out").iterdir())


_SLOW = """
import sys, time
from pathlib import Path
from detdistill.data.videos import Video, write_video
video = Video.of(Path(sys.argv[1]))
def slowly():
    for number, one in enumerate([*video] * 40):
        yield one[0] + number, one[1]
        print(number, flush=True)
        time.sleep(0.02)
write_video(Path(sys.argv[2]), slowly(), rate=video.rate, comment="x")
"""


def test_killed_it_leaves_no_half_video(tmp_path):
    clip, out = film(tmp_path / "clip.mp4"), tmp_path / "out" / "drawn.mp4"
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(clip), str(out)], stdout=subprocess.PIPE, text=True
    ) as work:
        while int(work.stdout.readline()) < 60:
            pass
        work.send_signal(signal.SIGKILL)
    (left,) = out.parent.iterdir()
    assert files.is_partial(left.name)
