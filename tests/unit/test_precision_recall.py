"""Curves of precision against recall: worked out by hand, equal to COCO's AP50, and as people get them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detdistill.cli import main
from detdistill.errors import ConfigError
from detdistill.evaluation.coco import evaluate_coco
from detdistill.evaluation.precision_recall import PrecisionRecall, precision_recall
from detdistill.files import CONFUSION, CURVES
from detdistill.report.palette import class_colour, require_png
from detdistill.report.precision_recall import draw_precision_recall
from few_boxes import FAR, LEFT, RIGHT, found, split
from scored_scenes import scene


def test_worked_out_by_hand() -> None:
    # Down the scores: right, wrong, right. Precision 1 up to recall 1/2, then 2/3 up to 1; no truck to find.
    truth = split([(LEFT, 0, False), (RIGHT, 0, False)])
    curves = precision_recall(truth, [found(0, (LEFT, 0, 0.9), (FAR, 0, 0.8), (RIGHT, 0, 0.7), (FAR, 1, 0.9))])
    assert curves.precisions[0].tolist() == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert np.isnan(curves.precisions[1]).all()
    assert curves.objects.tolist() == [2, 0]
    assert precision_recall(truth, []).precisions[0].tolist() == [0.0] * 101


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_of_the_curves_is_cocos_ap50(seed: int) -> None:
    truth, detections = scene(seed)
    curves = precision_recall(truth, detections)
    assert np.nanmean(curves.average()) == pytest.approx(evaluate_coco(truth, detections).ap50, abs=1e-9)


@pytest.mark.parametrize("classes", [0, 2, 40])
def test_every_class_has_its_colour_and_the_file_says_what_it_is(tmp_path: Path, classes: int) -> None:
    objects = np.array([3] * classes + [0], dtype=np.int64)
    level = np.where(objects[:, None] > 0, np.linspace(0.9, 0.2, classes + 1)[:, None] * np.ones(101), np.nan)
    names = tuple(f"class {label}" for label in range(classes + 1))
    out = tmp_path / "curves.png"
    draw_precision_recall(PrecisionRecall(level, names, objects), out, title="a detector")
    require_png(out, CURVES, option="--curves")
    with pytest.raises(ConfigError, match="which is another"):
        require_png(out, CONFUSION, option="--confusion")
    with Image.open(out) as picture:
        shown = {colour for _, colour in picture.convert("RGB").getcolors(picture.width * picture.height)}
    assert {class_colour(label) for label in range(min(classes, 10))} <= shown


def test_curves_are_refused_at_once_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "no_such_run", "--data", "no_such_data", "--curves", "a.png", "--protocol", "kitti"]
    assert main(words) == 2
    said = "--curves must come with a protocol over the data's own classes, got kitti. Add --protocol coco."
    assert capsys.readouterr().err == f"error: {said}\n"
