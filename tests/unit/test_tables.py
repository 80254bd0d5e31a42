from __future__ import annotations

import json

from detdistill.evaluation.coco import CocoMetrics
from detdistill.report.tables import Table, class_change, per_class, results_json, side_by_side


def metrics(ap: float | None, **classes: float | None) -> CocoMetrics:
    return CocoMetrics(ap, 60.0, 30.0, None, 20.0, 40.0, classes)


RESULTS = {"teacher": metrics(35.0), "alone": metrics(20.0), "distilled": metrics(24.56)}


def test_rows_stand_side_by_side_with_the_difference_from_alone():
    table = side_by_side(RESULTS)
    assert table.columns == ("model", "AP", "AP50", "AP75", "APs", "APm", "APl", "AP vs alone")
    assert [row[0] for row in table.rows] == ["teacher", "alone", "distilled"]
    assert table.rows[2][1:7] == (24.56, 60.0, 30.0, None, 20.0, 40.0)
    assert [row[7] for row in table.rows] == [15.0, None, 24.56 - 20.0]


def test_the_text_is_aligned_and_signed():
    assert side_by_side(RESULTS).text() == "\n".join(
        [
            "model        AP  AP50  AP75  APs   APm   APl  AP vs alone",
            "─────────  ────  ────  ────  ───  ────  ────  ───────────",
            "teacher    35.0  60.0  30.0    –  20.0  40.0        +15.0",
            "alone      20.0  60.0  30.0    –  20.0  40.0            –",
            "distilled  24.6  60.0  30.0    –  20.0  40.0         +4.6",
        ]
    )


def test_a_loss_is_shown_as_one():
    table = side_by_side({"alone": metrics(20.0), "distilled": metrics(18.0)})
    assert table.text().splitlines()[-1].endswith("-2.0")


def test_unknown_results_are_dashes():
    table = side_by_side({"teacher": metrics(35.0), "alone": None, "distilled": metrics(None)})
    assert table.rows[1] == ("alone", *[None] * 7)
    assert [row[7] for row in table.rows] == [None, None, None]


def test_without_a_baseline_there_is_nothing_to_compare_with():
    table = side_by_side({"distilled": metrics(3.0)})
    assert table.columns == ("model", "AP", "AP50", "AP75", "APs", "APm", "APl")
    assert table.rows == (("distilled", 3.0, 60.0, 30.0, None, 20.0, 40.0),)


def test_another_baseline_names_its_column():
    table = side_by_side({"before": metrics(1.0), "after": metrics(3.0)}, baselines=("before",))
    assert table.columns[-1] == "AP vs before"
    assert table.rows[1][-1] == 2.0


def test_classes_have_one_column_per_measured_model():
    table = per_class({"teacher": metrics(1, car=50.0, van=None), "alone": None, "new": metrics(1, car=40.0)})
    assert table == Table(("class", "teacher", "new"), (("car", 50.0, 40.0), ("van", None, None)))


def test_an_empty_table_is_its_header():
    assert Table(("a", "bb"), ()).text() == "a  bb\n─  ──"
    assert side_by_side({}).rows == ()


def test_records_are_json():
    table = Table(("name", "n", "x"), (("a", 3, 1.25), ("b", None, None)))
    assert table.text(decimals=2).splitlines()[2:] == ["a     3  1.25", "b     –     –"]
    assert json.loads(json.dumps(table.records())) == [
        {"name": "a", "n": 3, "x": 1.25},
        {"name": "b", "n": None, "x": None},
    ]


def test_results_json_has_percent_and_null():
    content = results_json({"teacher": metrics(35.0, car=1.5), "alone": None, "distilled": metrics(None)})
    assert content["teacher"]["AP"] == 35.0
    assert content["teacher"]["AP50"] == 60.0
    assert content["teacher"]["per_class"] == {"car": 1.5}
    assert content["alone"] is None
    assert content["distilled"]["AP"] is None
    assert "null" in json.dumps(content, allow_nan=False)


def test_the_change_by_class_is_signed_and_unknown_where_a_side_is():
    results = {"alone": metrics(1.0, car=10.0, dog=None), "distilled": metrics(2.0, car=12.5, dog=3.0)}
    table = per_class(results, change=("distilled", "alone"))
    assert table.columns == ("class", "alone", "distilled", "distilled vs alone")
    assert table.rows == (("car", 10.0, 12.5, 2.5), ("dog", None, 3.0, None))
    assert "+2.5" in table.text()
    assert class_change(results, "distilled", "alone") == {"car": 2.5, "dog": None}
    assert per_class({**results, "alone": None}, change=("distilled", "alone")).columns == ("class", "distilled")


def test_every_baseline_has_its_column():
    table = side_by_side({"alone": metrics(1.0), "longer": metrics(2.0)}, baselines=("alone", "longer"))
    assert table.columns[-2:] == ("AP vs alone", "AP vs longer")
    assert [row[-2:] for row in table.rows] == [(None, -1.0), (1.0, None)]
