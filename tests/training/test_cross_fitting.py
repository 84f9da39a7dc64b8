"""Soft labels by teachers of folds: no night is labelled by a teacher that was trained on it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from kd_sleep.config import PRESETS, SoftLabelConfig
from kd_sleep.datasets.nights import read_split
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import DatasetError, TrainingError
from kd_sleep.training import distill, soft_labels
from kd_sleep.training.loop import settings_of
from kd_sleep.training.metrics_log import read_metrics

TINY = PRESETS["tiny"]
FOLDS = 2


def train(data_dir, workdir, folds=FOLDS):
    labels = SoftLabelConfig(folds=folds)
    distill.train_teacher(data_dir, workdir, TINY.teacher, TINY.teacher_train, labels=labels)


def distil(data_dir, teacher, workdir):
    arguments = (data_dir, [teacher], workdir, TINY.student, TINY.distill, TINY.student_train)
    distill.train_student(*arguments)


def labels_of(workdir, nights):
    """Logits [N, K] of each training night as they lie in the teacher's folder."""
    index = json.loads((workdir / "soft_labels" / "train.json").read_text())
    assert tuple(index["nights"]) == nights.recording_ids
    return nights.split(np.load(workdir / "soft_labels" / "train.npy"))


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
    original = distill.read_split

    def scrambled(folder, split, **kwargs):
        read = original(folder, split, **kwargs)
        labels = read.labels()
        for row in np.flatnonzero(own) if split == "train" else []:
            labels[row] = np.where(labels[row] >= 0, 3 - labels[row], labels[row])
        return dataclasses.replace(read, label=np.concatenate(labels))

    monkeypatch.setattr(distill, "read_split", scrambled)
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
    validation = read_split(data_dir, "validation")
    _, _, name = distill.load_teacher(folded, nights)
    assert name == distill.load_teacher(teacher_dir, nights)[2]
    for split in ("validation", "test"):
        one, other = (
            np.load(folder / "soft_labels" / f"{split}.npy") for folder in (folded, teacher_dir)
        )
        np.testing.assert_array_equal(one, other)
    assert len(soft_labels.load(folded / "soft_labels", "validation", name, validation))
    found, index = (
        labels_of(folded, nights),
        json.loads((folded / "soft_labels" / "train.json").read_text()),
    )
    assert (index["teacher"], index["folds"]) == (name, FOLDS)
    for fold in range(FOLDS):
        folder = folded / "folds" / f"{FOLDS}" / f"{fold}"
        module, params, fold_name = distill.load_teacher(folder, nights)
        rows = np.flatnonzero(folds_of(nights.subject_ids, FOLDS) == fold)
        others = nights.select(np.setdiff1d(np.arange(len(nights)), rows))
        assert settings_of(folder, "teacher")["data"] == [others.digest(), validation.digest()]
        said = distill.predict(module, params, nights, distill.TEACHER_COLUMNS)
        for row in rows:
            assert index["nights"][nights.recording_ids[row]]["teacher"] == fold_name
            np.testing.assert_allclose(found[row], said[row], atol=1e-5)


def test_a_stopped_run_goes_on_with_the_folds_that_it_has(data_dir, folded, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(run, nights, validation, workdir, execution):
        if workdir.name == "1":
            raise Killed
        return original(run, nights, validation, workdir, execution)

    original = distill.fit
    monkeypatch.setattr(distill, "fit", killed)
    with pytest.raises(Killed):
        train(data_dir, tmp_path)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match=r"folds/2/1: expected a trained teacher"):
        distil(data_dir, tmp_path, tmp_path / "student")
    rows = read_metrics(tmp_path / "folds" / "2" / "0")
    train(data_dir, tmp_path)
    assert read_metrics(tmp_path / "folds" / "2" / "0") == rows
    for name in ("train.json", "train.npy", "test.npy"):
        one, other = (folder / "soft_labels" / name for folder in (tmp_path, folded))
        assert one.read_bytes() == other.read_bytes()


def test_a_folder_serves_one_number_of_folds(data_dir, folded, teacher_dir):
    with pytest.raises(TrainingError, match=r"other settings: folds \(2 there, 0 here\)"):
        train(data_dir, folded, folds=0)
    with pytest.raises(TrainingError, match=r"other settings: folds \(0 there, 2 here\)"):
        train(data_dir, teacher_dir)


def test_more_folds_than_subjects_are_refused_before_anything_is_trained(data_dir, tmp_path):
    with pytest.raises(DatasetError, match="subjects do not make 99 folds"):
        train(data_dir, tmp_path / "w", folds=99)
    assert not (tmp_path / "w").exists()


def test_stale_soft_labels_of_folds_are_refused_by_name(data_dir, folded, nights, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(folded, teacher)
    distil(data_dir, teacher, tmp_path / "student")
    path = teacher / "soft_labels" / "train.json"
    index = json.loads(path.read_text())

    def refused(changed, word):
        path.write_text(json.dumps(changed))
        with pytest.raises(TrainingError, match=word):
            distil(data_dir, teacher, tmp_path / "other")

    refused(index | {"folds": 3}, "soft labels of 3 folds, expected 2")
    refused({k: v for k, v in index.items() if k != "folds"}, "soft labels of 0 folds, expected 2")
    refused(index | {"teacher": "0" * 64}, "soft labels of another teacher")
    first, *_ = index["nights"]
    other = next(
        entry["teacher"]
        for entry in index["nights"].values()
        if entry["teacher"] != index["nights"][first]["teacher"]
    )
    for stranger in (other, index["teacher"]):
        entries = index["nights"] | {first: index["nights"][first] | {"teacher": stranger}}
        refused(index | {"nights": entries}, f"another fold's teacher for {first}")


def test_a_student_of_folds_is_told_from_one_without(data_dir, folded, teacher_dir, tmp_path):
    """Their teachers are the same to the bit; only the soft labels differ."""
    distil(data_dir, folded, tmp_path)
    assert settings_of(tmp_path, "student")["folds"] == [FOLDS]
    distil(data_dir, folded, tmp_path)  # nothing to do
    with pytest.raises(TrainingError, match=r"other settings: folds \(2 there, 0 here\)"):
        distil(data_dir, teacher_dir, tmp_path)
