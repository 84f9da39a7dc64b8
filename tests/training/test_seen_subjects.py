"""Who was seen in training is not scored: by id and cohort, whatever the split or the dataset."""

import dataclasses

import pytest

from kd_sleep.benchmark.synthetic import synthetic_nights
from kd_sleep.errors import TrainingError
from kd_sleep.training.seen_subjects import assert_unseen, seen

SIMULATOR = "kd_sleep simulator 1.1"


def nights(*subjects, cohort="recorded"):
    made = synthetic_nights(len(subjects), 4)
    return dataclasses.replace(made, subject_ids=subjects, cohort=cohort)


def run(*entries):
    return {"trained_on": {"seen": list(entries)}}


OWN = run(seen(nights("1", "2", "2"), nights("3")))


@pytest.mark.parametrize(
    ("split", "subjects", "refused"),
    [
        ("test", ("4", "5"), None),
        ("test", ("4", "2"), "1 of the 2 subjects of the test split: 2."),
        ("test", ("3", "4"), "1 of the 2 subjects of the test split: 3."),
        ("validation", ("3", "4"), None),  # its best step was chosen there, and no more
        ("validation", ("1", "3"), "1 of the 2 subjects of the validation split: 1."),
    ],
)
def test_seen_subjects_are_refused_by_name(split, subjects, refused):
    if refused is None:
        assert_unseen({"student": OWN}, {split: nights(*subjects)})
        return
    with pytest.raises(TrainingError) as caught:
        assert_unseen({"student": OWN}, {split: nights(*subjects)})
    assert str(caught.value).startswith("student was trained, or its best step chosen, on")
    assert refused in str(caught.value)
    assert "--splits" in caught.value.remedy


def test_a_teachers_subjects_count_and_few_are_named():
    many = [str(n) for n in range(1000, 1040)]
    student = run(*OWN["trained_on"]["seen"], seen(nights(*many), nights("3")))
    with pytest.raises(TrainingError, match=r"40 of the 41 .*: 1000, 1001, 1002, 1003, 1004, …"):
        assert_unseen({"student": student}, {"test": nights("7", *many)})


@pytest.mark.parametrize(
    ("there", "here", "one"),
    [
        (f"{SIMULATOR}, seed 1", f"{SIMULATOR}, seed 1", True),
        (f"{SIMULATOR}, seed 1", f"{SIMULATOR}, seed 10", False),
        (f"{SIMULATOR}, seed 1", "recorded", False),
        (SIMULATOR, f"{SIMULATOR}, seed 1", True),  # one that does not tell its seed
        (f"{SIMULATOR}, seed 1", SIMULATOR, True),
        ("recorded", f"{SIMULATOR} and recorded", True),
    ],
)
def test_cohorts_are_told_apart_where_they_say_who_they_are(there, here, one):
    model = {"student": run(seen(nights("1", cohort=there), nights("3", cohort=there)))}
    split = {"test": nights("1", cohort=here)}
    if not one:
        assert_unseen(model, split)
        return
    with pytest.raises(TrainingError, match="1 of the 1 subjects"):
        assert_unseen(model, split)


def test_a_run_without_the_list_is_refused():
    with pytest.raises(TrainingError, match="do not list the subjects"):
        assert_unseen({"student": {"trained_on": {"nights": 3}}}, {"test": nights("1")})
