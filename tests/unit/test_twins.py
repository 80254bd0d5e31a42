"""Twins on disk: made once, found again by content, continued after an interruption, damage found."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw
from detdistill.data.loader import evaluation_loader
from detdistill.data.transforms import ImageSettings
from detdistill.detectors.frozen import FrozenTeacher
from detdistill.distillation.twins import RepeatableMaker
from detdistill.errors import ConfigError, DataError
from detdistill.methods.attack import AdversarialTwins
from detdistill.store import cache
from detdistill.store.cache import INDEX
from detdistill.store.twins import open_twin_cache
from detdistill.types import Batch
from made_up_steps import Stub
from scenes_in_memory import tiny_teacher
from tiny_training import fork
from twins_by_hand import AS_STORED, CPU, SIZES, Brighter, Recorder, five_images, opened, stored_image


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return five_images(tmp_path)


def test_made_once_and_found_again(tmp_path: Path, annotations: Annotations) -> None:
    first, again = Brighter(), Brighter()
    reader = opened(tmp_path / "twins", annotations, first)
    assert first.asked == [(10, 11), (12, 13), (14,)]
    assert len(reader) == len(SIZES)
    for index, size in enumerate(SIZES):
        image = stored_image(annotations, index)
        twin = reader(index)
        assert twin.shape == (3, *size)
        assert twin.dtype == torch.uint8
        # Every size here, resized or not: the brightness comes back as it was.
        assert int((twin.int() - (image.int() + 10).clamp(max=255)).abs().max()) <= 1
    second = opened(tmp_path / "twins", annotations, again)
    assert again.asked == []
    assert torch.equal(second(3), reader(3))


def test_at_the_stored_size_nothing_but_whole_pixels_is_lost(tmp_path: Path, annotations: Annotations) -> None:
    for resize in ("perturbation", "twin"):
        reader = opened(tmp_path / resize, annotations, Brighter(), resize=resize)
        assert torch.equal(reader(0).int(), (stored_image(annotations, 0).int() + 10).clamp(max=255))


def test_the_change_alone_keeps_the_image_sharp(tmp_path: Path, annotations: Annotations) -> None:
    small = ImageSettings(short_side=12, long_side=16, pad_multiple=8)
    far = {}
    for resize in ("perturbation", "twin"):
        reader = opened(tmp_path / resize, annotations, Brighter(), image=small, resize=resize)
        far[resize] = int((reader(0).int() - stored_image(annotations, 0).int()).abs().max())
    assert far["perturbation"] <= 11
    assert far["twin"] > 50


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_build_goes_on(tmp_path: Path, annotations: Annotations, killed: bool) -> None:
    teacher = tiny_teacher("fcos")
    whole = opened(tmp_path / "whole", annotations, AdversarialTwins(), teacher=teacher)

    class Stopped(RepeatableMaker):
        def __init__(self, batches: int) -> None:
            self.batches, self.asked = batches, 0

        def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Tensor:
            if self.asked == self.batches:
                raise KeyboardInterrupt
            self.asked += 1
            return AdversarialTwins()(teacher, batch)

        def identity(self) -> Mapping[str, str | int | float]:
            return AdversarialTwins().identity()

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "twins", annotations, Stopped(2), teacher=teacher)
    (index,) = (tmp_path / "twins").glob(f"*/{INDEX}")
    if killed:
        # Killed between a file and the index: the index knows three of the four files.
        content = json.loads(index.read_text())
        content["twins"].popitem()
        index.write_text(json.dumps(content))
    rest, recorder = Stopped(9), Recorder()
    reader = opened(tmp_path / "twins", annotations, rest, teacher=teacher, progress=recorder)
    assert rest.asked == (2 if killed else 1)
    assert ("check twins", 3 if killed else 4, 0) in recorder.stages
    for number in range(len(SIZES)):
        assert torch.equal(reader(number), whole(number))
        assert reader.checksums[number].tobytes() == whole.checksums[number].tobytes()


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "gone"])
def test_damage_is_found_said_and_mended(tmp_path: Path, annotations: Annotations, damage: str) -> None:
    reader = opened(tmp_path / "twins", annotations, Brighter())
    path, content = reader.path(3), reader.path(3).read_bytes()
    before = reader(3)
    if damage == "gone":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(content[:-5])
    else:
        path.write_bytes(content[:60] + bytes([content[60] ^ 4]) + content[61:])
    message = "must be a readable file" if damage == "gone" else "must be as it was written, got other content"
    with pytest.raises(DataError, match=message):
        reader(3)
    maker, recorder = Brighter(), Recorder()
    mended = opened(tmp_path / "twins", annotations, maker, progress=recorder)
    assert maker.asked == [(12, 13)]
    assert recorder.lines[0] == f"damaged or missing in the cache of twins: {path}; made anew"
    assert torch.equal(mended(3), before)


def test_a_second_process_waits_and_finds_what_the_first_one_made(tmp_path: Path, annotations: Annotations) -> None:
    class Slow(Brighter):
        def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Tensor:
            (tmp_path / "begun").touch()
            time.sleep(0.2)
            return super().__call__(teacher, batch)

    first = fork(lambda: opened(tmp_path / "twins", annotations, Slow()))
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
        assert first.is_alive()
    second, said = Brighter(), Recorder()
    opened(tmp_path / "twins", annotations, second, progress=said)
    assert second.asked == []
    assert f"is in use by process {first.pid} on " in said.lines[0]
    first.join()


def test_of_two_builds_at_once_the_first_ones_twins_stay(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk knows no locks."""

    def unheld(folder: Path, **_: object) -> AbstractContextManager[None]:
        folder.mkdir(parents=True, exist_ok=True)
        return nullcontext()

    monkeypatch.setattr(cache, "hold", unheld)
    readers = []

    class Late(Brighter):
        """Another arithmetic; before its second batch, another process builds everything."""

        def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Tensor:
            if len(self.asked) == 1:
                readers.append(opened(tmp_path / "twins", annotations, Brighter()))
            return super().__call__(teacher, batch) - 1 / 255

    late = opened(tmp_path / "twins", annotations, Late())
    (first,) = readers
    for index in range(len(SIZES)):
        assert torch.equal(late(index), first(index))
    added = [(first(index).int() - stored_image(annotations, index).int()).unique().tolist() for index in (0, 4)]
    assert added == [[9], [10]]


