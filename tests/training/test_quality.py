"""The learned SQI: the gap in closed form, a head that finds what there is."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, softmax

from kd_sleep.config import PRESETS
from kd_sleep.datasets.nights import read_split
from kd_sleep.datasets.splits import folds_of
from kd_sleep.errors import TrainingError
from kd_sleep.models.quality import stage_with_quality
from kd_sleep.training import distill, quality
from kd_sleep.training.loop import predict
from kd_sleep.training.soft_labels import fingerprint

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def student_dir(data_dir, teacher_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("quality") / "student"
    arguments = (data_dir, [teacher_dir], out, TINY.student, TINY.distill, TINY.student_train)
    distill.train_student(*arguments)
    quality.train_sqi(data_dir, [teacher_dir], out, folds=2)
    return out


@pytest.fixture(scope="module")
def loaded(student_dir, data_dir):
    nights = read_split(data_dir, "test")
    module, params, _ = distill.load_student(student_dir, nights)
    found = quality.load_quality(student_dir, fingerprint(params))
    assert found is not None
    return nights, module, params, *found


def test_the_gap_is_the_divergence_in_bits():
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 50, 4)) * 3
    expected = stats.entropy(softmax(teacher, -1), softmax(student, -1), base=2, axis=-1)
    np.testing.assert_allclose(quality.gap_bits(teacher, student), expected, atol=1e-12)
    np.testing.assert_allclose(quality.kept_share(teacher, student), 2**-expected, atol=1e-12)


def test_who_says_what_the_teacher_says_keeps_all():
    logits = np.array([[5.0, -1.0, 0.0, 2.0], [1000.0, 0.0, 0.0, 0.0], [-np.inf, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(quality.kept_share(logits[:2], logits[:2] + 7.0), 1.0)
    assert quality.gap_bits(logits[2:], np.zeros((1, 4)))[0] == pytest.approx(np.log2(4 / 3))


def test_no_window_is_measured_by_a_student_that_knows_it(data_dir, teacher_dir, student_dir):
    """Each fold's student trained on the other folds' subjects alone."""
    nights = read_split(data_dir, "train", bcg=False)
    folds = folds_of(nights.subject_ids, 2)
    seen = []

    class Stop(Exception):
        pass

    def watch(self, run, workdir, execution):
        seen.append((int(workdir.name[-1]), set(self.nights.subject_ids)))
        if len(seen) == 2:
            raise Stop
        return original(self, run, workdir, execution)

    original = distill.Lesson.teach
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill.Lesson, "teach", watch)
        with pytest.raises(Stop):
            quality.train_sqi(data_dir, [teacher_dir], student_dir, folds=2)
    for fold, subjects in seen:
        held_out = {s for f, s in zip(folds, nights.subject_ids, strict=True) if f == fold}
        assert held_out
        assert not held_out & subjects
        assert held_out | subjects == set(nights.subject_ids)


def test_a_head_finds_what_the_embedding_tells():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6000, 4)).astype(np.float32)
    embedding = rng.normal(size=(6000, 8)).astype(np.float32)
    share = expit(2.0 * embedding[:, 0] - 1.0)
    told = (embedding[:4000], logits[:4000]), share[:4000], np.ones(4000)
    judged = (embedding[4000:], logits[4000:]), share[4000:], np.ones(2000)
    _, logit = quality.fit_head(told, judged)
    scale, shift = quality.fit_curve(logit, judged[1], judged[2])
    assert scale > 0
    assert np.abs(expit(scale * logit + shift) - share[4000:]).mean() < 0.03


def test_windows_without_weight_teach_nothing():
    rng = np.random.default_rng(2)
    logits = np.zeros((2000, 4), np.float32)
    embedding = rng.normal(size=(2000, 4)).astype(np.float32)
    share = np.where(embedding[:, 0] > 0, 0.9, 0.1)
    weight = (np.arange(2000) % 2).astype(float)
    lied = np.where(weight > 0, share, 1.0 - share)
    told = (embedding, logits), lied, weight
    _, logit = quality.fit_head(told, ((embedding, logits), share, np.ones(2000)))
    assert stats.spearmanr(logit, share).statistic > 0.8


@pytest.mark.parametrize(("scale", "shift"), [(0.5, -1.0), (2.0, 0.5)])
def test_the_curve_is_found_again(scale, shift):
    logit = np.random.default_rng(3).normal(size=4000) * 2
    found = quality.fit_curve(logit, expit(scale * logit + shift), np.ones(4000))
    np.testing.assert_allclose(found, (scale, shift), atol=1e-3)


def test_a_curve_of_nothing_is_the_mean():
    share = np.full(10, 0.3)
    scale, shift = quality.fit_curve(np.zeros(10), share, np.ones(10))
    assert expit(scale * 0.0 + shift) == pytest.approx(0.3, abs=1e-6)


def test_it_is_calibrated_on_validation_and_flags_a_fifth(loaded, student_dir, data_dir):
    _, module, params, found, about = loaded
    validation = read_split(data_dir, "validation")
    sqi = np.concatenate(quality.sqi_of(module, params, found, validation))
    seen = (1 - validation.bcg_missing) * (1 - validation.rr_missing) > 0
    assert (sqi[seen] < about["flag_below"]).mean() == pytest.approx(0.2, abs=0.02)
    weights = ((1 - validation.bcg_missing) * (1 - validation.rr_missing))[seen]
    assert np.average(sqi[seen], weights=weights) == pytest.approx(about["kept_share"], abs=5e-3)
    assert json.loads((student_dir / "quality.json").read_text()) == about


def test_it_is_told_from_bcg_alone(loaded):
    """Neither intervals nor labels are in the batch, and in every place it is the same SQI."""
    nights, module, params, found, _ = loaded
    batch = {
        "bcg": jnp.asarray(nights.bcg[None, :20]),
        "bcg_scale": jnp.asarray(nights.bcg_scale[None, :20]),
        "valid_BL": jnp.ones((1, 20), bool),
    }
    logits, sqi = stage_with_quality(module, params, found, batch)
    assert ((sqi >= 0) & (sqi <= 1)).all()
    _, without = stage_with_quality(module, params, None, batch)
    assert np.isnan(without).all()
    whole = quality.sqi_of(module, params, found, nights)[0]
    np.testing.assert_allclose(sqi[0, :10], whole[:10], atol=1e-4)
    said = predict(module, params, nights, distill.STUDENT_COLUMNS)[0]
    np.testing.assert_allclose(logits[0, :10], said[:10], atol=1e-4)


def test_it_comes_back_from_disk_as_it_was(loaded, tmp_path):
    _, _, _, found, about = loaded
    quality.save_quality(tmp_path, found, about)
    again, same = quality.load_quality(tmp_path, about["student"])
    assert same == about
    jax.tree.map(np.testing.assert_array_equal, again, found)
    assert quality.load_quality(tmp_path / "nowhere", about["student"]) is None


def test_the_sqi_of_another_student_is_refused(student_dir, tmp_path):
    shutil.copy(student_dir / "quality.json", tmp_path)
    with pytest.raises(TrainingError, match="SQI of another student"):
        quality.load_quality(tmp_path, "0" * 64)
