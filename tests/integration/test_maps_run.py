"""A teacher that looks once: whole runs on what it showed, labelled and not, resumed, and what no map follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coco_by_hand import draw_data
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.errors import ConfigError
from detdistill.jobs import stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.outcomes import TEACHER
from detdistill.jobs.plan import plan_of
from detdistill.jobs.samples import Opened
from detdistill.store.layout import RunFolder
from detdistill.store.students import save_detector
from scenes_in_memory import tiny_student
from tiny_training import checkpoint_tensors, differing
from watched_jobs import Watcher, real_train

SMALL = ("student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "train.batch_size=4")
SMALL += ("train.steps=2", "train.checkpoint_every=1", "train.warmup_steps=1", "train.device=cpu", "train.workers=0")
SMALL += ("data.image.short_side=48", "data.image.long_side=64")
MAPS = "teacher.cache=maps"


class Lab:
    """Labelled data, a folder of others, a teacher, and on how many images it looked while a student was trained."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.watcher, self.looked = folder, Watcher(), 0
        draw_data(folder / "data")
        shutil.copytree(folder / "data/images", folder / "others")
        for path in (folder / "others").iterdir():
            path.write_bytes(path.read_bytes() + b" ")  # images of their own
        teacher = tiny_student("fcos", seed=7, classes=("square", "bar"))
        save_detector(teacher, folder / "teacher", image={"short_side": 48, "long_side": 64})
        observe = FrozenTeacher.observe

        def counted(own: FrozenTeacher, batch: Any, needs: Any) -> Any:
            self.looked += len(batch)
            return observe(own, batch, needs)

        def begun(*given: Any, **words: Any) -> Any:
            self.looked = 0
            return real_train(*given, **words)

        monkeypatch.setattr(FrozenTeacher, "observe", counted)
        monkeypatch.setattr(stages, "train", begun)

    def opened(self, out: str, *settings: str, resume: bool = False, **words: Any) -> Opened:
        options = {
            "student": "fcos/test_resnet",
            "teacher.source": self.folder / "teacher",
            "data": self.folder / "data",
            "out": self.folder / out,
            "method": "hint",
        } | words
        config = read_run_config(None, [*SMALL, *settings], purpose="distill", options=options)
        self.watcher.lines.clear()
        return stages.open_inputs(config, resume=resume, progress=self.watcher)

    def fit(self, out: str, *settings: str, resume: bool = False, **words: Any) -> dict[str, Tensor]:
        opened = self.opened(out, *settings, resume=resume, **words)
        proved = stages.prove(stages.build(opened, progress=self.watcher), progress=self.watcher)
        self.plan = plan_of(proved)
        stages.fit(proved, progress=self.watcher)
        return checkpoint_tensors(self.folder / out, 2)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_maps_teach_labelled_and_unlabelled_images_without_a_look_and_a_resume_ends_with_the_same_bits(
    lab: Lab,
) -> None:
    shared, others = f"teacher.cache_folder={lab.folder / 'shared'}", {"data.unlabelled.source": lab.folder / "others"}
    live = lab.fit("live", **others)
    assert lab.looked > 0
    whole = lab.fit("kept", MAPS, shared, **others)
    assert lab.looked == 0
    said = lab.watcher.text()
    assert "teacher.cache: maps of 23 images as stored and flipped, kept in" in said
    assert "46 maps of the teacher to make: about" in said
    (shard,) = (lab.folder / "shared/maps").glob("*/*.safetensors")
    assert lab.plan.maps == lab.folder / "shared/maps"
    assert lab.plan.map_bytes == pytest.approx(shard.stat().st_size, rel=0.05)
    assert any(line.startswith("  maps of the teacher: about ") for line in lab.plan.table())
    for name, one in live.items():
        if one.is_floating_point():
            assert torch.allclose(one, whole[name], rtol=0.02, atol=0.002), name
    assert differing(live, whole)
    for file in RunFolder(lab.folder / "kept").checkpoint(2).iterdir():
        file.unlink()
    assert differing(lab.fit("kept", MAPS, shared, resume=True, **others), whole) == []
    assert "maps of the teacher to make" not in lab.watcher.text()
    assert lab.looked == 0
    with pytest.raises(ConfigError, match=r"cache .*to resume"):
        lab.fit("kept", resume=True, **others)


