"""A student from its work folder: it says what it said in training, and its card tells of it."""

import dataclasses
import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_sleep.config import PRESETS, DistillConfig
from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import blank, read_split
from kd_sleep.errors import ExportError, TrainingError
from kd_sleep.inference import program
from kd_sleep.models.quality import Quality, QualityHead, embed
from kd_sleep.models.student import Student
from kd_sleep.schema import BCG_SAMPLES
from kd_sleep.stages import NUM_STAGES, STAGE_NAMES
from kd_sleep.training import distill
from kd_sleep.training.loop import claim, predict
from kd_sleep.training.soft_labels import fingerprint

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def workdir(data_dir, teacher_dir, tmp_path_factory):
    """A student with a tachogram hint, which only training needs."""
    out = tmp_path_factory.mktemp("student") / "hinted"
    train = dataclasses.replace(TINY.student_train, steps=2, evaluate_every=2)
    loss = DistillConfig(labelled_nights=2, hint_weight=0.1)
    distill.train_student(data_dir, [teacher_dir], out, TINY.student, loss, train)
    return out


@pytest.fixture(scope="module")
def loaded(workdir):
    return program.load_program(workdir)


@pytest.fixture(scope="module")
def validation(data_dir):
    return read_split(data_dir, "validation")


@pytest.fixture(scope="module")
def batch(validation):
    """All validation nights, those that are shorter padded."""
    found = next(whole_nights(validation, ("bcg", "bcg_scale"), len(validation)))
    assert not found["valid_BL"].all()
    return found["bcg"] * found["bcg_scale"][..., None], found["valid_BL"]


def test_it_says_what_the_student_said_in_training(loaded, workdir, validation, batch):
    module, params, _ = distill.load_student(workdir, validation)
    logits_BLK, sqi_BL = loaded.call(*batch)
    assert logits_BLK.dtype == sqi_BL.dtype == np.float32
    assert np.isnan(sqi_BL).all()
    assert sqi_BL.shape == batch[1].shape
    for row, night in enumerate(predict(module, params, validation, distill.STUDENT_COLUMNS)):
        np.testing.assert_allclose(logits_BLK[row, : len(night)], night, atol=2e-5)


def test_what_lies_in_padding_is_not_looked_at(loaded, batch):
    bcg_BLS, valid_BL = batch
    other = np.where(valid_BL[..., None], bcg_BLS, np.nan)
    for mine, theirs in zip(
        loaded.call(bcg_BLS, valid_BL), loaded.call(other, valid_BL), strict=True
    ):
        np.testing.assert_array_equal(mine[valid_BL], theirs[valid_BL])


def test_the_card_tells_of_the_student(loaded, workdir, validation, data_dir):
    card = loaded.card
    _, params, settings = distill.load_student(workdir, validation)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["stages"] == list(STAGE_NAMES)
    assert (card["temperature"], card["flag_below"]) == (1.0, None)
    assert card["student"] == fingerprint(params)
    for name in ("model", "distill", "train", "augment", "teacher"):
        assert card[name] == settings[name]
    assert card["preprocessing"]["rate_hz"] == 50.0
    train = read_split(data_dir, "train", bcg=False)
    assert card["data"] == {
        "cohort": train.cohort,
        "bcg_source": "paired",
        "simulated": True,
        "nights": len(train),
        "subjects": len(set(train.subject_ids)),
        "validation_nights": len(validation),
        "labelled_nights": 2,
        "snr_db": {
            f"p{percent:02}": round(float(np.nanpercentile(train.bcg_snr_db, percent)), 2)
            for percent in (1, 50, 99)
        },
    }


def test_a_folder_of_before_the_data_card_goes_on_and_tells_what_it_knows(workdir, tmp_path):
    about = json.loads((workdir / "settings.json").read_text())
    now = about["settings"]
    before = {name: value for name, value in now.items() if name != "trained_on"}
    assert before != now
    (tmp_path / "settings.json").write_text(json.dumps(about | {"settings": before}))
    claim(tmp_path, "student", now)  # the same run: no error
    with pytest.raises(TrainingError, match="width"):
        claim(tmp_path, "student", now | {"model": now["model"] | {"width": 9}})
    fitted = {"temperature": 1.0, "flag_below": None}
    data = program._card(about, before, "student", fitted)["data"]
    assert data["labelled_nights"] == 2
    assert data["cohort"] is data["simulated"] is data["nights"] is None


def test_weights_are_those_that_use_needs(workdir):
    weights = program.trained(workdir).weights
    assert not [name for name in weights if "hint" in name]
    _, params, _ = distill.load_student(workdir, blank())
    assert [name for name in params if "hint" in name]


def test_a_learned_sqi_comes_with_its_temperature_and_flag(workdir, batch, monkeypatch, tmp_path):
    folder = tmp_path / "judged"
    shutil.copytree(workdir, folder)
    (folder / "quality.json").write_text("{}")
    head = QualityHead()
    width = TINY.student.width
    made = head.init(jax.random.PRNGKey(3), jnp.zeros((1, width)), jnp.zeros((1, NUM_STAGES)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape), made["params"])
    quality = Quality(params, jnp.float32(1.3), jnp.float32(-0.2))
    module, weights, _ = distill.load_student(folder, blank())
    asked = []

    def load_quality(workdir, student):
        asked.append((workdir, student))
        return quality, {"temperature": 2.5, "flag_below": 0.25, "student": student}

    stub = types.ModuleType("kd_sleep.training.quality")
    stub.load_quality = load_quality
    monkeypatch.setitem(sys.modules, "kd_sleep.training.quality", stub)
    judged = program.load_program(folder)
    assert asked == [(folder, fingerprint(weights))]
    assert (judged.card["temperature"], judged.card["flag_below"]) == (2.5, 0.25)
    bcg_BLS, valid_BL = batch
    _, sqi_BL = judged.call(bcg_BLS, valid_BL)
    ones = np.ones(valid_BL.shape, np.float32)
    logits, embedding = embed(
        Student(module.config),
        {name: leaf for name, leaf in weights.items() if "hint" not in name},
        {"bcg": bcg_BLS, "bcg_scale": ones, "valid_BL": valid_BL},
    )
    expected = jax.nn.sigmoid(1.3 * head.apply({"params": params}, embedding, logits) - 0.2)
    np.testing.assert_allclose(sqi_BL[valid_BL], expected[valid_BL], atol=1e-5)
    assert np.ptp(sqi_BL[valid_BL]) > 0


@pytest.mark.parametrize(
    ("bcg", "valid"),
    [((1, 2, BCG_SAMPLES - 1), (1, 2)), ((2, BCG_SAMPLES), (2,)), ((1, 2, BCG_SAMPLES), (2, 1))],
)
def test_arrays_of_another_shape_are_refused(loaded, bcg, valid):
    with pytest.raises(ValueError, match=r"expected bcg \[B, L, 1500\]"):
        loaded.call(np.zeros(bcg), np.ones(valid))


def test_no_windows_are_refused(loaded):
    with pytest.raises(ValueError, match="no windows"):
        loaded.call(np.zeros((1, 0, BCG_SAMPLES)), np.ones((1, 0)))


def test_where_there_is_no_student(tmp_path, teacher_dir):
    with pytest.raises(ExportError, match=r"nowhere: no student here\. Name a work folder"):
        program.load_program(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="expected a trained student, found nothing trained"):
        program.load_program(tmp_path)
    with pytest.raises(TrainingError, match="expected a trained student, found teacher"):
        program.load_program(teacher_dir)
