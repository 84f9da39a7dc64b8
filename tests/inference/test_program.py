"""A student from its work folder: it says what it said in training, and its card tells of it."""

import json
import shutil

import numpy as np
import pytest

from kd_sleep.config import PRESETS
from kd_sleep.datasets.batches import whole_nights
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import ExportError, TrainingError
from kd_sleep.inference.program import card_of
from kd_sleep.inference.staging import load_student
from kd_sleep.models.kept_share import KeptShare
from kd_sleep.models.student import columns
from kd_sleep.schema import SCHEMA_VERSION
from kd_sleep.stages import STAGE_NAMES
from kd_sleep.training.run import write_settings
from kd_sleep.training.seen_subjects import seen
from kd_sleep.training.soft_labels import fingerprint
from kd_sleep.training.trained import load_trained

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def workdir(quickstart):
    """The quickstart's student, with the SQI that training fits."""
    return quickstart / "student_distilled"


@pytest.fixture(scope="module")
def loaded(workdir):
    return load_student(workdir).program


@pytest.fixture(scope="module")
def validation(data_dir):
    return read_split(data_dir, "validation")


@pytest.fixture(scope="module")
def batch(validation):
    """All validation nights, those that are shorter padded: inputs and which windows are real."""
    names = columns(TINY.student)
    found = next(whole_nights(validation, names, len(validation)))
    assert not found["valid_BL"].all()
    return {name: found[name] for name in names}, found["valid_BL"]


def test_a_folder_is_read_without_a_warning(workdir, caplog):
    load_student(workdir)
    assert not caplog.records


def test_it_says_what_the_student_said_in_training(loaded, workdir, validation, batch):
    student = load_trained(workdir, "student")
    logits_BLK = loaded.call(*batch)
    assert logits_BLK.dtype == np.float32
    for row, night in enumerate(student.logits(validation)):
        np.testing.assert_allclose(logits_BLK[row, : len(night)], night, atol=2e-5)


def test_what_lies_in_padding_is_not_looked_at(loaded, batch):
    inputs, valid_BL = batch
    for padding in (np.nan, 0.0, 1e4):
        other = {
            name: np.where(valid_BL[..., None], values, padding) for name, values in inputs.items()
        }
        mine, theirs = loaded.call(inputs, valid_BL), loaded.call(other, valid_BL)
        np.testing.assert_array_equal(mine[valid_BL], theirs[valid_BL])


def test_the_card_tells_of_the_student(loaded, workdir, validation, data_dir):
    card = loaded.card
    student = load_trained(workdir, "student")
    params, settings = student.params, student.settings
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["stages"] == list(STAGE_NAMES)
    fitted = KeptShare.from_json(card["sqi"])
    assert fitted.student == card["student"]
    assert fitted.to_json() == json.loads((workdir / "sqi.json").read_text())
    assert list(card["inputs"]) == list(columns(TINY.student))
    assert card["inputs"]["movement"] == [30]
    assert card["reach"] == {"before": 3, "after": 3}
    assert card["student"] == fingerprint(params)
    for name in ("model", "distill", "train", "teacher"):
        assert card[name] == settings[name]
    assert card["preprocessing"]["schema"] == SCHEMA_VERSION
    assert card["preprocessing"]["series.BREATH_HZ"] == [0.1, 0.7]
    assert card["preprocessing"]["inputs.TYPICAL_S"] == 0.95
    assert card["preprocessing"]["j_peaks.BLOCK_S"] == 60.0
    train = read_split(data_dir, "train")
    assert card["data"] == {
        "cohort": train.cohort,
        "bcg_source": "paired",
        "simulated": True,
        "nights": len(train),
        "subjects": len(set(train.subject_ids)),
        "seen": [seen(train, validation)],
        "schema": SCHEMA_VERSION,
        "left_out": [],
        "validation_nights": len(validation),
        "labelled_nights": settings["labelled"],
        "snr_db": {
            f"p{percent:02}": round(float(np.nanpercentile(train.bcg_snr_db, percent)), 2)
            for percent in (1, 50, 99)
        },
        "heart_bpm": card["data"]["heart_bpm"],
        "digests": settings["data"],
    }
    p01, p50, p99 = (card["data"]["heart_bpm"][name] for name in ("p01", "p50", "p99"))
    assert 35 < p01 < p50 < p99 < 120
    assert p50 == pytest.approx(60.0 / np.nanmedian(train.jj), abs=4.0)


def test_a_folder_of_before_the_data_card_goes_on_and_tells_what_it_knows(workdir, tmp_path):
    about = json.loads((workdir / "settings.json").read_text())
    now = about["settings"]
    before = {name: value for name, value in now.items() if name != "trained_on"}
    assert before != now
    (tmp_path / "settings.json").write_text(json.dumps(about | {"settings": before}))
    write_settings(tmp_path, "student", now)  # the same run: no error
    with pytest.raises(TrainingError, match="width"):
        write_settings(tmp_path, "student", now | {"model": now["model"] | {"width": 9}})
    data = card_of(about, before, "student", TINY.student, None)["data"]
    assert data["labelled_nights"] == now["labelled"]
    assert data["cohort"] is data["simulated"] is data["nights"] is None


def test_a_folder_without_an_sqi_and_with_anothers(workdir, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(workdir, folder)
    found = json.loads((folder / "sqi.json").read_text())
    (folder / "sqi.json").write_text(json.dumps(found | {"student": "another"}))
    with pytest.raises(TrainingError, match="the SQI of another student"):
        load_student(folder)
    (folder / "sqi.json").unlink()
    assert load_student(folder).program.card["sqi"] is None


def test_other_inputs_than_a_students_are_refused(loaded, batch):
    inputs, valid_BL = batch
    with pytest.raises(ValueError, match=r"expected jj \[B, L, 120\] and valid \[B, L\]"):
        loaded.call(inputs | {"jj": inputs["jj"][..., 1:]}, valid_BL)
    with pytest.raises(ValueError, match=r"expected jj \[B, L, 120\]"):
        loaded.call(inputs, valid_BL[:, 1:])
    with pytest.raises(ValueError, match="expected inputs jj, beat_confidence"):
        loaded.call({"bcg": inputs["jj"]}, valid_BL)
    none = {name: values[:, :0] for name, values in inputs.items()}
    with pytest.raises(ValueError, match="no windows"):
        loaded.call(none, valid_BL[:, :0])


def test_where_there_is_no_student(tmp_path, teacher_dir):
    with pytest.raises(
        ExportError, match=r"nowhere: no student here\. Name a student's work folder"
    ):
        load_student(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="expected a trained student, found nothing trained"):
        load_student(tmp_path)
    with pytest.raises(TrainingError, match="expected a trained student, found teacher"):
        load_student(teacher_dir)