def test_what_a_killed_build_left_is_kept_if_it_is_whole(tmp_path: Path, annotations: Annotations) -> None:
    reader = opened(tmp_path / "twins", annotations, Brighter())
    before = [reader(index) for index in range(len(SIZES))]
    (index_file,) = (tmp_path / "twins").glob(f"*/{INDEX}")
    index_file.unlink()
    content = reader.path(1).read_bytes()
    reader.path(1).write_bytes(content[:60] + bytes([content[60] ^ 4]) + content[61:])
    kept = reader.path(2).stat().st_mtime_ns
    mended = opened(tmp_path / "twins", annotations, Brighter())
    assert all(torch.equal(mended(index), twin) for index, twin in enumerate(before))
    assert mended.path(2).stat().st_mtime_ns == kept


def test_all_damage_is_counted(tmp_path: Path, annotations: Annotations) -> None:
    reader = opened(tmp_path / "twins", annotations, Brighter())
    for index in (0, 2, 4):
        reader.path(index).write_bytes(b"no image")
    recorder = Recorder()
    opened(tmp_path / "twins", annotations, Brighter(), progress=recorder)
    assert "and 2 more; made anew" in recorder.lines[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"twins": [1]}', "{}"])
def test_an_unreadable_index_is_said_and_made_anew(tmp_path: Path, annotations: Annotations, content: str) -> None:
    opened(tmp_path / "twins", annotations, Brighter())
    (index,) = (tmp_path / "twins").glob(f"*/{INDEX}")
    index.write_text(content)
    maker, recorder = Brighter(), Recorder()
    opened(tmp_path / "twins", annotations, maker, progress=recorder)
    assert len(maker.asked) == 3
    assert recorder.lines[0].startswith("the index of the cache of twins cannot be read, so they are made anew: ")


def test_what_a_killed_write_left_goes_and_nothing_else(tmp_path: Path, annotations: Annotations) -> None:
    folder = opened(tmp_path / "twins", annotations, Brighter()).folder
    left, mine = folder / "0993d009.png.650c9cf58cb5.partial", folder / "notes.partial"
    left.touch()
    mine.touch()
    opened(tmp_path / "twins", annotations, Brighter())
    assert (left.exists(), mine.exists()) == (False, True)


def test_the_address_is_the_content(tmp_path: Path, annotations: Annotations) -> None:
    folder = tmp_path / "twins"
    opened(folder, annotations, Brighter())

    def made(found: Annotations = annotations, maker: Brighter | None = None, scale: float = 1.0) -> int:
        maker = maker or Brighter()
        opened(folder, found, maker, teacher=FrozenTeacher(Stub(scale)))
        return len(maker.asked)

    assert made() == 0
    # Another place of the same files is the same content.
    elsewhere = annotations.images_dir.rename(tmp_path / "moved")
    assert made(replace(annotations, images_dir=elsewhere)) == 0
    elsewhere.rename(annotations.images_dir)
    # Another teacher, another maker, other boxes, another image.
    assert made(scale=2.0) == 3
    assert made(maker=Brighter(20 / 255)) == 3
    boxes = annotations.boxes.copy()
    boxes[4, 0] += 1
    assert made(replace(annotations, boxes=boxes)) == 1
    pixels = np.array(Image.open(annotations.path(0)))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(annotations.path(0))
    assert made() == 1
    # And all of the first are still there.
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(annotations.path(0))
    assert made() == 0


