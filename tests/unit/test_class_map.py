"""Which class is which: by names, by what somebody wrote, and what is said of it."""

from __future__ import annotations

import pytest

from detdistill.detectors.class_map import ClassMap, read_pairs, require_known
from detdistill.errors import ConfigError

DATA = ("vehicle", "traffic light", "Person")


def test_names_are_equal_but_for_case_blanks_and_dashes() -> None:
    found = ClassMap.between(("person", "Traffic-Light", "dog"), DATA)
    assert found.labels == (2, 1, -1)
    assert found.unknown == ("vehicle",)
    assert found.known == (1, 2)
    assert not found.merges
    assert found.text() == (
        "classes: as person=Person, Traffic-Light=traffic light; the student lacks dog; the teacher does not know "
        "vehicle"
    )


def test_a_name_as_it_is_stands_before_one_that_is_like_it() -> None:
    assert ClassMap.between(("car", "Car"), ("Car",)).labels == (-1, 0)
    # Which of two is meant cannot be told.
    assert ClassMap.between(("CAR",), ("Car", "car")).labels == (-1,)


def test_what_is_written_wins_and_the_rest_goes_by_equal_names() -> None:
    pairs = read_pairs("car = vehicle, truck=vehicle ,Person=")
    found = ClassMap.between(("car", "truck", "Person", "traffic light"), DATA, pairs=pairs)
    assert found.labels == (0, 0, -1, 1)
    assert found.merges
    assert found.of(0) == (0, 1)
    assert found.text() == (
        "classes: by equal names traffic light; as car=vehicle, truck=vehicle; the student lacks Person; the teacher "
        "does not know Person; merged by the sum of their odds"
    )
    assert found.as_dict() == {
        "teacher": {"car": "vehicle", "truck": "vehicle", "Person": "", "traffic light": "traffic light"},
        "unknown": ["Person"],
        "merge": "sum",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("car", "Each part of --classes-map must be a class of the teacher and one of the data's, got 'car'. Write"),
        ("=vehicle", "got '=vehicle'"),
        ("car=vehicle,car=Person", "--classes-map must name every class of the teacher once, got 'car' twice."),
        ("carr=vehicle", "must have the teacher's classes on the left, got 'carr'. Did you mean 'car'?"),
        ("car=vehicel", "must have the data's classes on the right, got 'vehicel'. Did you mean 'vehicle'?"),
    ],
)
def test_what_cannot_be_a_map_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_known(read_pairs(text), teacher=("car", "truck"), student=DATA)
    assert said in str(refused.value)
