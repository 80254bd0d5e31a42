"""Several data sets as one: classes, images and ids, what is told of them, and how often each is drawn."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from detdistill.data.annotations import Annotations
from detdistill.data.dataset import DetectionDataset
from detdistill.data.loader import training_loader
from detdistill.data.mixture import Mixture
from detdistill.data.transforms import AugmentSettings, ImageSettings
from detdistill.data.union import united_names
from detdistill.errors import ConfigError, DataError
from detdistill.jobs.config import read_run_config
from detdistill.jobs.inputs import open_data_sets
from detdistill.jobs.settings import DataSettings
from folders_by_hand import make_coco, make_kitti, make_voc, make_yolo
from tiny_training import images_on_disk
from watched_jobs import Watcher


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sets")
    makers = {"coco": make_coco, "voc": make_voc, "yolo": make_yolo, "kitti": make_kitti}
    return {name: make(home / name) for name, make in makers.items()}


def seen(annotations: Annotations) -> list[list[tuple[str, list[float]]]]:
    return [
        [
            (
                annotations.class_names[annotations.labels[row]],
                [round(edge) for edge in annotations.boxes[row].tolist()],
            )
            for row in range(annotations.offsets[index], annotations.offsets[index + 1])
            if not annotations.ignored[row]
        ]
        for index in range(len(annotations))
    ]


def test_sets_of_different_formats_are_one(folders: dict[str, Path]) -> None:
    watcher = Watcher()
    names = ("voc", "kitti", "yolo", "coco")
    sets, train, val = open_data_sets(DataSettings(folder=tuple(folders[name] for name in names)), progress=watcher)
    assert [len(one) for one in sets] == [3] * 4
    # The first set's classes first, then what KITTI adds.
    assert train.class_names == val.class_names == ("Car", "Van", *sets[1].class_names[2:])
    assert train.category_ids.tolist() == list(range(1, 9))
    for split, images in ((train, 3), (val, 2)):
        assert len(set(split.image_ids.tolist())) == len(split) == 4 * images
        assert all(split.path(index).is_file() for index in range(len(split)))
        first, *others = (seen(split)[part * images : (part + 1) * images] for part in range(4))
        assert all(other == first for other in others)
    for name, start in zip(names, range(0, 12, 3), strict=True):
        assert train.path(start).is_relative_to(folders[name])
    text = watcher.text()
    assert f"train data {folders['coco']}: 3 images; Car 1, Van 2\n" in text
    assert f"val data {folders['kitti']}: 2 images; Car 2, Van 1, Truck 0" in text
    others = ", ".join(train.class_names[2:])
    assert (
        f"classes {others} are annotated in {folders['kitti']} alone: in the images of {folders['voc']} and "
        f"{folders['yolo']} and {folders['coco']} such objects count as background" in text
    )
    assert "too, such as" not in text


def test_ids_stay_where_they_are_unique_and_one_set_stays_as_it_is(folders: dict[str, Path]) -> None:
    _, one, _ = open_data_sets(DataSettings(folder=folders["coco"]), progress=Watcher())
    _, both, _ = open_data_sets(DataSettings(folder=(folders["coco"], folders["yolo"])), progress=Watcher())
    # COCO's are 0, 1, 2 and YOLO's 1, 2, 3.
    assert one.image_ids.tolist() == [0, 1, 2]
    assert both.image_ids.tolist() == [0, 1, 2, 3, 4, 5]
    sets, same, _ = open_data_sets(DataSettings(folder=(folders["coco"],)), progress=Watcher())
    assert same is sets[0]


def test_classes_are_chosen_from_all_sets(folders: dict[str, Path]) -> None:
    both = (folders["coco"], folders["kitti"])
    _, train, val = open_data_sets(DataSettings(folder=both, classes=("Truck", "Van")), progress=Watcher())
    assert train.class_names == val.class_names == ("Truck", "Van")
    assert Counter(train.labels.tolist()) == {1: 4}
    with pytest.raises(DataError, match=r"coco must be \['Truck'\], got \['Car', 'Van'\]"):
        open_data_sets(DataSettings(folder=both, classes=("Truck",)), progress=Watcher())


def test_validation_may_be_of_one_set_and_must_know_no_other_classes(folders: dict[str, Path]) -> None:
    both = (folders["coco"], folders["kitti"])
    _, train, val = open_data_sets(DataSettings(folder=both, val=folders["voc"]), progress=Watcher())
    assert (len(train), len(val)) == (6, 2)
    assert val.class_names == train.class_names
    with pytest.raises(DataError, match=r"kitti must be \['Car', 'Van'\], got .*unknown \['Truck'"):
        open_data_sets(DataSettings(folder=(folders["coco"], folders["voc"]), val=folders["kitti"]), progress=Watcher())


def test_images_of_two_sets_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    other = make_coco(tmp_path / "other")
    for name, source in (("b", "a"), ("c", "d")):
        (other / f"images/{name}.png").unlink()
        os.link(folders["coco"] / f"images/{source}.png", other / f"images/{name}.png")
    (other / "images/e.png").unlink()
    (other / "images/e.png").symlink_to(folders["coco"] / "images/a.png")
    watcher = Watcher()
    open_data_sets(DataSettings(folder=(folders["coco"], other)), progress=watcher)
    told = [line for line in watcher.lines if "too, such as" in line]
    one, two = folders["coco"], other
    learned = ": AP says little about new ones"
    assert told == [
        f"1 images of the train data of {two} are in the train data of {one} too, such as {two}/images/b.png",
        f"1 images of the val data of {one} are in the train data of {two} too, such as {one}/images/d.png{learned}",
        f"1 images of the val data of {two} are in the train data of {one} too, such as {two}/images/e.png{learned}",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"folder": (Path("a"), Path("b"), Path("a"))},
            r"The train data must be different data sets, got a twice\. Leave",
        ),
        ({"folder": (Path("a"), Path("b/../a/"))}, r"The train data must be different data sets, got b/\.\./a twice"),
        ({"folder": ()}, r"data\.folder must be a data set folder or a COCO JSON, got nothing"),
        (
            {"folder": Path("a"), "weights": (1.0,)},
            r"for each of several .* here 1, got \[1\.0\]\. .* data\.weights=null",
        ),
        ({"folder": (Path("a"), Path("b")), "weights": (1.0, 0.0)}, r"here 2, got \[1\.0, 0\.0\]\. .*=\[1,1\]\."),
        ({"folder": (Path("a"), Path("b")), "train": Path("c"), "weights": (1.0, 2.0)}, r"here 1, got \[1\.0, 2\.0\]"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSettings(**settings)  # type: ignore[arg-type]


def test_several_sets_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: [a, b]\nstudent: fcos/tiny\nout: x\n")
    config = read_run_config(file, ["data.weights=[1, 3]"], purpose="train")
    assert config.data == DataSettings(folder=(Path("a"), Path("b")), weights=(1.0, 3.0))
    file.write_text(config.yaml())
    assert read_run_config(file, purpose="train") == config
    changed = read_run_config(file, ["data.folder.1=c"], purpose="train")
    assert changed.data.folder == (Path("a"), Path("c"))
    single = read_run_config(file, ["data.weights=null"], purpose="train", options={"data.folder": "d"})
    assert single.data == DataSettings(folder=Path("d"))


def test_united_names_are_those_of_the_first_set_first(folders: dict[str, Path]) -> None:
    sets = open_data_sets(DataSettings(folder=(folders["kitti"], folders["voc"])), progress=Watcher())[0]
    assert united_names(sets) == sets[0].class_names
    assert united_names(sets[::-1])[:2] == ("Car", "Van")


# --- weights --------------------------------------------------------------------------------------------------------


def drawn(mixture: Mixture, count: int) -> list[tuple[int, int]]:
    """Whole epochs, so many draws or more."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        start, order = mixture.epoch_of(len(found))
        assert start == len(found)
        found += order
    return found