def test_image_size_and_resize_are_part_of_the_address(tmp_path: Path, annotations: Annotations) -> None:
    folder = tmp_path / "twins"
    opened(folder, annotations, Brighter())
    opened(folder, annotations, Brighter(), image=ImageSettings(12, 16, 8))
    opened(folder, annotations, Brighter(), resize="twin")
    assert len(list(folder.glob(f"*/{INDEX}"))) == 3


def test_size_and_time_are_said_before_the_bulk(tmp_path: Path, annotations: Annotations) -> None:
    recorder = Recorder()
    reader = opened(tmp_path / "twins", annotations, Brighter(), progress=recorder)
    (line,) = recorder.lines
    assert line.startswith(f"5 twins to make: about 0.0 MB in {reader.folder} and 0:0")
    assert line.endswith("images/s, by the first batch")
    assert recorder.stages == [("look for twins", 5, 0), ("make twins", 5, 2)]
    assert recorder.last == 5


def test_a_full_disk_is_said_before_the_bulk(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    maker = Brighter()
    with pytest.raises(DataError, match=r"must have about 0\.0 MB free for the twins, got 0\.0 MB"):
        opened(tmp_path / "twins", annotations, maker)
    assert len(maker.asked) == 1


def test_the_index_is_written_on_the_way(
    tmp_path: Path, annotations: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SECONDS_BETWEEN_WRITES", 0.0)
    counts = []

    class Watching(Brighter):
        def __call__(self, teacher: FrozenTeacher, batch: Batch) -> Tensor:
            counts.extend(len(json.loads(path.read_text())["twins"]) for path in tmp_path.glob(f"twins/*/{INDEX}"))
            return super().__call__(teacher, batch)

    reader = opened(tmp_path / "twins", annotations, Watching())
    assert counts == [2, 4]
    content = json.loads((reader.folder / INDEX).read_text())
    assert content["identity"]["maker"] == {"twin": "brighter", "amount": 10 / 255}
    assert len(content["twins"]) == 5
    file = reader.path(1)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in content["twins"].values()
    assert {path.suffix for path in reader.folder.iterdir()} == {".png", ".json"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_them_with_the_images(tmp_path: Path, annotations: Annotations, workers: int) -> None:
    reader = pickle.loads(pickle.dumps(opened(tmp_path / "twins", annotations, Brighter())))
    dataset = DetectionDataset(annotations, image=AS_STORED, twins={"adversarial": reader})
    for batch in evaluation_loader(dataset, batch_size=2, workers=workers):
        for row, (height, width) in enumerate(batch.sizes):
            image = batch.images[row, :, :height, :width]
            twin = batch.twins["adversarial"][row, :, :height, :width]
            assert float((twin - (image + 10 / 255).clamp(max=1)).abs().max()) < 3 / 255
    assert dataset[Draw(epoch=0, index=0, plain=True)].twins == {}


def test_cached_twins_of_an_attack_are_those_made_on_the_fly(tmp_path: Path, annotations: Annotations) -> None:
    teacher, before = tiny_teacher("fcos"), tiny_teacher("fcos").digest()
    reader = opened(tmp_path / "twins", annotations, AdversarialTwins(), teacher=teacher)
    dataset = DetectionDataset(annotations, image=AS_STORED, twins={"adversarial": reader})
    batch = next(iter(evaluation_loader(dataset, batch_size=2)))
    made = AdversarialTwins()(teacher, batch)
    # The first image is stored at the models' size: only whole pixel values are lost, and 8/255 is whole.
    torch.testing.assert_close(batch.twins["adversarial"][0], made[0], rtol=0, atol=1e-6)
    for index in range(len(SIZES)):
        assert int((reader(index).int() - stored_image(annotations, index).int()).abs().max()) <= 8
    assert teacher.digest() == before


def test_a_missing_image_is_named(tmp_path: Path, annotations: Annotations) -> None:
    annotations.path(2).unlink()
    with pytest.raises(DataError, match=r"Image 12 \(.*2.png\) must be a readable file, got: No such file"):
        opened(tmp_path / "twins", annotations, Brighter())


def test_a_batch_size_of_zero_is_refused(tmp_path: Path, annotations: Annotations) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        open_twin_cache(
            tmp_path,
            maker=Brighter(),
            teacher=FrozenTeacher(Stub(1.0)),
            annotations=annotations,
            image=AS_STORED,
            batch_size=0,
            device=CPU,
            progress=Recorder(),
        )
