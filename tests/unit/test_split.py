from __future__ import annotations

import pytest

from detdistill.data.split import SplitNames, read_split_lists, saved_split, split_names, write_split
from detdistill.errors import ConfigError, DataError

NAMES = [f"{i:06d}" for i in range(100)]


def test_eight_to_two_by_the_seed_alone():
    one = split_names(NAMES, seed=3)
    assert (len(one.train), len(one.val)) == (80, 20)
    assert sorted(one.train + one.val) == NAMES
    assert split_names(reversed(NAMES), seed=3) == one
    assert split_names(NAMES, seed=4) != one
    assert split_names(NAMES[:2], seed=0) in {
        SplitNames(("000000",), ("000001",)),
        SplitNames(("000001",), ("000000",)),
    }


def test_lists_are_saved_and_win(tmp_path):
    made = saved_split(tmp_path, NAMES, seed=1)
    assert (tmp_path / "train.txt").read_text().split() == list(made.train)
    assert saved_split(tmp_path, NAMES, seed=2) == made
    own = SplitNames(("000007",), ("000001", "000002"))
    write_split(tmp_path, own)
    assert saved_split(tmp_path, NAMES, seed=1) == own == read_split_lists(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"must be two or more, got 0\. Add images"),
        (["a"], r"must be two or more, got 1\."),
        (["a", "a"], r"images to split must stand once each, got 'a' twice\. Remove"),
        (["a", "../b"], r"must be file names, got '\.\./b', which leads out"),
        (["a", "b\nc"], "which holds a line break. Rename"),
    ],
)
def test_names_that_cannot_be_split(names, message):
    with pytest.raises(DataError, match=message):
        split_names(names, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match=r"must be a whole number from 0, got -1\."):
        split_names(NAMES, seed=-1)


@pytest.mark.parametrize(
    ("train", "val", "kind", "message"),
    [
        ("000001\n", None, ConfigError, r"must hold train\.txt and val\.txt, got train\.txt alone\. Add val\.txt"),
        (None, "000001\n", ConfigError, r"got val\.txt alone\. Add train\.txt, or delete val\.txt"),
        ("000001\n", " \n", DataError, r"val\.txt must name at least one image, got none\. Write"),
        ("000001\n", "000001\n", DataError, r"must stand once each, got '000001' twice"),
        ("000001\n", "/etc/passwd\n", DataError, r"got '/etc/passwd', which is absolute"),
        ("000001\n", "zzz\nyyy\n", DataError, r"must name images of the data set, got yyy and 1 more"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, train, val, kind, message):
    for name, text in (("train.txt", train), ("val.txt", val)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(kind, match=message):
        saved_split(tmp_path, NAMES, seed=0)


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "val.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"train\.txt must be text in UTF-8, got a byte that is not\. Save"):
        read_split_lists(tmp_path)
    with pytest.raises(ConfigError, match="must be a readable file, got: No such file"):
        read_split_lists(tmp_path / "none")
