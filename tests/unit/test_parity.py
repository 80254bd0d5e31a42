"""What two programs found is compared as sets."""

from __future__ import annotations

import numpy as np
import pytest

from detdistill.evaluation.coco import ImageDetections
from detdistill.export.parity import agreement


def found(*rows: tuple[float, float, float, float, float, int]) -> ImageDetections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return ImageDetections(1, table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_the_order_of_equal_scores_does_not_matter() -> None:
    one = found((0, 0, 10, 10, 0.5, 0), (50, 50, 60, 60, 0.5, 1), (50, 50, 60, 60, 0.4, 0))
    other = found((50, 50.25, 60, 60, 0.5, 1), (50, 50, 60, 60, 0.375, 0), (0, 0, 10, 10, 0.5, 0))
    told = agreement([one], [other])
    assert (told.matched, told.one_alone, told.other_alone) == (3, 0, 0)
    assert told.box == pytest.approx(0.25)
    assert told.score == pytest.approx(0.025)
    assert told.text().startswith("all 3 boxes matched; largest difference of a box 0.25 px (99 % of them: ")


def test_what_one_alone_found_has_no_match() -> None:
    one = found((0, 0, 10, 10, 0.5, 0), (0, 0, 10, 10, 0.5, 1), (0, 0, 11, 10, 0.3, 0))
    other = found((0, 0, 10, 10, 0.5, 0), (6, 0, 16, 10, 0.5, 1))
    told = agreement([one, found()], [other, found((0, 0, 1, 1, 0.1, 0))])
    assert (told.matched, told.one_alone, told.other_alone) == (1, 2, 2)
    assert (told.box, told.score) == (0, 0)
    assert "1 boxes matched, 4 without a match" in told.text()
    assert agreement([found()], [found()]).as_dict() == {
        "matched": 0,
        "one_alone": 0,
        "other_alone": 0,
        "box": 0.0,
        "box_99": 0.0,
        "score": 0.0,
    }
