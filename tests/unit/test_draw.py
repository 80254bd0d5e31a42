from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from detdistill.errors import ShapeError
from detdistill.evaluation.coco import ImageDetections
from detdistill.report.draw import Mark, detection_marks, draw_detections, draw_marks, legend, truth_marks
from detdistill.report.palette import CLASS_COLOURS, IGNORED, class_colour, contrast, text_on

GREY = (120, 120, 120)
NAMES = ("car", "truck")


def canvas(width: int = 480, height: int = 240) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(axis=-1).sum())


def dark(image: Image.Image) -> int:
    return int((np.asarray(image).max(axis=-1) < 80).sum())


def detections(*objects: tuple) -> ImageDetections:
    return ImageDetections(
        1,
        np.array([one[0] for one in objects], dtype=np.float32).reshape(-1, 4),
        np.array([one[2] for one in objects], dtype=np.float32),
        np.array([one[1] for one in objects], dtype=np.int64),
    )


def test_an_image_without_marks_stays_as_it_is():
    image = canvas()
    drawn = draw_marks(image, [], class_names=NAMES)
    assert drawn is not image
    assert np.array_equal(np.asarray(drawn), np.asarray(image))


def test_the_given_image_is_not_changed():
    image = canvas()
    draw_marks(image, [Mark((10, 50, 100, 100), 0, 0.9)], class_names=NAMES)
    assert count(image, GREY) == 480 * 240


def test_a_box_has_its_class_colour_on_its_edges():
    drawn = draw_marks(canvas(), [Mark((100, 100, 200, 150), 1, 0.87)], class_names=NAMES)
    for corner in ((100, 125), (199, 125), (150, 100), (150, 149)):
        assert drawn.getpixel(corner) == class_colour(1)
    assert drawn.getpixel((150, 125)) == GREY


def test_a_small_image_is_enlarged_with_its_boxes():
    drawn = draw_marks(canvas(160, 96), [Mark((40, 40, 80, 60), 0)], class_names=NAMES)
    assert drawn.size == (480, 288)
    assert drawn.getpixel((120, 150)) == class_colour(0)
    assert drawn.getpixel((239, 150)) == class_colour(0)


def test_a_label_is_readable_text_on_the_class_colour():
    with_score = draw_marks(canvas(), [Mark((100, 100, 200, 150), 0, 0.87)], class_names=NAMES)
    without = draw_marks(canvas(), [Mark((100, 100, 200, 150), 0)], class_names=NAMES)
    assert dark(with_score.crop((98, 80, 200, 98))) > dark(without.crop((98, 80, 200, 98))) + 60
    assert count(with_score, class_colour(0)) > count(without, class_colour(0)) + 100


def test_labels_of_equal_boxes_do_not_hide_each_other():
    box = (200.0, 100.0, 260.0, 150.0)
    one = draw_marks(canvas(), [Mark(box, 0, 0.9)], class_names=NAMES)
    two = draw_marks(canvas(), [Mark(box, 0, 0.9), Mark(box, 0, 0.8)], class_names=NAMES)
    assert count(two, class_colour(0)) > count(one, class_colour(0)) + 500
    assert dark(two) > dark(one) + 40


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 5, 5),
        (470, 230, 480, 240),
        (0, 0, 480, 240),
        (50, 50, 50, 50),
        (-20, -20, 600, 400),
        (60, 60, 59.5, 59.5),
    ],
)
def test_boxes_at_the_rim_and_empty_boxes_keep_a_whole_label(box):
    drawn = draw_marks(canvas(), [Mark(box, 0, 0.5)], class_names=NAMES)
    assert drawn.size == (480, 240)
    assert dark(drawn) > 80


def test_labels_outside_the_known_names_are_numbered():
    assert draw_marks(canvas(), [Mark((50, 50, 90, 90), 20, 0.5)], class_names=NAMES).size == (480, 240)
    assert legend([Mark((0, 0, 1, 1), 20)], class_names=NAMES, width_px=200).width == 200


def test_an_ignored_region_is_dashed_without_a_class():
    drawn = draw_marks(canvas(), [Mark((100, 100, 300, 200), 0, faint=True)], class_names=NAMES)
    assert count(drawn, class_colour(0)) == 0
    row = np.asarray(drawn)[101, 100:300]
    is_dash = (row == IGNORED).all(axis=-1)
    assert 0.3 < is_dash.mean() < 0.7


def test_detection_marks_are_best_first_and_above_the_threshold():
    box = (1, 2, 3, 4)
    marks = detection_marks(detections((box, 0, 0.3), (box, 1, 0.9), (box, 0, 0.2)), score_threshold=0.3)
    assert [(mark.label, round(mark.score or 0, 2)) for mark in marks] == [(1, 0.9), (0, 0.3)]
    assert detection_marks(detections(), score_threshold=0.3) == ()


def test_truth_marks_flag_ignored_objects():
    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=np.float32)
    marks = truth_marks(boxes, np.array([1, 0]), ignored=np.array([False, True]))
    assert marks == (Mark((1, 2, 3, 4), 1), Mark((5, 6, 7, 8), 0, faint=True))
    assert truth_marks(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)) == ()


def test_truth_of_unequal_lengths_is_refused():
    with pytest.raises(ShapeError, match="must be equally many, got 1, 2 and 1"):
        truth_marks(np.zeros((1, 4), dtype=np.float32), np.zeros(2, dtype=np.int64))


def test_draw_detections_adds_a_legend_below():
    drawn = draw_detections(canvas(), detections(((50, 50, 90, 90), 0, 0.9), ((5, 5, 9, 9), 1, 0.1)), class_names=NAMES)
    assert drawn.width == 480
    assert drawn.height > 240
    strip = drawn.crop((0, 240, 480, drawn.height))
    assert count(strip, class_colour(0)) > 100
    assert count(strip, class_colour(1)) == 0


def test_a_legend_wraps_and_shows_every_class_once():
    names = [f"a rather long class name {i}" for i in range(12)]
    marks = [Mark((0, 0, 1, 1), label) for label in range(12)]
    narrow = legend(marks, class_names=names, width_px=480)
    wide = legend([*marks, *marks], class_names=names, width_px=4800)
    assert narrow.height > 4 * wide.height
    for label in range(12):
        assert 100 < count(wide, class_colour(label)) < 400
        assert count(narrow, class_colour(label)) == count(wide, class_colour(label))


def test_class_colours_differ_and_carry_readable_text():
    assert len(set(CLASS_COLOURS)) == len(CLASS_COLOURS)
    for colour in CLASS_COLOURS:
        assert contrast(colour, text_on(colour)) >= 4.5
    assert class_colour(0) == class_colour(len(CLASS_COLOURS))


def simulated(colour: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """The colour as a colour-blind person sees it, in linear light."""
    return matrix @ ((np.array(colour) / 255) ** 2.2)


@pytest.mark.parametrize("kind", ["protanopia", "deuteranopia"])
def test_the_first_seven_colours_stay_apart_for_the_colour_blind(kind):
    # Viénot, Brettel and Mollon (1999), linear RGB.
    short = np.array([0.004, -0.004, 1.0])
    red_green = {"protanopia": (0.112, 0.888), "deuteranopia": (0.293, 0.707)}[kind]
    matrix = np.array([[*red_green, 0.0], [*red_green, 0.0], short])
    for one, other in itertools.combinations(CLASS_COLOURS[:7], 2):
        assert np.abs(simulated(one, matrix) - simulated(other, matrix)).max() > 0.08, (one, other)
