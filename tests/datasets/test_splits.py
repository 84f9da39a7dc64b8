"""A subject's split follows from the id alone, and nobody is in two."""

from collections import Counter

import pytest

from kd_sleep.datasets.splits import SHARES, SPLITS, assert_disjoint, split_of
from kd_sleep.errors import DatasetError


@pytest.mark.parametrize("first", [200001, 203333])
@pytest.mark.parametrize("subjects", [10, 60, 5793])
def test_shares_hold_for_any_number_of_consecutive_ids(first, subjects):
    counts = Counter(split_of(str(first + n)) for n in range(subjects))
    for split in SPLITS:
        assert abs(counts[split] - SHARES[split] * subjects) <= 2.5


def test_shares_hold_for_other_names():
    counts = Counter(split_of(f"site-{n}") for n in range(4000))
    for split in SPLITS:
        assert counts[split] / 4000 == pytest.approx(SHARES[split], abs=0.03)


def test_known_subjects_stay_where_they_are():
    """If this fails, published splits have moved: that is a new version of the dataset."""
    assert [split_of(str(n)) for n in range(200001, 200009)] == [
        "train", "train", "validation", "train", "test", "train", "train", "validation",
    ]  # fmt: skip


def test_a_subject_in_two_splits_is_an_error():
    assert_disjoint({"train": ["1", "1", "2"], "test": ["3"]})
    with pytest.raises(DatasetError, match="subject 2 is in both train and test"):
        assert_disjoint({"train": ["1", "2"], "test": ["2"]})