def test_what_no_map_follows_the_live_teacher_sees(lab: Lab) -> None:
    lab.fit("grey", MAPS, "data.augment.grey=0.5", "data.augment.flip=0", method="frs")
    assert "as the run shows them, kept in" in lab.watcher.text()
    assert "; at the other 50%, which change in other ways, the live teacher looks" in lab.watcher.text()
    assert 0 < lab.looked < 8
    assert (lab.folder / "grey/finds/maps").is_dir()


@pytest.mark.parametrize(
    ("settings", "method", "said"),
    [
        (
            ["data.augment=medium"],
            "hint",
            "every sample changes in ways that no map can follow: the live teacher looks",
        ),
        ([], "boxes", "boxes reads none: only its boxes are kept"),
    ],
)
def test_where_no_map_would_be_read_none_is_kept_and_that_is_said(
    lab: Lab, settings: list[str], method: str, said: str
) -> None:
    lab.fit("none", MAPS, *settings, method=method)
    assert f"teacher.cache: no maps are kept, as {said}" in lab.watcher.text()
    assert not (lab.folder / "none/finds/maps").exists()


def test_a_teacher_that_says_boxes_alone_has_no_maps(lab: Lab) -> None:
    known = json.loads((lab.folder / "data/train.json").read_text())
    (lab.folder / "data/says.json").write_text(
        json.dumps(known | {"annotations": [one | {"score": 0.9} for one in known["annotations"]]})
    )
    with pytest.raises(ConfigError, match=r"^teacher.cache must be boxes .*, got maps\. Set teacher\.cache=boxes\.$"):
        lab.fit("said", MAPS, method="boxes", **{"teacher.source": lab.folder / "data/says.json"})


def test_a_folder_under_the_key_of_before_is_read(lab: Lab) -> None:
    """`teacher.cache` was the folder."""
    path = lab.folder / "config.yaml"
    options = {"student": "fcos/tiny", "teacher.source": "t", "data": "d", "out": "o", "method": "boxes"}
    text = read_run_config(None, [], purpose="distill", options=options).yaml().replace("  cache_folder: null\n", "")
    assert "cache: boxes" in text
    for before, folder in (("found", "found"), ("null", None)):
        path.write_text(text.replace("cache: boxes", f"cache: {before}"))
        choice = read_run_config(path, [], purpose="distill", options={"out": lab.folder / "again"}).teacher
        assert choice is not None
        assert choice.cache == "boxes"
        assert (choice.cache_folder and choice.cache_folder.name) == folder


@pytest.mark.slow
def test_two_processes_read_what_the_first_of_them_made(lab: Lab) -> None:
    """And learn the same from it as without a second one beside: each step is of the same images."""
    shared = f"teacher.cache_folder={lab.folder / 'shared'}"
    both = lab.fit("both", MAPS, shared, "train.processes=2", "train.batch_size=2")
    assert len(list((lab.folder / "shared/maps").glob("*/*.safetensors"))) == 1
    again = lab.fit("again", MAPS, shared, "train.processes=2", "train.batch_size=2")
    assert differing(both, again) == []
    assert "maps of the teacher to make" not in lab.watcher.text()


def test_what_a_teacher_found_in_validation_images_is_kept_where_runs_share_it(lab: Lab) -> None:
    """The next run with that folder has the same figures and finds, to the bit, and asks about one image alone."""
    shared, told = f"teacher.cache_folder={lab.folder / 'shared'}", "validation images: what the teacher finds in"
    found = []
    for settings in ((), (shared,), (shared,)):
        opened = lab.opened("run", *settings)
        assert opened.teacher is not None
        detectors = {TEACHER: opened.teacher.detector}
        given = {"at": {TEACHER: opened.taught_at}, "teacher": "digest", "progress": lab.watcher}
        found.append((stages.measure(opened, detectors, **given)[TEACHER], lab.watcher.text()))
    (live, first), (made, second), (read, third) = found
    assert told not in first
    assert told in second
    assert "finds to make" in second
    assert told in third
    assert "finds to make" not in third
    for other in (made, read):
        assert other.metrics == live.metrics
        for one, same in zip(live.found, other.found, strict=True):
            assert one.image_id == same.image_id
            for name in ("boxes", "scores", "labels", "probabilities"):
                assert np.array_equal(getattr(one, name), getattr(same, name)), name
