"""The ladder's rungs on a tiny cohort: what they are made of, and what is said of them."""

import dataclasses
import json

import numpy as np
import pytest

from kd_sleep.config import PRESETS, StudyConfig
from kd_sleep.datasets.nights import read_split
from kd_sleep.errors import DatasetError
from kd_sleep.evaluation.report.ladder import ladder_section
from kd_sleep.recordings.shhs import find_nights
from kd_sleep.schema import RECORDED
from kd_sleep.stages import NUM_STAGES
from kd_sleep.study import ladder
from kd_sleep.training.checkpoints import Checkpoints

PLAIN = dataclasses.replace(PRESETS["tiny"], study=StudyConfig(ladder_seeds=2))
TINY = dataclasses.replace(PLAIN, student=dataclasses.replace(PLAIN.student, causal=True))
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def climbed(cohort, data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ladder")
    return workdir, ladder.climb([data_dir], cohort, workdir, TINY)


@pytest.fixture(scope="module")
def made(climbed, cohort):
    """A night's files, and what its rungs are made of."""
    night = find_nights(cohort).nights[0]
    with np.load(climbed[0] / "jj" / f"{night.recording_id}.npz") as arrays:
        return night, dict(arrays)


def guessed(name, splits, workdir, preset):
    """In place of training: [M, W, K]."""
    rng = np.random.default_rng(len(name))
    shape = (preset.study.ladder_seeds, len(splits["test"].label))
    return np.log(rng.dirichlet(np.full(NUM_STAGES, 5.0), shape))


def test_the_steps_from_ecg_to_student_add_up(climbed):
    _, found = climbed
    assert [loss["name"] for loss in found["losses"]] == [
        "sensor timing", "detector", "noise", "breath and movement", "network",
    ]  # fmt: skip
    changes = [loss["change"]["value"] for loss in found["losses"]]
    assert sum(changes) == pytest.approx(found["gap"]["change"]["value"])
    assert sum(changes[:3]) == pytest.approx(found["parts"]["sensor"]["value"])
    assert found["parts"]["network"] == found["losses"][-1]["change"]
    assert (found["gap"]["from"], found["gap"]["to"]) == (ladder.ECG, ladder.STUDENT)
    expected = {step["to"]: step["expected"] for step in found["steps"]}
    assert expected[ladder.FOUND] == expected[ladder.STUDENT] == "loss"
    assert expected[ladder.SERIES] == "gain"
    assert json.loads(json.dumps(found)) == found
    assert "sensor timing" in ladder_section(found)


def test_the_same_call_makes_and_trains_nothing(climbed, cohort, data_dir, monkeypatch):
    workdir, found = climbed

    def no(*arguments, **more):
        raise AssertionError("made again")

    monkeypatch.setattr(Checkpoints, "save", no)
    monkeypatch.setattr(ladder, "_write_series", no)
    assert ladder.climb([data_dir], cohort, workdir, TINY) == found


def test_recordings_of_other_nights_make_no_ladder(data_dir, cohort, tmp_path):
    folder = tmp_path / "polysomnography" / "annotations-events-nsrr" / "shhs1"
    folder.mkdir(parents=True)
    source = next((cohort / "polysomnography").rglob("*-nsrr.xml"))
    (folder / "shhs1-200999-nsrr.xml").write_bytes(source.read_bytes())
    with pytest.raises(DatasetError, match=r"lacks \d+ nights of the dataset"):
        ladder.climb([data_dir], tmp_path, tmp_path / "ladder", TINY)


def test_a_night_is_the_same_whoever_makes_it(made, cohort, tmp_path):
    night, arrays = made
    ladder._write_series(tmp_path, cohort, night)
    with np.load(tmp_path / f"{night.recording_id}.npz") as again:
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_each_change_worsens_the_intervals(made, data_dir, climbed):
    """By 10 ms or so for the pulse's delay, then by missed beats, then by noise."""
    night, _ = made
    nights = {split: read_split(data_dir, split) for split in SPLITS}
    (split,) = (name for name in SPLITS if night.recording_id in nights[name].recording_ids)
    of_night = nights[split].select([nights[split].recording_ids.index(night.recording_id)])
    names = (ladder.ECG, ladder.DELAYED, ladder.NOISE_FREE, ladder.FOUND)
    ecg, delayed, noise_free, found = (
        next(ladder._series(name, of_night, climbed[0] / "jj"))[0] for name in names
    )

    def error_s(jj):
        return np.nanmean(np.abs(jj - ecg))

    assert 0.002 < error_s(delayed) < 0.02
    # A cohort's other beds delay the pulse by other amounts: the two are not of one draw.
    assert error_s(delayed) < error_s(noise_free) < error_s(found)
    np.testing.assert_array_equal(np.isnan(delayed).all(1), np.isnan(ecg).all(1))
    assert np.isfinite(noise_free).mean() > np.isfinite(found).mean()


def test_a_simulated_night_is_rendered_from_its_own_drive(made, tmp_path):
    night, arrays = made
    ladder._write_series(tmp_path, None, night)
    with np.load(tmp_path / f"{night.recording_id}.npz") as inferred:
        for name in (ladder.DELAYED, ladder.NOISE_FREE):
            assert not np.array_equal(inferred[f"{name} jj"], arrays[f"{name} jj"], equal_nan=True)


@pytest.mark.parametrize(
    ("cohort_name", "bcg_source", "known", "name"),
    [
        ("kd_sleep simulator", "paired", True, "noise"),
        ("kd_sleep simulator", "simulated", False, "noise"),
        (RECORDED, "simulated", False, "noise"),
        (RECORDED, "paired", False, "sensor, bed and inferred body"),
    ],
)
def test_only_a_bcg_of_a_known_drive_loses_to_noise(
    climbed, cohort, data_dir, monkeypatch, cohort_name, bcg_source, known, name
):
    asked = []

    def read(*arguments, **more):
        nights = read_split(*arguments, **more)
        return dataclasses.replace(nights, cohort=cohort_name, bcg_source=bcg_source)

    monkeypatch.setattr(ladder, "read_split", read)
    monkeypatch.setattr(ladder, "_by_seed", guessed)
    monkeypatch.setattr(ladder, "_make_series", lambda *settings: asked.append(settings[3]))
    found = ladder.climb([data_dir], cohort, climbed[0], TINY)
    assert asked == [known]
    assert found["losses"][2]["name"] == name
    assert found["inferred"] == (name != "noise")
    assert ("not noise alone" in found["about"][1]) == found["inferred"]


def test_a_student_without_more_than_its_series_is_no_rung_of_its_own(
    climbed, cohort, data_dir, monkeypatch
):
    monkeypatch.setattr(ladder, "_by_seed", guessed)
    found = ladder.climb([data_dir], cohort, climbed[0], PLAIN)
    assert found["gap"]["to"] == ladder.SERIES
    assert found["parts"]["network"] is None
    assert len(found["losses"]) == 4


def test_windows_without_beats_weigh_as_any_other(data_dir, tmp_path, monkeypatch):
    nights = read_split(data_dir, "validation")
    missing = dataclasses.replace(
        nights, bcg_missing=np.full_like(nights.bcg_missing, 0.7),
        rr_missing=np.ones_like(nights.rr_missing),
    )  # fmt: skip
    series = [
        (np.full((windows, 120), np.nan), np.full((windows, nights.hrv.shape[1] - 1), np.nan))
        for windows in nights.windows
    ]
    blind = ladder._shown(missing, series)
    assert not blind.tachogram.any()
    assert not blind.tachogram_valid.any()
    weights = {}

    def fit(run, data, *others):
        train = data.nights
        batch = {name: getattr(train, name) for name in (*run.columns, "label")}
        found = run.objective().weigh(batch | {"valid_BL": np.ones(train.label.shape, bool)})
        weights[run.kind] = np.asarray(found["label_weights"])
        raise InterruptedError

    monkeypatch.setattr(ladder, "fit", fit)
    for name, shown in ((ladder.FOUND, blind), (ladder.SERIES, missing)):
        with pytest.raises(InterruptedError):
            ladder._log_probs(name, dict.fromkeys(SPLITS, shown), tmp_path, TINY, 0)
    for kind in ("teacher", "student"):
        np.testing.assert_array_equal(weights[kind], nights.label >= 0)
