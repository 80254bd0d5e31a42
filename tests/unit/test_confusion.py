"""The confusion matrix: counted by hand, its sums whatever the case, and as people get it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detdistill.cli import main
from detdistill.errors import ConfigError
from detdistill.evaluation.confusion import confusion_matrix
from detdistill.evaluation.error_types import KINDS
from detdistill.report.confusion import draw_confusion
from detdistill.scenes import SCENE_CLASSES, make_scenes
from few_boxes import FAR, LEFT, RIGHT, found, split
from thorough import cases


@pytest.mark.parametrize(
    ("objects", "detections", "counts"),
    [
        ([(LEFT, 0, False)], [(LEFT, 0, 0.9)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ([(LEFT, 0, False)], [(LEFT, 1, 0.9)], [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ([(LEFT, 0, False)], [], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        ([(LEFT, 0, False)], [(LEFT, 0, 0.29)], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        ([], [(LEFT, 1, 0.9)], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        # Two classes on one object: the surer one takes it, whatever it is.
        ([(LEFT, 0, False)], [(LEFT, 0, 0.5), (LEFT, 1, 0.9)], [[0, 1, 0], [0, 0, 0], [1, 0, 0]]),
        # Two objects in one place: each detection takes that of its own class.
        (
            [(LEFT, 1, False), (LEFT, 0, False)],
            [(LEFT, 0, 0.9), (LEFT, 1, 0.8)],
            [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
        ),
        # An overlap of 1/3 is none; a box of 6 of the object's 10 columns overlaps it by 0.6.
        ([(LEFT, 0, False)], [((5, 0, 15, 10), 0, 0.9)], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
        ([(LEFT, 0, False)], [((0, 0, 6, 10), 0, 0.9)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        # An ignored region is no object, and excuses what half lies in it, of any class.
        ([(LEFT, 0, True)], [(LEFT, 1, 0.9), ((5, 0, 15, 10), 1, 0.8)], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ([(LEFT, 0, True)], [((6, 0, 16, 10), 1, 0.8)], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        ([(LEFT, 0, True), (LEFT, 0, False)], [(LEFT, 0, 0.9)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        (
            [(LEFT, 0, False), (RIGHT, 1, False)],
            [(LEFT, 0, 0.9), (LEFT, 0, 0.8), (FAR, 1, 0.7)],
            [[1, 0, 0], [0, 0, 1], [1, 1, 0]],
        ),
    ],
)
def test_counted_by_hand(objects: list, detections: list, counts: list[list[int]]) -> None:
    matrix = confusion_matrix(split(objects), [found(0, *detections)])
    assert matrix.counts.tolist() == counts
    assert (matrix.rows, matrix.columns) == (("car", "truck", "background"), ("car", "truck", "missed"))


corner = st.integers(0, 30)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, st.integers(1, 20), st.integers(1, 20))
objects = st.lists(st.tuples(box, st.integers(0, 1), st.booleans()), max_size=5)
guesses = st.lists(st.tuples(box, st.integers(0, 1), st.sampled_from([0.1, 0.3, 0.5, 0.9])), max_size=6)


@settings(max_examples=cases(20, 60), deadline=None)
@given(st.lists(st.tuples(objects, guesses), min_size=1, max_size=3))
def test_what_the_rows_and_columns_add_up_to(images: list) -> None:
    annotations = split(*(truth for truth, _ in images))
    detections = [found(index, *said) for index, (_, said) in enumerate(images)]
    counts = confusion_matrix(annotations, detections).counts
    truths = np.bincount(annotations.labels[~annotations.ignored], minlength=2)
    said = np.bincount(np.concatenate([one.above(0.3).labels for one in detections]), minlength=2)
    assert counts[:2].sum(axis=1).tolist() == truths.tolist()
    assert (counts.sum(axis=0)[:2] <= said).all()
    if not annotations.ignored.any():
        assert counts.sum(axis=0)[:2].tolist() == said.tolist()
    assert counts[2, 2] == 0
    perfect = [
        found(index, *((one, label, 0.9) for one, label, ignored in truth if not ignored))
        for index, (truth, _) in enumerate(images)
    ]
    assert confusion_matrix(annotations, perfect).counts.tolist() == np.diag([*truths, 0]).tolist()


def test_a_score_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--score must be between 0 and 1, got 1\.5\. Leave it out\."):
        confusion_matrix(split([]), [], score=1.5)


def test_panels_stand_beside_each_other_whatever_the_number_of_classes(tmp_path: Path) -> None:
    matrix = confusion_matrix(split([(LEFT, 0, False)]), [found(0, (LEFT, 1, 0.9))])
    widths = []
    for count in (1, 2):
        draw_confusion({f"model {index}": matrix for index in range(count)}, tmp_path / "drawn.png")
        with Image.open(tmp_path / "drawn.png") as drawn:
            widths.append(drawn.width)
            # A dark cell where the car is taken for a truck, none on the diagonal.
            colours = {colour: number for number, colour in drawn.convert("RGB").getcolors(drawn.width * drawn.height)}
        assert colours[0, 114, 178] == pytest.approx(count * 48 * 48, rel=0.2)
    assert widths[1] == 2 * widths[0]
    many = type(matrix)(np.eye(901, dtype=np.int64), tuple(map(str, range(900))), 0.3)
    draw_confusion({"many": many}, tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as drawn:
        assert max(drawn.size) < 2600


def test_a_person_gets_it_from_a_run_and_from_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_scenes(tmp_path / "scenes", train=2, val=1, seed=0)
    run, drawn, told = tmp_path / "run", tmp_path / "confusion.png", tmp_path / "told.json"
    data = ["--data", str(tmp_path / "scenes")]
    settings = ["student.score_threshold=0.001", "evaluate.agnostic=true"]
    assert main(["train", *data, "--detector", "fcos/tiny", "--out", str(run), "--steps", "1", *settings]) == 0
    assert "boxes suppressed across classes" in capsys.readouterr().out
    assert json.loads((run / "results.json").read_text())["agnostic"] is True
    (run_errors,) = json.loads((run / "results.json").read_text())["error_types"].values()
    counts = json.loads((run / "confusion.json").read_text())["student"]
    assert counts["rows"] == [*SCENE_CLASSES, "background"]
    assert (run / "confusion.png").is_file()
    words = ["--agnostic", "--confusion", str(drawn), "--score", "0.001", "--json", str(told)]
    assert main(["evaluate", str(run), *data, *words]) == 0
    printed = capsys.readouterr().out
    assert f"confusion matrix in {drawn}" in printed
    assert "AP50 lost" in printed
    content = json.loads(told.read_text())
    assert content["agnostic"] is True
    assert content["error_types"] == run_errors
    assert run_errors.keys() == {"AP50", *KINDS}
    matrix = np.array(content["confusion"]["counts"])
    truths = json.loads((tmp_path / "scenes/val.json").read_text())["annotations"]
    assert matrix[:-1].sum() == sum(not one["iscrowd"] for one in truths)
    assert matrix[-1].sum() > 0
    assert drawn.is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--confusion", "a.jpg"],
            "--confusion must be a file name that ends in .png, got a.jpg. Write for example a.png.",
        ),
        (
            ["--confusion", "a.png", "--protocol", "kitti"],
            "--confusion must come with a protocol over the data's own classes, got kitti. Add --protocol coco.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_once(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "no_such_run", "--data", "no_such_data", *words]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
