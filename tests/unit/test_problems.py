from __future__ import annotations

from detdistill.data.problems import KEPT_PER_KIND, Problem, Problems


def test_no_problem_has_no_text():
    problems = Problems()
    assert problems.summary() == []
    assert list(problems) == []
    assert (len(problems), problems.repaired, problems.skipped, problems.counts) == (0, 0, 0, {})


def test_counts_by_kind_and_action():
    problems = Problems()
    problems.add("flat box", "a.json, annotation 3", what="bbox [1, 1, 0, 5]", action="skipped")
    problems.add("flat box", "a.json, annotation 4", what="bbox [1, 1, 0, 6]", action="skipped")
    problems.add("no size", "a.json, image 1", what="the file is 4x3", action="repaired")
    problems.add("no size", "a.json, image 2", what="no file", action="skipped")
    assert problems.counts == {"flat box": 2, "no size": 2}
    assert (problems.repaired, problems.skipped, len(problems)) == (1, 3, 4)
    problems.add("in both", "a.txt, line 1", what="'a'", action="kept")
    assert (problems.repaired, problems.skipped, len(problems)) == (1, 3, 5)
    assert problems.summary()[-2:] == ["in both: 1 kept", "  a.txt, line 1: 'a'"]
    assert next(iter(problems)) == Problem("flat box", "a.json, annotation 3", "bbox [1, 1, 0, 5]", "skipped")
    assert next(iter(problems)).text() == "a.json, annotation 3: bbox [1, 1, 0, 5] (skipped)"


def test_summary_shows_a_few_cases_and_counts_the_rest():
    problems = Problems()
    for number in range(5):
        problems.add("flat box", f"a.json, annotation {number}", what="w 0", action="skipped")
    assert problems.summary(examples=2) == [
        "flat box: 5 skipped",
        "  a.json, annotation 0: w 0",
        "  a.json, annotation 1: w 0",
        "  ... and 3 more",
    ]
    assert problems.summary(examples=0) == ["flat box: 5 skipped"]
    assert len(problems.summary(examples=5)) == 6


def test_counts_all_but_keeps_a_thousand_of_a_kind():
    problems = Problems()
    for number in range(KEPT_PER_KIND + 7):
        problems.add("flat box", str(number), what="w 0", action="skipped")
    assert len(problems) == KEPT_PER_KIND + 7
    assert len(list(problems)) == KEPT_PER_KIND
    assert problems.summary(examples=10**6)[-1] == "  ... and 7 more"


def test_extend_joins_collectors():
    one, other = Problems(), Problems()
    one.add("flat box", "a", what="w 0", action="skipped")
    other.add("flat box", "b", what="w 0", action="skipped")
    other.add("no size", "c", what="4x3", action="repaired")
    one.extend(other)
    assert one.counts == {"flat box": 2, "no size": 1}
    assert [problem.where for problem in one] == ["a", "b", "c"]
    assert len(other) == 2
