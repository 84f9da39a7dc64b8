"""A subject's split follows from the id alone, and nobody is in two."""

import os
from collections import Counter

import pytest

from kd_sleep.datasets.splits import (
    SHARES,
    SPLITS,
    assert_disjoint,
    folds_of,
    read_splits,
    split_of,
)
from kd_sleep.errors import DatasetError


@pytest.mark.parametrize("first", [200001, 203333])
@pytest.mark.parametrize("subjects", [10, 60, 5793])
def test_shares_hold_for_any_number_of_consecutive_ids(first, subjects):
    counts = Counter(split_of(str(first + n)) for n in range(subjects))
    for split in SPLITS:
        assert abs(counts[split] - SHARES[split] * subjects) <= 2.5


def test_known_subjects_stay_where_they_are():
    """If this fails, published splits have moved: that is a new version of the dataset."""
    assert [split_of(str(n)) for n in range(200001, 200009)] == [
        "train", "train", "validation", "train", "test", "train", "train", "validation",
    ]  # fmt: skip


@pytest.mark.parametrize("folds", [1, 2, 3, 7])
def test_folds_part_subjects_evenly_and_not_their_nights(folds):
    subjects = [f"20{n // 2:04}" for n in range(23)]  # two nights each but the last
    fold_R = folds_of(subjects, folds)
    fold_of = dict(zip(subjects, fold_R.tolist(), strict=True))
    assert [fold_of[subject] for subject in subjects] == fold_R.tolist()
    counts = Counter(fold_of.values())
    assert set(counts) == set(range(folds))
    assert max(counts.values()) - min(counts.values()) <= 1
    # The order of the nights and a second night have no say.
    assert folds_of(subjects[::-1], folds).tolist() == fold_R[::-1].tolist()
    assert folds_of(subjects[::2], folds).tolist() == fold_R[::2].tolist()


def test_fewer_subjects_than_folds_are_refused():
    with pytest.raises(DatasetError, match="2 subjects do not make 3 folds"):
        folds_of(["1", "2", "1", "2"], 3)


def test_a_subject_in_two_splits_is_an_error():
    assert_disjoint({"train": ["1", "1", "2"], "test": ["3"]})
    with pytest.raises(DatasetError, match="subject 2 is in both train and test"):
        assert_disjoint({"train": ["1", "2"], "test": ["2"]})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "holds no splits"),
        ("subject_id,split\n", "holds no splits"),
        ("a,b\n1,train\n", "holds no splits"),
        ("subject_id,split\n1,dev\n", "'1,dev'"),
        ("subject_id,split\n1,train,x\n", "'1,train,x'"),
        ("subject_id,split\n1,train\n1,test\n", "in both train and test"),
        ("subject_id,split\n,train\n", "gives no subject"),
    ],
)
def test_a_splits_file_that_is_none_is_refused(tmp_path, text, word):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=word):
        read_splits(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"x" * 20_000_000, "more than 10 MB"),
        (b"subject_id,split\n" + b"1" * 200_000 + b",train\n", "field larger"),
        (bytes(range(256)), "cannot be read"),
        (b"subject_id,split\n" + b"1," * 50_000, "gives no subject"),
    ],
)
def test_a_splits_file_of_junk_is_refused_in_few_words(tmp_path, data, word):
    path = tmp_path / "splits.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=word) as error:
        read_splits(path)
    assert len(str(error.value)) < 1000


def test_a_splits_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "splits.csv")
    with pytest.raises(DatasetError, match="no ordinary file"):
        read_splits(tmp_path / "splits.csv")
