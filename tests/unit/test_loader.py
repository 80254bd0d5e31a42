from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset, Draw, Sample
from detdistill.data.loader import Beside, collate, evaluation_loader, training_loader
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.errors import ConfigError, DataError
from detdistill.random import draw_seed
from detdistill.types import Batch, Targets

IMAGE = ImageSettings(24, 48, pad_multiple=16)
AUGMENT = AugmentSettings(flip=0.5, colour=0.5, scale_jitter=(0.7, 1.4))


def write_annotations(folder: Path, count: int) -> Annotations:
    """`count` small images of several sizes; image i has i % 3 boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"{index}.png" for index in range(count)]
    sizes = [(24 + index % 4 * 8, 40 + index % 3 * 8) for index in range(count)]
    for name, size in zip(names, sizes, strict=True):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    counts = [index % 3 for index in range(count)]
    total = sum(counts)
    corner = rng.uniform(0, 8, (total, 2)).astype(np.float32)
    return Annotations(
        images_dir=folder,
        class_names=("a", "b"),
        category_ids=np.array([1, 2]),
        image_ids=np.arange(count) + 100,
        sizes=np.array(sizes, dtype=np.int32).reshape(-1, 2),
        name_bytes=np.frombuffer("".join(names).encode(), dtype=np.uint8),
        name_offsets=np.cumsum([0, *map(len, names)]),
        offsets=np.cumsum([0, *counts]),
        boxes=np.concatenate([corner, corner + 14], axis=1),
        labels=(np.arange(total) % 2).astype(np.int32),
        ignored=np.arange(total) % 5 == 4,
        areas=np.full(total, 196, dtype=np.float32),
    )


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    return write_annotations(tmp_path_factory.mktemp("images"), 11)


@pytest.fixture(scope="module")
def dataset(annotations: Annotations) -> DetectionDataset:
    return DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, seed=3)


def assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.images, other.images)
    assert (one.sizes, one.stored_sizes) == (other.sizes, other.stored_sizes)
    assert (one.image_ids, one.seeds) == (other.image_ids, other.seeds)
    for first, second in zip(one.targets, other.targets, strict=True):
        assert torch.equal(first.boxes, second.boxes)
        assert torch.equal(first.labels, second.labels)
        assert torch.equal(first.ignored, second.ignored)


def sample_of(height: int, width: int, *, boxes: int = 0, image_id: int = 1) -> Sample:
    return Sample(
        image=torch.full((3, height, width), 255, dtype=torch.uint8),
        targets=Targets(
            boxes=torch.arange(4.0).repeat(boxes, 1),
            labels=torch.arange(boxes),
            ignored=torch.arange(boxes) % 2 == 1,
        ),
        size=(height, width),
        stored_size=(2 * height, 3 * width),
        image_id=image_id,
        seed=image_id + 50,
    )


def test_collate_pads_at_the_bottom_and_right():
    batch = collate([sample_of(5, 20, boxes=3), sample_of(17, 3, image_id=2)], pad_multiple=8)
    assert batch.images.shape == (2, 3, 24, 24)
    assert batch.images.dtype == torch.float32
    for image, (height, width) in zip(batch.images, batch.sizes, strict=True):
        assert (image[:, :height, :width] == 1).all()
        assert image.sum() == 3 * height * width
    assert batch.sizes == ((5, 20), (17, 3))
    assert batch.stored_sizes == ((10, 60), (34, 9))
    assert (batch.image_ids, batch.seeds) == ((1, 2), (51, 52))
    assert batch.targets[0].boxes.tolist() == [[0, 1, 2, 3]] * 3
    assert batch.targets[0].ignored.tolist() == [False, True, False]
    assert batch.targets[1].boxes.shape == (0, 4)


def test_collate_leaves_a_fitting_size_alone():
    assert collate([sample_of(16, 32)], pad_multiple=16).images.shape == (1, 3, 16, 32)
    assert collate([sample_of(7, 9)], pad_multiple=1).images.shape == (1, 3, 7, 9)


def test_collate_of_images_without_boxes():
    batch = collate([sample_of(4, 4), sample_of(4, 4)], pad_multiple=4)
    assert [target.boxes.shape for target in batch.targets] == [(0, 4), (0, 4)]
    assert batch.targets[0].labels.dtype == torch.int64
    assert batch.targets[0].ignored.dtype == torch.bool


def test_collate_scales_every_value_exactly():
    sample = sample_of(16, 16)
    sample.image[0] = torch.arange(256).reshape(16, 16)
    red = collate([sample], pad_multiple=1).images[0, 0].flatten()
    assert torch.equal(red, torch.arange(256) / 255)


def test_collate_of_nothing_is_refused():
    with pytest.raises(DataError, match="A batch must have at least one sample, got none"):
        collate([], pad_multiple=8)


def test_two_workers_give_the_batches_of_none(dataset):
    alone = list(training_loader(dataset, batch_size=4, steps=9))
    helped = list(training_loader(dataset, batch_size=4, steps=9, workers=2))
    assert len(alone) == len(helped) == 9
    for one, other in zip(alone, helped, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_start_step_gives_the_rest_of_the_full_run(dataset, workers):
    full = list(training_loader(dataset, batch_size=3, steps=12))
    rest = list(training_loader(dataset, batch_size=3, steps=12, start_step=7, workers=workers))
    assert len(rest) == 5
    for one, other in zip(full[7:], rest, strict=True):
        assert_same(one, other)


def test_skipped_images_are_not_read(annotations):
    class Watched(DetectionDataset):
        def __getitem__(self, draw: Draw) -> Sample:
            read.append(draw)
            return super().__getitem__(draw)

    read: list[Draw] = []
    list(training_loader(Watched(annotations, image=IMAGE), batch_size=2, steps=10_000_000, start_step=9_999_998))
    assert len(read) == 4
    assert read[0].epoch == 2 * 9_999_998 // 11


def test_every_epoch_holds_every_image_once_in_another_order(dataset):
    ids = [image for batch in training_loader(dataset, batch_size=1, steps=33) for image in batch.image_ids]
    epochs = [ids[start : start + 11] for start in (0, 11, 22)]
    assert all(sorted(epoch) == list(range(100, 111)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_seeds_are_those_of_the_sample(dataset):
    batches = list(training_loader(dataset, batch_size=4, steps=6))
    position = 0
    for batch in batches:
        for image_id, seed in zip(batch.image_ids, batch.seeds, strict=True):
            assert seed == draw_seed(3, position // 11, image_id - 100)
            position += 1


def test_the_order_depends_on_the_seed(annotations, dataset):
    other = DetectionDataset(annotations, image=IMAGE, augment=AUGMENT, seed=4)
    first = next(iter(training_loader(dataset, batch_size=8, steps=1)))
    assert first.image_ids != next(iter(training_loader(other, batch_size=8, steps=1))).image_ids


def test_unlabelled_images_come_along_in_an_order_of_their_own(annotations, dataset, tmp_path):
    """The labelled ones are those of a run without; a resume, more workers and two ranks see the same."""
    others = DetectionDataset(write_annotations(tmp_path, 5), image=IMAGE, augment=AUGMENT, seed=9)
    plain = list(training_loader(dataset, batch_size=2, steps=5))
    whole = list(training_loader(dataset, batch_size=2, steps=5, beside=Beside(others, 2)))
    for one, other in zip(plain, whole, strict=True):
        assert_same(one, other)
    assert all(batch.unlabelled is None for batch in plain)
    shown = [batch.unlabelled for batch in whole if batch.unlabelled is not None]
    assert sorted(sum((batch.image_ids for batch in shown), ())) == sorted([*range(100, 105)] * 2)
    late = training_loader(dataset, batch_size=2, steps=5, start_step=3, workers=1, beside=Beside(others, 2))
    for one, other in zip(whole[3:], late, strict=True):
        assert one.unlabelled is not None
        assert other.unlabelled is not None
        assert_same(one.unlabelled, other.unlabelled)
    halves = [
        list(training_loader(dataset, batch_size=1, steps=5, rank=rank, ranks=2, beside=Beside(others, 1)))
        for rank in (0, 1)
    ]
    for step, batch in enumerate(shown):
        assert batch.seeds == sum((half[step].unlabelled.seeds for half in halves), ())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_partition_the_global_batch(dataset, ranks):
    whole = list(training_loader(dataset, batch_size=2 * ranks, steps=5))
    slices = [list(training_loader(dataset, batch_size=2, steps=5, rank=rank, ranks=ranks)) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        assert batch.image_ids == sum((part[step].image_ids for part in slices), ())
        assert batch.seeds == sum((part[step].seeds for part in slices), ())


def test_a_data_set_smaller_than_the_batch_wraps_around(tmp_path):
    dataset = DetectionDataset(write_annotations(tmp_path, 3), image=IMAGE, augment=AUGMENT)
    batches = list(training_loader(dataset, batch_size=8, steps=3))
    ids = [image for batch in batches for image in batch.image_ids]
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert all(sorted(ids[start : start + 3]) == [100, 101, 102] for start in range(0, 24, 3))
    assert len({seed for batch in batches for seed in batch.seeds}) == 24


def test_no_steps_give_no_batches(dataset):
    assert list(training_loader(dataset, batch_size=2, steps=5, start_step=5)) == []
    assert len(training_loader(dataset, batch_size=2, steps=5, start_step=1)) == 4


def test_iterating_again_starts_again(dataset):
    loader = training_loader(dataset, batch_size=2, steps=4, workers=1)
    first = next(iter(loader))  # left in the middle
    again = list(loader)
    assert len(again) == 4
    assert_same(first, again[0])


def test_the_global_generator_stays_untouched(dataset):
    state = torch.get_rng_state()
    list(training_loader(dataset, batch_size=2, steps=2))
    list(training_loader(dataset, batch_size=2, steps=2, workers=1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_the_order_and_every_image(annotations, workers):
    loader = evaluation_loader(DetectionDataset(annotations, image=IMAGE), batch_size=4, workers=workers)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert len(loader) == 3
    assert [image for batch in batches for image in batch.image_ids] == list(range(100, 111))
    assert [len(batch) for batch in loader] == [4, 4, 3]


def test_boxes_map_back_to_the_stored_image(annotations):
    index = 0
    for batch in evaluation_loader(DetectionDataset(annotations, image=IMAGE), batch_size=4):
        for size, stored, targets in zip(batch.sizes, batch.stored_sizes, batch.targets, strict=True):
            factors = torch.tensor([stored[1] / size[1], stored[0] / size[0]] * 2)
            expected = torch.from_numpy(annotations.boxes[annotations.objects(index)])
            assert stored == tuple(annotations.sizes[index])
            torch.testing.assert_close(targets.boxes * factors, expected)
            index += 1


def test_evaluation_of_no_images_gives_no_batches(tmp_path):
    empty = DetectionDataset(write_annotations(tmp_path, 0), image=IMAGE)
    assert list(evaluation_loader(empty, batch_size=4)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_image_gives_its_own_sentence_from_a_worker_too(tmp_path, workers):
    annotations = write_annotations(tmp_path, 4)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError) as caught:
        list(evaluation_loader(DetectionDataset(annotations, image=IMAGE), batch_size=1, workers=workers))
    assert str(caught.value).startswith(f"Image 102 ({tmp_path}/2.png) must be a readable file, got: No such file")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0. Give such a number."),
        ({"steps": -1}, "steps must be at least 0, got -1."),
        ({"start_step": 6}, "start_step must be between 0 and 5, got 6."),
        ({"workers": -1}, "workers must be at least 0, got -1."),
        ({"ranks": 0}, "ranks must be at least 1, got 0."),
        ({"rank": 1}, "rank must be between 0 and 0, got 1."),
    ],
)
def test_numbers_out_of_range_are_refused(dataset, wrong, message):
    with pytest.raises(ConfigError, match=message):
        training_loader(dataset, **{"batch_size": 2, "steps": 5, **wrong})


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 0), (1, -1)])
def test_evaluation_refuses_numbers_out_of_range(dataset, batch_size, workers):
    with pytest.raises(ConfigError, match="must be at least"):
        evaluation_loader(dataset, batch_size=batch_size, workers=workers)


def test_training_on_no_images_is_refused(tmp_path):
    empty = DetectionDataset(write_annotations(tmp_path, 0), image=IMAGE)
    with pytest.raises(DataError, match="The training set must have at least one image, got none"):
        training_loader(empty, batch_size=2, steps=3)


def signal_from_elsewhere(number: int, pid: int) -> None:
    subprocess.run(["/bin/sh", "-c", f"kill -{number} {pid}"], check=True)


def test_workers_outlast_signals_to_the_group_but_not_their_parents(dataset):
    others = set(multiprocessing.active_children())
    batches = iter(evaluation_loader(dataset, batch_size=1, workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    for number in (signal.SIGINT, signal.SIGTERM):
        signal_from_elsewhere(number, worker.pid)
    time.sleep(0.3)
    assert len(list(batches)) == 10

    batches = iter(evaluation_loader(dataset, batch_size=1, workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(timeout=5)
    assert worker.exitcode == 0


@pytest.mark.parametrize("end", ["all read", "left early", "error"])
def test_workers_end_with_the_iteration(tmp_path, end):
    annotations = write_annotations(tmp_path, 6)
    loader = evaluation_loader(DetectionDataset(annotations, image=IMAGE), batch_size=1, workers=2)
    others = set(multiprocessing.active_children())
    started = time.monotonic()
    if end == "error":
        (tmp_path / "5.png").unlink()
        with pytest.raises(DataError):
            list(loader)
    elif end == "left early":
        next(iter(loader))
    else:
        list(loader)
    assert set(multiprocessing.active_children()) <= others
    assert time.monotonic() - started < 4


def test_a_worker_that_is_killed_while_it_is_told_to_end_is_missed_by_nobody(tmp_path, monkeypatch):
    """An error of its loss in the collection of garbage would be printed as a traceback, and no run would notice."""
    shut_down = _MultiProcessingDataLoaderIter._shutdown_workers

    def killing(iterator):
        for worker in iterator._workers:
            worker.kill()
        shut_down(iterator)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", killing)
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: printed.append(raised.exc_value))
    annotations = write_annotations(tmp_path, 3)
    batches = iter(evaluation_loader(DetectionDataset(annotations, image=IMAGE), batch_size=1, workers=2))
    next(batches)
    batches.close()
    assert not printed


ORPHANS = """
import sys
from pathlib import Path
import multiprocessing, torch
torch.set_num_threads(2)
torch.randn(400, 400) @ torch.randn(400, 400)   # the main process has OpenMP threads when it forks
torch.randn(10_000_000).sum()
sys.path.insert(0, sys.argv[2])
import test_loader as t
dataset = t.DetectionDataset(t.write_annotations(Path(sys.argv[1]), 5), image=t.IMAGE, augment=t.AUGMENT)
for step, batch in enumerate(t.training_loader(dataset, batch_size=2, steps=10**9, workers=2)):
    batch.images.sum()
    if step == 20:
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_main_process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    states = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in alive]
    assert all(state == "Z" for state in states)
