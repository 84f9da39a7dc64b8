"""Soft labels by teachers of folds: no night is labelled by a teacher that was trained on it."""

import dataclasses

import folders
import numpy as np
import pytest

from kd_sleep.config import PRESETS
from kd_sleep.datasets.nights import read_split
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.training import fit
from kd_sleep.training.metrics_log import read_metrics
from kd_sleep.training.run import record_of
from kd_sleep.training.soft_labels import soft_labels
from kd_sleep.training.trained import load_trained

TINY = PRESETS["tiny"]
FOLDS = 2


def train(data_dir, workdir, folds=FOLDS):
    folders.train_teacher(data_dir, workdir, TINY.teacher, TINY.teacher_train, folds)


def distil(data_dir, teacher, workdir):
    arguments = (data_dir, [teacher], workdir, TINY.student, TINY.distill, TINY.student_train)
    folders.train_student(*arguments)


def labels_of(workdir, nights):
    """Logits [N, K] that the teacher of a folder gives each night."""
    soft = soft_labels([load_trained(workdir, "teacher")], nights)
    return nights.split(soft[:, 0])


def settings_of(workdir, kind):
    return record_of(workdir, kind)["settings"]


@pytest.fixture(scope="module")
def nights(data_dir):
    return read_split(data_dir, "train")


@pytest.fixture(scope="module")
def folded(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("folded") / "teacher"
    train(data_dir, out)
    return out


@pytest.mark.parametrize("folds", [0, FOLDS])
def test_with_folds_a_subjects_stages_have_no_say_in_its_own_soft_labels(
    data_dir, teacher_dir, folded, nights, tmp_path, monkeypatch, folds
):
    subject = next(s for s in nights.subject_ids if nights.subject_ids.count(s) == 2)
    own = [name == subject for name in nights.subject_ids]
    original = folders.read_split

    def scrambled(folder, split, **kwargs):
        read = original(folder, split, **kwargs)
        labels = read.labels()
        for row in np.flatnonzero(own) if split == "train" else []:
            labels[row] = np.where(labels[row] >= 0, 3 - labels[row], labels[row])
        return dataclasses.replace(read, label=np.concatenate(labels))

    monkeypatch.setattr(folders, "read_split", scrambled)
    train(data_dir, tmp_path, folds)
    before = labels_of(folded if folds else teacher_dir, nights)
    same = [np.array_equal(a, b) for a, b in zip(before, labels_of(tmp_path, nights), strict=True)]
    if not folds:
        assert not any(same)
        return
    fold_R = folds_of(nights.subject_ids, folds)
    assert same == (fold_R == fold_R[own.index(True)]).tolist()
    assert sum(own) == 2
    assert all(np.array(same)[own])


def test_each_night_is_labelled_by_its_folds_teacher_and_other_splits_by_the_teacher(
    data_dir, folded, teacher_dir, nights
):
    validation, test = (read_split(data_dir, split) for split in ("validation", "test"))
    teacher = load_trained(folded, "teacher")
    assert teacher.name == load_trained(teacher_dir, "teacher").name
    for other in (validation, test):
        for one, same in zip(labels_of(folded, other), labels_of(teacher_dir, other), strict=True):
            np.testing.assert_array_equal(one, same)
    found = labels_of(folded, nights)
    for fold in range(FOLDS):
        one = load_trained(folded / "folds" / f"{FOLDS}" / f"{fold}", "teacher")
        rows = np.flatnonzero(folds_of(nights.subject_ids, FOLDS) == fold)
        others = nights.select(np.setdiff1d(np.arange(len(nights)), rows))
        assert one.settings["data"] == [others.digest(), validation.digest()]
        expected = one.logits(nights)
        for row in rows:
            assert teacher.for_subject(nights.subject_ids[row], nights.cohort).name == one.name
            np.testing.assert_allclose(found[row], expected[row], atol=1e-5)


def test_a_stopped_run_goes_on_with_the_folds_that_it_has(data_dir, folded, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(run, data, workdir, *rest):
        if workdir.name == "1":
            raise Killed
        return original(run, data, workdir, *rest)

    original = fit.fit
    monkeypatch.setattr(fit, "fit", killed)
    with pytest.raises(Killed):
        train(data_dir, tmp_path)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match=r"folds/2/1: expected a trained teacher"):
        distil(data_dir, tmp_path, tmp_path / "student")
    rows = read_metrics(tmp_path / "folds" / "2" / "0")
    train(data_dir, tmp_path)
    assert read_metrics(tmp_path / "folds" / "2" / "0") == rows
    one, other = (load_trained(folder, "teacher") for folder in (tmp_path, folded))
    assert [fold.name for fold in one.folds] == [fold.name for fold in other.folds]


def test_more_folds_than_subjects_are_refused_before_anything_is_trained(data_dir, tmp_path):
    with pytest.raises(DatasetError, match="subjects do not make 99 folds"):
        train(data_dir, tmp_path / "w", folds=99)
    assert not (tmp_path / "w").exists()


def test_a_student_of_folds_is_told_from_one_without(data_dir, folded, teacher_dir, tmp_path):
    """Their teachers are the same to the bit; only the soft labels differ."""
    distil(data_dir, folded, tmp_path)
    assert settings_of(tmp_path, "student")["folds"] == [FOLDS]
    distil(data_dir, folded, tmp_path)  # nothing to do
    with pytest.raises(TrainingError, match=r"other settings: folds \(2 there, 0 here\)"):
        distil(data_dir, teacher_dir, tmp_path)