@pytest.mark.parametrize(
    ("sizes", "weights"), [((7, 5), (1, 3)), ((40, 3, 9), (0.1, 2.5, 1)), ((1, 1), (1, 1000)), ((3, 100), (10, 0.01))]
)
def test_images_are_drawn_by_their_sets_weight_and_equally_within_it(
    sizes: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    draws = drawn(Mixture(sizes, weights, seed=3), 6000)
    assert len(set(draws)) == len(draws)  # no pass over a set shows an image twice: nothing is augmented twice alike
    counts, start = Counter(index for _, index in draws), 0
    total = sum(size * weight for size, weight in zip(sizes, weights, strict=True))
    for size, weight in zip(sizes, weights, strict=True):
        own = [counts[index] for index in range(start, start + size)]
        assert max(own) - min(own) <= 1
        assert sum(own) == pytest.approx(len(draws) * size * weight / total, abs=2)
        start += size


def test_only_the_ratio_of_weights_counts_and_the_seed_decides() -> None:
    first = drawn(Mixture((7, 5), (1, 3), seed=3), 100)
    assert drawn(Mixture((7, 5), (0.5, 1.5), seed=3), 100) == first
    assert drawn(Mixture((7, 5), (1, 3), seed=4), 100) != first
    # Sets are mixed, and a set's images are not in its own order.
    places = [index < 7 for _, index in first[:12]]
    assert places != sorted(places)
    assert places != sorted(places, reverse=True)
    ones = [index for _, index in first if index < 7][:7]
    assert sorted(ones) == list(range(7)) != ones


def test_the_batches_of_a_mixture_are_a_function_of_the_step(tmp_path: Path) -> None:
    dataset = images_on_disk(tmp_path / "images", count=10)
    mixture = Mixture((4, 6), (3, 1), seed=dataset.seed)
    options = {"batch_size": 4, "steps": 9, "mixture": mixture}
    whole = [batch.image_ids for batch in training_loader(dataset, **options)]
    assert [one.image_ids for one in training_loader(dataset, **options, start_step=5)] == whole[5:]
    ranks = [training_loader(dataset, **options | {"batch_size": 2}, rank=rank, ranks=2) for rank in (0, 1)]
    assert [one.image_ids + other.image_ids for one, other in zip(*ranks, strict=True)] == whole
    counts = Counter(index for batch in whole for index in batch)
    # 36 draws: about 24 of the first set's 4 images, and 12 of the other's 6.
    assert all(counts[index] in ((5, 6, 7) if index < 4 else (1, 2, 3)) for index in range(10))


def test_an_image_drawn_twice_in_an_epoch_is_augmented_twice_differently(tmp_path: Path) -> None:
    annotations = images_on_disk(tmp_path / "images", count=3).annotations
    augment = AugmentSettings(flip=0.0, colour=1.0)
    dataset = DetectionDataset(annotations, image=ImageSettings(12, 16, 4), augment=augment, seed=3)
    batches = training_loader(dataset, batch_size=3, steps=4, mixture=Mixture((1, 2), (10, 1), seed=3))
    shown = [image for batch in batches for own, image in zip(batch.image_ids, batch.images, strict=True) if own == 0]
    assert len(shown) == 10
    assert all(not torch.equal(one, other) for at, one in enumerate(shown) for other in shown[:at])
