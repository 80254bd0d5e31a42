"""Runs whose images are decoded once: the same weights to the bit, with the room that this takes said before."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from coco_by_hand import HEIGHT, TRAIN, WIDTH, draw_data
from detdistill.data.decoded import Decoded
from detdistill.errors import ConfigError
from detdistill.jobs import decoded, stages
from detdistill.jobs.config import read_run_config
from detdistill.jobs.plan import plan_of
from detdistill.jobs.run import train_job
from detdistill.jobs.settings import RunConfig
from tiny_training import checkpoint_tensors, differing
from watched_jobs import Watcher

SMALL = ["student.head_depth=1", "student.strides=[8, 16, 32]", "student.fpn_channels=16", "train.batch_size=4"]
SMALL += ["train.steps=4", "train.warmup_steps=1", "train.checkpoint_every=2", "train.device=cpu", "train.threads=1"]
SMALL += ["data.image.short_side=32", "data.image.long_side=64"]
BYTES = 3 * 32 * 48 * TRAIN


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw_data(tmp_path_factory.mktemp("data") / "data")
    for path in folder.glob("images/*.png"):  # files that say they are PNG may be JPEG
        Image.open(path).convert("RGB").save(path, format="JPEG")
    return folder


def configured(data: Path, out: Path, *changes: str) -> RunConfig:
    options: dict[str, object] = {"data": data, "student": "fcos/test_resnet", "out": out}
    return read_run_config(None, [*SMALL, *changes], purpose="train", options=options)


def proved(data: Path, out: Path, *changes: str, resume: bool = False) -> stages.Proved:
    opened = stages.open_inputs(configured(data, out, *changes), resume=resume)
    return stages.prove(stages.build(opened))


def test_a_run_ends_with_the_same_bits_and_decodes_an_image_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"data.cache_folder={tmp_path / 'kept'}"
    stages.fit(proved(data, tmp_path / "none"))
    expected = checkpoint_tensors(tmp_path / "none", 4)
    asked: list[int] = []
    call = Decoded.__call__
    monkeypatch.setattr(Decoded, "__call__", lambda own, index, make: asked.append(index) or call(own, index, make))
    ways = {"ram": ["data.cache=ram", "train.workers=1"], "disk": ["data.cache=disk", kept]}
    for name, words in (ways | {"again": ways["disk"]}).items():
        stages.fit(proved(data, tmp_path / name, *words))
        assert differing(checkpoint_tensors(tmp_path / name, 4), expected) == []
    assert len(asked) == 2 * 16  # a worker's are its own
    assert len(list((tmp_path / "kept").rglob("*.pixels"))) == TRAIN


def test_a_run_that_decodes_less_is_another_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stages.fit(proved(data, out, "data.cache=ram"), until=2)
    stages.require_same_run(proved(data, out, resume=True))
    with pytest.raises(ConfigError, match="decode"):
        stages.require_same_run(proved(data, out, "data.decode=reduced", resume=True))


def test_a_plan_says_what_is_kept_and_refuses_what_has_no_room(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"data.cache_folder={tmp_path / 'kept'}"
    none, ram = (plan_of(proved(data, tmp_path / "run", f"data.cache={one}")) for one in ("none", "ram"))
    run = proved(data, tmp_path / "run", "data.cache=disk", kept)
    disk = plan_of(run)
    assert [one.decoded_bytes for one in (none, ram, disk)] == [0, BYTES, BYTES + 24 * TRAIN]
    assert not [line for line in none.table() if "decoded" in line]
    assert "  decoded images: at most 46.1 kB of memory, shared by all that load them" in ram.table()
    assert f"  decoded images: at most 46.3 kB to make in {tmp_path / 'kept'}" in disk.table()
    stages.fit(run)
    assert plan_of(run).decoded_bytes == 0
    jitter = proved(data, tmp_path / "jitter", "data.cache=ram", "data.augment.scale_jitter=[0.5, 1.5]")
    assert plan_of(jitter).decoded_bytes == 3 * WIDTH * HEIGHT * TRAIN
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    full = replace(disk, checkpoint_bytes=0)
    with pytest.raises(ConfigError, match=r"at least 46\.3 kB free for .*decoded images, got 1000 bytes\. Make room"):
        full.require_room()
    monkeypatch.setattr(decoded, "free_memory", lambda: BYTES - 1)
    with pytest.raises(ConfigError, match=r"must have 46\.1 kB free for data\.cache=ram, got 46\.1 kB\. Set data\.ca"):
        train_job(configured(data, tmp_path / "new", "data.cache=ram"))
    assert not (tmp_path / "new").exists()


def test_what_has_to_be_decoded_fully_is_said(data: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    stages.fit(proved(data, tmp_path / "run", "data.decode=reduced", "data.augment.crop=0.5"), progress=watcher)
    assert "data.decode: every image is decoded fully" in watcher.text()
